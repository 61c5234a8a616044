"""Many rows in the tables that lists read, made in the database; each of three values is in another part of them.

The first rows of a list have one value, the second half has another, and the last `RARE` rows have a third.

The rows have the values that lists filter and sort by, and no history that would pass `audit verify`.
"""

import psycopg

from tests.databases import unguarded

TABLES = (
    *("orders", "order_line_items", "order_search", "return_requests", "state_history", "transition_rejections"),
    *("payments", "refunds", "jobs", "dead_letters", "notifications", "cases"),
)
RARE = 5
"""Rows at the far end that have the rare values."""
ACTORS = ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
"""The first has acted in all rows but the oldest; the second in those."""

_ROWS = """
    CREATE TEMP TABLE sample AS
    SELECT n, date_trunc('second', now()) - n * interval '20 seconds' AS at,
        (overlay(lpad(to_hex((extract(epoch FROM date_trunc('second', now()) - n * interval '20 seconds') * 1000)::bigint),
            12, '0') || md5(n::text) PLACING '7' FROM 13 FOR 1)::text::char(32))::uuid AS id, uuid7() AS return_id,
        uuid7() AS payment_id, uuid7() AS job_id, n > {rows} - {rare} AS is_rare, n > {rows} / 2 AS is_old,
        md5((n / 20)::text)::uuid AS customer_id
    FROM generate_series(1, {rows}) n;
    ANALYZE sample
"""
_INSERTS = (
    """
    INSERT INTO orders (id, order_number, customer_id, customer_email, currency, subtotal_amount, tax_amount,
        shipping_amount, total_amount, payment_method, shipping_address, billing_address, created_at, updated_at, status,
        paid_at, shipped_at, delivered_at)
    SELECT id, 'ORD-2026-' || lpad(n::text, 7, '0'), customer_id, 'sample@example.com', 'EUR', 1, 0, 0, 1, 'card', '{}',
        '{}', at, at, CASE WHEN is_rare THEN 'PAID' WHEN is_old THEN 'SHIPPED' ELSE 'DELIVERED' END, at, at, at FROM sample
    """,
    """
    INSERT INTO order_line_items (order_id, position, product_id, product_name, quantity, unit_price, subtotal)
    SELECT id, 1, 'x', 'x', 1, 1, 1 FROM sample
    """,
    """
    INSERT INTO order_search (order_id, source, terms)
    SELECT id, 'order', array_to_tsvector(array_remove(ARRAY['sample', CASE WHEN is_rare THEN 'rare' END,
        'ord-2026-' || lpad(n::text, 7, '0')], NULL)) FROM sample
    """,
    """
    INSERT INTO return_requests (id, return_number, order_id, customer_id, status, reason, items, items_amount,
        refund_amount, currency, requested_by, created_at, updated_at)
    SELECT return_id, 'RET-2026-' || lpad(n::text, 7, '0'), id, customer_id,
        CASE WHEN is_rare THEN 'APPROVED' WHEN is_old THEN 'RECEIVED' ELSE 'COMPLETED' END, 'x',
        '[{"line_item_id": "00000000-0000-4000-8000-000000000001", "quantity": 1, "amount": "1.00"}]', 1, 1, 'EUR', customer_id, at, at FROM sample
    """,
    """
    INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_id, actor_type, trigger,
        created_at, prev_hash, hash)
    SELECT CASE WHEN is_old THEN 'RETURN' ELSE 'ORDER' END, CASE WHEN is_old THEN return_id ELSE id END, 1, 'X',
        CASE WHEN is_rare THEN 'APPROVED' WHEN is_old THEN 'RECEIVED' ELSE 'PAID' END,
        CASE WHEN is_rare THEN '{other}' ELSE '{actor}' END::uuid, 'USER', 'API_CALL', now() - (at - now()),
        decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex') FROM sample
    """,
    """
    INSERT INTO transition_rejections (entity_type, entity_id, current_state, requested_state, actor_id, actor_type,
        trigger, created_at)
    SELECT CASE WHEN is_old THEN 'RETURN' ELSE 'ORDER' END, CASE WHEN is_old THEN return_id ELSE id END, 'X',
        CASE WHEN is_rare THEN 'APPROVED' WHEN is_old THEN 'RECEIVED' ELSE 'PAID' END,
        CASE WHEN is_rare THEN '{other}' ELSE '{actor}' END::uuid, 'USER', 'API_CALL', now() - (at - now()) FROM sample
    """,
    """
    INSERT INTO payments (id, order_id, method, amount, currency, created_at)
    SELECT payment_id, id, 'card', 1, 'EUR', at FROM sample
    """,
    """
    INSERT INTO refunds (payment_id, order_id, return_id, reason, state, amount, currency, gateway_refund_id, created_at,
        updated_at, succeeded_at)
    SELECT payment_id, id, return_id, 'RETURN_COMPLETED', CASE WHEN is_rare THEN 'FAILED' WHEN is_old THEN 'UNKNOWN' ELSE 'SUCCEEDED' END, 1, 'EUR',
        CASE WHEN NOT is_old THEN id::text END, at, at, CASE WHEN NOT is_old THEN at END FROM sample
    """,
    """
    INSERT INTO jobs (id, kind, queue, entity_id, dedupe_key, state, run_at, created_at, finished_at)
    SELECT job_id, 'invoice.issue', 'invoices', id, id::text, 'DISMISSED', at, at, at FROM sample
    """,
    """
    INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims, created_at, resolution, resolved_at,
        resolution_note)
    SELECT job_id, 'invoice.issue', id, 'x', 1, 1, at, CASE WHEN NOT is_rare THEN 'DISMISSED' END,
        CASE WHEN NOT is_rare THEN at END, CASE WHEN NOT is_rare THEN 'x' END FROM sample
    """,
    """
    INSERT INTO notifications (source_key, template, recipient, channel, entity_id, order_id, state, message_id, subject,
        created_at)
    SELECT id::text, CASE WHEN is_rare THEN 'credit_note' WHEN is_old THEN 'order_shipped' ELSE 'invoice' END, 'sample@example.com',
        CASE WHEN is_rare THEN 'SMS' WHEN is_old THEN 'CHAT' ELSE 'EMAIL' END, id, id, CASE WHEN is_rare THEN 'FAILED' WHEN is_old THEN 'REJECTED' ELSE 'SENT' END, id::text,
        'x', at FROM sample
    """,
    """
    INSERT INTO cases (kind, state, version, closed_at, close_note, entity_type, entity_id, order_id, dedupe_key, created_at)
    SELECT CASE WHEN is_rare THEN 'UNDELIVERABLE_MESSAGE' WHEN is_old THEN 'SECOND_REFUND' ELSE 'DISPUTE' END, CASE WHEN is_old THEN 'CLOSED' ELSE 'OPEN' END,
        CASE WHEN is_old THEN 2 ELSE 1 END, CASE WHEN is_old THEN at END, CASE WHEN is_old THEN 'x' END,
        CASE WHEN is_rare THEN 'NOTIFICATION' WHEN is_old THEN 'REFUND' ELSE 'PAYMENT' END, payment_id, id, id::text, at FROM sample
    """,
)


def fill(owner: psycopg.Connection, rows: int) -> None:
    """Add `rows` rows to each table, and statistics of them."""
    owner.execute(_ROWS.format(rows=rows, rare=RARE).encode())
    with unguarded(owner, *TABLES):
        for insert in _INSERTS:
            owner.execute(insert.replace("{actor}", ACTORS[0]).replace("{other}", ACTORS[1]).encode())
    for table in TABLES:
        owner.execute(f"VACUUM ANALYZE {table}".encode())
