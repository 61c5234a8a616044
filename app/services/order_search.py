"""The terms that an order is found by, and the condition that finds it (REQ-005).

PostgreSQL cannot estimate how many orders have a word with a given prefix: its estimate for a prefix is never
below 0.5 %. So the matches are counted first, up to `FEW`. A few are fetched by their ids. For more, the newest orders are
walked until the page is full, which ends soon because every few hundredth order is a match.
"""

from sqlalchemy import ColumnElement, Uuid, case, cast, exists, false, func, select, update
from sqlalchemy.dialects.postgresql import TSQUERY, array
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.models.order import Order
from app.models.order_search import ORDER_SOURCE, OrderSearch
from app.utils import search_terms

FEW = 2000


def terms_of(order: Order) -> list[str]:
    """Return the search terms of an order that has its number."""
    return search_terms.order_terms(
        order_number=order.order_number,
        email=order.customer_email,
        addresses=(order.shipping_address, order.billing_address),
        names=(order.customer_name, order.customer_company),
        phone=order.customer_phone,
    )


def of_order(order: Order) -> OrderSearch:
    """Return the row to insert with a new order."""
    return OrderSearch(order_id=order.id, source=ORDER_SOURCE, terms=func.array_to_tsvector(terms_of(order)))


async def refresh(session: AsyncSession, order: Order) -> None:
    """Bring the terms of an order that was changed up to date, in the caller's transaction."""
    await session.execute(
        update(OrderSearch)
        .where(OrderSearch.order_id == order.id, OrderSearch.source == ORDER_SOURCE)
        .values(terms=func.array_to_tsvector(terms_of(order)))
    )


def matches(typed: str) -> ColumnElement[bool]:
    """Return the condition on `orders` for what a person typed, to be checked order by order.

    Args:
        typed: words of a name or an e-mail address, a telephone number, or the number of an order, a document, a return
            or a parcel.
    """
    found = _found(typed)
    return false() if found is None else exists(select(1).where(OrderSearch.order_id == Order.id, found))


async def condition(connection: AsyncConnection, typed: str) -> ColumnElement[bool]:
    """Return the condition on `orders` for what a person typed, in the form that is fast for how many match."""
    found = _found(typed)
    if found is None:
        return false()
    few = select(OrderSearch.order_id).where(found).limit(FEW + 1).subquery()
    # In the database: of a frequent word the ids would be read, made into objects and thrown away.
    ids = case((func.count() <= FEW, func.coalesce(func.array_agg(few.c.order_id), array([], type_=Uuid))))
    order_ids = (await connection.execute(select(ids).select_from(few))).scalar_one()
    return matches(typed) if order_ids is None else Order.id.in_(order_ids)


def _found(typed: str) -> ColumnElement[bool] | None:
    query = search_terms.tsquery(typed)
    return OrderSearch.terms.bool_op("@@")(cast(query, TSQUERY)) if query else None
