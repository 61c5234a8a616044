"""bound facts: corrections, events of jobs and payments, and revocations match what happened."""

from collections.abc import Sequence

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# As in 0015, with a place for the rule of each kind of event that changes here.
GUARD_EVENT = """
CREATE OR REPLACE FUNCTION guard_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    what text := upper(split_part(NEW.type, '.', 2));
BEGIN
    IF split_part(NEW.type, '.', 1) <> lower(NEW.entity_type) AND NEW.entity_type <> 'INVOICE' THEN
        NULL;  -- Not found.
    ELSIF NEW.entity_type = 'ORDER' THEN
        IF what = ANY ('{PENDING_PAYMENT,PAID,PROCESSING_IN_WAREHOUSE,SHIPPED,DELIVERED,CANCELLED}'::text[]) THEN
            PERFORM 1 FROM public.orders e JOIN public.state_history h ON h.entity_id = e.id AND h.seq = e.audit_seq
                LEFT JOIN public.events o ON o.entity_type = NEW.entity_type AND o.entity_id = NEW.entity_id
                    AND o.type = NEW.type AND o.seq < NEW.seq
                WHERE o.id IS NULL AND e.id = NEW.entity_id AND e.version = NEW.seq AND h.entity_type = 'ORDER' AND h.new_state = what
                AND h.created_at = NEW.created_at AND h.previous_state = NEW.data ->> 'from'
                AND h.trigger = NEW.data ->> 'trigger';
        ELSE
@ORDER@        END IF;
    ELSIF NEW.entity_type = 'RETURN' THEN
        IF what = ANY ('{REQUESTED,APPROVED,REJECTED,IN_TRANSIT,RECEIVED,COMPLETED}'::text[]) THEN
            PERFORM 1 FROM public.return_requests e
                JOIN public.state_history h ON h.entity_id = e.id AND h.seq = e.audit_seq
                LEFT JOIN public.events o ON o.entity_type = NEW.entity_type AND o.entity_id = NEW.entity_id
                    AND o.type = NEW.type AND o.seq < NEW.seq
                WHERE o.id IS NULL AND e.id = NEW.entity_id AND e.version = NEW.seq AND h.entity_type = 'RETURN' AND h.new_state = what
                AND h.created_at = NEW.created_at AND h.previous_state = NEW.data ->> 'from'
                AND h.trigger = NEW.data ->> 'trigger';
        ELSIF what = 'ATTACHMENT_ADDED' THEN
            PERFORM 1 FROM public.return_requests e JOIN public.attachments a ON a.return_id = e.id
                WHERE e.id = NEW.entity_id AND e.version = NEW.seq AND a.id::text = NEW.data ->> 'attachment_id';
        ELSE
            PERFORM 1 FROM public.return_requests e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
                AND (what <> 'REFUNDED' OR e.refund_transaction_id IS NOT NULL);
        END IF;
    ELSIF NEW.entity_type = 'REFUND' THEN
        PERFORM 1 FROM public.refunds e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
            AND (e.state = what OR what <> ALL ('{PENDING,PROCESSING,SUCCEEDED,FAILED,UNKNOWN}'::text[]));
    ELSIF NEW.entity_type = 'INVOICE' THEN
        PERFORM 1 FROM public.invoices e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
            AND lower(e.kind) = split_part(NEW.type, '.', 1)
            AND (e.state = what OR what <> ALL ('{NUMBERED,ISSUED}'::text[]));
    ELSIF NEW.entity_type = 'PAYMENT' THEN
@PAYMENT@    ELSIF NEW.entity_type = 'CASE' THEN
        PERFORM 1 FROM public.cases e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
            AND what = CASE e.state WHEN 'OPEN' THEN 'OPENED' ELSE 'CLOSED' END;
@JOB@    ELSE
        RETURN NULL;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'event % as number % of % % matches no change', NEW.type, NEW.seq, NEW.entity_type, NEW.entity_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'event_of_change', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# An event is numbered as the change that it reports: one ahead would take the number of a later one.
RULES = {
    "@ORDER@": """            PERFORM 1 FROM public.orders e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
                AND (what <> 'CORRECTED' OR EXISTS (SELECT FROM public.order_corrections c
                    WHERE c.order_id = e.id AND c.version = NEW.seq AND c.id::text = NEW.data ->> 'correction_id'));
""",
    "@PAYMENT@": """        PERFORM 1 FROM public.payments e WHERE e.id = NEW.entity_id AND NEW.seq = 1 AND what = 'COLLECTED'
            AND e.gateway_payment_id = NEW.data ->> 'gateway_payment_id';
""",
    "@JOB@": """    ELSIF NEW.entity_type = 'JOB' AND what = 'RESENT' THEN
        PERFORM 1 FROM public.jobs e JOIN public.notifications n ON n.source_key = e.dedupe_key
            WHERE e.id = NEW.entity_id AND NEW.seq = 1 AND n.id::text = NEW.data ->> 'notification_id'
            AND n.resend_of::text = NEW.data ->> 'resend_of';
    ELSIF NEW.entity_type = 'JOB' THEN
        PERFORM 1 FROM public.dead_letters d LEFT JOIN public.events o ON o.entity_type = NEW.entity_type
                AND o.entity_id = NEW.entity_id AND o.id <> NEW.id
                AND (o.seq >= NEW.seq OR o.data ->> 'dead_letter_id' = NEW.data ->> 'dead_letter_id')
            WHERE o.id IS NULL AND d.job_id = NEW.entity_id AND d.resolution = what
            AND d.id::text = NEW.data ->> 'dead_letter_id'
            AND (NEW.seq = 1 OR EXISTS (SELECT FROM public.events p WHERE p.entity_type = NEW.entity_type
                AND p.entity_id = NEW.entity_id AND p.seq = NEW.seq - 1));
""",
}
RULES_BEFORE = {
    "@ORDER@": """            PERFORM 1 FROM public.orders e WHERE e.id = NEW.entity_id AND e.version = NEW.seq;
""",
    "@PAYMENT@": """        PERFORM 1 FROM public.payments e WHERE e.id = NEW.entity_id
            AND (what <> 'COLLECTED' OR e.gateway_payment_id = NEW.data ->> 'gateway_payment_id');
""",
    "@JOB@": """    ELSIF NEW.entity_type = 'JOB' AND what = ANY ('{RETRIED,DISMISSED}'::text[]) THEN
        PERFORM 1 FROM public.dead_letters d WHERE d.job_id = NEW.entity_id AND d.resolution = what
            AND d.id::text = NEW.data ->> 'dead_letter_id';
    ELSIF NEW.entity_type = 'JOB' THEN
        PERFORM 1 FROM public.jobs e WHERE e.id = NEW.entity_id;
""",
}

# Deferred: the row is written before the order is changed, for `guard_correction` looks for it.
GUARD_CORRECTION_MADE = """
CREATE FUNCTION guard_correction_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.orders e JOIN public.events v ON v.entity_type = 'ORDER' AND v.entity_id = e.id
                   AND v.seq = NEW.version AND v.type = 'order.corrected' AND v.data ->> 'correction_id' = NEW.id::text
                   WHERE e.id = NEW.order_id AND e.version = NEW.version
                   AND NOT EXISTS (SELECT FROM jsonb_each(NEW.changes) AS c
                                   WHERE to_jsonb(e) -> c.key IS DISTINCT FROM c.value -> 'new')) THEN
        RAISE EXCEPTION 'correction % as version % of order % was not made', NEW.id, NEW.version, NEW.order_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'correction_made', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""

# A token holds for 30 days at most. A revocation that ends earlier would be in the way of the one that is meant, and
# the token would hold again.
TOKEN_DAYS = 30
GUARD_REVOCATION = f"""
CREATE FUNCTION guard_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.created_at <> now() OR NEW.expires_at < now() + interval '{TOKEN_DAYS} days' THEN
        RAISE EXCEPTION 'revoked_tokens: a revocation begins now and outlasts its token'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'revocation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    """Install the rules; existing rows are not looked at."""
    op.execute(_guard_event(RULES))
    op.execute(GUARD_CORRECTION_MADE)
    op.execute(
        "CREATE CONSTRAINT TRIGGER guard_correction_made AFTER INSERT ON order_corrections DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION guard_correction_made()"
    )
    op.execute(GUARD_REVOCATION)
    op.execute(
        "CREATE TRIGGER guard_revocation AFTER INSERT ON revoked_tokens FOR EACH ROW EXECUTE FUNCTION guard_revocation()"
    )
    # In replica mode too, which skips ordinary triggers.
    op.execute("ALTER TABLE order_corrections ENABLE ALWAYS TRIGGER guard_correction_made")
    op.execute("ALTER TABLE revoked_tokens ENABLE ALWAYS TRIGGER guard_revocation")


def downgrade() -> None:
    """Take the rules away."""
    op.execute("DROP TRIGGER guard_revocation ON revoked_tokens")
    op.execute("DROP FUNCTION guard_revocation()")
    op.execute("DROP TRIGGER guard_correction_made ON order_corrections")
    op.execute("DROP FUNCTION guard_correction_made()")
    op.execute(_guard_event(RULES_BEFORE))


def _guard_event(rules: dict[str, str]) -> str:
    text = GUARD_EVENT
    for place, rule in rules.items():
        text = text.replace(place, rule)
    return text
