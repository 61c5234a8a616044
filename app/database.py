"""Engines, the one transaction scope, and the reads that a replica may answer.

Every connection of the application takes on `DATABASE_ROLE`, which can add history but neither change nor
delete it, whatever rights the login has. psycopg 3 is the driver everywhere (docs/adr).
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from app.config import DATABASE_ADDRESS, Settings

if TYPE_CHECKING:
    from psycopg import AsyncConnection as DriverConnection

logger = structlog.get_logger(__name__)

T = TypeVar("T")


def driver_url(url: str) -> URL:
    """Return `url` with the driver that this project uses; libpq parameters in it are kept, and so are several hosts."""
    address = DATABASE_ADDRESS.match(url)
    if address is None or "," not in address["hosts"]:
        return make_url(url).set(drivername="postgresql+psycopg")
    # Several hosts, which libpq takes in the place of one, SQLAlchemy knows as parameters.
    without = make_url(address["login"] + address["rest"]).set(drivername="postgresql+psycopg")
    return without.update_query_pairs([("host", host) for host in address["hosts"].split(",")])


_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2}
_UNHEARD_MS = 20_000
"""How soon either end of a connection notices that the other is out of reach: in 20 seconds, asked for or not.

Left to itself, Linux takes two hours, and the server keeps the locks of the vanished process for as long."""


def connect_args(settings: Settings, application_name: str) -> dict[str, object]:
    """Return the session defaults, set at connect, so without a round trip: role, UTC, time limits, keepalives."""
    session = {
        "role": settings.database_role,
        "timezone": "UTC",
        "statement_timeout": settings.database_statement_timeout_seconds * 1000,
        # A process that stands still within a transaction would keep its locks until it is killed.
        "idle_in_transaction_session_timeout": settings.database_idle_transaction_timeout_seconds * 1000,
        "tcp_user_timeout": _UNHEARD_MS,
        **{f"tcp_{name}": value for name, value in _KEEPALIVES.items()},
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "application_name": application_name,
        "connect_timeout": 5,
        "tcp_user_timeout": _UNHEARD_MS,
        **_KEEPALIVES,
        "prepare_threshold": 1,
    }


_SERVER_GONE = frozenset({"25006", "57P01", "57P02", "57P03"})
"""The server takes no writes (read_only_sql_transaction), was shut down, crashed, or is starting up."""


def _leave_lost_primary(context: ExceptionContext) -> None:
    """Count a primary that is none any more as a lost connection: the whole pool looks for the new one."""
    if getattr(context.original_exception, "sqlstate", None) in _SERVER_GONE:
        context.is_disconnect = True


_REPLICA_PAUSE_SECONDS = 5.0
_REPLICA_CONNECT_SECONDS = 2
_REPLICA_POOL_SECONDS = 1.0
"""How long a read waits for one of the connections to the replica before it goes to the primary."""

_REPLICA_SECONDS = 5.0
"""How long the replica has for connecting, and then for all of one read: far more than a list takes.

A server whose processes stand still has a kernel that acknowledges what it is sent, so nothing below notices."""

_RECOVERY_CONFLICT = "40001"
_MIGRATION_MISSING = frozenset({"42P01", "42703"})
"""A table or a column is not there (undefined_table, undefined_column): the migration is not replayed yet."""
_SHORT_OR_BROKEN = frozenset({"53", "58"})
"""The classes of a server that is short of memory, disk or connections, and of one that cannot read its files."""


def _is_away(fault: DBAPIError) -> bool:
    """Whether a replica cannot be asked, or broke off to keep up: no fault of the statement, nor of its slowness."""
    if fault.connection_invalidated:
        return True
    # What fails before the server can answer, connecting above all, has no code.
    codes = {None, _RECOVERY_CONFLICT, *_SERVER_GONE}
    return isinstance(fault, OperationalError) and getattr(fault.orig, "sqlstate", None) in codes


def _is_of_replica(fault: DBAPIError) -> bool:
    """Whether the primary may well do what failed on a replica that is there."""
    code = getattr(fault.orig, "sqlstate", None) or ""
    return code in _MIGRATION_MISSING or code[:2] in _SHORT_OR_BROKEN


def _hang_up(connection: "DriverConnection[Any]") -> None:
    """Break the line, so that whoever waits for the server's answer finds the connection lost.

    To cancel the waiting task would not do: psycopg then waits for the server to confirm.
    """
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.fileno())) as line, suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


_TO_FOLLOW = "articurated_to_follow"
"""Where the `info` of a session holds what `after_commit` was given."""


class _Unit:
    """A unit of work that is under way: whose it is, its connection, what follows it, whether it can be joined."""

    __slots__ = ("connection", "database", "is_open", "to_follow")

    def __init__(self, database: "Database", connection: AsyncConnection) -> None:
        self.database = database
        self.connection = connection
        self.to_follow: list[Callable[[], None]] = []
        self.is_open = True


# A task that outlives the unit it was started in still finds it here: `is_open` tells that it is over.
_UNIT: ContextVar[_Unit | None] = ContextVar("articurated_unit_of_work", default=None)


class Database:
    """The connection pool of one process and the ways to use it.

    `transaction()`: everything in it commits together or not at all. `autocommit()` is for a single statement
    that is a transaction by itself: no BEGIN and no COMMIT round trip. `unit_of_work()` makes one transaction
    of all that its block does through the other two. `reading()` is for what may be a moment old.

    Attributes:
        engine: of the primary.
        replica: of the read replica; None without one.
    """

    def __init__(self, settings: Settings, application_name: str = "articurated", pool_size: int | None = None) -> None:
        size = pool_size or settings.database_pool_size
        self.engine: AsyncEngine = create_async_engine(
            driver_url(settings.database_url),
            pool_size=size,
            max_overflow=0,
            pool_timeout=10,
            connect_args=connect_args(settings, application_name),
            hide_parameters=True,  # an error message must not quote a customer
        )
        event.listen(self.engine.sync_engine, "handle_error", _leave_lost_primary)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.replica: AsyncEngine | None = None
        self._replica_is_away = False
        self._replica_rests_until = float("-inf")
        if settings.database_replica_url is not None:
            self.replica = create_async_engine(
                driver_url(settings.database_replica_url),
                pool_size=size,
                max_overflow=0,
                pool_timeout=_REPLICA_POOL_SECONDS,
                connect_args={
                    **connect_args(settings, application_name),
                    "connect_timeout": _REPLICA_CONNECT_SECONDS,
                },
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Yield a session; commit when the block ends, roll back when it raises.

        Within a unit of work both are about a savepoint of it: what raised leaves nothing, the rest goes on.
        """
        unit = self._unit()
        to_follow: list[Callable[[], None]] = []
        session = AsyncSession(
            self.engine if unit is None else unit.connection,
            expire_on_commit=False,
            join_transaction_mode="create_savepoint",
            info={_TO_FOLLOW: to_follow},
        )
        async with session, session.begin():
            yield session
        if unit is not None:
            unit.to_follow += to_follow
            return
        for callback in to_follow:
            callback()

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection on which each statement commits by itself, or with the unit of work.

        There, as it is without a savepoint, a statement that the database refuses ends the whole unit.
        """
        unit = self._unit()
        if unit is not None:
            yield unit.connection
            return
        async with self._autocommit.connect() as connection:
            yield connection

    async def reading(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` reads, from the replica if there is one that answers, else from the primary.

        For lists, search and figures, which may be a moment old. What somebody has just written, and what a write is
        decided by, is read from the primary, and so is everything within a unit of work.

        Args:
            work: reads, and does nothing else: it is called again when the replica breaks off, or takes too long.
        """
        if self.replica is not None and self._unit() is None and self._replica_is_due():
            try:
                found = await self._ask_replica(self.replica, work)
            except PoolTimeoutError:
                # Busy is not away: if nobody asked it any more, all of its load would drop on the primary.
                logger.info("replica busy")
            except TimeoutError as fault:
                self._replica_went(fault)
            except DBAPIError as fault:
                if _is_away(fault):
                    self._replica_went(fault)
                elif _is_of_replica(fault):
                    logger.warning("replica failed", error=type(fault.orig).__name__)
                else:
                    raise
            else:
                self._replica_answered()
                return found
        async with self.autocommit() as connection:
            return await work(connection)

    @staticmethod
    async def _ask_replica(replica: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_REPLICA_SECONDS):
                connection = await stack.enter_async_context(replica.connect())
                driver: Any = (await connection.get_raw_connection()).driver_connection
            stack.callback(asyncio.get_running_loop().call_later(_REPLICA_SECONDS, _hang_up, driver).cancel)
            return await work(connection)

    def _replica_is_due(self) -> bool:
        now = time.monotonic()
        if now < self._replica_rests_until:
            return False
        if self._replica_is_away:
            # One request finds out whether it is back; the others do not wait for that.
            self._replica_rests_until = now + _REPLICA_PAUSE_SECONDS
        return True

    def _replica_went(self, fault: Exception) -> None:
        self._replica_rests_until = time.monotonic() + _REPLICA_PAUSE_SECONDS
        if not self._replica_is_away:
            self._replica_is_away = True
            logger.warning("replica away", error=type(getattr(fault, "orig", None) or fault).__name__)

    def _replica_answered(self) -> None:
        if self._replica_is_away:
            self._replica_is_away = False
            self._replica_rests_until = float("-inf")
            logger.info("replica works again")

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that every use of this database within the block becomes a part of.

        It commits when the block ends and rolls back when it raises. One connection cannot do two things at once:
        the block must not either.
        """
        async with self.engine.connect() as connection, connection.begin():
            unit = _Unit(self, connection)
            token = _UNIT.set(unit)
            try:
                yield connection
            finally:
                unit.is_open = False
                _UNIT.reset(token)
        for callback in unit.to_follow:
            callback()

    def _unit(self) -> _Unit | None:
        unit = _UNIT.get()
        return unit if unit is not None and unit.is_open and unit.database is self else None

    async def close(self) -> None:
        """Close every pooled connection."""
        await self.engine.dispose()
        if self.replica is not None:
            await self.replica.dispose()


def after_commit(executor: AsyncConnection | AsyncSession, callback: Callable[[], None]) -> None:
    """Call back once what the executor did is committed for good; never, if it is rolled back.

    Args:
        executor: from a `Database`. On a connection that commits each statement by itself that is now, otherwise at
            the end of the transaction, or of the unit of work that it is a part of.
        callback: for what an observer is told; it must not raise, for what was done is done.
    """
    unit = _UNIT.get()
    to_follow: list[Callable[[], None]] | None = None
    if isinstance(executor, AsyncSession):
        to_follow = executor.info.get(_TO_FOLLOW)
    elif unit is not None and unit.connection is executor:
        to_follow = unit.to_follow
    if to_follow is None:
        callback()
    else:
        to_follow.append(callback)


def sync_engine(settings: Settings, application_name: str, pool_size: int = 2) -> Engine:
    """Return a synchronous engine, for loops that wait on nothing else: relay, seed, verification."""
    engine = create_engine(
        driver_url(settings.database_url),
        pool_size=pool_size,
        max_overflow=0,
        connect_args=connect_args(settings, application_name),
        hide_parameters=True,
    )
    event.listen(engine, "handle_error", _leave_lost_primary)
    return engine
