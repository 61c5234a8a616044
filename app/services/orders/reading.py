"""The statements that read orders, compiled once (`app.prepared`)."""

from functools import lru_cache

from sqlalchemy import text

from app.models.order import Order
from app.prepared import Prepared
from app.services.access.visibility import owned_sql, visible_sql
from app.services.orders.views import OrderSummaryView

LINES = (
    "(SELECT json_agg(shown) FROM (SELECT l.id, l.product_id, l.product_name, l.sku, l.quantity,"
    " l.unit_price::text, l.tax_rate::text, l.tax_amount::text, l.subtotal::text"
    " FROM order_line_items l WHERE l.order_id = {order}.id ORDER BY l.position) shown)"
)
"""The lines of an order as JSON, by their position; amounts are text, so that they stay exact."""

# Without metadata: up to 16 KiB of the caller's own in each order would make a list of a hundred 1.6 MB long.
LISTED = [Order.__table__.c[name] for name in OrderSummaryView.__annotations__]
REPEATED = ("shipping_address", "billing_address")
"""Documents that a list repeats as the text that the database has of them: to read and to write forty of them would take a
sixth of the time of a page of twenty orders."""
SHOWN = [*LISTED, Order.__table__.c.metadata]


def answer(order: str) -> str:
    """Return the columns of an order with its lines, in the order of `OrderView`; `order` names its row."""
    return ", ".join([*(f"{order}.{column.name}" for column in SHOWN), f"{LINES.format(order=order)} AS line_items"])


READ = Prepared(
    text(
        f"SELECT {answer('o')} FROM orders o WHERE o.id = CAST(:id AS uuid)"  # noqa: S608 - constants of this code base
        f" AND {visible_sql('o', 'CAST(:owner AS uuid)')}"
    )
)
"""One order; `owner` is the customer whose orders the reader may see, NULL for all."""

READ_SET = Prepared(
    text(
        f"SELECT {answer('o')}"  # noqa: S608 - constants of this code base
        " FROM unnest(CAST(:ids AS uuid[]), CAST(:owners AS uuid[])) WITH ORDINALITY AS asked(id, owner, n)"
        f" LEFT JOIN orders o ON o.id = asked.id AND {visible_sql('o', 'asked.owner')}"
        " ORDER BY asked.n"
    )
)
"""The orders of several such questions, a row each; `id` is NULL where there is none."""

FILTERS = {
    "owner": owned_sql("o", "CAST(:owner AS uuid)"),
    "customer_id": "o.customer_id = CAST(:customer_id AS uuid)",
    "order_number": "o.order_number = :order_number",
    "created_from": "o.created_at >= CAST(:created_from AS timestamptz)",
    "created_to": "o.created_at < CAST(:created_to AS timestamptz)",
    "after_id": "(o.created_at, o.id) < (CAST(:after AS timestamptz), CAST(:after_id AS uuid))",
}
"""Filters of a list by their parameter."""


@lru_cache(maxsize=500)
def listing(filters: tuple[str, ...], statuses: int, rows: int) -> Prepared:
    """Return the statement for a page of orders, newest first, with the documents of `REPEATED` as text.

    Args:
        filters: names in `FILTERS`.
        statuses: how many statuses are asked for, in the parameters `status_0` and so on; any status for 0. Each has a
            branch of its own, which an index gives in the wanted order. With `IN`, PostgreSQL would read all orders of
            rare statuses, or walk past all others.
        rows: at most. A part of the text: of a number that it does not know, PostgreSQL plans for a tenth of the table.
    """
    columns = ", ".join(
        f"o.{column.name}::text AS {column.name}" if column.name in REPEATED else f"o.{column.name}"
        for column in LISTED
    )
    conditions = [FILTERS[name] for name in filters]
    newest = f"ORDER BY created_at DESC, id DESC LIMIT {rows}"
    branches = [
        f"(SELECT {columns} FROM orders o{_where([*conditions, *status])} {newest})"  # noqa: S608 - constants
        for status in [[f"o.status = :status_{n}"] for n in range(statuses)] or [[]]
    ]
    return Prepared(text(branches[0] if len(branches) == 1 else f"{' UNION ALL '.join(branches)} {newest}"))


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
