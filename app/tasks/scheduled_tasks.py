"""The task of each sweep of `schedule.SCHEDULE`: its message is a tick of beat, and the worker process carries it out."""

from collections.abc import Callable, Mapping

import structlog

from app.core import monitoring
from app.tasks.celery_app import task
from app.tasks.schedule import SCHEDULE, Sweep
from app.tasks.worker_process import current

logger = structlog.get_logger(__name__)


def _task_of(sweep: Sweep) -> Callable[[], None]:
    def tick() -> None:
        done = current().run(sweep.work, sweep.time_limit)
        monitoring.swept(sweep.name, done)
        if done:
            logger.info("sweep.finished", sweep=sweep.name, count=done)

    return task(sweep.task)(tick)


TICKS: Mapping[str, Callable[[], None]] = {sweep.name: _task_of(sweep) for sweep in SCHEDULE}
"""The name of each sweep → what a tick of it calls."""
