"""Keyset pages: a cursor is the sort key of the last row, so page 1,000 costs what page 1 costs."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NotRequired, TypedDict, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.schemas.common import PageQuery
from app.utils.exceptions import InvalidInputError

INTEGER_LIMIT = 2**31 - 1
Item = TypeVar("Item")


class PaginationView(TypedDict):
    """What a page says of itself; `offset` and `total` only where they were asked for."""

    limit: int
    next_cursor: str | None
    offset: NotRequired[int]
    total: NotRequired[int]


class Page(TypedDict, Generic[Item]):
    """A page of a list, and how to get the next one."""

    data: list[Item]
    pagination: PaginationView


_PARSERS: Mapping[type, Callable[[str], Any]] = {datetime: datetime.fromisoformat, UUID: UUID, int: int}


def encode_cursor(key: Sequence[datetime | UUID | int]) -> str:
    """Return the opaque cursor after the row with this sort key."""
    plain = "|".join(part.isoformat() if isinstance(part, datetime) else str(part) for part in key)
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, types: Sequence[type]) -> tuple[Any, ...]:
    """Return the sort key in a cursor, whose parts have these types.

    Raises:
        InvalidInputError: it is not one of ours.
    """
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        key = tuple(_PARSERS[kind](part) for kind, part in zip(types, plain.split("|"), strict=True))
    except (ValueError, binascii.Error):
        key = ()
    naive = any(isinstance(part, datetime) and part.tzinfo is None for part in key)
    too_large = any(isinstance(part, int) and abs(part) > INTEGER_LIMIT for part in key)
    if not key or naive or too_large:
        raise InvalidInputError(("cursor", "is not a cursor that this API gave out"))
    return key


def given(*filters: tuple[Any, Callable[[Any], ColumnElement[bool]]]) -> list[ColumnElement[bool]]:
    """Return the conditions of those filters whose value was given: pairs of value and value → condition."""
    return [condition(value) for value, condition in filters if value is not None]


def after_cursor(
    statement: Select[Any], key: Sequence[ColumnElement[Any]], page: PageQuery, *, newest_first: bool
) -> Select[Any]:
    """Return `statement` with only the rows after the page's cursor, all of them where there is none.

    Args, Raises: as `fetch_page`.
    """
    if page.cursor is not None and page.offset is not None:
        raise InvalidInputError(("offset", "cannot be combined with cursor"))
    if page.cursor is None:
        return statement
    position = tuple_(*key)
    last = tuple_(*decode_cursor(page.cursor, [column.type.python_type for column in key]))
    return statement.where(position < last if newest_first else position > last)


def first_rows(
    rows: list[Item], page: PageQuery, key_of: Callable[[Item], Sequence[datetime | UUID | int]]
) -> Page[Item]:
    """Return the page that these rows make: one more than `page.limit`, where there is a next page."""
    pagination: PaginationView = {"limit": page.limit, "next_cursor": None}
    if len(rows) > page.limit:
        rows = rows[: page.limit]
        pagination["next_cursor"] = encode_cursor(key_of(rows[-1]))
    return {"data": rows, "pagination": pagination}


async def fetch_page(
    connection: AsyncConnection,
    statement: Select[Any],
    key: Sequence[ColumnElement[Any]],
    page: PageQuery,
    view: Callable[[Row[Any]], Item],
    *,
    newest_first: bool,
) -> Page[Item]:
    """Return a page of the rows that `statement` selects, in the order of `key`.

    Args:
        statement: with its filters, without order and limit; it selects the key columns.
        key: the sort key, unique; an index must serve it.
        view: row → item of the answer.

    Raises:
        InvalidInputError: a cursor that is not one, or cursor and offset together.
    """
    narrowed = after_cursor(statement, key, page, newest_first=newest_first)
    ordered = narrowed.order_by(*(column.desc() if newest_first else column.asc() for column in key))
    # One row more than asked for shows whether there is a next page, without counting.
    rows = (await connection.execute(ordered.limit(page.limit + 1).offset(page.offset or None))).all()
    fetched = first_rows(list(rows), page, lambda row: [row._mapping[column] for column in key])
    pagination = fetched["pagination"]
    if page.offset is not None:
        pagination["offset"] = page.offset
    if page.include_total:
        counted = select(func.count()).select_from(statement.order_by(None).subquery())
        pagination["total"] = (await connection.execute(counted)).scalar_one()
    return {"data": [view(row) for row in fetched["data"]], "pagination": pagination}
