"""kept facts: answers, decisions and results that stay, and events, acceptances and beginnings that match what happened."""

from collections.abc import Sequence

from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# What a step alone may change: table → entity type, columns as in 0015, and those that are added here.
STEP_FACTS = {
    "orders": (
        "ORDER",
        "audit_seq,audit_hash,paid_at,shipped_at,delivered_at,cancelled_at",
        ",payment_transaction_id,cancellation_reason",
    ),
    "return_requests": (
        "RETURN",
        (
            "audit_seq,audit_hash,approved_at,rejected_at,in_transit_at,received_at,completed_at,restocking_fee,"
            "refund_amount,rejection_reason,reviewed_by,inspection,deduction_amount,deduction_reason"
        ),
        ",manager_notes,carrier,tracking_number",
    ),
}

FIRST_EVENTS = (
    "order.created",
    "return.created",
    "refund.created",
    "invoice.numbered",
    "credit_note.numbered",
    "case.opened",
)
LATER_EVENTS = (
    *("order.paid", "order.processing_in_warehouse", "order.shipped", "order.delivered", "order.cancelled"),
    *("order.corrected", "return.approved", "return.rejected", "return.in_transit", "return.received"),
    *("return.completed", "return.attachment_added", "return.refunded", "payment.collected", "refund.pending"),
    *("refund.processing", "refund.succeeded", "refund.failed", "refund.unknown", "invoice.issued"),
    *("credit_note.issued", "case.closed", "job.retried", "job.dismissed", "job.resent"),
)

# Table, name of the rule, when, what of a row is refused, and what the error says; see guard_row in 0015.
RULES = [
    (
        "orders",
        "beginning",
        "BEFORE INSERT",
        (
            "num_nonnulls(NEW.payment_transaction_id, NEW.carrier, NEW.tracking_number, NEW.cancellation_reason,"
            " NEW.paid_at, NEW.shipped_at, NEW.delivered_at, NEW.cancelled_at) > 0"
        ),
        ("initial_state", "an order begins with nothing that a step brings"),
    ),
    (
        "return_requests",
        "beginning",
        "BEFORE INSERT",
        (
            "num_nonnulls(NEW.manager_notes, NEW.rejection_reason, NEW.refund_transaction_id, NEW.reviewed_by,"
            " NEW.carrier, NEW.tracking_number, NEW.approved_at, NEW.rejected_at, NEW.in_transit_at, NEW.received_at,"
            " NEW.completed_at, NEW.review_reminded_at) > 0"
        ),
        ("initial_state", "a return begins with nothing that a step brings"),
    ),
    (
        "events",
        "known_event",
        "BEFORE INSERT",
        (
            f"NEW.type <> ALL ('{{{','.join((*FIRST_EVENTS, *LATER_EVENTS))}}}'::text[])"
            f" OR (NEW.seq <> 1 AND NEW.type = ANY ('{{{','.join(FIRST_EVENTS)}}}'::text[]))"
        ),
        ("known_event", "an event has a known type, and a beginning is the first one"),
    ),
    (
        "idempotency_keys",
        "kept_answer",
        "AFTER DELETE",
        "OLD.created_at > now() - interval '24 hours'",
        ("kept_answer", "an answer is kept for 24 hours"),
    ),
    (
        "audit_verifications",
        "ended_verification",
        "AFTER UPDATE",
        "OLD.state <> 'RUNNING'",
        ("ended_verification", "a verification that has ended does not change"),
    ),
]

# One of the return's own, and once for each refund and attachment.
GUARD_RETURN_EVENT = """
CREATE FUNCTION guard_return_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.events o WHERE o.entity_type = NEW.entity_type AND o.entity_id = NEW.entity_id
               AND o.type = NEW.type AND o.id <> NEW.id AND o.data ->> 'attachment_id' IS NOT DISTINCT FROM
               NEW.data ->> 'attachment_id')
        OR (NEW.type = 'return.refunded' AND NOT EXISTS (SELECT FROM public.return_requests e WHERE e.id = NEW.entity_id
            AND e.refund_transaction_id = NEW.data ->> 'refund_transaction_id')) THEN
        RAISE EXCEPTION 'event % of return % is written already, or names another refund', NEW.type, NEW.entity_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'event_of_return', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Deferred: the case is closed after the payment was changed.
GUARD_ACCEPTANCE = """
CREATE FUNCTION guard_acceptance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.cases c WHERE c.id = NEW.accepted_case_id AND c.order_id = NEW.order_id
                   AND c.kind = 'AMOUNT_MISMATCH' AND c.action IN ('ACCEPT', 'REFUND')
                   AND (c.evidence ->> 'reported_amount')::numeric = NEW.accepted_amount) THEN
        RAISE EXCEPTION 'payment %: % is accepted by no decision of a case', NEW.id, NEW.accepted_amount
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'acceptance', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Deferred: the event is written after the change that it records.
GUARD_DECISION = """
CREATE FUNCTION guard_decision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'cases' THEN
        PERFORM 1 FROM public.events v WHERE v.entity_type = 'CASE' AND v.entity_id = NEW.id AND v.type = 'case.closed';
    ELSE
        PERFORM 1 FROM public.events v WHERE v.entity_type = 'JOB'
            AND v.entity_id = (to_jsonb(NEW) ->> 'job_id')::uuid
            AND v.type = 'job.' || lower(to_jsonb(NEW) ->> 'resolution') AND v.data ->> 'dead_letter_id' = NEW.id::text;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the decision about % % is in no event', TG_TABLE_NAME, NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'decision', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Function, which names the trigger; table; CREATE; and the rest of it.
CHECKED = [
    (
        "guard_return_event",
        "events",
        "CREATE TRIGGER",
        (
            "AFTER INSERT ON events FOR EACH ROW"
            " WHEN (NEW.type = ANY ('{return.refunded,return.attachment_added}'::text[]))"
        ),
    ),
    (
        "guard_acceptance",
        "payments",
        "CREATE CONSTRAINT TRIGGER",
        (
            "AFTER UPDATE OF accepted_amount, accepted_case_id ON payments DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            " WHEN (NEW.accepted_amount IS NOT NULL)"
        ),
    ),
    (
        "guard_decision",
        "cases",
        "CREATE CONSTRAINT TRIGGER",
        "AFTER UPDATE OF state ON cases DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
    ),
    (
        "guard_decision",
        "dead_letters",
        "CREATE CONSTRAINT TRIGGER",
        "AFTER UPDATE OF resolution ON dead_letters DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
    ),
]


def upgrade() -> None:
    """Install the rules; existing rows are not looked at."""
    for table, (entity_type, before, added) in STEP_FACTS.items():
        _guard_steps(table, entity_type, before + added)
    for table, rule, when, refused, (constraint, message) in RULES:
        op.execute(
            f"CREATE TRIGGER guard_{rule} {when} ON {table} FOR EACH ROW WHEN ({refused})"
            f" EXECUTE FUNCTION guard_row('{constraint}', '{message}')"
        )
        _always(table, f"guard_{rule}")
    for function in (GUARD_RETURN_EVENT, GUARD_ACCEPTANCE, GUARD_DECISION):
        op.execute(function)
    for name, table, create, rest in CHECKED:
        op.execute(f"{create} {name} {rest} EXECUTE FUNCTION {name}()")
        _always(table, name)


def downgrade() -> None:
    """Take the rules away."""
    for name, table, _, _ in CHECKED:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for name in ("guard_return_event", "guard_acceptance", "guard_decision"):
        op.execute(f"DROP FUNCTION {name}()")
    for table, rule, *_ in RULES:
        op.execute(f"DROP TRIGGER guard_{rule} ON {table}")
    for table, (entity_type, before, _) in STEP_FACTS.items():
        _guard_steps(table, entity_type, before)


def _guard_steps(table: str, entity_type: str, facts: str) -> None:
    op.execute(f"DROP TRIGGER guard_state_change ON {table}")
    op.execute(
        f"CREATE TRIGGER guard_state_change AFTER UPDATE ON {table} FOR EACH ROW"
        f" EXECUTE FUNCTION guard_state_change('{entity_type}', '{facts}')"
    )
    _always(table, "guard_state_change")


def _always(table: str, trigger: str) -> None:
    """Let the trigger fire in replica mode too, which skips ordinary ones."""
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
