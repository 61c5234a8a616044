"""A hint to the relay that a commit made jobs due, so that an idle relay need not find them at its next look.

The hint is a NOTIFY in a transaction of its own, sent after the commit. NOTIFY takes a lock that all transactions with a
NOTIFY share until they have committed. In the transaction that writes the jobs, it would line up all commits of orders
behind each other, each with its wait for the disk. By itself it writes nothing that is waited for.

A hint can be lost: the process ends before it is sent, or the relay has no connection of its own through a pooler. The
relay looks at the jobs many times a second in any case, so no request waits for a hint, and one that fails is not
repeated. However many commits there are, a process sends one in `GAP_SECONDS`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.prepared import Prepared

logger = structlog.get_logger(__name__)

CHANNEL: Final = "articurated_jobs"
HINT: Final = Prepared(text(f"SELECT CAST(pg_notify('{CHANNEL}', '') AS text) AS sent"))
GAP_SECONDS: Final = 0.025


class JobHint:
    """Sends the hints of one process, each by a task of the running event loop."""

    def __init__(self, send: Callable[[], Awaitable[object]]) -> None:
        """Keep what sends one."""
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._next = 0.0

    def give(self) -> None:
        """Have a hint sent soon; called after the commit."""
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send_wanted())

    async def sent(self) -> None:
        """Wait until what was given is sent, where the event loop is about to stop."""
        if self._task is not None and not self._task.done():
            await self._task

    async def close(self) -> None:
        """Give up what is not sent."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _send_wanted(self) -> None:
        while self._is_wanted:
            if (left := self._next - time.monotonic()) > 0:
                await asyncio.sleep(left)
            self._is_wanted = False
            self._next = time.monotonic() + GAP_SECONDS
            try:
                await self._send()
            except (SQLAlchemyError, OSError) as fault:
                logger.info("job_hint.failed", error=type(fault).__name__)
