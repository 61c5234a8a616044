"""bound inserts: rows begin at their beginning, and what claims that something happened matches what did."""

from collections.abc import Sequence

from alembic import context, op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# As in 0003, and the audit row must continue the chain and have the hash of its own content. Without a step nothing
# that a step brings may change. Called for every UPDATE: a condition on the trigger is parsed again in each statement,
# which costs more than the call.
GUARD_STATE_CHANGE = """
CREATE OR REPLACE FUNCTION guard_state_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = OLD.status THEN
        IF NEW.version NOT IN (OLD.version, OLD.version + 1) THEN
            RAISE EXCEPTION '% % goes from version % to %', TG_ARGV[0], NEW.id, OLD.version, NEW.version
                USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'next_version', TABLE = TG_TABLE_NAME;
        END IF;
        IF EXISTS (SELECT FROM unnest(string_to_array(TG_ARGV[1], ',')) AS c(name)
                   WHERE to_jsonb(NEW) -> c.name IS DISTINCT FROM to_jsonb(OLD) -> c.name) THEN
            RAISE EXCEPTION '% % changes what a step alone may change', TG_ARGV[0], NEW.id
                USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'audited_facts', TABLE = TG_TABLE_NAME;
        END IF;
        RETURN NULL;
    END IF;
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
                   AND h.hash = NEW.audit_hash AND h.prev_hash = coalesce(OLD.audit_hash, decode(repeat('00', 32), 'hex'))
                   AND h.hash = sha256(h.prev_hash || convert_to(concat_ws(E'\\n', 'v1', h.entity_type,
                       h.entity_id::text, h.seq::text, h.previous_state, h.new_state, coalesce(h.actor_id::text, ''),
                       h.actor_type, h.trigger, coalesce(h.ip_address, ''),
                       to_char(h.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), h.metadata::text),
                       'UTF8'))) THEN
        RAISE EXCEPTION '% % changes state without its audit row', TG_ARGV[0], NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'audited_transition', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_STATE_CHANGE_BEFORE = """
CREATE OR REPLACE FUNCTION guard_state_change() RETURNS trigger LANGUAGE plpgsql AS $$
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

# The function of every rule that the condition of its trigger states in full.
GUARD_ROW = """
CREATE FUNCTION guard_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: %', TG_TABLE_NAME, TG_ARGV[1]
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_ARGV[0], TABLE = TG_TABLE_NAME;
END $$
"""

# Deferred: the row of a step may be written before the step. At commit the entity must have taken it.
# A row behind the head was its own step's, for each step requires the row of its number.
GUARD_HISTORY_HEAD = """
CREATE FUNCTION guard_history_head() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.entity_type = 'ORDER' THEN
        PERFORM 1 FROM public.orders e WHERE e.id = NEW.entity_id
            AND (e.audit_seq > NEW.seq OR (e.audit_seq = NEW.seq AND e.audit_hash = NEW.hash));
    ELSE
        PERFORM 1 FROM public.return_requests e WHERE e.id = NEW.entity_id
            AND (e.audit_seq > NEW.seq OR (e.audit_seq = NEW.seq AND e.audit_hash = NEW.hash));
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% % has not taken the step of audit row %', NEW.entity_type, NEW.entity_id, NEW.seq
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'step_taken', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""

# An event is written after the change that it records, so its number is the version that the entity has now. The
# name of a state means the step that was taken last, once. One small query a branch: each costs on its own.
GUARD_EVENT = """
CREATE FUNCTION guard_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
            PERFORM 1 FROM public.orders e WHERE e.id = NEW.entity_id AND e.version = NEW.seq;
        END IF;
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
        PERFORM 1 FROM public.payments e WHERE e.id = NEW.entity_id
            AND (what <> 'COLLECTED' OR e.gateway_payment_id = NEW.data ->> 'gateway_payment_id');
    ELSIF NEW.entity_type = 'CASE' THEN
        PERFORM 1 FROM public.cases e WHERE e.id = NEW.entity_id AND e.version = NEW.seq
            AND what = CASE e.state WHEN 'OPEN' THEN 'OPENED' ELSE 'CLOSED' END;
    ELSIF NEW.entity_type = 'JOB' AND what = ANY ('{RETRIED,DISMISSED}'::text[]) THEN
        PERFORM 1 FROM public.dead_letters d WHERE d.job_id = NEW.entity_id AND d.resolution = what
            AND d.id::text = NEW.data ->> 'dead_letter_id';
    ELSIF NEW.entity_type = 'JOB' THEN
        PERFORM 1 FROM public.jobs e WHERE e.id = NEW.entity_id;
    ELSE
        RETURN NULL;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'event % as number % of % % matches no change', NEW.type, NEW.seq, NEW.entity_type, NEW.entity_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'event_of_change', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_REFUSAL = """
CREATE FUNCTION guard_refusal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.state_transitions t WHERE t.entity_type = NEW.entity_type
               AND t.from_state = NEW.current_state AND t.to_state = NEW.requested_state)
        OR NOT EXISTS (SELECT FROM public.orders e WHERE NEW.entity_type = 'ORDER' AND e.id = NEW.entity_id
                       AND e.status = NEW.current_state
                       UNION ALL SELECT FROM public.return_requests e WHERE NEW.entity_type = 'RETURN'
                       AND e.id = NEW.entity_id AND e.status = NEW.current_state) THEN
        RAISE EXCEPTION '% % was not refused the step from % to %', NEW.entity_type, NEW.entity_id,
            NEW.current_state, NEW.requested_state
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'refused_step', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# That a webhook came cannot be seen here; that it had the effect that its row claims can.
GUARD_GATEWAY_EVENT = """
CREATE FUNCTION guard_gateway_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.received_at <> now()
        OR (NEW.outcome = 'PAID' AND NOT EXISTS (SELECT FROM public.payments p JOIN public.orders o ON o.id = p.order_id
            WHERE p.order_id = NEW.reference AND p.state = 'CAPTURED' AND o.status = 'PAID'))
        OR (NEW.outcome = 'REFUND_SETTLED' AND NOT EXISTS (SELECT FROM public.refunds r
            WHERE r.id = NEW.reference AND r.state = 'SUCCEEDED')) THEN
        RAISE EXCEPTION 'gateway event % has not had the effect %', NEW.id, NEW.outcome
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'effect_of_webhook', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Made with every order, so without a condition on its trigger; see above.
GUARD_PAYMENT_BEGINS = """
CREATE FUNCTION guard_payment_begins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'PENDING' OR NEW.captured_amount <> 0 OR NEW.refund_reserved_amount <> 0
        OR NEW.captured_at IS NOT NULL OR NEW.gateway_payment_id IS NOT NULL THEN
        RAISE EXCEPTION 'payments: a payment begins PENDING, with nothing captured'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'initial_state', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Deferred: the refund of money that came after the cancellation is written after the payment.
GUARD_CAPTURE_CAUSED = """
CREATE FUNCTION guard_capture_caused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'CAPTURED' AND OLD.state <> 'CAPTURED'
        AND NOT EXISTS (SELECT FROM public.state_history h WHERE h.entity_type = 'ORDER' AND h.entity_id = NEW.order_id
                        AND h.new_state = 'PAID' AND h.created_at = NEW.captured_at)
        AND NOT EXISTS (SELECT FROM public.refunds r WHERE r.payment_id = NEW.id
                        AND r.reason = 'PAID_AFTER_CANCEL') THEN
        RAISE EXCEPTION 'payment % is captured without the step to PAID and without a refund after cancelling', NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'capture_caused', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_REFUND_CAUSED = """
CREATE FUNCTION guard_refund_caused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.payments p WHERE p.id = NEW.payment_id AND p.order_id = NEW.order_id
                   AND p.currency = NEW.currency)
        OR (NEW.reason = 'RETURN_COMPLETED' AND NOT EXISTS (SELECT FROM public.return_requests r
            WHERE r.id = NEW.return_id AND r.order_id = NEW.order_id AND r.status = 'COMPLETED'
            AND r.refund_amount = NEW.amount))
        OR (NEW.reason IN ('ORDER_CANCELLED', 'PAID_AFTER_CANCEL') AND NOT EXISTS (SELECT FROM public.orders o
            WHERE o.id = NEW.order_id AND o.status = 'CANCELLED')) THEN
        RAISE EXCEPTION 'refund % for % has no cause', NEW.id, NEW.reason
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'refund_caused', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_RETURN_REFUNDED = """
CREATE FUNCTION guard_return_refunded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.refunds r WHERE r.return_id = NEW.id AND r.state = 'SUCCEEDED'
                   AND r.gateway_refund_id = NEW.refund_transaction_id) THEN
        RAISE EXCEPTION 'return % has no paid refund %', NEW.id, NEW.refund_transaction_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'return_refunded', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_DOCUMENT_CAUSED = """
CREATE FUNCTION guard_document_caused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.invoice_series s WHERE s.kind = NEW.kind AND s.year = NEW.year
                   AND s.last_number = NEW.number_in_year) THEN
        RAISE EXCEPTION 'document % does not have the number that its series gave out last', NEW.number
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'number_of_series', TABLE = TG_TABLE_NAME;
    END IF;
    IF NOT EXISTS (SELECT FROM public.orders o WHERE NEW.kind = 'INVOICE' AND o.id = NEW.order_id
                   AND o.status IN ('SHIPPED', 'DELIVERED')
                   UNION ALL SELECT FROM public.refunds r WHERE NEW.kind = 'CREDIT_NOTE' AND r.id = NEW.refund_id
                   AND r.order_id = NEW.order_id AND r.state = 'SUCCEEDED') THEN
        RAISE EXCEPTION 'document % of an order that was not shipped, or of a refund that was not paid', NEW.number
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'document_caused', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# Deferred: the number is taken before its document is written.
GUARD_NUMBER_TAKEN = """
CREATE FUNCTION guard_number_taken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.invoice_series s WHERE s.kind = NEW.kind AND s.year = NEW.year
               AND s.last_number = NEW.last_number)
        AND NOT EXISTS (SELECT FROM public.invoices i WHERE i.kind = NEW.kind AND i.year = NEW.year
                        AND i.number_in_year = NEW.last_number) THEN
        RAISE EXCEPTION 'number % of % % is taken by no document', NEW.last_number, NEW.kind, NEW.year
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'number_taken', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# A job that is there before its cause keeps the real one from being made, for its key is taken.
# Jobs of sample data begin DISMISSED, so that no worker does them.
GUARD_JOB_CAUSED = """
CREATE FUNCTION guard_job_caused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.state <> 'PENDING' AND NEW.state <> 'DISMISSED') OR NEW.failures <> 0 OR NEW.claims <> 0 OR NEW.fence <> 0 THEN
        RAISE EXCEPTION 'jobs: a job begins PENDING or DISMISSED, never tried'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'initial_state', TABLE = TG_TABLE_NAME;
    END IF;
    IF NEW.kind = 'invoice.issue' THEN
        PERFORM 1 FROM public.orders e WHERE e.id = NEW.entity_id AND e.status NOT IN ('SHIPPED', 'DELIVERED');
    ELSIF NEW.kind = 'payment.capture' THEN
        PERFORM 1 FROM public.payments e WHERE e.id = NEW.entity_id AND e.state = 'PENDING';
    ELSIF NEW.kind = 'credit_note.issue' OR NEW.kind = 'notify.refund_processed' THEN
        PERFORM 1 FROM public.refunds e WHERE e.id = NEW.entity_id AND e.state <> 'SUCCEEDED';
    ELSE
        RETURN NULL;
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of % has no cause', NEW.dedupe_key, NEW.entity_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'job_caused', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_LETTER_CAUSED = """
CREATE FUNCTION guard_letter_caused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.jobs j WHERE j.id = NEW.job_id AND j.kind = NEW.kind
                   AND j.entity_id = NEW.entity_id AND j.state = 'DEAD') THEN
        RAISE EXCEPTION 'job % has not given up', NEW.job_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'letter_caused', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# The event of an order's creation is the end of it; its lines are written before.
GUARD_LINE_AGREED = """
CREATE FUNCTION guard_line_agreed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM public.events e WHERE e.entity_type = 'ORDER' AND e.entity_id = NEW.order_id AND e.seq = 1;
    IF FOUND THEN
        RAISE EXCEPTION 'order_line_items: no line is added to an order that was made'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_agreed', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
FUNCTIONS = (
    GUARD_ROW,
    GUARD_HISTORY_HEAD,
    GUARD_EVENT,
    GUARD_REFUSAL,
    GUARD_GATEWAY_EVENT,
    GUARD_PAYMENT_BEGINS,
    GUARD_CAPTURE_CAUSED,
    GUARD_REFUND_CAUSED,
    GUARD_RETURN_REFUNDED,
    GUARD_DOCUMENT_CAUSED,
    GUARD_NUMBER_TAKEN,
    GUARD_JOB_CAUSED,
    GUARD_LETTER_CAUSED,
    GUARD_LINE_AGREED,
)

# Table, name of the rule, what of a new row is refused, and what the error says.
BEGINNINGS = [
    (
        "refunds",
        (
            "NEW.state <> 'PENDING' OR NEW.version <> 1 OR NEW.declines <> 0 OR NEW.gateway_refund_id IS NOT NULL"
            " OR NEW.first_sent_at IS NOT NULL OR NEW.released_at IS NOT NULL"
        ),
        "a refund begins PENDING, in version 1, with nothing sent",
    ),
    (
        "invoices",
        "NEW.state <> 'NUMBERED' OR NEW.version <> 1 OR NEW.drawn_sha256 <> '{}'",
        "a document begins NUMBERED, in version 1, with nothing drawn",
    ),
    (
        "notifications",
        "NEW.state NOT IN ('PENDING', 'SUPPRESSED') OR NEW.attempts <> 0 OR NEW.sent_at IS NOT NULL",
        "a message begins PENDING or SUPPRESSED, never tried",
    ),
    (
        "dead_letters",
        "NEW.resolution IS NOT NULL OR NEW.resolved_by IS NOT NULL OR NEW.resolution_note IS NOT NULL",
        "a dead letter begins without a resolution",
    ),
    (
        "api_keys",
        "NEW.revoked_at IS NOT NULL OR NEW.last_used_at IS NOT NULL OR NEW.successor_id IS NOT NULL",
        "a key begins unused, without a successor and not revoked",
    ),
]

# What a step alone may change, beside the state.
STEP_FACTS = {
    "orders": ("ORDER", "audit_seq,audit_hash,paid_at,shipped_at,delivered_at,cancelled_at"),
    "return_requests": (
        "RETURN",
        (
            "audit_seq,audit_hash,approved_at,rejected_at,in_transit_at,received_at,completed_at,restocking_fee,"
            "refund_amount,rejection_reason,reviewed_by,inspection,deduction_amount,deduction_reason"
        ),
    ),
}

# Table, name of the rule, columns, what of a change is refused ("" = all), and what the error says.
FIXED = [
    *(
        (
            table,
            "version_grows",
            "version",
            "NEW.version NOT IN (OLD.version, OLD.version + 1)",
            "versions go up by one",
        )
        for table in ("refunds", "invoices")
    ),
    ("jobs", "fence_grows", "fence", "NEW.fence < OLD.fence", "the fence never goes back"),
    (
        "invoice_series",
        "series_grows",
        "kind, year, last_number",
        "NEW.last_number <= OLD.last_number OR (NEW.kind, NEW.year) <> (OLD.kind, OLD.year)",
        "a series never goes back",
    ),
    (
        "api_keys",
        "key_agreed",
        "id, role, customer_id, sha256, prefix, principal_id, created_at",
        "",
        "a key stays what it is",
    ),
    (
        "api_keys",
        "key_ended",
        "revoked_at, expires_at, successor_id",
        (
            "(OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)"
            " OR (OLD.expires_at IS NOT NULL AND (NEW.expires_at IS NULL OR NEW.expires_at > OLD.expires_at))"
            " OR (OLD.successor_id IS NOT NULL AND NEW.successor_id IS DISTINCT FROM OLD.successor_id)"
        ),
        "the end of a key is not taken back, nor put off",
    ),
]

# Function, which names the trigger; table; and the rest of its CREATE.
CHECKED = [
    ("guard_refusal()", "transition_rejections", "AFTER INSERT", ""),
    ("guard_event()", "events", "AFTER INSERT", ""),
    ("guard_gateway_event()", "gateway_events", "AFTER INSERT", ""),
    ("guard_line_agreed()", "order_line_items", "AFTER INSERT", ""),
    ("guard_payment_begins()", "payments", "AFTER INSERT", ""),
    ("guard_refund_caused()", "refunds", "AFTER INSERT", ""),
    ("guard_document_caused()", "invoices", "AFTER INSERT", ""),
    ("guard_job_caused()", "jobs", "AFTER INSERT", ""),
    ("guard_letter_caused()", "dead_letters", "AFTER INSERT", ""),
    ("guard_return_refunded()", "return_requests", "AFTER UPDATE OF refund_transaction_id", ""),
]
CHECKED_AT_COMMIT = [
    ("guard_history_head()", "state_history", "AFTER INSERT", ""),
    ("guard_capture_caused()", "payments", "AFTER UPDATE OF state", ""),
    ("guard_number_taken()", "invoice_series", "AFTER INSERT OR UPDATE", ""),
]

# What the code does with a job after it was made.
JOB_COLUMNS = "state, failures, claims, run_at, published_at, lease_owner, lease_until, fence, last_error, started_at, finished_at"
KEY_COLUMNS = "last_used_at, revoked_at, expires_at, successor_id"


def upgrade() -> None:
    """Install the guards; existing rows are not looked at. Keys are the owner's to make and to end."""
    role = context.config.attributes["database_role"]
    for function in (GUARD_STATE_CHANGE, *FUNCTIONS):
        op.execute(function)
    for table, (entity_type, facts) in STEP_FACTS.items():
        op.execute(f"DROP TRIGGER guard_state_change ON {table}")
        op.execute(
            f"CREATE TRIGGER guard_state_change AFTER UPDATE ON {table} FOR EACH ROW"
            f" EXECUTE FUNCTION guard_state_change('{entity_type}', '{facts}')"
        )
        _always(table, "guard_state_change")
    for table, refused, message in BEGINNINGS:
        op.execute(
            f"CREATE TRIGGER guard_beginning BEFORE INSERT ON {table} FOR EACH ROW WHEN ({refused})"
            f" EXECUTE FUNCTION guard_row('initial_state', '{message}')"
        )
        _always(table, "guard_beginning")
    for table, rule, columns, refused, message in FIXED:
        op.execute(
            f"CREATE TRIGGER guard_{rule} AFTER UPDATE OF {columns} ON {table} FOR EACH ROW"
            f"{f' WHEN ({refused})' if refused else ''} EXECUTE FUNCTION guard_row('{rule}', '{message}')"
        )
        _always(table, f"guard_{rule}")
    for call, table, event, condition in CHECKED:
        op.execute(f"CREATE TRIGGER {_name(call)} {event} ON {table} FOR EACH ROW{condition} EXECUTE FUNCTION {call}")
        _always(table, _name(call))
    for call, table, event, condition in CHECKED_AT_COMMIT:
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {_name(call)} {event} ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW{condition} EXECUTE FUNCTION {call}"
        )
        _always(table, _name(call))
    op.execute(f"REVOKE UPDATE ON jobs FROM {role}")
    op.execute(f"GRANT UPDATE ({JOB_COLUMNS}) ON jobs TO {role}")
    op.execute(f"REVOKE INSERT, UPDATE ON api_keys FROM {role}")
    op.execute(f"REVOKE UPDATE ({KEY_COLUMNS}) ON api_keys FROM {role}")
    op.execute(f"GRANT UPDATE (last_used_at) ON api_keys TO {role}")


def _name(call: str) -> str:
    """Return the name of a trigger, which is that of its function."""
    return call.partition("(")[0]


def _always(table: str, trigger: str) -> None:
    """Let the trigger fire in replica mode too, which skips ordinary ones."""
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    """Take the guards away, and let the application make keys again."""
    role = context.config.attributes["database_role"]
    op.execute(f"REVOKE UPDATE (last_used_at) ON api_keys FROM {role}")
    op.execute(f"GRANT INSERT, UPDATE ({KEY_COLUMNS}) ON api_keys TO {role}")
    op.execute(f"REVOKE UPDATE ({JOB_COLUMNS}) ON jobs FROM {role}")
    op.execute(f"GRANT UPDATE ON jobs TO {role}")
    for call, table, *_ in (*CHECKED_AT_COMMIT, *CHECKED):
        op.execute(f"DROP TRIGGER {_name(call)} ON {table}")
    for table, rule, *_ in FIXED:
        op.execute(f"DROP TRIGGER guard_{rule} ON {table}")
    for table, *_ in BEGINNINGS:
        op.execute(f"DROP TRIGGER guard_beginning ON {table}")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function.split()[2]}")
    op.execute(GUARD_STATE_CHANGE_BEFORE)
    for table, (entity_type, _) in STEP_FACTS.items():
        op.execute(f"DROP TRIGGER guard_state_change ON {table}")
        op.execute(
            f"CREATE TRIGGER guard_state_change AFTER UPDATE ON {table} FOR EACH ROW"
            f" WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION guard_state_change('{entity_type}')"
        )
        _always(table, "guard_state_change")
