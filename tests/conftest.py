"""Fixtures: a clean migrated database per test, settings, a clock that can be moved, and who acts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
import structlog

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import ActorType, Role, Trigger
from app.database import Database
from app.services.access.keys import KeyService
from app.services.access.views import NewKeyView
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.utils.shop_time import ReturnWindow
from tests import databases, profile
from tests.databases import TestServers

_configure_structlog = structlog.configure
profile.load()


def _configure_without_cache(**options: Any) -> None:
    """Configure structlog so that a logger follows the latest configuration: each test may bring its own."""
    _configure_structlog(**{**options, "cache_logger_on_first_use": False})


structlog.configure = _configure_without_cache  # type: ignore[assignment]

_STACK = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once, in the process that hands out the tests."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    stack = config.stash[_STACK] = ExitStack()
    try:
        databases.start(stack)
    except BaseException:
        stack.close()
        raise


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started."""
    if _STACK in config.stash:
        config.stash[_STACK].close()


@pytest.fixture(scope="session")
def servers() -> TestServers:
    return databases.running()


@pytest.fixture(scope="session")
def database_name(servers: TestServers, worker_id: str) -> Iterator[str]:
    """Name of this worker's own database, cloned from the migrated template."""
    name = f"{servers.template}_{worker_id}"
    databases.create_database(servers, name, servers.template)
    yield name
    databases.drop_database(servers, name)


@pytest.fixture(scope="session")
def owner_connection(servers: TestServers, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(databases.url_of(servers.owner_url, database_name), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def reset(owner_connection: psycopg.Connection) -> databases.Reset:
    """Empty this worker's database; made while it is as the migrations left it."""
    return databases.Reset(owner_connection)


@pytest.fixture
def settings(servers: TestServers, database_name: str, worker_id: str, tmp_path: Path) -> Settings:
    number = int(worker_id.removeprefix("gw")) + 1 if worker_id.startswith("gw") else 1
    return Settings(
        _env_file=None,
        environment="testing",
        database_url=databases.url_of(servers.app_url, database_name),
        database_admin_url=databases.url_of(servers.owner_url, database_name),
        database_pool_size=20,
        redis_url=servers.redis_url.rsplit("/", 1)[0] + f"/{number}",
        storage_path=tmp_path / "storage",
        log_format="console",
        # Tests call far more often than a caller may; those of the limit set one.
        rate_limit_per_minute=0,
    )


@pytest.fixture
def redis_client(settings: Settings) -> Iterator[redis.Redis]:
    """This worker's Redis database, empty before and after."""
    with redis.Redis.from_url(settings.redis_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def clean_database(reset: databases.Reset) -> None:
    """Empty all tables before the test."""
    reset()


@pytest.fixture
async def database(settings: Settings, clean_database: None) -> AsyncIterator[Database]:
    """A pool on an empty, migrated database, as the restricted role of the application."""
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture
async def owner_database(settings: Settings, clean_database: None) -> AsyncIterator[Database]:
    """A pool of the owner's connections: what makes and ends keys."""
    database = Database(settings, pool_size=10, as_owner=True)
    yield database
    await database.close()


async def new_key(
    settings: Settings, role: Role = Role.MANAGER, name: str = "till", customer_id: UUID | None = None
) -> NewKeyView:
    """Make a key as the owner: the application's role may not."""
    database = Database(settings, pool_size=1, as_owner=True)
    try:
        return await KeyService(database).create(role, name, customer_id)
    finally:
        await database.close()


class MovableClock:
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def advance(self, **by: float) -> None:
        """Move on by the given timedelta."""
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


def actor(role: Role, **fields: object) -> Actor:
    """Return a caller with that role."""
    values = {"customer_id": uuid4() if role is Role.CUSTOMER else None, "ip_address": "192.0.2.7", **fields}
    return Actor(id=uuid4(), type=ActorType.USER, trigger=Trigger.API_CALL, role=role, **values)  # type: ignore[arg-type]


@pytest.fixture
def admin() -> Actor:
    return actor(Role.ADMIN)


@pytest.fixture
def customer() -> Actor:
    return actor(Role.CUSTOMER)


@pytest.fixture
def orders(database: Database, clock: MovableClock) -> OrderService:
    return OrderService(database, clock)


@pytest.fixture
def returns(database: Database, clock: MovableClock, settings: Settings) -> ReturnService:
    return ReturnService(database, ReturnWindow.from_settings(settings), clock)
