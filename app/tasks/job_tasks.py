"""The task of each queue of jobs: its message names a job, and the worker process carries it out (REQ-004)."""

from collections.abc import Callable

from app.core.enums import Queue
from app.tasks.celery_app import TASKS, task
from app.tasks.worker_process import run_job


def _task_of(queue: Queue) -> Callable[[object], None]:
    def run(argument: object) -> None:
        run_job(argument, queue)

    return run


for queue, name in TASKS.items():
    task(name)(_task_of(queue))
