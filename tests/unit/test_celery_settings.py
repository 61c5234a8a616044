"""Celery as configured: addresses, routes, a handler for every kind of job, a task for every tick."""

import asyncio
import time
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core.enums import SWEEPS, Queue
from app.services.jobs.service import JobKind
from app.tasks import heartbeat, scheduled_tasks, worker_process
from app.tasks.celery_app import TASKS, broker_url, celery_app
from app.tasks.heartbeat import Heartbeat
from app.tasks.runner import JOB_TIME_LIMIT
from app.tasks.schedule import SCHEDULE
from app.tasks.worker_services import WorkerServices


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://:pw@localhost:6379/2", "redis://:pw@localhost:6379/2"),
        ("rediss://cache:6380/0", "rediss://cache:6380/0"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://:pw@/run/redis.sock?db=1", "redis+socket://:pw@/run/redis.sock?virtual_host=1"),
    ],
)
def test_broker_address(given: str, expected: str) -> None:
    assert broker_url(given) == expected


@pytest.mark.req("REQ-004")
def test_every_queue_has_a_task_that_is_routed_to_it() -> None:
    celery_app.loader.import_default_modules()
    # In the messages of processes of another release, too: these names never change.
    assert set(TASKS.values()) == {
        "app.tasks.invoice_tasks.generate_invoice",
        "app.tasks.refund_tasks.process_refund",
        "app.tasks.notification_tasks.send_notification",
    }
    for queue in Queue:
        assert TASKS[queue] in celery_app.tasks
        assert celery_app.amqp.router.route({}, TASKS[queue])["queue"].name == queue.value


@pytest.mark.req("REQ-004")
def test_every_tick_has_a_task_and_waits_behind_no_job() -> None:
    celery_app.loader.import_default_modules()
    assert SWEEPS not in set(Queue)
    for entry in celery_app.conf.beat_schedule.values():
        assert entry["task"] in celery_app.tasks
        assert celery_app.amqp.router.route(entry.get("options", {}), entry["task"])["queue"].name == SWEEPS
        # Whoever is behind, and by however much, a tick is carried out: an expiry would go by two clocks.
        assert "expires" not in entry.get("options", {})


@pytest.mark.req("REQ-004.8")
def test_the_schedule_of_the_sweeps() -> None:
    # The names are in messages, of processes of another release too: they never change.
    assert [(sweep.task, sweep.interval, sweep.queue) for sweep in SCHEDULE] == [
        ("app.tasks.scheduled_tasks.cancel_unpaid_orders", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.expire_unreviewed_returns", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.remind_reviewers", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.send_daily_summary", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.forget_idempotency_keys", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.collect_figures", timedelta(minutes=1), "sweeps"),
        ("app.tasks.scheduled_tasks.remove_orphaned_attachments", timedelta(hours=1), "sweeps"),
        ("app.tasks.scheduled_tasks.reconcile", timedelta(hours=1), "sweeps"),
        ("app.tasks.scheduled_tasks.reconcile_payments", timedelta(hours=6), "sweeps"),
    ]
    entries = celery_app.conf.beat_schedule.values()
    assert [(entry["task"], entry["schedule"]) for entry in entries] == [
        (sweep.task, sweep.interval.total_seconds()) for sweep in SCHEDULE
    ]
    assert all(sweep.time_limit.total_seconds() < celery_app.conf.task_time_limit for sweep in SCHEDULE)
    assert all(sweep.summary.endswith(".") or sweep.summary.endswith(")") for sweep in SCHEDULE)


def test_a_tick_carries_out_its_sweep_within_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, timedelta]] = []

    class Process:
        def run(self, work: object, time_limit: timedelta) -> int:
            seen.append((work, time_limit))
            return 2

    monkeypatch.setattr(scheduled_tasks, "current", Process)
    with capture_logs() as logs:
        for sweep in SCHEDULE:
            scheduled_tasks.TICKS[sweep.name]()
    assert seen == [(sweep.work, sweep.time_limit) for sweep in SCHEDULE]
    assert [(entry["sweep"], entry["count"]) for entry in logs] == [(sweep.name, 2) for sweep in SCHEDULE]


def test_what_is_no_job_ends_at_its_time_limit() -> None:
    process = worker_process.WorkerProcess(WorkerServices(Settings(_env_file=None)))

    async def endless(_: WorkerServices) -> None:
        await asyncio.Event().wait()

    began = time.monotonic()
    with capture_logs(), pytest.raises(worker_process.WorkInterruptedError, match="TimeoutError"):
        process.run(endless, timedelta(milliseconds=10))
    assert time.monotonic() - began < JOB_TIME_LIMIT.total_seconds() / 2
    process.close()


@pytest.mark.req("REQ-004")
def test_messages_are_json_and_survive_their_worker() -> None:
    conf = celery_app.conf
    assert conf.accept_content == ["json"]
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.broker_connection_max_retries is None
    assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit
    # A job may begin so long after the one that has the message.
    assert conf.task_time_limit > JOB_TIME_LIMIT.total_seconds() + worker_process.MORE_SECONDS


def test_a_lease_outlives_the_longest_job() -> None:
    assert Settings(_env_file=None).job_lease_seconds > celery_app.conf.task_time_limit


@pytest.mark.req("REQ-004")
def test_every_kind_of_job_has_a_handler() -> None:
    assert set(WorkerServices(Settings(_env_file=None)).handlers()) == set(JobKind)


@pytest.mark.parametrize("argument", ["not a uuid", "", 17, None, ["x"], {"customer": "ada@example.com"}, "x" * 10_000])
def test_a_malformed_message_is_logged_without_its_content(argument: object) -> None:
    with capture_logs() as logs:
        worker_process.run_job(argument, Queue.NOTIFICATIONS)
    assert [entry["event"] for entry in logs] == ["job_message.refused"]
    assert "ada" not in str(logs)


def test_heartbeats_tolerate_an_outage_of_redis(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, redis_url=f"unix://{tmp_path}/none.sock")
    shown = Heartbeat(settings, "worker")
    with capture_logs() as logs:
        assert not shown.show("worker@here")
        shown._next = 0
        assert not shown.show("worker@here")
    shown.close()
    assert [entry["event"] for entry in logs] == ["heartbeat.failed"]


def test_readiness_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("READY_FILE", raising=False)
    heartbeat.ready()
    monkeypatch.setenv("READY_FILE", str(tmp_path / "ready"))
    heartbeat.ready()
    assert (tmp_path / "ready").exists()


def test_the_owner_of_a_lease_fits_its_column() -> None:
    process = worker_process.WorkerProcess(WorkerServices(Settings(_env_file=None)))
    assert 0 < len(process._runner._owner) <= 100
    process.close()


def test_celery_sees_no_more_of_an_error_than_its_kind() -> None:
    """Celery logs what a task raises, message and causes included."""
    process = worker_process.WorkerProcess(WorkerServices(Settings(_env_file=None)))

    async def failing(_: WorkerServices) -> None:
        raise ValueError("not a mail address: 'ada@example.com'")

    with capture_logs() as logs, pytest.raises(worker_process.WorkInterruptedError) as caught:
        process.run(failing)
    process.close()
    told = "".join(traceback.format_exception(caught.value))
    assert "WorkInterruptedError: ValueError" in told
    assert "ada" not in told + str(logs)
