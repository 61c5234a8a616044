"""The terms that an order is found by, and the condition that finds it (REQ-005).

PostgreSQL cannot estimate how many orders have a word with a given prefix: its estimate for a prefix is never
below 0.5 %. So the matches are counted first, up to `FEW`. A few are fetched by their ids. For more, the newest orders are
walked until the page is full. Where the first `WALKED` do not fill it, the matches are older than those: the newest `FEW`
of them are taken from the index of words and fetched by their ids. So the time that a search takes does not grow with the
orders that came after the last match.

The table of words has no time of its own. The id of an order is a UUIDv7 of its `created_at`, to the millisecond.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Subquery, Uuid, case, cast, exists, false, func, select, true, update
from sqlalchemy.dialects.postgresql import TSQUERY, array
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.models.order import Order
from app.models.order_search import ORDER_SOURCE, OrderSearch
from app.utils import search_terms

FEW = 2000
WALKED = 5000
_TIME_SHIFT = 80
"""Bits of a UUIDv7 below its milliseconds."""


def terms_of(order: Order) -> list[str]:
    """Return the search terms of an order that has its number."""
    return search_terms.order_terms(
        order_number=order.order_number,
        email=order.customer_email,
        addresses=(order.shipping_address, order.billing_address),
        names=(order.customer_name, order.customer_company),
        phone=order.customer_phone,
    )


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


async def condition(
    connection: AsyncConnection, typed: str, listed: Select[*tuple[Any, ...]], wanted: int | None
) -> ColumnElement[bool]:
    """Return the condition on `orders` for what a person typed, in the form that is fast for how many match.

    Args:
        typed: as in `matches`.
        listed: the orders to be searched, with the filters and the cursor of the page.
        wanted: rows that will be read, newest first; None if all are, as for a total. The condition need not hold for
            matches after those.
    """
    found = _found(typed)
    if found is None:
        return false()
    few = select(OrderSearch.order_id).where(found).limit(FEW + 1).subquery()
    # In the database: of a frequent word the ids would be read, made into objects and thrown away.
    ids = case((func.count() <= FEW, func.coalesce(func.array_agg(few.c.order_id), array([], type_=Uuid))))
    order_ids = (await connection.execute(select(ids).select_from(few))).scalar_one()
    if wanted is None:
        return matches(typed) if order_ids is None else Order.id.in_(order_ids)
    if order_ids is None:
        order_ids = await _newest(connection, found, listed, wanted)
    elif len(order_ids) > wanted:
        order_ids = await _page(connection, listed, Order.id.in_(order_ids), wanted)
    return matches(typed) if order_ids is None else Order.id.in_(order_ids)


async def _newest(
    connection: AsyncConnection, found: ColumnElement[bool], listed: Select[*tuple[Any, ...]], wanted: int
) -> Sequence[UUID] | None:
    """Return the ids of the newest `wanted` matches among many; None if they are among the newest `WALKED` orders."""
    newest_first = _ids(listed).order_by(Order.created_at.desc(), Order.id.desc())
    walked = newest_first.limit(WALKED).subquery()
    # A scalar subquery, which PostgreSQL does not turn into a join: that would read all matches.
    is_match = select(true()).where(OrderSearch.order_id == walked.c.id, found).limit(1).scalar_subquery()
    met = (await connection.execute(select(walked.c.id).where(is_match).limit(wanted))).scalars().all()
    if len(met) == wanted:
        return None
    last_walked = (await connection.execute(newest_first.offset(WALKED - 1).limit(1))).scalar()
    if last_walked is None:
        return met
    oldest: UUID = (await connection.execute(_ids(listed).order_by(Order.created_at, Order.id).limit(1))).scalar_one()
    # Within a millisecond ids are in no order of time, so a bound includes all of one.
    first, end = _first_of(_milliseconds(oldest)), _first_of(_milliseconds(last_walked) + 1)
    older = _fenced(_all(found).where(OrderSearch.order_id >= first, OrderSearch.order_id < end))
    rest = (await connection.execute(select(older.c.order_id).order_by(older.c.order_id.desc()).limit(FEW))).scalars()
    ids = rest.all()
    if len(ids) < FEW:
        return await _page(connection, listed, Order.id.in_([*met, *ids]), wanted)
    whole = [order_id for order_id in ids if _milliseconds(order_id) > _milliseconds(ids[-1])]
    page = await _page(connection, listed, Order.id.in_([*met, *whole]), wanted)
    # Fewer, where a filter leaves few of them: then all are looked up.
    return (
        page
        if len(page) == wanted
        else await _page(connection, listed, Order.id.in_(select(_fenced(_all(found)))), wanted)
    )


async def _page(
    connection: AsyncConnection, listed: Select[Any], one_of: ColumnElement[bool], wanted: int
) -> Sequence[UUID]:
    """Return the ids of the newest of the listed orders that `one_of` selects by their ids."""
    chosen = _fenced(_ids(listed).where(one_of))
    newest = select(chosen.c.id).order_by(chosen.c.created_at.desc(), chosen.c.id.desc()).limit(wanted)
    return (await connection.execute(newest)).scalars().all()


def _ids(listed: Select[*tuple[Any, ...]]) -> Select[UUID, datetime]:
    return listed.with_only_columns(Order.id, Order.created_at)


def _all(found: ColumnElement[bool]) -> Select[UUID]:
    return select(OrderSearch.order_id).where(found)


def _fenced(statement: Select[*tuple[Any, ...]]) -> Subquery:
    """Return a subquery that PostgreSQL plans by itself.

    Sorted and limited, the rows of a few ids would be looked for by walking all orders in the wanted order.
    """
    return statement.offset(0).subquery()


def _milliseconds(order_id: UUID) -> int:
    return order_id.int >> _TIME_SHIFT


def _first_of(milliseconds: int) -> UUID:
    """Return the lowest id of a millisecond."""
    return UUID(int=milliseconds << _TIME_SHIFT)


def _found(typed: str) -> ColumnElement[bool] | None:
    query = search_terms.tsquery(typed)
    return OrderSearch.terms.bool_op("@@")(cast(query, TSQUERY)) if query else None
