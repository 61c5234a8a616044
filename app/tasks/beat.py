"""Celery's scheduler, which also shows that it is alive (NFR-003)."""

from typing import Any

from celery.beat import PersistentScheduler

from app.core import monitoring
from app.tasks import presence


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Keeps the schedule in a file; with each look at it, shows its presence.

    It looks at least each `beat_max_loop_interval` seconds. One that cannot reach the broker hangs in its look, so it
    stops showing itself.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return how many seconds until the next look."""
        seconds: float = super().tick(*args, **kwargs)
        monitoring.beat_ticked()
        presence.process("beat")
        return seconds
