"""The terms that an order is found by, and the condition that finds it (REQ-005).

PostgreSQL cannot estimate how many orders have a word with a given prefix: its estimate for a prefix is never
below 0.5 %. And its index of words reads all matches before it gives the first one. So the newest `PROBED` orders are
looked at first. Where some of them match, the word is frequent: the newest orders are walked until the page is full, up to
`WALKED`. Otherwise the matches are counted in the index, up to `FEW`. A few are fetched by their ids. Of more, the newest
`FEW` that are older than the orders walked are fetched by their ids. So the time that a search takes does not grow with
the orders that came after the last match, and that of a frequent word not with the table.

Two words that are frequent, and that few orders have together, are the worst case: the index reads all matches of each. In
a large table, `WALKED_FAR` orders are walked before that.

The table of words has no time of its own. The id of an order is a UUIDv7 of its `created_at`, to the millisecond.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Subquery,
    Uuid,
    case,
    cast,
    exists,
    false,
    func,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY, array
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.models.order import Order
from app.models.order_search import ORDER_SOURCE, OrderSearch
from app.schemas.order import OrderQuery
from app.services import paging as pages
from app.services.orders.views import OrderSummaryView, order_summary
from app.utils import search_terms

FEW = 2000
PROBED = 100
WALKED = 5000
WALKED_FAR = 20_000
LARGE_TABLE = 250_000
"""Rows from which on reading the index for two frequent words takes longer than walking `WALKED_FAR` orders."""
_KEY = (Order.__table__.c.created_at, Order.__table__.c.id)
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


async def page(
    connection: AsyncConnection,
    query: OrderQuery,
    statement: Select[*tuple[Any, ...]],
    statuses: Sequence[pages.OneOf],
) -> pages.Page[OrderSummaryView]:
    """Return a page of the orders that have `query.q`, newest first.

    Args:
        statement: the orders with the other filters.
        statuses: the status that is asked for, as `fetch_page` takes it.

    Raises:
        InvalidInputError: as `fetch_page`.
    """
    typed = query.q or ""
    # All matches are known where they can be counted, and then their ids are the condition.
    counted = await few_matches(connection, typed, pages.COUNTED) if query.include_total else None
    wanted: ColumnElement[bool]
    if counted is not None:
        wanted, asked = Order.id.in_(counted), query
    else:
        listed = pages.after_cursor(statement, _KEY, query, newest_first=True)
        rows = (query.offset or 0) + query.limit + 1
        wanted = await condition(connection, typed, listed, rows, statuses)
        asked = query.model_copy(update={"include_total": False})
    narrowed = statement.where(wanted, *(column.in_(values) for column, values in statuses))
    found = await pages.fetch_page(connection, narrowed, _KEY, asked, order_summary, newest_first=True)
    if query.include_total and counted is None:
        shown = (query.offset or 0) + len(found["data"])
        found["pagination"]["total"] = max(shown, await _estimate(connection, typed, statement, statuses))
        found["pagination"]["total_is_estimate"] = True
    return found


async def _estimate(
    connection: AsyncConnection,
    typed: str,
    statement: Select[*tuple[Any, ...]],
    statuses: Sequence[pages.OneOf],
) -> int:
    """Return about how many orders match.

    PostgreSQL knows how frequent a whole word is, but not a beginning that many words have, as those of numbers. So the
    share of the newest `PROBED` orders that match counts too.
    """
    found = _found(typed)
    if found is None:
        return 0
    listed = statement.where(*(column.in_(values) for column, values in statuses))
    met, _, _ = await _Search(connection, found, statement, statuses, PROBED).probe()
    by_share = len(met) * await pages.estimate(connection, listed) // PROBED
    return max(by_share, await pages.estimate(connection, listed.where(matches(typed))))


async def condition(
    connection: AsyncConnection,
    typed: str,
    listed: Select[*tuple[Any, ...]],
    wanted: int,
    statuses: Sequence[pages.OneOf] = (),
) -> ColumnElement[bool]:
    """Return the condition on `orders` for what a person typed, in the form that is fast for how many match.

    Args:
        typed: as in `matches`.
        listed: the orders to be searched, with the other filters and the cursor of the page.
        wanted: rows that will be read, newest first. The condition need not hold for matches after those.
        statuses: the status that is asked for, as `fetch_page` takes it.
    """
    found = _found(typed)
    if found is None:
        return false()
    search = _Search(connection, found, listed, statuses, wanted)
    met, walked = await _first_look(search, typed)
    if walked is None or len(met) == wanted:
        return Order.id.in_(met)
    order_ids = await few_matches(connection, typed, FEW)
    if order_ids is not None:
        return Order.id.in_(order_ids if len(order_ids) <= wanted else await search.page(Order.id.in_(order_ids)))
    if not walked:
        walked, met = WALKED, await search.walk(WALKED)
    return Order.id.in_(met if len(met) == wanted else await search.older(met, walked))


async def _first_look(search: "_Search", typed: str) -> tuple[Sequence[UUID], int | None]:
    """Return the matches among the newest orders, and how many of those were walked; None for all that there are."""
    if search_terms.is_of_few(typed):
        return [], 0
    met, is_all, is_frequent = await search.probe()
    if is_all or len(met) >= search.wanted:
        return met[: search.wanted], None
    walked = WALKED if is_frequent else WALKED_FAR if await _reads_much(search, typed) else 0
    return await search.walk(walked) if walked else [], walked


async def few_matches(connection: AsyncConnection, typed: str, limit: int) -> Sequence[UUID] | None:
    """Return the ids of all orders that have what a person typed, also outside of the list's filters; None if more match."""
    found = _found(typed)
    if found is None:
        return []
    few = select(OrderSearch.order_id).where(found).limit(limit + 1).subquery()
    # In the database: of a frequent word the ids would be read, made into objects and thrown away.
    ids = case((func.count() <= limit, func.coalesce(func.array_agg(few.c.order_id), array([], type_=Uuid))))
    order_ids: Sequence[UUID] | None = (await connection.execute(select(ids).select_from(few))).scalar_one()
    return order_ids


async def _reads_much(search: "_Search", typed: str) -> bool:
    """Return whether each of several words is frequent, in a table where the index then reads much."""
    words = [found for part in typed.split() if (found := _found(part)) is not None]
    if len(words) < 2 or await search.table_size() < LARGE_TABLE:
        return False
    return all([(await search.probe(word))[2] for word in words])


class _Search:
    """The ways to find the newest matches among the listed orders.

    Attributes:
        wanted: how many.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        found: ColumnElement[bool],
        listed: Select[*tuple[Any, ...]],
        statuses: Sequence[pages.OneOf],
        wanted: int,
    ) -> None:
        self._connection = connection
        self._found = found
        self._ordered = listed
        self._statuses = statuses
        self._listed = listed.where(*(column.in_(values) for column, values in statuses))
        self.wanted = wanted

    async def table_size(self) -> float:
        """Return about how many orders there are."""
        size = await self._connection.execute(text("SELECT reltuples FROM pg_class WHERE oid = 'orders'::regclass"))
        return float(size.scalar_one())

    async def probe(self, found: ColumnElement[bool] | None = None) -> tuple[Sequence[UUID], bool, bool]:
        """Return the matches among the newest orders, whether those are all orders, and whether matches are frequent.

        Args:
            found: looks for this instead.
        """
        walked = self._newest(PROBED)
        ids = func.coalesce(
            func.array_agg(walked.c.id).filter(self._is_match(walked, found)), array([], type_=Uuid), type_=ARRAY(Uuid)
        )
        seen, met = (await self._connection.execute(select(func.count(), ids).select_from(walked))).one()
        return met, seen < PROBED, len(met) > 1

    async def walk(self, rows: int) -> Sequence[UUID]:
        """Return the newest matches among the newest `rows` orders."""
        walked = self._newest(rows)
        met = select(walked.c.id).where(self._is_match(walked)).limit(self.wanted)
        return (await self._connection.execute(met)).scalars().all()

    async def older(self, met: Sequence[UUID], walked: int) -> Sequence[UUID]:
        """Return the newest matches: those that were met among the newest `walked` orders, and older ones."""
        last = self._newest(walked)
        beyond = select(last.c.id).order_by(last.c.created_at, last.c.id).limit(1)
        oldest = _ids(self._listed).order_by(Order.created_at, Order.id).limit(1)
        seen = (await self._connection.execute(select(func.count()).select_from(last))).scalar_one()
        if seen < walked:
            return met
        last_walked: UUID = (await self._connection.execute(beyond)).scalar_one()
        oldest_id: UUID = (await self._connection.execute(oldest)).scalar_one()
        # Within a millisecond ids are in no order of time, so a bound includes all of one.
        first, end = _first_of(_milliseconds(oldest_id)), _first_of(_milliseconds(last_walked) + 1)
        older = _fenced(_all(self._found).where(OrderSearch.order_id >= first, OrderSearch.order_id < end))
        rest = select(older.c.order_id).order_by(older.c.order_id.desc()).limit(FEW)
        ids = (await self._connection.execute(rest)).scalars().all()
        if len(ids) < FEW:
            return await self.page(Order.id.in_([*met, *ids]))
        whole = [order_id for order_id in ids if _milliseconds(order_id) > _milliseconds(ids[-1])]
        page = await self.page(Order.id.in_([*met, *whole]))
        # Fewer, where a filter leaves few of them: then all are looked up.
        is_full = len(page) == self.wanted
        return page if is_full else await self.page(Order.id.in_(select(_fenced(_all(self._found)))))

    async def page(self, one_of: ColumnElement[bool]) -> Sequence[UUID]:
        """Return the ids of the newest of the listed orders that `one_of` selects by their ids."""
        chosen = _fenced(_ids(self._listed).where(one_of))
        newest = select(chosen.c.id).order_by(chosen.c.created_at.desc(), chosen.c.id.desc()).limit(self.wanted)
        return (await self._connection.execute(newest)).scalars().all()

    def _newest(self, rows: int) -> Subquery:
        return pages.first_keys(self._ordered, _KEY, self._statuses, rows, newest_first=True).subquery()

    def _is_match(self, walked: Subquery, found: ColumnElement[bool] | None = None) -> ColumnElement[bool]:
        is_found = self._found if found is None else found
        # A scalar subquery, which PostgreSQL does not turn into a join: that would read all matches.
        return select(true()).where(OrderSearch.order_id == walked.c.id, is_found).limit(1).scalar_subquery()


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
