"""How often a caller may call while Redis is slow or away, and what a process counts alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.config import Settings
from app.database import Database
from app.services.access import rate_limit, rate_limit_store
from app.services.access.rate_limit import RateLimiter
from app.services.access.rate_limit_store import KEY_PREFIX, SharedWindows
from tests.conftest import MovableClock
from tests.fakes import Stopwatch
from tests.integration.rate_limit_support import NewCaller, Start, guess, new_caller, processes, unique_address

pytestmark = [pytest.mark.req("NFR-004.6"), pytest.mark.security]

NOWHERE = "redis://127.0.0.1:9/0"


@pytest.fixture
async def start(
    settings: Settings, database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    async with processes(settings, database, clock, monkeypatch) as started:
        yield started


@pytest.fixture
async def key(start: Start) -> NewCaller:
    return new_caller(start)


# --- when Redis is away ------------------------------------------------------------------------------------------


@pytest.mark.req("NFR-003.1", "REQ-005.9")
async def test_without_redis_the_process_counts_alone(start: Start, key: NewCaller, clock: MovableClock) -> None:
    process, caller = start(redis_url=NOWHERE), await key()
    assert await process.statuses(102, **caller) == {200: 100, 429: 2}
    clock.advance(seconds=60)
    assert await process.statuses(1, **caller) == {200: 1}
    smaller = start(redis_url=NOWHERE, rate_limit_per_minute=5)
    assert await smaller.statuses(7, address=unique_address(), **guess()) == {401: 5, 429: 2}


class Proxy:
    """A proxy before Redis that can hang or go away."""

    def __init__(self, target: httpx2.URL) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.hangs = False
        self.port = 0

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Go away, and cut every connection."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, away = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers += [writer, away]
        await asyncio.gather(self._pass_on(reader, away), self._pass_on(there, writer), return_exceptions=True)
        for end in (writer, away):
            end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.hangs:
                continue
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(httpx2.URL(settings.redis_url))
    await proxy.open()
    yield proxy
    await proxy.close()


def through(proxy: Proxy, settings: Settings) -> str:
    """Return the URL of Redis with the proxy before it."""
    return str(httpx2.URL(settings.redis_url).copy_with(host="127.0.0.1", port=proxy.port))


async def test_redis_goes_in_the_middle_and_the_count_goes_on(
    start: Start, key: NewCaller, proxy: Proxy, settings: Settings, clock: MovableClock
) -> None:
    process, caller = start(redis_url=through(proxy, settings)), await key()
    assert await process.statuses(60, **caller) == {200: 60}
    assert proxy.connections == 1, "one connection, kept"
    await proxy.close()
    with capture_logs() as logs:
        assert await process.statuses(42, **caller) == {200: 40, 429: 2}, "the process remembers what it let pass"
    events = [entry["event"] for entry in logs if entry["event"].startswith("rate_limit")]
    assert events == ["rate_limit.redis_lost", "rate_limit.reached"], "once each, not at every request"


async def test_redis_comes_back_and_is_asked_again(
    start: Start, key: NewCaller, proxy: Proxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, other, caller = start(redis_url=through(proxy, settings)), start(), await key()
    watch = Stopwatch()
    process.limiter._shared._monotonic = watch
    await process.statuses(3, **caller)
    await proxy.close()
    await process.statuses(2, **caller)
    before = proxy.connections
    await proxy.open()
    await process.statuses(5, **caller)
    assert proxy.connections == before, "not asked again at once"
    watch.seconds += rate_limit_store.PAUSE_SECONDS
    assert (await process.call(**caller)).headers["ratelimit"] == '"default";r=89;t=60', "nobody waits for the new try"
    connecting = process.limiter._shared._connecting
    assert connecting is not None
    await connecting
    told = await process.call(**caller)
    assert told.headers["ratelimit"] == '"default";r=96;t=60', "Redis saw three, and this one"
    assert (await other.call(**caller)).headers["ratelimit"] == '"default";r=95;t=60'


async def test_a_redis_that_hangs_is_waited_for_once(
    start: Start, key: NewCaller, proxy: Proxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, caller = start(redis_url=through(proxy, settings), rate_limit_per_minute=20), await key()
    await process.statuses(2, **caller)
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 0.05)
    proxy.hangs = True
    asked: list[int] = []
    ask = process.limiter._shared._ask

    async def noted(batch: list[Any]) -> None:
        asked.append(len(batch))
        await ask(batch)

    monkeypatch.setattr(process.limiter._shared, "_ask", noted)
    async with asyncio.timeout(30):  # half of what Redis is given before it counts as away
        assert await process.statuses(20, **caller) == {200: 18, 429: 2}
    assert asked == [1], "the first waits, up to the time limit; the others do not ask"
    proxy.hangs = False


async def test_requests_that_wait_when_redis_goes_see_each_other(
    start: Start, key: NewCaller, proxy: Proxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, caller = start(redis_url=through(proxy, settings), rate_limit_per_minute=10), await key()
    assert await process.statuses(1, **caller) == {200: 1}
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 0.05)
    proxy.hangs = True
    answers = await asyncio.gather(*(process.call(**caller) for _ in range(30)))
    assert sum(answer.status_code == 200 for answer in answers) == 9
    proxy.hangs = False


async def test_what_redis_refused_counts_for_nothing(start: Start, key: NewCaller, clock: MovableClock) -> None:
    one, two, caller = start(rate_limit_per_minute=3), start(rate_limit_per_minute=3), await key()
    assert await one.statuses(2, **caller) == {200: 2}
    clock.advance(seconds=30)
    assert await one.statuses(1, **caller) == {200: 1}
    await two.services.keys.authenticate(caller["X-API-Key"])
    refused = await asyncio.gather(*(two.call(**caller) for _ in range(3)))
    assert [answer.status_code for answer in refused] == [429] * 3
    clock.advance(seconds=31)
    assert await two.statuses(3, **caller) == {200: 2, 429: 1}


async def test_a_late_answer_costs_no_count(
    start: Start, key: NewCaller, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is held up for a moment: requests go on, and are counted when it does."""
    process, other, caller = start(), start(), await key()
    await process.call(**caller)
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 0.02)
    async with Redis.from_url(settings.redis_url) as redis:
        await redis.execute_command("CLIENT", "PAUSE", "500", "ALL")
    with capture_logs() as logs:
        told = [(await process.call(**caller)).headers["ratelimit"] for _ in range(5)]
    assert told == [f'"default";r={left};t=60' for left in (98, 97, 96, 95, 94)]
    assert [entry["event"] for entry in logs if entry["event"].startswith("rate_limit")] == ["rate_limit.redis_delayed"]
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 60)
    principal = await process.services.keys.authenticate(caller["X-API-Key"])
    assert principal is not None
    async with Redis.from_url(settings.redis_url) as redis, asyncio.timeout(30):
        while await redis.llen(f"{KEY_PREFIX}default:{principal.id}") < 6:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await other.call(**caller)).headers["ratelimit"] == '"default";r=93;t=60'


async def test_requests_that_wait_together_are_asked_for_together(start: Start, key: NewCaller) -> None:
    shared = start().limiter._shared
    sizes: list[int] = []
    ask = shared._ask

    async def noted(batch: list[Any]) -> None:
        sizes.append(len(batch))
        await ask(batch)

    shared._ask = noted  # type: ignore[method-assign]
    names = [f"default:{uuid4()}" for _ in range(5)]
    counts = await asyncio.gather(*(shared.count(name, 3, 1_800_000_000_000) for name in names * 4))
    assert sizes == [20]
    assert [count.passed for count in counts if count is not None] == [True] * 15 + [False] * 5
    assert {count.used for count in counts if count is not None} == {1, 2, 3}


async def test_a_script_that_fails_is_redis_away(start: Start, key: NewCaller, settings: Settings) -> None:
    """A key of another type, a server out of memory: an answer, and still no count."""
    process, caller = start(rate_limit_per_minute=5), await key()
    principal = await process.services.keys.authenticate(caller["X-API-Key"])
    assert principal is not None
    async with Redis.from_url(settings.redis_url) as redis:
        await redis.set(f"{KEY_PREFIX}default:{principal.id}", "no list", ex=60)
    assert await process.statuses(7, **caller) == {200: 5, 429: 2}


# --- the process's own count -------------------------------------------------------------------------------------


@contextmanager
def alone(clock: MovableClock, limit: int = 3) -> Iterator[RateLimiter]:
    """Give a limiter whose Redis is away for good."""
    shared = SharedWindows(NOWHERE, lambda: 0.0)
    shared._is_away = True
    shared._retry_at = 1.0
    yield RateLimiter(limit, shared, clock)


async def test_a_clock_that_is_set_back_locks_no_caller_out(clock: MovableClock) -> None:
    with alone(clock) as limiter:
        caller = uuid4()
        assert [(await limiter.count_caller(caller)).allowed for _ in range(4)] == [True, True, True, False]
        clock.advance(hours=-2)
        assert (await limiter.count_caller(caller)).allowed


async def test_what_a_process_remembers_is_bounded(clock: MovableClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_MAXIMUM_WINDOWS", 5)
    with alone(clock) as limiter:
        busy = UUID(int=1)
        for number in range(20):
            await limiter.count_failure(f"192.0.2.{number}")
            clock.advance(seconds=1)
            if number % 8 == 0:
                await limiter.count_caller(busy)
        assert len(limiter._windows) == 5
        while (await limiter.count_caller(busy)).allowed:
            pass
        for number in range(10):
            await limiter.count_failure(f"198.51.100.{number}")
            assert not (await limiter.count_caller(busy)).allowed, "who calls is not forgotten"


async def test_the_headers_never_say_more_than_a_window_or_less_than_a_second(clock: MovableClock) -> None:
    with alone(clock) as limiter:
        caller = uuid4()
        first = await limiter.count_caller(caller)
        clock.advance(seconds=59.999)
        second = await limiter.count_caller(caller)
        assert (first.reset_seconds, second.reset_seconds) == (60, 1)
