"""The statement that creates orders: order, lines, payment, search terms and event, in one (REQ-001)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import orjson
from sqlalchemy import String, bindparam, text
from sqlalchemy.sql.elements import KeyedColumnElement

from app.database import Database
from app.models.order import Order, OrderLineItem
from app.models.order_search import ORDER_SOURCE
from app.prepared import Prepared, type_name
from app.services.ledger.statements import NEW_PAYMENT
from app.services.orders.views import OrderLineView, OrderView
from app.utils.json_values import JsonObject
from app.utils.search_terms import order_terms


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order to be inserted.

    Attributes:
        view: the order as it will be, without its number.
        year: in its number.
        payment_token: for the payment provider.
        placed_by: role of the caller, for the event.
    """

    view: OrderView
    year: int
    payment_token: str | None
    placed_by: str

    @property
    def id(self) -> UUID:
        """The id of the order."""
        return self.view["id"]


def _columns(
    model: type[Order | OrderLineItem], view: type[OrderView | OrderLineView]
) -> list[KeyedColumnElement[Any]]:
    return [column for column in model.__table__.c if column.name in view.__annotations__]


_ORDER = [column for column in _columns(Order, OrderView) if column.name != "order_number"]
_LINE = _columns(OrderLineItem, OrderLineView)


def _typed(columns: Sequence[KeyedColumnElement[Any]]) -> str:
    return ", ".join(f"{column.name} {type_name(column.type)}" for column in columns)


def _names(columns: Sequence[KeyedColumnElement[Any]], row: str = "") -> str:
    return ", ".join(f"{row}{column.name}" for column in columns)


# An order's number is found from both of its ends, like its other terms (`search_terms.both_ways`).
CREATE = Prepared(
    text(
        f"""
WITH given AS (
    SELECT * FROM json_to_recordset(CAST(:orders AS json)) AS g(
        {_typed(_ORDER)}, year text, payment_token text, placed_by text, terms jsonb, line_items json)
),
made AS (
    INSERT INTO orders (order_number, {_names(_ORDER)})
    SELECT 'ORD-' || g.year || '-' || lpad(n.text, greatest(6, length(n.text)), '0'), {_names(_ORDER, "g.")}
    FROM given g, LATERAL (SELECT CAST(nextval('order_number_seq') AS text) AS text, g.id) AS n
    RETURNING id, order_number
),
lines AS (
    INSERT INTO order_line_items (order_id, position, {_names(_LINE)})
    SELECT g.id, l.position, {_names(_LINE, "l.")}
    FROM given g, ROWS FROM (json_to_recordset(g.line_items) AS ({_typed(_LINE)})) WITH ORDINALITY
        AS l({_names(_LINE)}, position)
),
{NEW_PAYMENT},
searched AS (
    INSERT INTO order_search (order_id, source, terms)
    SELECT g.id, '{ORDER_SOURCE}', array_to_tsvector(ARRAY(SELECT jsonb_array_elements_text(g.terms))
        || lower(m.order_number) || ('~' || reverse(lower(m.order_number))))
    FROM given g JOIN made m ON m.id = g.id
),
facts AS (
    INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
    SELECT 'ORDER', g.id, 1, 'order.created',
        jsonb_build_object('customer_id', g.customer_id, 'placed_by', g.placed_by), g.created_at
    FROM given g
)
SELECT id, order_number FROM made
"""  # noqa: S608 - constants of this code base
    ).bindparams(bindparam("orders", type_=String))
)


async def create(database: Database, orders: Sequence[NewOrder]) -> list[str]:
    """Insert the orders in one transaction and return their numbers, in the same order."""
    given = b"[%b]" % b",".join(map(_as_json, orders))
    rows = await database.rows(CREATE, orders=given.decode())
    numbers = {row["id"]: row["order_number"] for row in rows}
    return [numbers[order.id] for order in orders]


def _as_json(order: NewOrder) -> bytes:
    view = order.view
    terms = order_terms(
        email=view["customer_email"],
        addresses=[cast("JsonObject", view["shipping_address"]), cast("JsonObject", view["billing_address"])],
        names=(view["customer_name"], view["customer_company"]),
        phone=view["customer_phone"],
    )
    given = {
        **view,
        "year": str(order.year),
        "payment_token": order.payment_token,
        "placed_by": order.placed_by,
        "terms": terms,
    }
    return orjson.dumps(given, default=str)
