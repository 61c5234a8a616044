"""A worker's process from the message inwards: tasks, event loop, workbench and services, with fakes at the ports."""

import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import Row
from structlog.testing import capture_logs

from app.composition import Ports
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, Queue
from app.database import sync_engine
from app.services.jobs.service import JobKind
from app.tasks import heartbeat, scheduled_tasks, worker_process
from app.tasks.celery_app import TASKS, celery_app
from app.tasks.relay import Relay
from app.tasks.worker_process import WorkerProcess, WorkInterruptedError
from app.tasks.worker_services import WorkerServices
from tests.conftest import MovableClock
from tests.fakes import FakeGateway
from tests.integration.jobs_support import FakeMailSender, FakeRenderer, add_job, completed_return, order_in, rows
from tests.integration.test_relay import FakeBroker

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def mails() -> FakeMailSender:
    return FakeMailSender()


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def process(
    settings: Settings,
    clean_database: None,
    clock: MovableClock,
    mails: FakeMailSender,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WorkerProcess]:
    """Return this process's own, as a forked worker has it; tests here are synchronous, as Celery's tasks are."""
    bench = WorkerServices(
        settings, clock=clock, ports=Ports(renderer=FakeRenderer(), mail_sender=mails, gateway=gateway)
    )
    process = WorkerProcess(bench)
    monkeypatch.setitem(worker_process._processes, os.getpid(), process)
    yield process
    process.close()


@pytest.fixture
def work(process: WorkerProcess, settings: Settings) -> Iterator[Callable[[], int]]:
    """Return what sends messages and carries them out until none is due; it returns how many there were."""
    celery_app.loader.import_default_modules()
    engine = sync_engine(settings, "test-relay", pool_size=2)
    broker = FakeBroker()
    relay = Relay(engine, broker, settings)

    def until_idle() -> int:
        done = 0
        while relay.turn():
            for queue, job_id in broker.published:
                celery_app.tasks[TASKS[queue]](str(job_id))
                done += 1
            broker.published.clear()
        return done

    yield until_idle
    relay.close()
    engine.dispose()


def drive(process: WorkerProcess, journey: Callable[[WorkerServices], Awaitable[object]]) -> None:
    process.run(journey)


def unfinished(process: WorkerProcess) -> list[Row[*tuple[Any, ...]]]:
    return process.run(lambda bench: rows(bench.database, "SELECT * FROM jobs WHERE state <> 'SUCCEEDED'"))


def test_everything_that_a_return_sets_off_is_done(
    process: WorkerProcess, work: Callable[[], int], mails: FakeMailSender, gateway: FakeGateway, admin: Actor
) -> None:
    # The credit note refers to the invoice, so the order's own work comes first, as it does in life.
    orders, returns = process.services.orders, process.services.returns
    drive(process, lambda _: order_in(orders, admin, OrderStatus.CANCELLED))
    drive(process, lambda _: completed_return(orders, returns, admin))
    assert work() >= 16
    assert unfinished(process) == []
    assert len([movement for movement in gateway.movements if movement.kind == "refund"]) == 2
    subjects = [mail.subject for mail in mails.sent]
    assert any("credit note" in subject.lower() for subject in subjects)
    assert any("refund" in subject.lower() for subject in subjects)
    assert work() == 0


def test_ticks_do_what_is_due_and_nothing_twice(
    process: WorkerProcess, work: Callable[[], int], clock: MovableClock, admin: Actor
) -> None:
    orders = process.services.orders
    clock.now = clock.now.replace(hour=12) - timedelta(days=3)
    drive(process, lambda _: order_in(orders, admin, OrderStatus.PENDING_PAYMENT))
    clock.advance(days=2)
    for _ in range(2):
        scheduled_tasks.TICKS["cancel_unpaid_orders"]()
        scheduled_tasks.TICKS["expire_unreviewed_returns"]()
        scheduled_tasks.TICKS["remind_reviewers"]()
        scheduled_tasks.TICKS["send_daily_summary"]()
        scheduled_tasks.TICKS["remove_orphaned_attachments"]()
        scheduled_tasks.TICKS["reconcile"]()
    states = process.run(lambda bench: rows(bench.database, "SELECT status FROM orders"))
    assert [row.status for row in states] == ["CANCELLED"]
    kinds = process.run(lambda bench: rows(bench.database, "SELECT kind FROM jobs ORDER BY kind"))
    assert [row.kind for row in kinds] == ["notify.daily_summary"]
    assert work() == 1
    assert unfinished(process) == []


def test_a_message_brings_jobs_of_its_queue_that_have_none(process: WorkerProcess, admin: Actor) -> None:
    """One message for fifteen jobs: that of the message, and so many more as one message may bring."""
    kind = JobKind.NOTIFY_ORDER_SHIPPED
    others = process.run(lambda bench: add_job(bench.database, JobKind.ISSUE_INVOICE, uuid4(), f"key:{uuid4()}"))

    async def mails_due(bench: WorkerServices) -> list[UUID]:
        return [await add_job(bench.database, kind, uuid4(), f"key:{uuid4()}") for _ in range(15)]

    first, *_ = process.run(mails_due)
    process.run_job(first, Queue.NOTIFICATIONS)
    left = unfinished(process)
    assert len([row for row in left if row.kind == kind]) == 15 - 1 - worker_process.MORE_JOBS
    assert [row.state for row in left if row.id == others] == ["PENDING"]
    for _ in range(2):  # A message that comes twice brings others, too.
        process.run_job(first, Queue.NOTIFICATIONS)
    assert [row.kind for row in unfinished(process)] == [JobKind.ISSUE_INVOICE]


def test_no_job_without_a_message_begins_late(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "MORE_SECONDS", -1.0)

    async def mails_due(bench: WorkerServices) -> list[UUID]:
        return [
            await add_job(bench.database, JobKind.NOTIFY_ORDER_SHIPPED, uuid4(), f"key:{uuid4()}") for _ in range(2)
        ]

    first, second = process.run(mails_due)
    process.run_job(first, Queue.NOTIFICATIONS)
    assert [row.id for row in unfinished(process)] == [second]


def test_a_database_that_is_away_ends_the_message_and_not_the_worker(
    settings: Settings, mails: FakeMailSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://ada:secret@127.0.0.1:1/none"})
    process = WorkerProcess(WorkerServices(nowhere, ports=Ports(mail_sender=mails)))
    monkeypatch.setitem(worker_process._processes, os.getpid(), process)
    with capture_logs() as logs, pytest.raises(WorkInterruptedError, match="OperationalError"):
        worker_process.run_job(uuid4(), Queue.NOTIFICATIONS)
    process.close()
    assert [entry["event"] for entry in logs] == ["work.interrupted"]
    assert "secret" not in str(logs)


def test_a_worker_shows_its_presence(settings: Settings) -> None:
    client = redis.Redis.from_url(settings.redis_url)
    name = f"worker-{uuid4()}@test"
    key = f"{heartbeat.KEY_PREFIX}worker:{name}"
    shown = heartbeat.Heartbeat(settings, "worker")
    assert shown.show(name, "invoices,refunds")
    assert client.get(key) == b"invoices,refunds"
    assert 25 <= client.ttl(key) <= heartbeat.TTL_SECONDS
    client.delete(key)
    assert shown.show(name)
    assert not client.exists(key)
    shown.close()
    client.close()
