"""guards: legal transitions, append-only history, ends that are final, and the role of the application."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op
from app.config import get_settings
from app.database import driver_url

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Frozen here as every migration is; processes compare it with app.services.workflow.state_machine at start.
TRANSITIONS = [
    ("ORDER", "PENDING_PAYMENT", "PAID"),
    ("ORDER", "PENDING_PAYMENT", "CANCELLED"),
    ("ORDER", "PAID", "PROCESSING_IN_WAREHOUSE"),
    ("ORDER", "PAID", "CANCELLED"),
    ("ORDER", "PROCESSING_IN_WAREHOUSE", "SHIPPED"),
    ("ORDER", "SHIPPED", "DELIVERED"),
    ("RETURN", "REQUESTED", "APPROVED"),
    ("RETURN", "REQUESTED", "REJECTED"),
    ("RETURN", "APPROVED", "IN_TRANSIT"),
    ("RETURN", "IN_TRANSIT", "RECEIVED"),
    ("RETURN", "RECEIVED", "COMPLETED"),
]
GUARDED = {"orders": ("ORDER", "PENDING_PAYMENT"), "return_requests": ("RETURN", "REQUESTED")}
APPEND_ONLY = ("state_history", "transition_rejections", "events", "gateway_events", "order_line_items")

# Fires at the end of the statement, so the audit row of the same statement is there to be seen.
GUARD_STATE_CHANGE = """
CREATE FUNCTION guard_state_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.state_transitions t WHERE t.entity_type = TG_ARGV[0]
                   AND t.from_state = OLD.status AND t.to_state = NEW.status) THEN
        RAISE EXCEPTION '% % may not go from % to %', TG_ARGV[0], NEW.id, OLD.status, NEW.status
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'legal_transition', TABLE = TG_TABLE_NAME;
    END IF;
    IF NEW.version <> OLD.version + 1 OR NEW.audit_seq <> OLD.audit_seq + 1 THEN
        RAISE EXCEPTION '% % changes state without a new version and audit row', TG_ARGV[0], NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'audited_transition', TABLE = TG_TABLE_NAME;
    END IF;
    IF NOT EXISTS (SELECT FROM public.state_history h WHERE h.entity_type = TG_ARGV[0] AND h.entity_id = NEW.id
                   AND h.seq = NEW.audit_seq AND h.previous_state = OLD.status AND h.new_state = NEW.status
                   AND h.hash = NEW.audit_hash) THEN
        RAISE EXCEPTION '% % changes state without its audit row', TG_ARGV[0], NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'audited_transition', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_INITIAL_STATE = """
CREATE FUNCTION guard_initial_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a new row of % starts in %, version 1, without history', TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'initial_state', TABLE = TG_TABLE_NAME;
END $$
"""
GUARD_APPEND_ONLY = """
CREATE FUNCTION guard_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege', TABLE = TG_TABLE_NAME;
END $$
"""

# The cap on payments holds what was reserved; this holds every refund to its reservation, at commit, whichever login wrote it.
GUARD_REFUND_RESERVED = """
CREATE FUNCTION guard_refund_reserved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payment uuid := CASE TG_TABLE_NAME WHEN 'payments' THEN (to_jsonb(NEW) ->> 'id')::uuid
        ELSE (to_jsonb(NEW) ->> 'payment_id')::uuid END;
BEGIN
    -- Of two transactions that check at once, the second waits here and then sees what the first committed.
    PERFORM 1 FROM public.payments p WHERE p.id = payment FOR NO KEY UPDATE;
    IF (SELECT coalesce(sum(r.amount), 0) FROM public.refunds r WHERE r.payment_id = payment AND r.released_at IS NULL)
        > (SELECT p.refund_reserved_amount FROM public.payments p WHERE p.id = payment) THEN
        RAISE EXCEPTION 'the refunds of payment % are more than what is reserved for them', payment
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'refund_reserved', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
RESERVATION_CHANGES = {
    "refunds": ("INSERT OR UPDATE OF payment_id, amount, released_at", ""),
    "payments": (
        "UPDATE OF refund_reserved_amount",
        " WHEN (NEW.refund_reserved_amount < OLD.refund_reserved_amount)",
    ),
}

# The only moves of a refund: what may have been paid (PROCESSING, UNKNOWN) is never said to be surely unpaid (FAILED),
# and only a definite answer, heard by the worker about to send, makes it due again (PROCESSING to PENDING).
REFUND_MOVES = [
    ("PENDING", "PROCESSING"),
    ("PENDING", "FAILED"),
    ("PENDING", "SUCCEEDED"),
    ("PROCESSING", "PENDING"),
    ("PROCESSING", "UNKNOWN"),
    ("PROCESSING", "SUCCEEDED"),
    ("UNKNOWN", "PROCESSING"),
    ("UNKNOWN", "SUCCEEDED"),
    ("FAILED", "PROCESSING"),
    ("FAILED", "SUCCEEDED"),
]

# The rule is in the trigger's columns and condition, so no function is called for a change that is welcome.
GUARD_END = """
CREATE FUNCTION guard_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% %: %', TG_TABLE_NAME, OLD.id,
        format(TG_ARGV[1], to_jsonb(OLD) ->> 'state', to_jsonb(NEW) ->> 'state')
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_ARGV[0], TABLE = TG_TABLE_NAME;
END $$
"""
# Table, name of the rule, columns ("" = all), what of a change is refused ("" = all), and what the error says.
# AFTER triggers: they judge the row as it was written.
ENDS = [
    (
        "refunds",
        "legal_refund_move",
        "state",
        f"OLD.state <> NEW.state AND (OLD.state, NEW.state) NOT IN ({', '.join(map(str, REFUND_MOVES))})",
        "no move from %s to %s",
    ),
    ("refunds", "paid_refund", "", "OLD.state = 'SUCCEEDED'", "no change after it was paid"),
    (
        "refunds",
        "agreed",
        "payment_id, order_id, return_id, reason, amount, currency",
        "",
        "no change of what was agreed",
    ),
    (
        "payments",
        "captured_payment",
        # With the CHECKs of the table this holds state and amount as well.
        "captured_at, gateway_payment_id",
        " OR ".join(
            f"(OLD.{column} IS NOT NULL AND NEW.{column} IS DISTINCT FROM OLD.{column})"
            for column in ("captured_at", "gateway_payment_id")
        ),
        "no change of what was captured",
    ),
    ("payments", "agreed", "order_id, amount, currency", "", "no change of what was agreed"),
    # The condition is parsed again in each statement: one constant is cheaper than the expression that IN (…) becomes.
    ("jobs", "ended_job", "state", "OLD.state = ANY ('{SUCCEEDED,DISMISSED}'::text[])", "no move from %s to %s"),
    ("invoices", "issued_document", "", "OLD.state = 'ISSUED'", "no change after it was issued"),
    (
        "invoices",
        "agreed",
        "kind, year, number_in_year, number, order_id, refund_id",
        "",
        "no change of number and subject",
    ),
    ("dead_letters", "resolved_dead_letter", "", "OLD.resolution IS NOT NULL", "no second resolution"),
    (
        "notifications",
        "settled_notification",
        "state, attempts, last_error, sent_at",
        "OLD.state IN ('SENT', 'REJECTED')",
        "no change after it was settled",
    ),
]

# What the application may do. No DELETE and no TRUNCATE anywhere; what never changes has no UPDATE.
GRANTS = {
    "alembic_version": "SELECT",
    "state_transitions": "SELECT",
    "order_line_items": "SELECT, INSERT",
    "state_history": "SELECT, INSERT",
    "transition_rejections": "SELECT, INSERT",
    "events": "SELECT, INSERT",
    "gateway_events": "SELECT, INSERT",
    "orders": "SELECT, INSERT, UPDATE (status, version, updated_at, payment_transaction_id, carrier, tracking_number,"
    " cancellation_reason, paid_at, shipped_at, delivered_at, cancelled_at, audit_seq, audit_hash)",
    "return_requests": "SELECT, INSERT, UPDATE (status, version, updated_at, manager_notes, rejection_reason,"
    " restocking_fee, refund_amount, refund_transaction_id, reviewed_by, carrier, tracking_number, approved_at,"
    " rejected_at, in_transit_at, received_at, completed_at, review_reminded_at, audit_seq, audit_hash)",
    "payments": "SELECT, INSERT, UPDATE (state, captured_amount, refund_reserved_amount, gateway_payment_id,"
    " captured_at)",
    "refunds": "SELECT, INSERT, UPDATE (state, version, declines, gateway_refund_id, last_error, first_sent_at,"
    " updated_at, succeeded_at, released_at)",
    "invoices": "SELECT, INSERT, UPDATE (state, version, drawn_sha256, sha256, size_bytes, issued_at)",
    "invoice_series": "SELECT, INSERT, UPDATE (last_number)",
    "jobs": "SELECT, INSERT, UPDATE",
    "dead_letters": "SELECT, INSERT, UPDATE (resolution, resolved_at, resolved_by, resolution_note)",
    "notifications": "SELECT, INSERT, UPDATE (state, attempts, last_error, sent_at)",
    "api_keys": "SELECT, INSERT, UPDATE (last_used_at, revoked_at)",
}


def upgrade() -> None:
    """Install the guards, then open the tables to the application."""
    op.bulk_insert(
        sa.table("state_transitions", sa.column("entity_type"), sa.column("from_state"), sa.column("to_state")),
        [dict(zip(("entity_type", "from_state", "to_state"), row, strict=True)) for row in TRANSITIONS],
    )
    for function in (GUARD_STATE_CHANGE, GUARD_INITIAL_STATE, GUARD_APPEND_ONLY, GUARD_REFUND_RESERVED, GUARD_END):
        op.execute(function)
    for table, (entity_type, initial) in GUARDED.items():
        op.execute(
            f"CREATE TRIGGER guard_state_change AFTER UPDATE ON {table} FOR EACH ROW"
            f" WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION guard_state_change('{entity_type}')"
        )
        op.execute(
            f"CREATE TRIGGER guard_initial_state BEFORE INSERT ON {table} FOR EACH ROW"
            f" WHEN (NEW.status <> '{initial}' OR NEW.version <> 1 OR NEW.audit_seq <> 0)"
            f" EXECUTE FUNCTION guard_initial_state('{initial}')"
        )
        _always(table, "guard_state_change", "guard_initial_state")
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only()"
        )
        _always(table, "guard_append_only")
    for table, (changes, condition) in RESERVATION_CHANGES.items():
        op.execute(
            f"CREATE CONSTRAINT TRIGGER guard_refund_reserved AFTER {changes} ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW{condition} EXECUTE FUNCTION guard_refund_reserved()"
        )
        _always(table, "guard_refund_reserved")
    for table, rule, columns, condition, message in ENDS:
        op.execute(
            f"CREATE TRIGGER guard_{rule} AFTER UPDATE{f' OF {columns}' if columns else ''} ON {table} FOR EACH ROW"
            f"{f' WHEN ({condition})' if condition else ''} EXECUTE FUNCTION guard_end('{rule}', '{message}')"
        )
        _always(table, f"guard_{rule}")
    _open_to(context.config.attributes["database_role"])


def _always(table: str, *triggers: str) -> None:
    """Let the triggers fire in replica mode too, which skips ordinary ones."""
    for trigger in triggers:
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def _open_to(role: str) -> None:
    # Roles belong to the whole server: another database of it may have made this one just now.
    op.execute(
        f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;"
        " WHEN insufficient_privilege THEN"
        f" RAISE EXCEPTION 'role {role} is missing and {{}} may not create it', current_user; END $$".replace("{}", "%")
    )
    # The application's login must be able to take the role on; a superuser always can.
    login = context.config.attributes.get("application_login") or driver_url(get_settings().database_url).username
    if login and login != role:
        op.execute(
            f"DO $$ BEGIN IF NOT pg_has_role('{login}', '{role}', 'MEMBER') THEN"
            f' GRANT {role} TO "{login}"; END IF; END $$'
        )
    op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    op.execute(f"GRANT USAGE ON SEQUENCE order_number_seq TO {role}")
    for table, privileges in GRANTS.items():
        op.execute(f"GRANT {privileges} ON {table} TO {role}")


def downgrade() -> None:
    """Close the tables and take the guards away; the role stays, other databases may use it."""
    role = context.config.attributes["database_role"]
    for table in GRANTS:
        op.execute(f"REVOKE ALL ON {table} FROM {role}")
    op.execute(f"REVOKE USAGE ON SEQUENCE order_number_seq FROM {role}")
    for table in APPEND_ONLY:
        op.execute(f"DROP TRIGGER guard_append_only ON {table}")
    for table in GUARDED:
        op.execute(f"DROP TRIGGER guard_state_change ON {table}")
        op.execute(f"DROP TRIGGER guard_initial_state ON {table}")
    for table in RESERVATION_CHANGES:
        op.execute(f"DROP TRIGGER guard_refund_reserved ON {table}")
    for table, rule, *_ in ENDS:
        op.execute(f"DROP TRIGGER guard_{rule} ON {table}")
    for function in ("state_change", "initial_state", "append_only", "refund_reserved", "end"):
        op.execute(f"DROP FUNCTION guard_{function}()")
    op.execute("DELETE FROM state_transitions")
