"""Orders with all that belongs to them, a million in minutes: by COPY, without triggers, as superuser.

The rows have the shape of sample data (`devtools.seed`), and audit chains that do not verify.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from app.utils.clock import utc_now
from devtools.seed import LINE_COLUMNS, ORDER_COLUMNS, Sample, search_terms_of

BATCH = 10_000
TABLES = (
    *("orders", "order_line_items", "order_search", "payments", "state_history", "return_requests", "refunds"),
    *("notifications", "jobs"),
)
_STAMPS = {"PAID": "paid_at", "SHIPPED": "shipped_at", "DELIVERED": "delivered_at", "CANCELLED": "cancelled_at"}
_WALKED = ("status", "version", "audit_seq", "audit_hash", "carrier", "tracking_number", *_STAMPS.values())
_SYLLABLES = ("ka", "ro", "mi", "te", "sol", "ber", "van", "ul", "en", "ix")

# 32 bytes that are the hash of nothing, and one of 40 people for each row.
_HASH = "decode(repeat('11', 32), 'hex')"
_ACTOR = "md5('actor ' || abs(hashtext({number} || s)) % 40)::uuid"
_HISTORY = """
    INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_id, actor_type, trigger,
        created_at, prev_hash, hash)
    SELECT '{entity_type}', e.id, s, path[s], path[s + 1], {actor}, 'USER', 'API_CALL',
        least(e.created_at + s * interval '9 hours', now()), {hash}, {hash}
    FROM {table} e, generate_series(1, e.audit_seq) s, LATERAL (SELECT CASE WHEN e.status = '{other}'
        THEN (ARRAY{short})[1:e.audit_seq] || ARRAY['{other}'] ELSE ARRAY{long} END AS path) p
"""
_DERIVED = (
    _HISTORY.format(
        entity_type="ORDER",
        table="orders",
        actor=_ACTOR.format(number="order_number"),
        hash=_HASH,
        other="CANCELLED",
        short=["PENDING_PAYMENT", "PAID"],
        long=["PENDING_PAYMENT", "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED"],
    ),
    f"""
    INSERT INTO return_requests (order_id, customer_id, status, version, reason, items, items_amount, refund_amount,
        currency, requested_by, created_at, updated_at, rejection_reason, audit_seq, audit_hash, return_number)
    SELECT id, customer_id, status, steps + 1, 'too small', jsonb_build_array(jsonb_build_object('line_item_id', id,
        'quantity', 1, 'amount', '10.00')), 10, 10, currency, customer_id, at, at,
        CASE WHEN status = 'REJECTED' THEN 'OTHER' END, steps, CASE WHEN steps > 0 THEN {_HASH} END,
        'RET' || substr(order_number, 4)
    FROM (SELECT id, order_number, customer_id, currency, delivered_at + interval '5 days' AS at, rest.*
        FROM orders, LATERAL (VALUES (0, 'REQUESTED', 0), (1, 'REJECTED', 1), (2, 'IN_TRANSIT', 2), (3, 'COMPLETED', 4),
            (4, 'COMPLETED', 4), (5, 'COMPLETED', 4)) AS rest(n, status, steps)
        WHERE orders.status = 'DELIVERED' AND abs(hashtext(order_number)) % 60 = n) AS returned
    """,
    _HISTORY.format(
        entity_type="RETURN",
        table="return_requests",
        actor=_ACTOR.format(number="return_number"),
        hash=_HASH,
        other="REJECTED",
        short=["REQUESTED"],
        long=["REQUESTED", "APPROVED", "IN_TRANSIT", "RECEIVED", "COMPLETED"],
    ),
    """
    INSERT INTO payments (order_id, state, method, amount, currency, captured_amount, gateway_payment_id, created_at,
        captured_at)
    SELECT id, CASE WHEN paid_at IS NULL THEN 'PENDING' ELSE 'CAPTURED' END, 'credit_card', total_amount, currency,
        CASE WHEN paid_at IS NULL THEN 0 ELSE total_amount END, CASE WHEN paid_at IS NOT NULL THEN 'pay_' || id END,
        created_at, paid_at FROM orders
    """,
    """
    INSERT INTO refunds (payment_id, order_id, return_id, reason, state, version, amount, currency, gateway_refund_id,
        created_at, updated_at, succeeded_at)
    SELECT p.id, r.order_id, r.id, 'RETURN_COMPLETED', CASE WHEN failed THEN 'FAILED' ELSE 'SUCCEEDED' END, 3, 10,
        r.currency, CASE WHEN NOT failed THEN 're_' || r.id END, r.created_at, r.created_at,
        CASE WHEN NOT failed THEN r.created_at END
    FROM return_requests r JOIN payments p USING (order_id),
        LATERAL (SELECT abs(hashtext(r.return_number)) % 500 = 0 AS failed) AS f
    WHERE r.status = 'COMPLETED'
    """,
    """
    INSERT INTO notifications (source_key, template, recipient, channel, entity_id, state, message_id, subject, attempts,
        created_at, sent_at, order_id, customer_id)
    SELECT id || ':' || template, template, customer_email, 'EMAIL', id,
        CASE WHEN abs(hashtext(order_number || template)) % 2000 = 0 THEN 'FAILED' ELSE 'SENT' END, id || template,
        'Your order ' || order_number, 1, at, at, id, customer_id
    FROM orders, LATERAL (VALUES ('order_confirmation', paid_at), ('order_shipped', shipped_at)) AS sent(template, at)
    WHERE at IS NOT NULL
    """,
    """
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state, claims, run_at, created_at, started_at, finished_at)
    SELECT 'notify.order_confirmation', 'notifications', id, 'growth:' || id, 'SUCCEEDED', 1, paid_at, paid_at, paid_at,
        paid_at FROM orders WHERE paid_at IS NOT NULL
    """,
)


def fill(connection: psycopg.Connection, orders: int, on_progress: Callable[[int], None]) -> None:
    """Fill an empty, migrated database.

    Args:
        connection: of a superuser, in autocommit.
        orders: how many.
        on_progress: called with the number of orders done so far.
    """
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET maintenance_work_mem = '512MB'")
    for table in TABLES:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
    dropped = _drop_indexes(connection)
    dice = random.Random(7)
    connection.execute("CREATE TEMP TABLE terms (order_id uuid, source text, terms text[])")
    for start in range(0, orders, BATCH):
        _copy_batch(connection, dice, start, min(BATCH, orders - start))
        on_progress(start + min(BATCH, orders - start))
    for statement in _DERIVED:
        connection.execute(statement.encode())
    for definition in dropped:
        connection.execute(definition.encode())
    for table in TABLES:
        connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())
    connection.execute("VACUUM ANALYZE")


def _drop_indexes(connection: psycopg.Connection) -> list[str]:
    """Drop the plain indexes, which are made faster at the end; return the statements that make them."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY (%s) AND indexname LIKE 'ix_%%'",
        [list(TABLES)],
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}".encode())
    return [definition for _, definition in found]


def _copy_batch(connection: psycopg.Connection, dice: random.Random, start: int, size: int) -> None:
    now = utc_now()
    samples = [Sample.roll(dice, now) for _ in range(size)]
    for number, sample in enumerate(samples, start=start + 1):
        order = sample.order
        order["order_number"] = f"ORD-{order['created_at'].year}-{number:06d}"
        if dice.random() < 0.3:
            # Surnames that few have, beside the few that many have.
            last = "".join(dice.choices(_SYLLABLES, k=dice.choice((2, 3, 4)))).title()
            order["customer_name"] = f"{order['customer_name'].split()[0]} {last}"
        _walk(sample)
    columns = [*_names(ORDER_COLUMNS), *_WALKED]
    _copy(connection, "orders", columns, ([sample.order[name] for name in columns] for sample in samples))
    columns = _names(LINE_COLUMNS)
    lines = ([line[name] for name in columns] for sample in samples for line in sample.lines)
    _copy(connection, "order_line_items", columns, lines)
    terms = ([sample.order["id"], "order", search_terms_of(sample.order)] for sample in samples)
    _copy(connection, "terms", ["order_id", "source", "terms"], terms)
    connection.execute("INSERT INTO order_search SELECT order_id, source, array_to_tsvector(terms) FROM terms")
    connection.execute("TRUNCATE terms")


def _walk(sample: Sample) -> None:
    """Bring the order of a sample to the end of its walk."""
    order = sample.order
    order.update(dict.fromkeys(_WALKED), status="PENDING_PAYMENT", version=1, audit_seq=0)
    for status, at, changes in sample.walk.steps:
        order.update({name: value for name, value in changes.items() if name in _WALKED})
        order.update(status=str(status), updated_at=at, audit_hash=b"\x11" * 32)
        order["version"] += 1
        order["audit_seq"] += 1
        if str(status) in _STAMPS:
            order[_STAMPS[str(status)]] = at


def _names(columns: str) -> list[str]:
    return [name.strip() for name in columns.split(",")]


def _copy(connection: psycopg.Connection, table: str, columns: Sequence[str], rows: Iterable[list[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({','.join(columns)}) FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
