"""The relay: sends a message for each job that needs one.

A process of its own; several may run, for each locks the rows it sends. It publishes first and marks afterwards:

    killed after publishing, before the commit  the job is sent again; the second message claims nothing
    killed after the commit                     the message is in Redis
    Redis loses the message                     no worker claims the job in time, and it is sent again
    the worker is killed                        its lease runs out, and the job is sent again

PostgreSQL is asked a few dozen times a second with one statement that reads three index entries, and at once when a process
hints that its commit made jobs due (`app.job_hint`). A hint makes it earlier and guarantees nothing. Asked through SQLAlchemy this costs an idle relay
2.3 % of a core, on a cursor of the driver 0.7 %.
"""

import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg
import structlog
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine, func
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.core import monitoring
from app.core.enums import JobState, Queue
from app.job_hint import CHANNEL
from app.services.jobs import dispatch as job_dispatch
from app.tasks.celery_app import TASKS, celery_app

logger = structlog.get_logger(__name__)

WINDOW = 50
"""Messages of a queue that may be in Redis. The backlog stays in PostgreSQL, where a worker that has a message takes more
jobs without one (`worker_process.MORE_JOBS`). What is sent again after a loss stays small, and a Redis without workers
does not fill up."""

BATCH = 100
"""Jobs locked in one transaction, and published as far as there is time."""

LONGEST_BACKOFF_SECONDS = 2.0

OUTAGES = (SQLAlchemyError, psycopg.Error, RedisError, KombuError, OSError)
"""What PostgreSQL or Redis being away looks like."""


class Broker(Protocol):
    """The port to where messages go. Its calls raise `RedisError`, `KombuError` or `OSError`."""

    def depth(self, queue: Queue) -> int:
        """Return how many messages of the queue wait for a worker."""

    def publish(self, queue: Queue, job_id: UUID) -> None:
        """Send the job's message."""

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""


class CeleryBroker:
    """Messages to Celery workers through Redis, over one connection."""

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._connection = celery_app.connection_for_write()
        self._producer = celery_app.amqp.Producer(self._connection, auto_declare=False)

    def depth(self, queue: Queue) -> int:
        """See `Broker`."""
        return int(self._connection.default_channel.client.llen(queue.value))

    def publish(self, queue: Queue, job_id: UUID) -> None:
        """See `Broker`."""
        # No retry in here: the transaction around it is rolled back, and the relay itself is the retry.
        celery_app.send_task(TASKS[queue], args=(str(job_id),), queue=queue.value, producer=self._producer, retry=False)

    def close(self) -> None:
        """See `Broker`."""
        with suppress(RedisError, KombuError, OSError):
            self._connection.release()
        self._open()


class Relay:
    """Asks for jobs that need a message, and sends them.

    Args:
        engine: synchronous, with room for two connections; the relay waits on nothing else.
        on_ready: called once, after the first look at the jobs that succeeded.
        on_turn: called after each look that succeeded.
        monotonic: seconds.
    """

    def __init__(
        self,
        engine: Engine,
        broker: Broker,
        settings: Settings,
        on_ready: Callable[[], None] = lambda: None,
        on_turn: Callable[[], object] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._question = _Question(engine, timedelta(seconds=settings.job_redispatch_seconds))
        self._broker = broker
        self._poll = settings.relay_poll_seconds
        self._redispatch = timedelta(seconds=settings.job_redispatch_seconds)
        self._on_ready: Callable[[], None] | None = on_ready
        self._on_turn = on_turn
        self._monotonic = monotonic
        # The server ends a transaction that is idle for longer, and the marks would be lost with it.
        self._publish_seconds = settings.database_idle_transaction_timeout_seconds / 2
        self._stopping = threading.Event()
        self._failures = 0

    def stop(self) -> None:
        """End `run` after what it is doing; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Send messages until stopped, through any outage of the database or of Redis."""
        while not self._stopping.is_set():
            try:
                sent = self.turn()
            except OUTAGES as fault:
                self._stopping.wait(self._failed(fault))
                continue
            self._succeeded()
            if sent:
                # Where jobs keep coming, a turn for each hint would send them one by one.
                time.sleep(self._poll)
            else:
                self._question.wait(self._poll)
        self.close()

    def close(self) -> None:
        """Let go of every connection; the next turn makes new ones."""
        self._question.close()
        self._broker.close()

    def turn(self) -> int:
        """Send the messages that are due now, at most a batch a queue; return how many."""
        states = self._question.ask()
        return sum(self._send(queue, states) for queue in Queue) if states else 0

    def _send(self, queue: Queue, states: Sequence[JobState]) -> int:
        room = min(WINDOW - self._broker.depth(queue), BATCH)
        sent = 0
        for state in states:
            if room > sent:
                sent += self._send_state(queue, state, room - sent)
        return sent

    def _send_state(self, queue: Queue, state: JobState, limit: int) -> int:
        with self._engine.begin() as connection:
            job_ids = connection.execute(job_dispatch.due(queue, state, limit, self._redispatch)).scalars().all()
            if not job_ids:
                return 0
            # A worker may get the message before this commits: its claim waits for the row lock held here.
            sent = self._publish(queue, job_ids)
            connection.execute(job_dispatch.mark_published(sent))
        monitoring.relayed(queue.value, state.value, len(sent))
        if state is not JobState.PENDING:
            logger.warning("jobs.sent_again", queue=queue.value, state=state.value, count=len(sent))
        return len(sent)

    def _publish(self, queue: Queue, job_ids: Iterable[UUID]) -> list[UUID]:
        """Send what there is time for, at least one; return the jobs whose message was sent."""
        deadline = self._monotonic() + self._publish_seconds
        sent: list[UUID] = []
        for job_id in job_ids:
            self._broker.publish(queue, job_id)
            sent.append(job_id)
            if self._monotonic() >= deadline:
                break
        return sent

    def _failed(self, fault: Exception) -> float:
        """Note an outage, once; return how long to wait."""
        monitoring.relay_interrupted()
        if self._failures == 0:
            logger.error("relay.interrupted", error=type(fault).__name__)
        self._failures += 1
        self.close()
        return min(LONGEST_BACKOFF_SECONDS, self._poll * 2.0 ** min(self._failures, 16))

    def _succeeded(self) -> None:
        if self._failures:
            logger.info("relay.recovered", failures=self._failures)
            self._failures = 0
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
        self._on_turn()


class _Question:
    """Asks over and over which states hold jobs that need a message, on one connection and one cursor.

    An idle relay writes nothing that a server which takes no writes any more could refuse, so it asks for that too.
    """

    def __init__(self, engine: Engine, redispatch_after: timedelta) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        statement = job_dispatch.overdue_states(redispatch_after).add_columns(
            func.current_setting("transaction_read_only") == "on"
        )
        self._text = str(statement.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})).encode()
        self._connection: Connection | None = None
        self._cursor: psycopg.Cursor[Any] | None = None
        self._is_hinted = False

    def ask(self) -> list[JobState]:
        """Return those of `job_dispatch.DRIVEN` in which some job is overdue, in its order.

        Raises:
            ReadOnlySqlTransaction: the server takes no writes; another may be the primary now.
        """
        if self._cursor is None:
            self._connection = self._engine.connect()
            driver: Any = self._connection.connection.driver_connection
            self._cursor = driver.cursor()
            driver.add_notify_handler(self._note_hint)
            self._cursor.execute(f"LISTEN {CHANNEL}".encode())
        self._is_hinted = False
        [row] = self._cursor.execute(self._text).fetchall()
        *answers, is_read_only = row
        if is_read_only:
            raise psycopg.errors.ReadOnlySqlTransaction("the server takes no writes")
        return [state for state, is_overdue in zip(job_dispatch.DRIVEN, answers, strict=True) if is_overdue]

    def wait(self, seconds: float) -> None:
        """Wait for a hint, and for so long at most.

        A hint that came in with the last answer may be newer than that answer.
        """
        if self._cursor is not None and not self._is_hinted:
            select.select([self._cursor.connection.fileno()], [], [], seconds)

    def _note_hint(self, _: psycopg.Notify) -> None:
        self._is_hinted = True

    def close(self) -> None:
        """Drop the connection, which may be broken; the next question opens another."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self._connection = self._cursor = None
