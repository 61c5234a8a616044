"""The relay against a real database, with a broker that can be away; and its broker against a real Redis."""

import asyncio
import base64
import concurrent.futures
import json
import threading
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from sqlalchemy import Engine
from structlog.testing import capture_logs

from app.config import Settings
from app.core.enums import Queue
from app.database import Database, sync_engine
from app.services.jobs.service import Claim, JobKind
from app.tasks import relay as relay_module
from app.tasks.celery_app import celery_app
from app.tasks.relay import CeleryBroker, Relay
from tests.databases import TestServers
from tests.integration.jobs_support import add_job, claim, execute, job, rows, until

pytestmark = pytest.mark.req("REQ-004")
MAIL, INVOICE = JobKind.NOTIFY_ORDER_SHIPPED, JobKind.ISSUE_INVOICE


class FakeBroker:
    """Keeps what is published; `away` makes it fail, `lying` is how many messages wait in it."""

    def __init__(self) -> None:
        self.published: list[tuple[Queue, UUID]] = []
        self.lying = 0
        self.away = False
        self.closed = 0

    def depth(self, queue: Queue) -> int:  # noqa: ARG002 - the port's
        """Return the same for all queues."""
        return self.lying

    def publish(self, queue: Queue, job_id: UUID) -> None:
        """Take the message, or fail."""
        if self.away:
            raise redis.ConnectionError("away")
        self.published.append((queue, job_id))

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = sync_engine(settings, "test-relay", pool_size=2)
    yield engine
    engine.dispose()


@pytest.fixture
def relay(engine: Engine, broker: FakeBroker, settings: Settings) -> Iterator[Relay]:
    relay = Relay(engine, broker, settings)
    yield relay
    relay.close()


async def add_jobs(database: Database, count: int, kind: JobKind = MAIL) -> None:
    for n in range(count):
        await add_job(database, kind, uuid4(), f"{kind}:{n}")


@pytest.mark.req("REQ-004.9")
async def test_due_jobs_are_published_and_marked(database: Database, relay: Relay, broker: FakeBroker) -> None:
    mail, invoice = await add_job(database, MAIL, uuid4(), "a"), await add_job(database, INVOICE, uuid4(), "b")
    later = await add_job(database, MAIL, uuid4(), "c")
    await execute(database, "UPDATE jobs SET run_at = now() + interval '1 hour' WHERE id = :id", id=later)
    assert relay.turn() == 2
    assert sorted(broker.published) == [(Queue.INVOICES, invoice), (Queue.NOTIFICATIONS, mail)]
    assert (await job(database, mail)).state == "PUBLISHED"
    assert (await job(database, mail)).published_at is not None
    assert (await job(database, later)).state == "PENDING"
    assert relay.turn() == 0


async def test_failed_publishing_marks_nothing(database: Database, relay: Relay, broker: FakeBroker) -> None:
    job_id = await add_job(database, MAIL, uuid4())
    broker.away = True
    with pytest.raises(redis.ConnectionError):
        relay.turn()
    assert (await job(database, job_id)).state == "PENDING"
    broker.away = False
    assert relay.turn() == 1


async def test_a_slow_broker_holds_no_transaction_for_too_long(
    database: Database, engine: Engine, settings: Settings
) -> None:
    """Standing still in a transaction ends it: what was published would not be marked, and be sent again and again."""

    class SlowBroker(FakeBroker):
        now = 0.0

        def publish(self, queue: Queue, job_id: UUID) -> None:
            super().publish(queue, job_id)
            self.now += settings.database_idle_transaction_timeout_seconds / 5

    broker = SlowBroker()
    relay = Relay(engine, broker, settings, monotonic=lambda: broker.now)
    await add_jobs(database, 7)
    assert [relay.turn() for _ in range(4)] == [3, 3, 1, 0]
    relay.close()
    assert len({job_id for _, job_id in broker.published}) == len(broker.published) == 7


@pytest.mark.req("NFR-003.1")
async def test_a_server_that_became_read_only_is_left_though_nothing_is_due(
    database: Database, relay: Relay, broker: FakeBroker
) -> None:
    assert relay.turn() == 0
    assert relay._question._cursor is not None
    relay._question._cursor.execute("SET default_transaction_read_only = on")
    with pytest.raises(relay_module.OUTAGES):
        relay.turn()
    relay.close()
    job_id = await add_job(database, MAIL, uuid4())
    assert relay.turn() == 1
    assert broker.published == [(Queue.NOTIFICATIONS, job_id)]


async def test_a_worker_may_be_faster_than_the_commit(database: Database, engine: Engine, settings: Settings) -> None:
    """A claim that comes while the relay still holds the row waits for it, and then succeeds."""
    job_id = await add_job(database, MAIL, uuid4())
    loop = asyncio.get_running_loop()
    claims: list[concurrent.futures.Future[Claim]] = []

    class HastyBroker(FakeBroker):
        def publish(self, queue: Queue, job_id: UUID) -> None:  # noqa: ARG002 - the port's
            claims.append(asyncio.run_coroutine_threadsafe(claim(database, job_id), loop))
            time.sleep(0.1)

    relay = Relay(engine, HastyBroker(), settings)
    assert await asyncio.to_thread(relay.turn) == 1
    relay.close()
    await asyncio.wrap_future(claims[0])
    row = await job(database, job_id)
    assert (row.state, row.claims) == ("RUNNING", 1)


@pytest.mark.req("REQ-004.10")
async def test_lost_messages_and_dead_workers_are_sent_again(
    database: Database, relay: Relay, broker: FakeBroker
) -> None:
    lost, orphan = await add_job(database, MAIL, uuid4(), "a"), await add_job(database, MAIL, uuid4(), "b")
    assert relay.turn() == 2
    held = await claim(database, orphan)
    assert relay.turn() == 0
    await execute(database, "UPDATE jobs SET published_at = now() - interval '61 seconds' WHERE id = :id", id=lost)
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :id", id=orphan)
    broker.published.clear()
    assert relay.turn() == 2
    assert {job_id for _, job_id in broker.published} == {lost, orphan}
    again = await claim(database, orphan)
    assert again.fence == held.fence + 1


@pytest.mark.req("REQ-004.10")
async def test_a_standing_backlog_does_not_hold_back_what_is_sent_again(
    database: Database, relay: Relay, broker: FakeBroker
) -> None:
    """However much waits, and for however long: a lost message and a dead worker's job get the places that come free."""
    lost, orphan = await add_job(database, MAIL, uuid4(), "lost"), await add_job(database, MAIL, uuid4(), "orphan")
    assert relay.turn() == 2
    await claim(database, orphan)
    await execute(database, "UPDATE jobs SET published_at = now() - interval '10 minutes' WHERE id = :id", id=lost)
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '10 minutes' WHERE id = :id", id=orphan)
    await add_jobs(database, 12)
    await execute(database, "UPDATE jobs SET run_at = now() - interval '1 hour' WHERE state = 'PENDING'")
    broker.lying = relay_module.WINDOW - 1
    broker.published.clear()
    assert [relay.turn() for _ in range(3)] == [1, 1, 1]
    assert [job_id for _, job_id in broker.published[:2]] == [orphan, lost]
    # Sent again once a while, they leave the places after them to the backlog.
    assert broker.published[2][1] not in {orphan, lost}


async def test_what_lies_in_redis_is_bounded(
    database: Database, relay: Relay, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_jobs(database, 12)
    monkeypatch.setattr(relay_module, "WINDOW", 10)
    broker.lying = 10
    assert relay.turn() == 0
    broker.lying = 7
    assert relay.turn() == 3
    # After a loss of everything there is room again, whatever the rows say was published.
    broker.lying = 0
    await execute(database, "UPDATE jobs SET published_at = now() - interval '2 minutes' WHERE state = 'PUBLISHED'")
    monkeypatch.setattr(relay_module, "BATCH", 8)
    assert relay.turn() == 8
    assert relay.turn() == 4
    assert len(await rows(database, "SELECT 1 FROM jobs WHERE state = 'PUBLISHED'")) == 12


@pytest.mark.req("NFR-002.1")
async def test_several_relays_share_the_work(database: Database, settings: Settings) -> None:
    await execute(
        database,
        "INSERT INTO jobs (kind, queue, entity_id, dedupe_key)"
        " SELECT 'notify.order_shipped', 'notifications', uuid7(), 'k' || n FROM generate_series(1, 400) n",
    )
    engines = [sync_engine(settings, f"relay-{n}", pool_size=2) for n in range(4)]
    brokers = [FakeBroker() for _ in engines]

    def drain(engine: Engine, broker: FakeBroker) -> None:
        relay = Relay(engine, broker, settings)
        for _ in range(20):
            relay.turn()
        relay.close()

    await asyncio.gather(
        *(asyncio.to_thread(drain, engine, broker) for engine, broker in zip(engines, brokers, strict=True))
    )
    for engine in engines:
        engine.dispose()
    sent = [job_id for broker in brokers for _, job_id in broker.published]
    assert len(sent) == len(set(sent)) == 400


@pytest.mark.req("NFR-003.1")
async def test_it_runs_through_outages_and_says_so_once(
    database: Database, relay: Relay, broker: FakeBroker, servers: TestServers, database_name: str
) -> None:
    broker.away = True
    with capture_logs() as logs:
        running = threading.Thread(target=relay.run)
        running.start()
        job_id = await add_job(database, MAIL, uuid4())
        await until(lambda: broker.closed >= 3)
        with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'test-relay' AND datname = %s",
                (database_name,),
            )
        broker.away = False
        await until(lambda: bool(broker.published))
        relay.stop()
        await asyncio.to_thread(running.join, 5)
    assert not running.is_alive()
    assert broker.published == [(Queue.NOTIFICATIONS, job_id)]
    events = [entry["event"] for entry in logs if entry["event"].startswith("relay")]
    assert events[0] == "relay.interrupted"
    assert events[-1] == "relay.recovered"
    assert len(events) <= 4


async def test_ready_is_reported_once(
    database: Database, engine: Engine, broker: FakeBroker, settings: Settings
) -> None:
    told: list[bool] = []
    relay = Relay(engine, broker, settings, lambda: told.append(True))
    running = threading.Thread(target=relay.run)
    running.start()
    await until(lambda: bool(told))
    await asyncio.sleep(0.2)
    relay.stop()
    await asyncio.to_thread(running.join, 5)
    assert told == [True]


@pytest.fixture
def celery_broker(
    redis_client: "redis.Redis", settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CeleryBroker]:
    monkeypatch.setattr(celery_app.conf, "broker_url", settings.redis_url)
    monkeypatch.setattr(celery_app.conf, "broker_write_url", settings.redis_url)
    broker = CeleryBroker()
    yield broker
    broker.close()


def test_a_message_is_a_job_id_and_nothing_else(celery_broker: CeleryBroker, redis_client: "redis.Redis") -> None:
    first, second = uuid4(), uuid4()
    for job_id in (first, second):
        celery_broker.publish(Queue.REFUNDS, job_id)
    assert celery_broker.depth(Queue.REFUNDS) == 2
    assert celery_broker.depth(Queue.INVOICES) == 0
    message = json.loads(redis_client.rpop("refunds"))  # type: ignore[arg-type]
    assert message["headers"]["task"] == "app.tasks.refund_tasks.process_refund"
    assert json.loads(base64.b64decode(message["body"]))[0] == [str(first)]


@pytest.mark.req("REQ-004.10")
def test_it_publishes_into_a_redis_that_was_flushed(celery_broker: CeleryBroker, redis_client: "redis.Redis") -> None:
    celery_broker.publish(Queue.INVOICES, uuid4())
    redis_client.flushdb()
    celery_broker.publish(Queue.INVOICES, uuid4())
    assert celery_broker.depth(Queue.INVOICES) == 1
    celery_broker.close()
    assert celery_broker.depth(Queue.INVOICES) == 1
