"""How often a caller may call: over processes, without Redis, whatever address is claimed (contract section 7)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from app.database import Database
from app.dependencies import Services
from app.main import create_app
from app.services import rate_limit, rate_limit_store
from app.services.rate_limit import RateLimiter
from app.services.rate_limit_store import KEY_PREFIX, SharedWindows
from tests.conftest import MovableClock
from tests.integration.conftest import API_KEY, error_of

pytestmark = [pytest.mark.req("NFR-004.6"), pytest.mark.security]

ORDERS = "/api/v1/orders"
NOWHERE = "redis://127.0.0.1:9/0"


class Stopwatch:
    """Monotonic seconds that pass when told to."""

    seconds = 0.0

    def __call__(self) -> float:
        """Return how many have passed."""
        return self.seconds


@dataclass
class Process:
    """One API application with a limit, as a process of its own would be, and who calls it."""

    services: Services
    call: Callable[..., Awaitable[httpx2.Response]]

    @property
    def limiter(self) -> RateLimiter:
        """What counts."""
        assert self.services.rate_limiter is not None
        return self.services.rate_limiter

    async def statuses(self, times: int, **headers: str) -> dict[int, int]:
        """Call so often, and return how often each status came."""
        found: dict[int, int] = {}
        for _ in range(times):
            status = (await self.call(**headers)).status_code
            found[status] = found.get(status, 0) + 1
        return found


Start = Callable[..., Process]


@pytest.fixture
async def start(
    settings: Settings, database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Return a function that makes a process; by default with the limit of 100 and the suite's Redis.

    They wait for Redis as long as it takes: a busy machine must not change what is counted where.
    """
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 60)
    monkeypatch.setattr(rate_limit_store, "PATIENCE_SECONDS", 60)
    made: list[Services] = []

    def started(**changes: Any) -> Process:
        with_limit = settings.model_copy(update={"rate_limit_per_minute": 100, **changes})
        services = Services(with_limit, database, clock)
        application = create_app(with_limit, services)
        made.append(services)

        async def call(
            path: str = ORDERS, method: str = "GET", address: str = "192.0.2.9", **headers: str
        ) -> httpx2.Response:
            transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False, client=(address, 4711))
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers)

        return Process(services, call)

    yield started
    for services in made:
        if services.rate_limiter is not None:
            await services.rate_limiter.close()
        await services.health.close()


@pytest.fixture
async def key(database: Database, start: Start) -> Callable[[], Awaitable[dict[str, str]]]:
    """Return a function that gives a new caller: the header with their key."""
    services = start().services

    async def made() -> dict[str, str]:
        return {"X-API-Key": (await services.keys.create(Role.MANAGER, "till", None))["key"]}

    return made


NewCaller = Callable[[], Awaitable[dict[str, str]]]


def unique_address() -> str:
    """Return an address that no other test of this run counted."""
    number = uuid4().int
    return f"10.{number % 256}.{(number >> 8) % 256}.{(number >> 16) % 256}"


# --- the limit ---------------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-005.9")
async def test_the_101st_request_of_a_minute_is_refused(start: Start, key: NewCaller, clock: MovableClock) -> None:
    process, caller = start(), await key()
    clock.now = clock.now.replace(microsecond=500)  # no rounding in what is told
    first = await process.call(**caller)
    assert first.headers["ratelimit-policy"] == '"default";q=100;w=60'
    assert first.headers["ratelimit"] == '"default";r=99;t=60'
    clock.advance(seconds=20)
    assert await process.statuses(98, **caller) == {200: 98}
    last = await process.call(**caller)
    assert last.status_code == 200
    assert last.headers["ratelimit"] == '"default";r=0;t=40'
    assert "retry-after" not in last.headers
    refused = await process.call(**caller)
    assert refused.status_code == 429
    error = error_of(refused)
    assert error["code"] == "RATE_LIMITED"
    assert error["details"] == {"limit": 100, "window_seconds": 60, "retry_after_seconds": 40}
    assert refused.headers["retry-after"] == "40"
    assert refused.headers["ratelimit-policy"] == '"default";q=100;w=60'
    assert refused.headers["ratelimit"] == '"default";r=0;t=40'


async def test_there_is_room_again_as_the_window_moves_on(start: Start, key: NewCaller, clock: MovableClock) -> None:
    process, caller = start(rate_limit_per_minute=10), await key()
    assert await process.statuses(4, **caller) == {200: 4}
    clock.advance(seconds=30)
    assert await process.statuses(7, **caller) == {200: 6, 429: 1}
    clock.advance(seconds=29.9)
    assert await process.statuses(3, **caller) == {429: 3}, (
        "a refused request counts for nothing, so it prolongs nothing"
    )
    clock.advance(seconds=0.2)
    assert await process.statuses(6, **caller) == {200: 4, 429: 2}, "never more than ten in any 60 seconds"
    clock.advance(seconds=60)
    assert await process.statuses(11, **caller) == {200: 10, 429: 1}


async def test_callers_do_not_disturb_each_other(start: Start, key: NewCaller) -> None:
    process, one, other = start(rate_limit_per_minute=5), await key(), await key()
    assert await process.statuses(7, **one) == {200: 5, 429: 2}
    assert await process.statuses(5, **other) == {200: 5}


async def test_a_caller_is_who_it_is_by_key_and_by_token(start: Start, settings: Settings, clock: MovableClock) -> None:
    process = start(rate_limit_per_minute=4)
    old = await process.services.keys.create(Role.MANAGER, "till", None)
    new = await process.services.keys.rotate(old["id"])
    bearer = issue_token(settings, Principal(old["id"], Role.MANAGER), timedelta(minutes=5), datetime.now(UTC))
    credentials = [{"X-API-Key": old["key"]}, {"X-API-Key": new["key"]}, {"Authorization": f"Bearer {bearer}"}]
    assert [(await process.call(**headers)).status_code for headers in credentials] == [200, 200, 200]
    assert [(await process.call(**headers)).status_code for headers in credentials] == [200, 429, 429]


async def test_what_fails_counts_and_is_refused_before_it_is_read(start: Start, key: NewCaller) -> None:
    """Authentication, limit, query, body: in that order."""
    process, caller = start(rate_limit_per_minute=2), await key()
    assert (await process.call(f"{ORDERS}?nonsense=1", **caller)).status_code == 422
    assert (await process.call(f"{ORDERS}/{uuid4()}", **caller)).status_code == 404
    for path in (ORDERS, f"{ORDERS}?nonsense=1", f"{ORDERS}/{uuid4()}"):
        assert (await process.call(path, **caller)).status_code == 429
    assert (await process.call(method="POST", **caller)).status_code == 429


async def test_of_many_requests_at_once_as_many_pass_as_may(start: Start, key: NewCaller) -> None:
    one, two, caller = start(rate_limit_per_minute=20), start(rate_limit_per_minute=20), await key()
    for process in (one, two):
        await process.services.keys.authenticate(caller["X-API-Key"])
    answers = await asyncio.gather(*(process.call(**caller) for process in (one, two) for _ in range(30)))
    assert sum(answer.status_code == 200 for answer in answers) == 20
    assert sum(answer.status_code == 429 for answer in answers) == 40


@pytest.mark.req("REQ-005.9")
async def test_processes_count_together(start: Start, key: NewCaller) -> None:
    one, two, caller = start(rate_limit_per_minute=10), start(rate_limit_per_minute=10), await key()
    assert await one.statuses(6, **caller) == {200: 6}
    told = await two.call(**caller)
    assert told.headers["ratelimit"] == '"default";r=3;t=60'
    assert await two.statuses(5, **caller) == {200: 3, 429: 2}
    assert await one.statuses(2, **caller) == {429: 2}


async def test_nothing_of_a_count_stays_behind(start: Start, key: NewCaller, settings: Settings) -> None:
    process, caller = start(), await key()
    made = await process.services.keys.authenticate(caller["X-API-Key"])
    assert made is not None
    await process.statuses(3, **caller)
    async with Redis.from_url(settings.redis_url) as redis:
        name = f"{KEY_PREFIX}default:{made.id}"
        assert await redis.llen(name) == 3
        assert 0 < await redis.pttl(name) <= 60_000


@pytest.mark.parametrize("path", ["/api/v1/health/live", "/api/v1/metrics", "/api/v1/state-machines", "/openapi.json"])
async def test_what_is_open_to_anyone_has_no_limit(path: str, start: Start) -> None:
    process = start(rate_limit_per_minute=1)
    answers = [await process.call(path, address="198.51.100.77") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all("ratelimit" not in answer.headers for answer in answers)


async def test_the_gateway_is_never_told_to_wait_and_a_forger_is_only_refused(start: Start) -> None:
    process = start(rate_limit_per_minute=1)
    forged = [
        await process.call("/api/v1/payments/webhook", "POST", **{"Content-Type": "application/json"}) for _ in "123"
    ]
    assert [answer.status_code for answer in forged] == [401] * 3


async def test_managers_who_look_at_metrics_use_nothing_up(start: Start, key: NewCaller) -> None:
    process, caller = start(rate_limit_per_minute=1, environment="production", force_https=False), await key()
    answers = [await process.call("/api/v1/metrics", **caller) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_no_limit_is_no_limit(start: Start, key: NewCaller) -> None:
    process = start(rate_limit_per_minute=0)
    answer = await process.call(**await key())
    assert answer.status_code == 200
    assert process.services.rate_limiter is None
    assert "ratelimit" not in answer.headers


# --- failed authentication ---------------------------------------------------------------------------------------


def guess() -> dict[str, str]:
    """Return a key of the right shape that is nobody's."""
    return {"X-API-Key": f"ack_{uuid4().hex[:8]}_{uuid4().hex}{uuid4().hex[:11]}"}


async def test_guessing_is_limited_by_address(start: Start, key: NewCaller) -> None:
    process, address = start(rate_limit_per_minute=10), unique_address()
    for number in range(10):
        failed = await process.call(address=address, **(guess() if number % 2 else {}))
        assert failed.status_code == 401
    assert failed.headers["ratelimit"] == '"failed-authentication";r=0;t=60'
    refused = await process.call(address=address, **guess())
    assert refused.status_code == 429
    assert error_of(refused)["code"] == "RATE_LIMITED"
    assert refused.headers["retry-after"] == "60"
    assert (await process.call(address=address)).status_code == 429
    assert (await process.call(address=unique_address())).status_code == 401, "another address is another matter"


async def test_beyond_the_limit_not_even_a_right_guess_is_told(
    start: Start, key: NewCaller, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, address, unmet = start(rate_limit_per_minute=3), unique_address(), await key()
    await process.statuses(4, address=address, **guess())
    looked_up: list[str] = []
    look_up = process.services.keys.authenticate

    async def noted(given: str) -> Principal | None:
        looked_up.append(given)
        return await look_up(given)

    monkeypatch.setattr(process.services.keys, "authenticate", noted)
    assert await process.statuses(3, address=address, **unmet) == {429: 3}
    assert looked_up == [], "nor looked up"
    assert (await process.call(address=unique_address(), **unmet)).status_code == 200
    clock.advance(seconds=61)
    assert (await process.call(address=address, **unmet)).status_code == 200


async def test_who_is_known_is_not_locked_out_by_a_neighbour(start: Start, key: NewCaller, settings: Settings) -> None:
    """Behind one address, or behind a proxy that nobody configured, one guesser must not shut out the rest."""
    process, address, known = start(rate_limit_per_minute=10), unique_address(), await key()
    assert (await process.call(address=address, **known)).status_code == 200
    assert await process.statuses(12, address=address, **guess()) == {401: 10, 429: 2}
    bearer = issue_token(settings, Principal(uuid4(), Role.MANAGER), timedelta(minutes=5), datetime.now(UTC))
    for headers in (known, {"Authorization": f"Bearer {bearer}"}, {"X-API-Key": API_KEY}):
        assert (await process.call(address=address, **headers)).status_code == 200
    assert (await process.call(address=address, Authorization="Bearer x.y.z")).status_code == 429


async def test_a_claimed_address_changes_nothing(start: Start) -> None:
    """The header is a proxy's business, and the proxies are named: see test_api_processes.py for the server's part."""
    process, address = start(rate_limit_per_minute=5), unique_address()
    found = [
        (await process.call(address=address, **{name: f"203.0.113.{number}"})).status_code
        for number, name in enumerate(["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"] * 2)
    ]
    assert found == [401] * 5 + [429] * 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        (None, None, True),
    ],
)
def test_an_address_is_what_one_customer_of_a_provider_has(one: str | None, other: str | None, same: bool) -> None:  # noqa: FBT001
    assert (rate_limit._network_of(one) == rate_limit._network_of(other)) is same


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
    """Stands before Redis, and can hang or go away."""

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
    assert events == ["rate_limit.redis_away", "rate_limit.reached"], "once each, not at every request"


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
    assert [entry["event"] for entry in logs if entry["event"].startswith("rate_limit")] == ["rate_limit.redis_slow"]
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


async def test_a_clock_that_is_set_back_locks_nobody_out(clock: MovableClock) -> None:
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


async def test_the_headers_never_tell_more_than_a_window_or_less_than_a_second(clock: MovableClock) -> None:
    with alone(clock) as limiter:
        caller = uuid4()
        first = await limiter.count_caller(caller)
        clock.advance(seconds=59.999)
        second = await limiter.count_caller(caller)
        assert (first.reset_seconds, second.reset_seconds) == (60, 1)
