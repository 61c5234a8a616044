"""The pgbench scripts: the application's work as an engineer would write it by hand, one statement after the other.

Same tables, guards, role, audit hash, events and jobs as the application's own statement; what belongs to a
transition is taken from the application's tables, so that the two cannot drift apart. After every run
`benchmarks.checks` compares what both left behind, row by row.

pgbench reads a variable into every colon that a letter follows, even inside quotes; so there are no such literals.
"""

from app.core.enums import ActorType, Trigger
from app.services.jobs.service import JobKind, queue_of
from app.services.orders import reading
from app.services.orders.service import EFFECTS, MACHINE
from app.services.workflow.audit import CHAIN_START_SQL, canonical_sql
from benchmarks.works import (
    LINES,
    LISTED_ROWS,
    LISTED_STATUSES,
    SHIPMENT,
    SHIPPING,
    STEPS,
    TAX_RATE,
    UNIT_PRICE,
    Pool,
    Work,
    id_prefix,
)

CLIENT_ADDRESS = "127.0.0.1"
_COLUMNS = ", ".join(column.name for column in reading.SHOWN)
_ADDRESS = "jsonb_build_object('street', '4 Quai des Arts', 'city', 'Paris', 'postal_code', '75001', 'country', 'FR')"


def script(work: Work, actor_id: str) -> str:
    """Return the script of a piece of work; `actor_id` is the UUID that its audit rows name."""
    match work:
        case Work.TRANSITION:
            return _transition(actor_id)
        case Work.READ:
            return _READ
        case Work.CREATE:
            return _CREATE
        case Work.LIST:
            return _LIST


def _id_of(pool: Pool, variable: str) -> str:
    return f"('{id_prefix(pool)}' || lpad(to_hex(:{variable}::bigint), 12, '0'))::uuid"


def _transition(actor_id: str) -> str:
    """Walk one order after the other: four transactions each. `counter` starts at -1 and lives as long as a client."""
    branches = "\n".join(
        f"\\{'if' if number == 0 else 'elif'} :step = {number}\n{_step(state, actor_id)}"
        for number, state in enumerate(STEPS)
    )
    return f"""\
\\set counter :counter + 1
\\set step :counter % {len(STEPS)}
\\set slot :start + (:counter / {len(STEPS)}) * :connections + :client_id
BEGIN;
SELECT id, status AS from_state, version + 1 AS version, audit_seq + 1 AS seq,
    coalesce(audit_hash, {CHAIN_START_SQL}) AS prev_hash, greatest(now(), updated_at) AS at
FROM orders WHERE id = {_id_of(Pool.PGBENCH, "slot")} FOR NO KEY UPDATE \\gset
{branches}
\\endif
COMMIT;
"""


def _step(state: str, actor_id: str) -> str:
    shipped = state == "SHIPPED"
    pairs = ", ".join(f"'{name}', '{value}'" for name, value in SHIPMENT.items()) if shipped else ""
    metadata = f"jsonb_build_object({pairs})"
    text = canonical_sql(
        entity_type="'ORDER'",
        entity_id=":id",
        seq=":seq",
        previous_state=":from_state::text",
        new_state=f"'{state}'",
        actor_id=f"'{actor_id}'",
        actor_type=f"'{ActorType.USER}'",
        trigger=f"'{Trigger.API_CALL}'",
        ip_address=f"'{CLIENT_ADDRESS}'",
        created_at=":at::timestamptz",
        metadata=metadata,
    ).replace("\\:", "' || chr(58) || '")
    changes = [f"{MACHINE.stamps[state]} = :at::timestamptz"] if state in MACHINE.stamps else []
    changes += [f"{name} = '{value}'" for name, value in SHIPMENT.items()] if shipped else []
    # The guard on orders wants to see the audit row, so that is written first.
    statements = [
        f"""INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_id, actor_type,
    trigger, metadata, ip_address, created_at, prev_hash, hash)
VALUES ('ORDER', :id::uuid, :seq::int, :from_state::text, '{state}', '{actor_id}', '{ActorType.USER}',
    '{Trigger.API_CALL}', {metadata}, '{CLIENT_ADDRESS}', :at::timestamptz, :prev_hash::bytea,
    sha256(:prev_hash::bytea || convert_to({text}, 'UTF8')))
RETURNING hash \\gset""",
        f"""UPDATE orders SET {
            ", ".join(
                [
                    f"status = '{state}'",
                    "version = :version::int",
                    "updated_at = :at::timestamptz",
                    "audit_seq = :seq::int",
                    "audit_hash = :hash::bytea",
                    *changes,
                ]
            )
        }
WHERE id = :id::uuid;""",
        f"""INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
VALUES ('ORDER', :id::uuid, :version::int, 'order.{state.lower()}',
    jsonb_build_object('from', :from_state::text, 'to', '{state}', 'trigger', '{Trigger.API_CALL}'), :at::timestamptz);""",
    ]
    jobs = [
        f"('{effect.kind}', '{queue_of(effect.kind)}', :id::uuid, '{effect.kind}' || chr(58) || :id::text"
        " || chr(58) || :version::text)"
        for effect in EFFECTS
        if effect.to == state and effect.origin is None
    ]
    if state == "PAID":
        statements.append(
            "UPDATE payments SET state = 'CAPTURED', captured_amount = amount, captured_at = :at::timestamptz\n"
            "WHERE order_id = :id::uuid RETURNING id AS payment_id \\gset"
        )
        kind = JobKind.CAPTURE_PAYMENT
        jobs.append(f"('{kind}', '{queue_of(kind)}', :payment_id::uuid, '{kind}' || chr(58) || :payment_id::text)")
    if jobs:
        statements.append(
            "INSERT INTO jobs (kind, queue, entity_id, dedupe_key) VALUES\n    " + ",\n    ".join(jobs) + ";"
        )
    return "\n".join(statements)


_READ = f"""\
\\set n random(0, :readable - 1)
SELECT {_COLUMNS} FROM orders WHERE id = {_id_of(Pool.READ, "n")};
SELECT * FROM order_line_items WHERE order_id = {_id_of(Pool.READ, "n")} ORDER BY position;
"""

# The state is a literal, so that each of them has a prepared statement, and a plan, of its own.
_LISTS = "\n".join(
    f"""\\{"if" if number == 0 else "elif"} :which = {number}
SELECT {_COLUMNS} FROM orders WHERE status = '{status}'
ORDER BY created_at DESC, id DESC LIMIT {LISTED_ROWS + 1};"""
    for number, status in enumerate(LISTED_STATUSES)
)
_LIST = f"""\
\\set counter :counter + 1
\\set which (:counter + :client_id) % {len(LISTED_STATUSES)}
{_LISTS}
\\endif
"""

_CREATE = f"""\
BEGIN;
SELECT nextval('order_number_seq') AS number \\gset
INSERT INTO orders (id, order_number, customer_id, customer_email, customer_name, currency, subtotal_amount,
    tax_amount, shipping_amount, total_amount, payment_method, shipping_address, billing_address, created_at, updated_at)
VALUES (uuid7(), 'ORD-' || extract(year FROM now())::text || '-' || lpad(:number::text, 6, '0'), uuid7(),
    'ada@example.com', 'Ada Marchand', 'EUR', {LINES} * {UNIT_PRICE}, {LINES} * {UNIT_PRICE} * {TAX_RATE}, {SHIPPING},
    {LINES} * {UNIT_PRICE} * (1 + {TAX_RATE}) + {SHIPPING}, 'credit_card', {_ADDRESS}, {_ADDRESS}, now(), now())
RETURNING id, customer_id, total_amount AS total \\gset
INSERT INTO order_line_items (order_id, position, product_id, product_name, quantity, unit_price, tax_rate,
    tax_amount, subtotal) VALUES
    {
    ", ".join(
        f"(:id::uuid, {position}, 'vase-{position}', 'Celadon vase {position}', 1, {UNIT_PRICE}, {TAX_RATE},"
        f" {UNIT_PRICE} * {TAX_RATE}, {UNIT_PRICE})"
        for position in range(1, LINES + 1)
    )
};
INSERT INTO payments (order_id, method, token, amount, currency, created_at)
VALUES (:id::uuid, 'credit_card', 'tok_visa', :total::numeric, 'EUR', now());
INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
VALUES ('ORDER', :id::uuid, 1, 'order.created', jsonb_build_object('customer_id', :customer_id::text), now());
COMMIT;
"""
