"""The life of a worker: one event loop and one set of services per child process, heartbeats from the parent.

The loop and every connection are made after the fork: a socket or a thread that a parent shares with its children
belongs to no process.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
import uvloop
from celery import signals

from app.config import get_settings
from app.core import error_tracking, exposition
from app.core.enums import Queue
from app.tasks import heartbeat
from app.tasks.celery_app import celery_app
from app.tasks.runner import JOB_TIME_LIMIT, JobRunner, Verdict, describe, trace_of
from app.tasks.worker_services import WorkerServices

logger = structlog.get_logger(__name__)
_T = TypeVar("_T")

MORE_JOBS = 9
MORE_SECONDS = 1.0
"""How many jobs without a message follow the one that has it, and within which time the last of them begins.

Few, because other queues and jobs with a message wait meanwhile. The time, with the time limit of the last job, must stay
below the time limit of a message (`celery_app.TIME_LIMIT_SECONDS`)."""


class WorkInterruptedError(Exception):
    """Something outside the work itself went wrong, such as the database going away; what was begun is sent again.

    All that Celery gets to see and to log of an error, whose own message might quote a row.
    """


class WorkerProcess:
    """Runs coroutines of this process, one after the other, on its one event loop."""

    def __init__(self, services: WorkerServices) -> None:
        self.services = services
        self._loop = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner: JobRunner = services.runner(f"{socket.gethostname()}:{os.getpid()}"[:100])

    def run_job(self, job_id: UUID, queue: Queue) -> Verdict:
        """Carry out a job, and after it some of its queue that are due and have no message (`leases.claim_next`).

        Returns:
            How the job ended that has the message.

        Raises:
            WorkInterruptedError: one could not be begun or ended; its lease runs out, and it is sent again.
        """
        return self._loop.run(_run_redacted(self._run_jobs(job_id, queue), job_id=str(job_id)))

    async def _run_jobs(self, job_id: UUID, queue: Queue) -> Verdict:
        until = time.monotonic() + MORE_SECONDS
        verdict = await self._runner.run(job_id)
        for _ in range(MORE_JOBS):
            if time.monotonic() > until or await self._runner.run_next(queue) is Verdict.NOTHING_TO_DO:
                break
        if (hint := self.services.database.job_hint) is not None:
            await hint.sent()  # The event loop stops here until the next message.
        return verdict

    def run(self, work: Callable[[WorkerServices], Awaitable[_T]], time_limit: timedelta = JOB_TIME_LIMIT) -> _T:
        """Do something that is no job, within a time limit.

        Raises:
            WorkInterruptedError: it took longer, or failed.
        """

        async def limited() -> _T:
            async with asyncio.timeout(time_limit.total_seconds()):
                return await work(self.services)

        return self._loop.run(_run_redacted(limited()))

    def close(self) -> None:
        """Close the connections and the loop."""
        self._loop.run(self.services.close())
        self._loop.close()


async def _run_redacted(work: Coroutine[Any, Any, _T], **facts: str) -> _T:
    """Do the work; of an error, log and raise only what quotes no data."""
    try:
        return await work
    except Exception as fault:  # noqa: BLE001 - it is raised again, without its message
        logger.error("work.interrupted", error=describe(fault), trace=trace_of(fault), **facts)  # noqa: TRY400 - its own message may quote a row
        if not error_tracking.is_outage(fault):
            error_tracking.report(fault, **facts)
        raise WorkInterruptedError(type(fault).__name__) from None


_processes: dict[int, WorkerProcess] = {}
"""The one of this process, by its pid: after a fork the parent's is not the child's."""


def current() -> WorkerProcess:
    """Return this process's event loop and services, made on first use."""
    if (process := _processes.get(os.getpid())) is None:
        process = _processes[os.getpid()] = WorkerProcess(WorkerServices(get_settings()))
    return process


def run_job(argument: object, queue: Queue) -> None:
    """Carry out the job that a message names, and more of its queue; a message that names none is logged and done with."""
    try:
        job_id = UUID(str(argument))
    except ValueError:
        # It may be somebody's data: only its type is logged.
        logger.error("job_message.refused", argument_type=type(argument).__name__)  # noqa: TRY400 - no trace: it would quote the value
        return
    current().run_job(job_id, queue)


def _open(**_: Any) -> None:
    exposition.leave_to_parent()
    error_tracking.configure(get_settings(), "worker")
    current()


def _close(**_: Any) -> None:
    if (process := _processes.pop(os.getpid(), None)) is not None:
        process.close()
    error_tracking.flush()


def _show_presence(sender: Any, **_: Any) -> None:
    _show(sender.eventer.hostname)


def _ready(sender: Any, **_: Any) -> None:
    # Not before: the children that the pool begins with need not know of the port.
    exposition.serve(get_settings())
    _show(sender.hostname)
    heartbeat.ready()


def _show(node: str) -> None:
    heartbeat.worker(node, sorted(celery_app.amqp.queues.consume_from))


def _beat_ready(**_: Any) -> None:
    heartbeat.ready()


signals.worker_process_init.connect(_open)
signals.worker_process_shutdown.connect(_close)
signals.heartbeat_sent.connect(_show_presence)
signals.worker_ready.connect(_ready)
signals.beat_init.connect(_beat_ready)
