"""Sends requests of one kind that wait at the same time as one statement.

While a statement of a kind is under way in this process, further requests of that kind wait. When it returns, all that
wait leave as one set: one round trip, one plan, one commit for all of them. There is no timer. A request that finds
nothing under way leaves at once and alone, so a quiet process gains no latency. With two statements under way, sets are
half as large, and each request takes a fifth more of the CPU.

Each caller gets its own answer. A set that the server refuses because of one request is rolled back as a whole, and
its requests are sent one by one. A set whose connection is lost is not sent again: it may have been committed.

A set does not wait for a row that another transaction has locked: all requests in it would wait. It skips the row, and
the request for that row is sent again alone and waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.database import Database

Q = TypeVar("Q")
A = TypeVar("A")

LARGEST = 32
"""Requests in a set. PostgreSQL's time for each gets no lower with more."""


class Coalescer(Generic[Q, A]):
    """Sends requests of one kind, together where several wait.

    Within a unit of work a request goes alone, for it is a part of that transaction.
    """

    def __init__(
        self,
        database: Database,
        execute: Callable[[Sequence[Q]], Awaitable[Sequence[A | None]]],
        alone: Callable[[Q], Awaitable[A]],
        entity_of: Callable[[Q], Hashable] | None = None,
    ) -> None:
        """Keep what the requests are sent with.

        Args:
            execute: carries out a set in one transaction and returns the answers in the same order; None for a request
                that it skipped. A refused request has an answer that says so; an exception concerns the whole set.
            alone: carries out one request, and waits for locks.
            entity_of: what a request is about, of which a set has one request; any number where it is not given.
        """
        self._database = database
        self._execute = execute
        self._alone = alone
        self._entity_of = entity_of
        self._is_under_way = False
        self._waiting: list[tuple[Q, asyncio.Future[A | None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, request: Q) -> A:
        """Return the answer to one request.

        A caller that is cancelled while its request waits takes it back. One that is cancelled later does not stop the
        set that its request is in.

        Raises:
            What `execute` raises for this request alone, or for a set whose outcome is unknown; what `alone` raises.
        """
        if self._database.has_unit_of_work:
            return await self._alone(request)
        answer = await (self._sent(request) if self._is_quiet() else self._queued(request))
        # Skipped: a lock may be held for long, so this does not count as under way.
        return await self._alone(request) if answer is None else answer

    def _is_quiet(self) -> bool:
        return not self._is_under_way and not self._waiting

    async def _sent(self, request: Q) -> A | None:
        self._is_under_way = True
        try:
            [answer] = await self._execute([request])
        finally:
            self._send_next()
        return answer

    async def _queued(self, request: Q) -> A | None:
        future: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        return await future

    def _send_next(self) -> None:
        """Send those that wait, now that nothing is under way."""
        requests = self._next_set()
        self._is_under_way = bool(requests)
        if requests:
            # A context of its own: that of the request which has just ended is not theirs.
            task = asyncio.get_running_loop().create_task(self._send(requests), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_set(self) -> list[tuple[Q, asyncio.Future[A | None]]]:
        """Take the requests that wait longest, one of each entity; those of cancelled callers are dropped."""
        taken: list[tuple[Q, asyncio.Future[A | None]]] = []
        left: list[tuple[Q, asyncio.Future[A | None]]] = []
        entities: set[Hashable] = set()
        for request, future in self._waiting:
            if future.done():
                continue
            entity = None if self._entity_of is None else self._entity_of(request)
            if len(taken) < LARGEST and entity not in entities:
                if entity is not None:
                    entities.add(entity)
                taken.append((request, future))
            else:
                left.append((request, future))
        self._waiting = left
        return taken

    async def _send(self, requests: list[tuple[Q, asyncio.Future[A | None]]]) -> None:
        try:
            await self._answer(requests)
        finally:
            self._send_next()

    async def _answer(self, requests: list[tuple[Q, asyncio.Future[A | None]]]) -> None:
        try:
            answers = await self._execute([request for request, _ in requests])
        except Exception as fault:  # noqa: BLE001 - each caller gets it
            if len(requests) > 1 and _was_rolled_back(fault):
                for one in requests:
                    await self._answer([one])
                return
            for _, future in requests:
                if not future.done():
                    future.set_exception(fault)
            return
        for (_, future), answer in zip(requests, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _was_rolled_back(fault: Exception) -> bool:
    """Return whether a set has certainly left nothing, and its requests may succeed one by one.

    A server that cannot be reached, and a pool without a free connection, would fail each of them in turn.
    """
    if isinstance(fault, DBAPIError):
        return not fault.connection_invalidated and getattr(fault.orig, "sqlstate", None) is not None
    return not isinstance(fault, PoolTimeoutError)
