"""Celery's scheduler, which tolerates the clock moving backwards, and sends a heartbeat (REQ-004, NFR-003)."""

import json
from typing import Any

import structlog
from celery.beat import PersistentScheduler
from celery.result import AsyncResult

from app.core import monitoring
from app.tasks import heartbeat

logger = structlog.get_logger(__name__)


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Keeps the schedule in a file; with each look at it, shows its heartbeat.

    It looks at least each `beat_max_loop_interval` seconds. One that cannot reach the broker hangs in its look, so it
    stops showing itself.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return how many seconds until the next look."""
        self._forget_the_future()
        seconds: float = super().tick(*args, **kwargs)
        monitoring.beat_ticked()
        heartbeat.process("beat")
        return seconds

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> AsyncResult | None:
        """Send a tick, unless one of its kind waits still: when that is taken, it does what this one would.

        So ticks do not pile up while no worker takes them, to be carried out one after the other once one does.
        """
        if self._waits(entry.task):
            logger.warning("tick.delayed", tick=entry.name)
            return None
        return super().apply_async(entry, *args, **kwargs)

    def _waits(self, task: str) -> bool:
        queue = self.app.amqp.router.route({}, task)["queue"].name
        waiting = self.connection.default_channel.client.lrange(queue, 0, -1)
        return any(json.loads(message)["headers"]["task"] == task for message in waiting)

    def _forget_the_future(self) -> None:
        """Count a tick that was sent at a time in the future as sent now.

        The clock was set back since, and without this the next tick would come when it has caught up.
        """
        now = self.app.now()
        ahead = [entry for entry in self.schedule.values() if entry.last_run_at > now]
        for entry in ahead:
            entry.last_run_at = now
        if ahead:
            logger.warning("clock.set_back", ticks=len(ahead))
            # It is ordered by the time of the next tick, as the clock had it.
            self._heap = None
