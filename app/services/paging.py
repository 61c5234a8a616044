"""Keyset pages: a cursor is the sort key of the last row, so page 1,000 costs what page 1 costs.

What a page costs does not grow with the table. An index gives its rows in their order (`fetch_page`), and a total is
counted up to `COUNTED` and estimated beyond.
"""

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any, Generic, NotRequired, TypedDict, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Executable

from app.schemas.common import PageQuery
from app.utils.exceptions import InvalidInputError

INTEGER_LIMIT = 2**31 - 1
COUNTED = 10_000
"""A total is counted up to this many rows."""
OneOf = tuple[ColumnElement[Any], Collection[Any]]
"""A column, and the values of it that a list is narrowed to."""
Item = TypeVar("Item")


class PaginationView(TypedDict):
    """What a page says of itself; `offset` and `total` only where they were asked for.

    `total_is_estimate` is there, and true, only where the total is not counted.
    """

    limit: int
    next_cursor: str | None
    offset: NotRequired[int]
    total: NotRequired[int]
    total_is_estimate: NotRequired[bool]


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
    one_of: Sequence[OneOf] = (),
) -> Page[Item]:
    """Return a page of the rows that `statement` selects, in the order of `key`.

    Args:
        statement: with its other filters, without order and limit; it selects the key columns.
        key: the sort key, unique, and its last column is unique by itself within `statement`. An index must serve it,
            behind the columns of `one_of`.
        view: row → item of the answer.
        one_of: filters that take several values. With `IN`, PostgreSQL would read all rows of rare values and sort
            them, or walk past all others; so each combination of values is read by itself.

    Raises:
        InvalidInputError: a cursor that is not one, or cursor and offset together.
    """
    narrowed = after_cursor(statement, key, page, newest_first=newest_first)
    # One row more than asked for shows whether there is a next page, without counting.
    wanted = _rows(narrowed, key, one_of, page.limit + 1, page.offset or 0, newest_first=newest_first)
    rows = (await connection.execute(wanted)).all()
    fetched = first_rows(list(rows), page, lambda row: [row._mapping[column] for column in key])
    pagination = fetched["pagination"]
    if page.offset is not None:
        pagination["offset"] = page.offset
    if page.include_total:
        await _add_total(connection, pagination, statement, key, one_of, newest_first=newest_first)
    return {"data": [view(row) for row in fetched["data"]], "pagination": pagination}


async def estimate(connection: AsyncConnection, statement: Select[Any]) -> int:
    """Return how many rows PostgreSQL expects a statement to give."""
    [explained] = (await connection.execute(_Explain(statement))).scalar_one()
    return int(explained["Plan"]["Plan Rows"])


async def _add_total(
    connection: AsyncConnection,
    pagination: PaginationView,
    statement: Select[Any],
    key: Sequence[ColumnElement[Any]],
    one_of: Sequence[OneOf],
    *,
    newest_first: bool,
) -> None:
    """Add to a page how many rows there are: counted up to `COUNTED`, beyond that as PostgreSQL estimates."""
    # In the order of the list, or PostgreSQL may read the table from its beginning, however far away the rows are.
    first = first_keys(statement, key, one_of, COUNTED + 1, newest_first=newest_first).subquery()
    total: int = (await connection.execute(select(func.count()).select_from(first))).scalar_one()
    if total > COUNTED:
        matching = statement.where(*(column.in_(values) for column, values in one_of))
        total = max(total, await estimate(connection, matching))
        pagination["total_is_estimate"] = True
    pagination["total"] = total


class _Explain(Executable, ClauseElement):
    """The plan of a statement, as JSON."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(_Explain, "postgresql")
def _explain(element: _Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"


def _rows(
    narrowed: Select[Any],
    key: Sequence[ColumnElement[Any]],
    one_of: Sequence[OneOf],
    limit: int,
    offset: int,
    *,
    newest_first: bool,
) -> Select[Any]:
    """Return the statement for the rows from `offset` on, in their order."""
    branches = _branches(narrowed, one_of)
    if len(branches) == 1 and not offset:
        return _ordered(branches[0], key, newest_first=newest_first).limit(limit)
    # First the keys, which indexes hold: of the rows that are skipped nothing else is read.
    keys = first_keys(narrowed, key, one_of, limit, offset, newest_first=newest_first).subquery()
    return _ordered(narrowed.where(key[-1] == list(keys.c)[-1]), key, newest_first=newest_first)


def first_keys(
    statement: Select[Any],
    key: Sequence[ColumnElement[Any]],
    one_of: Sequence[OneOf],
    limit: int,
    offset: int = 0,
    *,
    newest_first: bool,
) -> Select[Any]:
    """Return the statement for the keys from `offset` on, in their order; arguments as in `fetch_page`."""
    branches = [
        _ordered(branch.with_only_columns(*key), key, newest_first=newest_first)
        for branch in _branches(statement, one_of)
    ]
    if len(branches) == 1:
        return branches[0].limit(limit).offset(offset or None)
    first = [branch.limit(offset + limit).subquery() for branch in branches]
    keys = union_all(*(select(branch) for branch in first)).subquery()
    return _ordered(select(keys), list(keys.c), newest_first=newest_first).limit(limit).offset(offset or None)


def _branches(statement: Select[Any], one_of: Sequence[OneOf]) -> list[Select[Any]]:
    """Return the statement for each combination of the values of `one_of`."""
    columns = [column for column, _ in one_of]
    return [
        statement.where(*(column == value for column, value in zip(columns, values, strict=True)))
        for values in product(*(dict.fromkeys(values) for _, values in one_of))
    ]


def _ordered(statement: Select[Any], columns: Sequence[ColumnElement[Any]], *, newest_first: bool) -> Select[Any]:
    return statement.order_by(*(column.desc() if newest_first else column.asc() for column in columns))
