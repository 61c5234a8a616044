"""Prepared statements on psycopg itself, for what a request does most.

A statement is written in SQLAlchemy Core and compiled once, when its module is loaded. It runs on psycopg's own
connection. An execution through SQLAlchemy costs three times the CPU: it finds the compiled text by a key made of all
parts of the statement, wraps connection, cursor, result and rows, and switches greenlets (docs/adr/0014). Transactions,
sessions and all other statements use SQLAlchemy's pool.

Settings of the session, time limits and the replacement of closed connections are the same as in SQLAlchemy's pool.
Errors are raised as `sqlalchemy.exc.DBAPIError`, so that a caller handles both in the same way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Int8
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeEngine

T = TypeVar("T")
RECORD = dict[str, Any]
"""A row by the names of its columns."""

_DIALECT: Any = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


class Prepared:
    """A statement with named parameters, compiled once.

    Attributes:
        text: for the driver, with `$1`, `$2` and so on.
    """

    __slots__ = ("_names", "_values", "text")

    def __init__(self, statement: ClauseElement) -> None:
        """Compile a statement of SQLAlchemy Core.

        Args:
            statement: its `bindparam`s without a value are the parameters. Their values reach the driver as they are:
                a document goes as its JSON text, into a parameter of type String that the statement casts.
        """
        compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        self.text = str(compiled).encode()
        self._names: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        self._values = {name: value for name, value in compiled.params.items() if value is not None}

    def __repr__(self) -> str:
        """Show the text."""
        return f"Prepared({self.text.decode()!r})"

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the arguments in the order of their numbers.

        Integers of any size have one type: otherwise PostgreSQL would prepare the statement for each.
        """
        given = {**self._values, **parameters}
        return [Int8(value) if type(value) is int else value for value in map(given.__getitem__, self._names)]

    async def run_on(self, connection: "psycopg.AsyncConnection[Any]", parameters: Mapping[str, Any]) -> list[RECORD]:
        """Return the rows that the statement gives on a connection of psycopg.

        Raises:
            psycopg.Error: as the driver raises it.
        """
        return await (await self.sent_on(connection, parameters)).fetchall()

    async def sent_on(
        self, connection: "psycopg.AsyncConnection[Any]", parameters: Mapping[str, Any]
    ) -> "psycopg.AsyncRawCursor[RECORD]":
        """Run it on a connection of psycopg; in a pipeline, its rows are there when the pipeline ends.

        Raises:
            psycopg.Error: as the driver raises it.
        """
        cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
        await cursor.execute(self.text, self.arguments(parameters), prepare=True, binary=True)
        return cursor


Bound: TypeAlias = tuple[Prepared, Mapping[str, Any]]
"""A statement with its parameters."""


def type_name(kind: TypeEngine[Any]) -> str:
    """Return the name of a column's type in SQL, for `AS (name type, …)`."""
    return kind.compile(_DIALECT)


def as_sqlalchemy(fault: psycopg.Error, *, lost: bool) -> DBAPIError:
    """Return a fault of the driver as SQLAlchemy's error for it, without the parameters.

    Args:
        lost: whether the connection is of no use any more.
    """
    raised = DBAPIError.instance(
        None,
        None,
        fault,
        psycopg.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=_DIALECT,
    )
    if not isinstance(raised, DBAPIError):
        raise InvalidRequestError("no error of the driver") from fault
    return raised


class StatementPool:
    """The connections of one process that prepared statements run on, each statement a transaction of its own.

    The connection that was used last is used next, so a quiet process holds one. A statement that finds all of them
    busy waits its turn.
    """

    def __init__(
        self,
        url: URL,
        connect_args: Mapping[str, object],
        size: int,
        *,
        gone: frozenset[str],
        is_closed: Callable[["psycopg.AsyncConnection[Any]"], bool],
        wait_seconds: float = 10,
    ) -> None:
        """Connect to nothing; the first statement does.

        Args:
            url: of the server, as SQLAlchemy has it.
            connect_args: the settings of each session.
            size: connections at most.
            gone: codes of a server that takes no writes any more: all connections are replaced.
            is_closed: whether the server has closed an idle connection.
            wait_seconds: how long a statement waits for a connection.
        """
        arguments, named = _DIALECT.create_connect_args(url)
        self._arguments: Sequence[Any] = arguments
        self._named: dict[str, Any] = {**named, **connect_args, "autocommit": True}
        self._gone = gone
        self._is_closed = is_closed
        self._wait_seconds = wait_seconds
        self._free = asyncio.Semaphore(size)
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    async def run(self, statement: Prepared, parameters: Mapping[str, Any]) -> list[RECORD]:
        """Return the rows of a statement, which is committed by then.

        Raises:
            DBAPIError: the server refused it, cannot be reached, or was lost. `connection_invalidated` says the last.
            sqlalchemy.exc.TimeoutError: no connection was free in time.
        """
        return await self._on_connection(lambda connection: statement.run_on(connection, parameters))

    async def run_together(self, statements: Sequence[Bound]) -> list[list[RECORD]]:
        """Return the rows of each of several statements that leave in one round trip, as one transaction.

        Each has a snapshot of its own: it sees what others committed while the one before it waited for a lock. What is
        sent between two synchronisations of a pipeline is one transaction, so no BEGIN and COMMIT are sent. After an
        error nothing of it is left.

        Raises:
            As `run`.
        """

        async def run(connection: "psycopg.AsyncConnection[Any]") -> list[list[RECORD]]:
            async with connection.pipeline():
                cursors = [await statement.sent_on(connection, parameters) for statement, parameters in statements]
            return [await cursor.fetchall() for cursor in cursors]

        return await self._on_connection(run)

    async def _on_connection(self, work: Callable[["psycopg.AsyncConnection[Any]"], Awaitable[T]]) -> T:
        await self._turn()
        try:
            connection = await self._connection()
            try:
                rows = await work(connection)
            except psycopg.Error as fault:
                lost = connection.closed or fault.sqlstate in self._gone
                if lost:
                    await connection.close()
                    await self.close()
                raise as_sqlalchemy(fault, lost=lost) from fault
            finally:
                await self._keep(connection)
            return rows
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close the idle connections; those in use are closed or kept when their statement ends."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _turn(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise PoolTimeoutError("no connection for a prepared statement was free in time") from None

    async def _connection(self) -> "psycopg.AsyncConnection[Any]":
        while self._idle:
            connection = self._idle.pop()
            if not self._is_closed(connection):
                return connection
            await connection.close()
        try:
            connection = await psycopg.AsyncConnection.connect(*self._arguments, **self._named)
        except psycopg.Error as fault:
            raise as_sqlalchemy(fault, lost=False) from fault
        set_json_loads(orjson.loads, connection)
        return connection

    async def _keep(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        # After a cancelled task the connection may still be in the middle of an answer.
        if connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.close()
