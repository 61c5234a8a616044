"""guards: legal transitions, append-only history, and the role of the application."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import make_url

from alembic import context, op
from app.config import get_settings

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Frozen here as every migration is; processes compare it with app.services.state_machine at start.
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

# The cap on payments holds what was reserved; this holds every refund to its reservation, at commit, whoever wrote it.
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
    "invoices": "SELECT, INSERT, UPDATE (state, version, sha256, size_bytes, issued_at)",
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
    for function in (GUARD_STATE_CHANGE, GUARD_INITIAL_STATE, GUARD_APPEND_ONLY, GUARD_REFUND_RESERVED):
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
    _open_to(context.config.attributes["database_role"])


def _always(table: str, *triggers: str) -> None:
    """Let the triggers fire in replica mode too, which skips ordinary ones."""
    for trigger in triggers:
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def _open_to(role: str) -> None:
    # Roles belong to the whole server: another database of it may have made this one, perhaps just now.
    op.execute(
        f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;"
        " WHEN insufficient_privilege THEN"
        f" RAISE EXCEPTION 'role {role} is missing and {{}} may not create it', current_user; END $$".replace("{}", "%")
    )
    # The application's login must be able to take the role on; a superuser always can.
    login = context.config.attributes.get("application_login") or make_url(get_settings().database_url).username
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
    for function in ("guard_state_change", "guard_initial_state", "guard_append_only", "guard_refund_reserved"):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DELETE FROM state_transitions")
