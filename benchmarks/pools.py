"""Orders for the measurement: new ones in PENDING_PAYMENT, three lines each, made by the database itself."""

from collections.abc import Mapping

import psycopg

from benchmarks.works import LINES, SHIPPING, TAX_RATE, UNIT_PRICE, Pool, id_prefix

# Ids follow each other as UUIDv7 keys do, so that the indexes grow as in real life.
_ORDERS = f"""
INSERT INTO orders (id, order_number, customer_id, customer_email, customer_name, currency, subtotal_amount, tax_amount,
    shipping_amount, total_amount, payment_method, shipping_address, billing_address, created_at, updated_at)
SELECT (%(prefix)s || lpad(to_hex(n), 12, '0'))::uuid, 'BENCH-' || %(pool)s::text || '-' || n, uuid7(),
    'ada' || n || '@example.com', 'Ada Marchand', 'EUR', {LINES} * {UNIT_PRICE}, {LINES} * {UNIT_PRICE} * {TAX_RATE},
    {SHIPPING}, {LINES} * {UNIT_PRICE} * (1 + {TAX_RATE}) + {SHIPPING}, 'credit_card', a.address, a.address,
    now() - (%(stop)s - n) * interval '1 millisecond', now()
FROM generate_series(%(start)s::bigint, %(stop)s::bigint - 1) AS n,
    (SELECT jsonb_build_object('street', '4 Quai des Arts', 'city', 'Paris', 'postal_code', '75001', 'country', 'FR'))
        AS a(address)
"""
_OF_THESE = "FROM orders o WHERE o.id >= %(first)s::uuid AND o.id < %(last)s::uuid"
_LINES = f"""
INSERT INTO order_line_items (order_id, position, product_id, product_name, quantity, unit_price, tax_rate, tax_amount,
    subtotal)
SELECT o.id, p, 'vase-' || p, 'Celadon vase ' || p, 1, {UNIT_PRICE}, {TAX_RATE}, {UNIT_PRICE} * {TAX_RATE}, {UNIT_PRICE}
FROM orders o, generate_series(1, {LINES}) p WHERE o.id >= %(first)s::uuid AND o.id < %(last)s::uuid
"""
_PAYMENTS = f"""
INSERT INTO payments (order_id, method, token, amount, currency, created_at)
SELECT o.id, 'credit_card', 'tok_visa', o.total_amount, o.currency, o.created_at {_OF_THESE}
"""
_EVENTS = f"""
INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
SELECT 'ORDER', o.id, 1, 'order.created', jsonb_build_object('customer_id', o.customer_id), o.created_at {_OF_THESE}
"""


class Pools:
    """The pools of one database, which grow at their ends; numbers are never used twice.

    Args:
        url: login of the application.
        role: that it takes on.
        sizes: how many orders each pool has, in the copy of another database.
    """

    def __init__(self, url: str, role: str, sizes: Mapping[Pool, int] | None = None) -> None:
        self._url = url
        self._role = role
        self.sizes = {**dict.fromkeys(Pool, 0), **(sizes or {})}

    @property
    def total(self) -> int:
        """How many orders were made, in all pools."""
        return sum(self.sizes.values())

    def extend(self, pool: Pool, count: int) -> int:
        """Add `count` orders to a pool; return the number of the first."""
        start, stop = self.sizes[pool], self.sizes[pool] + count
        values = {
            "pool": int(pool),
            "prefix": id_prefix(pool),
            "start": start,
            "stop": stop,
            "first": f"{id_prefix(pool)}{start:012x}",
            "last": f"{id_prefix(pool)}{stop:012x}",
        }
        with psycopg.connect(self._url, options=f"-c role={self._role}") as connection:
            for statement in (_ORDERS, _LINES, _PAYMENTS, _EVENTS):
                connection.execute(statement.encode(), values)
        self.sizes[pool] = stop
        return start
