"""A commit that makes jobs due tells the relay; without the hint, the relay finds them at its next look (REQ-004)."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, Queue
from app.database import Database, sync_engine
from app.job_hint import CHANNEL, GAP_SECONDS, JobHint
from app.prepared import Prepared
from app.schemas.order import OrderStateUpdate
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.tasks.relay import Relay
from tests import databases
from tests.databases import TestServers
from tests.factories import order_create
from tests.integration.test_relay import FakeBroker

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
async def hinting(settings: Settings, clean_database: None) -> AsyncIterator[Database]:
    """Return the database as a process of the API has it."""
    database = Database(settings, hints=True)
    yield database
    await database.close()


class Listener:
    """Another connection, which hears the hints."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.hints: list[str] = []
        connection.add_notify_handler(lambda hint: self.hints.append(hint.channel))
        connection.execute(f"LISTEN {CHANNEL}".encode())

    async def after(self, database: Database) -> list[str]:
        """Return what was heard so far, with all that a process has to say."""
        if database.job_hint is not None:
            await database.job_hint.sent()
        self._connection.execute("SELECT 1")
        return self.hints


@pytest.fixture
def listener(servers: TestServers, database_name: str) -> Iterator[Listener]:
    with psycopg.connect(databases.url_of(servers.owner_url, database_name), autocommit=True) as connection:
        yield Listener(connection)


async def add(database: Database, key: str = "a") -> None:
    async with database.transaction() as session:
        await job_service.add(session, JobKind.NOTIFY_ORDER_SHIPPED, uuid4(), key)


async def test_a_commit_with_a_new_job_is_hinted_at(hinting: Database, listener: Listener) -> None:
    await add(hinting)
    assert await listener.after(hinting) == [CHANNEL]
    await add(hinting)
    assert await listener.after(hinting) == [CHANNEL], "the second one was there"


async def test_what_is_rolled_back_is_not_hinted_at(hinting: Database, listener: Listener) -> None:
    async def fails() -> None:
        async with hinting.unit_of_work():
            await add(hinting)
            raise LookupError

    with pytest.raises(LookupError):
        await fails()
    assert await listener.after(hinting) == []


async def test_a_transition_is_hinted_at_after_its_commit(hinting: Database, listener: Listener, admin: Actor) -> None:
    orders = OrderService(hinting)
    order = await orders.create(order_create(), admin)
    await listener.after(hinting)
    listener.hints.clear()
    async with hinting.unit_of_work():
        await orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), admin)
        assert await listener.after(hinting) == []
    assert await listener.after(hinting) == [CHANNEL]


async def test_a_database_without_hints_gives_none(database: Database, listener: Listener) -> None:
    await add(database)
    assert await listener.after(database) == []


async def test_many_commits_at_once_give_few_hints() -> None:
    sent: list[float] = []

    async def send() -> None:
        sent.append(time.monotonic())
        await asyncio.sleep(0)

    hint = JobHint(send)
    for _ in range(100):
        hint.give()
        await asyncio.sleep(GAP_SECONDS / 50)
    await hint.sent()
    assert 2 <= len(sent) <= 30
    assert all(later - earlier >= GAP_SECONDS * 0.99 for earlier, later in itertools.pairwise(sent))


async def test_a_hint_that_fails_is_logged_and_harms_nothing() -> None:
    async def send() -> None:
        raise OperationalError("", {}, Exception())

    hint = JobHint(send)
    with capture_logs() as logs:
        hint.give()
        await hint.sent()
    assert [entry["event"] for entry in logs] == ["job_hint.failed"]


async def test_a_hint_waits_for_no_lock_of_the_jobs(hinting: Database) -> None:
    """What the hint shares with other hints is no part of the transaction that wrote the jobs."""
    async with hinting.transaction() as session:
        await job_service.add(session, JobKind.NOTIFY_ORDER_SHIPPED, uuid4(), "a")
        locks = Prepared(
            text("SELECT count(*) AS held FROM pg_locks WHERE locktype = 'object' AND mode LIKE 'Access%'")
        )
        assert await hinting.rows(locks) == [{"held": 0}]


class SignallingBroker(FakeBroker):
    """Says when it has a message."""

    def __init__(self) -> None:
        super().__init__()
        self.is_published = threading.Event()

    def publish(self, queue: Queue, job_id: UUID) -> None:
        """Take the message."""
        super().publish(queue, job_id)
        self.is_published.set()


@pytest.fixture
def idle(settings: Settings, clean_database: None) -> Iterator[SignallingBroker]:
    """Run a relay that looks once in three seconds; returns its broker when it is idle."""
    engine = sync_engine(settings, "test-relay", pool_size=2)
    broker, turns = SignallingBroker(), threading.Semaphore(0)
    relay = Relay(engine, broker, settings.model_copy(update={"relay_poll_seconds": 3.0}), on_turn=turns.release)
    thread = threading.Thread(target=relay.run)
    thread.start()
    turns.acquire()
    yield broker
    relay.stop()
    thread.join()
    engine.dispose()


async def seconds_until_published(broker: SignallingBroker) -> float:
    began = time.monotonic()
    assert await asyncio.to_thread(broker.is_published.wait, 10)
    return time.monotonic() - began


async def test_an_idle_relay_sends_a_job_as_soon_as_it_is_hinted_at(idle: SignallingBroker, hinting: Database) -> None:
    await add(hinting)
    assert await seconds_until_published(idle) < 1.5


async def test_without_a_hint_the_relay_finds_the_job_at_its_next_look(
    idle: SignallingBroker, database: Database
) -> None:
    await add(database)
    await seconds_until_published(idle)
