"""Engines and the one transaction scope.

Every connection of the application takes on `DATABASE_ROLE`, which can add history but neither change nor
delete it, whatever rights the login has. psycopg 3 is the driver everywhere (docs/adr).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from app.config import Settings


def driver_url(url: str) -> URL:
    """Return `url` with the driver that this project uses; libpq parameters in it are kept."""
    return make_url(url).set(drivername="postgresql+psycopg")


def connect_args(settings: Settings, application_name: str) -> dict[str, object]:
    """Return the session defaults: role, UTC and a statement timeout, set at connect, so without a round trip."""
    timeout_ms = settings.database_statement_timeout_seconds * 1000
    options = f"-c role={settings.database_role} -c timezone=UTC -c statement_timeout={timeout_ms}"
    return {"options": options, "application_name": application_name, "connect_timeout": 5, "prepare_threshold": 1}


class _Unit:
    """A unit of work that is under way: whose it is, its connection, and whether it can still be joined."""

    __slots__ = ("connection", "database", "is_open")

    def __init__(self, database: "Database", connection: AsyncConnection) -> None:
        self.database = database
        self.connection = connection
        self.is_open = True


# A task that outlives the unit it was started in still finds it here: `is_open` tells that it is over.
_UNIT: ContextVar[_Unit | None] = ContextVar("articurated_unit_of_work", default=None)


class Database:
    """The connection pool of one process and the ways to use it.

    `transaction()`: everything in it commits together or not at all. `autocommit()` is for a single statement
    that is a transaction by itself: no BEGIN and no COMMIT round trip. `unit_of_work()` makes one transaction
    of all that its block does through the other two.
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
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Yield a session; commit when the block ends, roll back when it raises.

        Within a unit of work both are about a savepoint of it: what raised leaves nothing, the rest goes on.
        """
        unit = self._unit()
        if unit is None:
            async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
            return
        joined = AsyncSession(unit.connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
        async with joined as session, session.begin():
            yield session

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

    def _unit(self) -> _Unit | None:
        unit = _UNIT.get()
        return unit if unit is not None and unit.is_open and unit.database is self else None

    async def close(self) -> None:
        """Close every pooled connection."""
        await self.engine.dispose()


def sync_engine(settings: Settings, application_name: str, pool_size: int = 2) -> Engine:
    """Return a synchronous engine, for loops that wait on nothing else: relay, seed, verification."""
    return create_engine(
        driver_url(settings.database_url),
        pool_size=pool_size,
        max_overflow=0,
        connect_args=connect_args(settings, application_name),
        hide_parameters=True,
    )
