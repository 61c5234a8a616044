"""The counts that all API processes share, in Redis: one round trip for all requests that wait at that moment.

Each count is a list of times, oldest first, that ends with its window. One script, and so one atomic step, forgets
what is too old, looks whether there is room, and adds.

A request waits 50 ms for its answer and no longer. While an answer is late, no request waits, but every request is still
counted once Redis goes on. After two seconds without an answer, or when the connection fails, Redis is away: a new
connection is made behind the requests' back, a try a second, and until one works there is no shared count.

The library `limits` does the same with a second client library and a second round trip for the headers (docs/adr).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from redis.asyncio import Redis

WINDOW_SECONDS = 60
WINDOW_MS = WINDOW_SECONDS * 1000
ANSWER_SECONDS = 0.05
PATIENCE_SECONDS = 2.0
PAUSE_SECONDS = 1.0
KEY_PREFIX = "articurated:rate:"

# ARGV: now, in milliseconds; the window; for each key its limit. Gives for each: passed (1 or 0), used, oldest.
# The list lives as long as its youngest member: a host whose clock is wrong does harm for one window at most.
_COUNT = """
local now, window, answers = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[i + 2])
  local oldest = redis.call('LINDEX', key, 0)
  while oldest and tonumber(oldest) <= now - window do
    redis.call('LPOP', key)
    oldest = redis.call('LINDEX', key, 0)
  end
  local used = redis.call('LLEN', key)
  if used < limit then
    redis.call('RPUSH', key, now)
    redis.call('PEXPIRE', key, window)
    answers[i] = {1, used + 1, oldest or now}
  else
    answers[i] = {0, used, oldest}
  end
end
return answers
"""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SharedCount:
    """What the count of all processes says.

    Attributes:
        passed: whether there was room for this request; it is counted if so.
        used: how many passed in this window.
        oldest: when the oldest of them did, in milliseconds since 1970.
    """

    passed: bool
    used: int
    oldest: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    key: str
    limit: int
    now: int
    answer: asyncio.Future[SharedCount | None]

    def tell(self, count: SharedCount | None) -> None:
        """Give the answer, unless the one who asked went away."""
        if not self.answer.done():
            self.answer.set_result(count)


class SharedWindows:
    """The counts in one Redis. Belongs to one event loop."""

    def __init__(self, redis_url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connect later, on first use."""
        self._redis_url = redis_url
        self._monotonic = monotonic
        self._redis: Redis | None = None
        self._is_away = False
        self._is_late = False
        self._retry_at = 0.0
        self._waiting: list[_Waiting] = []
        self._asking: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def count(self, key: str, limit: int, now: int) -> SharedCount | None:
        """Count one request if there is room for it; None when Redis is away or does not answer in time."""
        if self._is_away:
            if self._connecting is None and self._monotonic() >= self._retry_at:
                self._connecting = asyncio.create_task(self._reconnect())
            return None
        waiting = _Waiting(KEY_PREFIX + key, limit, now, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return None if self._is_late else await waiting.answer

    async def close(self) -> None:
        """Close the connection."""
        for task in (self._asking, self._connecting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await _drop(self._redis)

    async def _ask_for_all(self) -> None:
        """Ask for those that wait, together, and then for those that came meanwhile."""
        batch: list[_Waiting] = []
        try:
            while self._waiting and not self._is_away:
                batch, self._waiting = self._waiting, []
                await self._ask(batch)
        finally:
            self._asking = None
            for waiting in (*batch, *self._waiting):
                waiting.tell(None)
            self._waiting.clear()

    async def _ask(self, batch: list[_Waiting]) -> None:
        """Ask for a batch; when that fails, Redis is away."""
        keys = [waiting.key for waiting in batch]
        limits = [waiting.limit for waiting in batch]
        now = batch[-1].now
        redis = self._redis = self._redis or self._client()
        timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._let_go, batch)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await redis.execute_command(  # type: ignore[no-untyped-call]
                    "EVAL", _COUNT, len(keys), *keys, now, WINDOW_MS, *limits
                )
            for waiting, (passed, used, oldest) in zip(batch, answers, strict=True):
                waiting.tell(SharedCount(passed == 1, used, int(oldest)))
        except _faults() as fault:
            logger.warning("rate_limit.redis_lost", error=type(fault).__name__)
            self._is_away = True
            self._redis = None
            self._retry_at = self._monotonic() + PAUSE_SECONDS
            await _drop(redis)
        finally:
            timer.cancel()
            self._is_late = False

    def _let_go(self, batch: list[_Waiting]) -> None:
        """Let no request wait any longer."""
        logger.warning("rate_limit.redis_delayed")
        self._is_late = True
        for waiting in (*batch, *self._waiting):
            waiting.tell(None)

    async def _reconnect(self) -> None:
        """Look whether Redis is back; no request waits for this."""
        redis = self._client()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await redis.ping()
            logger.info("rate_limit.redis_recovered")
            self._redis = redis
            self._is_away = False
        except _faults():
            self._retry_at = self._monotonic() + PAUSE_SECONDS
        finally:
            self._connecting = None
            if self._is_away:
                await _drop(redis)

    def _client(self) -> "Redis":
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        # The time limit is around the whole exchange: one per socket operation would add up, and costs more.
        return Redis.from_url(
            self._redis_url,
            single_connection_client=True,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )


async def _drop(redis: "Redis | None") -> None:
    """Close a connection without waiting for the other side, which may be the one that hangs."""
    if redis is None:
        return
    if redis.connection is not None:
        await redis.connection.disconnect(nowait=True)
    await redis.aclose()


def _faults() -> tuple[type[Exception], ...]:
    # Imported here, as the client is: a tenth of a second that a process without a limit does not need.
    from redis.exceptions import RedisError  # noqa: PLC0415

    return (RedisError, TimeoutError, OSError)
