"""Beat on a real Redis: ticks have a queue of their own, one of each waits there, and no change of the clock stops them."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.config import Settings, get_settings
from app.core.enums import SWEEPS
from app.tasks import heartbeat
from app.tasks.beat import Scheduler
from app.tasks.celery_app import celery_app
from tests.conftest import MovableClock

pytestmark = pytest.mark.req("REQ-004.8")

MINUTELY = {
    f"app.tasks.scheduled_tasks.{name}"
    for name in (
        "cancel_unpaid_orders",
        "expire_unreviewed_returns",
        "remind_reviewers",
        "send_daily_summary",
        "forget_idempotency_keys",
        "collect_figures",
    )
}
FOUR_TIMES_A_DAY = {"app.tasks.scheduled_tasks.reconcile_payments"}
HOURLY = {f"app.tasks.scheduled_tasks.{name}" for name in ("remove_orphaned_attachments", "reconcile")}


class Beat:
    """A beat whose clock is moved by hand."""

    def __init__(self, broker: redis.Redis, clock: MovableClock, schedule: Path) -> None:
        self._broker = broker
        self._clock = clock
        self._schedule = schedule
        self.start()

    def start(self) -> None:
        """Begin with what the file holds."""
        self._scheduler = Scheduler(celery_app, schedule_filename=str(self._schedule))

    def stop(self) -> None:
        """Leave the schedule in its file."""
        self._scheduler.close()

    def look(self, **later: float) -> None:
        """Look at the schedule after the given time, until nothing is due."""
        self._clock.advance(**later)
        while self._scheduler.tick() == 0:
            pass

    def waiting(self) -> Counter[str]:
        """Return the ticks that wait for a worker, by task."""
        return Counter(json.loads(message)["headers"]["task"] for message in self._broker.lrange(SWEEPS, 0, -1))

    def take(self) -> Counter[str]:
        """Return the same and empty the queue, as workers do."""
        taken = self.waiting()
        self._broker.delete(SWEEPS)
        return taken


@pytest.fixture
def beat(
    redis_client: redis.Redis,
    settings: Settings,
    clock: MovableClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Beat]:
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setattr(heartbeat, "_heartbeats", {})
    get_settings.cache_clear()
    for name in ("broker_url", "broker_write_url"):
        monkeypatch.setattr(celery_app.conf, name, settings.redis_url)
    monkeypatch.setattr(celery_app, "now", clock)
    celery_app.loader.import_default_modules()
    beat = Beat(redis_client, clock, tmp_path / "schedule")
    yield beat
    beat.stop()
    get_settings.cache_clear()


def test_each_tick_goes_to_the_queue_of_sweeps(beat: Beat) -> None:
    beat.look()
    assert beat.take() == {}
    beat.look(seconds=61)
    assert beat.take() == Counter(MINUTELY)
    beat.look(hours=1)
    assert beat.take() == Counter(MINUTELY | HOURLY)


def test_books_are_compared_four_times_a_day(beat: Beat) -> None:
    beat.look(seconds=61)
    beat.take()
    beat.look(hours=5)
    assert beat.take() == Counter(MINUTELY | HOURLY)
    beat.look(hours=1)
    assert beat.take() == Counter(MINUTELY | HOURLY | FOUR_TIMES_A_DAY)


def test_ticks_go_on_when_the_clock_is_set_back(beat: Beat) -> None:
    beat.look(seconds=61)
    beat.take()
    beat.look(hours=-2)
    assert beat.take() == {}
    beat.look(seconds=61)
    assert beat.take() == Counter(MINUTELY)
    beat.look(hours=1)
    assert beat.take() == Counter(MINUTELY | HOURLY)


def test_a_schedule_from_the_future_is_not_used(beat: Beat) -> None:
    beat.look(seconds=61)
    beat.stop()
    beat.take()
    beat._clock.advance(days=-1)
    beat.start()
    beat.look()
    beat.look(seconds=61)
    assert beat.take() == Counter(MINUTELY)


def test_of_each_tick_one_waits_for_a_worker_and_no_more(beat: Beat) -> None:
    """It does what is due then, so a second one beside it would do nothing."""
    for _ in range(61):
        beat.look(minutes=1)
    assert beat.take() == Counter(MINUTELY | HOURLY)
    beat.look(minutes=1)
    assert beat.take() == Counter(MINUTELY)


def test_ticks_go_on_after_redis_dropped_the_connection(beat: Beat, redis_client: redis.Redis) -> None:
    beat.look(seconds=61)
    beat.take()
    database = redis_client.connection_pool.connection_kwargs["db"]
    for client in redis_client.client_list():
        if int(client["db"]) == database and int(client["id"]) != redis_client.client_id():
            redis_client.client_kill_filter(_id=client["id"])
    for _ in range(2):
        beat.look(seconds=61)
    assert beat.take() == Counter(MINUTELY)
