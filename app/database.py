"""Engines, the one transaction scope, and the reads that a replica may answer.

Every connection of the application takes on `DATABASE_ROLE`, which can add history but neither change nor
delete it, even where the login has more rights. psycopg 3 is the driver everywhere (docs/adr).
"""

import select
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.config import DATABASE_ADDRESS, Settings
from app.job_hint import HINT, JobHint
from app.prepared import RECORD, Bound, Prepared, StatementPool, as_sqlalchemy
from app.replica import SERVER_GONE, Replica, ReplicaPassedError

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


def session_settings(settings: Settings, *, as_owner: bool = False) -> dict[str, str]:
    """Return what each connection has to be set to, by the names of PostgreSQL's parameters; time-outs in ms."""
    return {
        **({} if as_owner else {"role": settings.database_role}),
        "timezone": "UTC",
        "statement_timeout": str(settings.database_statement_timeout_seconds * 1000),
        # A process that stops within a transaction would keep its locks until it is killed.
        "idle_in_transaction_session_timeout": str(settings.database_idle_transaction_timeout_seconds * 1000),
    }


def connect_args(
    settings: Settings, application_name: str, *, as_owner: bool = False, more: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Return the session defaults, set at connect, so without a round trip: role, UTC, time limits, keepalives.

    Args:
        more: other parameters of PostgreSQL, by name.
    """
    session = {
        **(more or {}),
        **session_settings(settings, as_owner=as_owner),
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


_FIXED_PLANS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
"""For connections that prepared statements alone run on.

A statement is planned once a connection, not for each of its values. All of them are meant for an index: a plan that
was made while a table was small would read it from end to end later, and for one frequent status the planner would walk
the index of all orders."""


def _leave_lost_primary(context: ExceptionContext) -> None:
    """Count a primary that is none any more as a lost connection: the whole pool looks for the new one."""
    if getattr(context.original_exception, "sqlstate", None) in SERVER_GONE:
        context.is_disconnect = True


def _replace_closed(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Have the pool connect again where the server has closed a connection that lay idle, as a restart does.

    Raises:
        DisconnectionError: it is closed; the pool makes another one for the same caller.
    """
    if _is_closed(record.driver_connection):
        raise DisconnectionError("the server has closed this connection")


def _is_closed(driver: Any) -> bool:
    """Return whether the server has closed an idle connection of the driver.

    The server sends nothing to an idle connection except the reason for its end: a socket with something to read is
    closed, or will be. To look takes a system call and no round trip, so writes need no second try after a restart.
    """
    if driver is None or driver.closed:
        return True
    waiting = select.poll()
    waiting.register(driver.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _watch(engine: Engine) -> None:
    event.listen(engine, "handle_error", _leave_lost_primary)
    event.listen(engine, "checkout", _replace_closed)


_TO_FOLLOW = "articurated_to_follow"
"""Where the `info` of a session holds what `after_commit` was given."""


_DATABASE = "articurated_database"
"""Where the `info` of a session holds the database that it is of."""


class _Unit:
    """A unit of work that is under way: whose it is, its connection, what follows it, whether it can be joined."""

    __slots__ = ("connection", "database", "is_open", "to_follow")

    def __init__(self, database: "Database", connection: AsyncConnection) -> None:
        self.database = database
        self.connection = connection
        self.to_follow: list[Callable[[], None]] = []
        self.is_open = True


# A task that outlives the unit it was started in still finds it here: `is_open` says that it is over.
_UNIT: ContextVar[_Unit | None] = ContextVar("articurated_unit_of_work", default=None)


class Database:
    """The connection pool of one process and the ways to use it.

    `transaction()`: everything in it commits together or not at all. `autocommit()` is for a single statement
    that is a transaction by itself: no BEGIN and no COMMIT round trip. `unit_of_work()` makes one transaction
    of all that its block does through the other two. `reading()` is for what may be a moment old.

    Attributes:
        engine: of the primary.
        replica: the read replica; None without one.
        job_hint: sends hints to the relay about jobs that became due; None where the process sends none.
        wanted_session: what each connection has to be set to, see `session_settings`.
    """

    def __init__(
        self,
        settings: Settings,
        application_name: str = "articurated",
        pool_size: int | None = None,
        *,
        as_owner: bool = False,
        hints: bool = False,
    ) -> None:
        """Make the pool; it connects on first use.

        Args:
            hints: tell the relay of commits that made jobs due (`app.job_hint`).
            as_owner: connect as the owner of the tables and take on no role, for what the application may not do:
                making and ending keys. `DATABASE_ADMIN_URL`, or `DATABASE_URL` when that is absent.
        """
        size = pool_size or settings.database_pool_size
        # Requests that wait leave together, so few connections serve the prepared statements of many.
        for_statements = 1 if as_owner else max(1, size * 2 // 5)
        self.wanted_session = session_settings(settings, as_owner=as_owner)
        url = settings.database_admin_url or settings.database_url if as_owner else settings.database_url
        arguments = connect_args(settings, application_name, as_owner=as_owner)
        self.engine: AsyncEngine = create_async_engine(
            driver_url(url),
            pool_size=size if as_owner else max(1, size - for_statements),
            max_overflow=0,
            pool_timeout=10,
            connect_args=arguments,
            hide_parameters=True,  # an error message must not quote a customer
        )
        fixed = connect_args(settings, application_name, as_owner=as_owner, more=_FIXED_PLANS)
        self._statements = StatementPool(driver_url(url), fixed, for_statements, gone=SERVER_GONE, is_closed=_is_closed)
        self.job_hint: JobHint | None = JobHint(lambda: self._statements.run(HINT, {})) if hints else None
        _watch(self.engine.sync_engine)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.replica: Replica | None = None
        if settings.database_replica_url is not None and not as_owner:
            self.replica = Replica(
                driver_url(settings.database_replica_url), size, connect_args(settings, application_name)
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
            info={_TO_FOLLOW: to_follow, _DATABASE: self},
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

    async def rows(self, statement: Prepared, /, **parameters: Any) -> list[RECORD]:
        """Return the rows of a prepared statement, which commits by itself, or with the unit of work.

        Raises:
            DBAPIError: as from SQLAlchemy.
        """
        unit = self._unit()
        if unit is None:
            return await self._statements.run(statement, parameters)
        return await _rows_on(unit.connection, statement, parameters)

    async def rows_together(self, *statements: Bound) -> list[list[RECORD]]:
        """Return the rows of each of several prepared statements in one transaction, sent in one round trip.

        Each sees what was committed before it began (READ COMMITTED). Within a unit of work they are a part of it.

        Raises:
            DBAPIError: as from SQLAlchemy; nothing of any of them is left.
        """
        unit = self._unit()
        if unit is None:
            return await self._statements.run_together(statements)
        return [await _rows_on(unit.connection, statement, parameters) for statement, parameters in statements]

    async def read_rows(self, statement: Prepared, /, **parameters: Any) -> list[RECORD]:
        """Return the rows of a prepared statement that only reads, from where `reading` would read them."""
        if self.replica is not None and self._unit() is None:
            with suppress(ReplicaPassedError):
                return await self.replica.ask(lambda connection: _rows_on(connection, statement, parameters))
        return await self.rows(statement, **parameters)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back when what `rows` did is committed: at once, or at the end of the unit of work."""
        unit = self._unit()
        if unit is None:
            callback()
        else:
            unit.to_follow.append(callback)

    @property
    def has_unit_of_work(self) -> bool:
        """Whether the caller is within a unit of work, whose one connection does one thing at a time."""
        return self._unit() is not None

    async def reading(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` reads, from the replica if there is one that answers, else from the primary.

        For lists, search and figures, which may be a moment old. What somebody has just written, and what a write is
        decided by, is read from the primary, and so is everything within a unit of work.

        Args:
            work: reads, and does nothing else: it is called again when the replica breaks off, or takes too long.
        """
        if self.replica is not None and self._unit() is None:
            with suppress(ReplicaPassedError):
                return await self.replica.ask(work)
        async with self.autocommit() as connection:
            return await work(connection)

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

    @asynccontextmanager
    async def joined_unit_of_work(self) -> AsyncIterator[None]:
        """Have the block within the unit of work that is under way, or else within one of its own."""
        if self.has_unit_of_work:
            yield
            return
        async with self.unit_of_work():
            yield

    def _unit(self) -> _Unit | None:
        unit = _UNIT.get()
        return unit if unit is not None and unit.is_open and unit.database is self else None

    async def close(self) -> None:
        """Close every pooled connection."""
        if self.job_hint is not None:
            await self.job_hint.close()
        await self._statements.close()
        await self.engine.dispose()
        if self.replica is not None:
            await self.replica.engine.dispose()


async def _rows_on(connection: AsyncConnection, statement: Prepared, parameters: Mapping[str, Any]) -> list[RECORD]:
    """Run a prepared statement on a connection of SQLAlchemy's pool, within its transaction."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        return await statement.run_on(driver, parameters)
    except psycopg.Error as fault:
        lost = driver.closed or fault.sqlstate in SERVER_GONE
        if lost:
            await connection.invalidate(fault)
        raise as_sqlalchemy(fault, lost=lost) from fault


def after_commit(executor: AsyncConnection | AsyncSession, callback: Callable[[], None]) -> None:
    """Call back after the executor's outermost transaction is committed; never, if it is rolled back.

    Args:
        executor: from a `Database`. On a connection that commits each statement by itself that is now, otherwise at
            the end of the transaction, or of the unit of work that it is a part of.
        callback: reports to an observer; it must not raise, since the change is committed.
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


def hint_jobs(executor: AsyncConnection | AsyncSession) -> None:
    """Send the relay a hint, after the commit, that jobs are due; nothing where the process sends no hints."""
    unit = _UNIT.get()
    database: Database | None = None
    if isinstance(executor, AsyncSession):
        database = executor.info.get(_DATABASE)
    elif unit is not None and unit.connection is executor:
        database = unit.database
    if database is not None and database.job_hint is not None:
        after_commit(executor, database.job_hint.give)


def sync_engine(settings: Settings, application_name: str, pool_size: int = 2) -> Engine:
    """Return a synchronous engine, for loops that wait on nothing else: relay, seed, verification."""
    engine = create_engine(
        driver_url(settings.database_url),
        pool_size=pool_size,
        max_overflow=0,
        connect_args=connect_args(settings, application_name),
        hide_parameters=True,
    )
    _watch(engine)
    return engine
