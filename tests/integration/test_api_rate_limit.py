"""How often a caller may call: over processes, with any claimed address."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from app.database import Database
from app.services.access import rate_limit
from app.services.access.keys import KeyService
from app.services.access.rate_limit_store import KEY_PREFIX
from tests.conftest import MovableClock
from tests.integration.conftest import API_KEY, error_of
from tests.integration.rate_limit_support import ORDERS, NewCaller, Start, guess, new_caller, processes, unique_address

pytestmark = [pytest.mark.req("NFR-004.6"), pytest.mark.security]


@pytest.fixture
async def start(
    settings: Settings, database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    async with processes(settings, database, clock, monkeypatch) as started:
        yield started


@pytest.fixture
async def key(start: Start) -> NewCaller:
    return new_caller(start)


# --- the limit ---------------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-005.9")
async def test_the_101st_request_of_a_minute_is_refused(start: Start, key: NewCaller, clock: MovableClock) -> None:
    process, caller = start(), await key()
    clock.now = clock.now.replace(microsecond=500)  # no rounding in the answers
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


async def test_a_caller_is_who_it_is_by_key_and_by_token(
    start: Start, settings: Settings, clock: MovableClock, owner_database: Database
) -> None:
    process = start(rate_limit_per_minute=4)
    keys = KeyService(owner_database)
    old = await keys.create(Role.MANAGER, "till", None)
    new = await keys.rotate(old["id"])
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


async def test_the_gateway_is_never_limited_and_a_forger_is_only_refused(start: Start) -> None:
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


async def test_a_right_key_passes_where_many_wrong_ones_came_from(
    start: Start, key: NewCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process has met it, and guesses go on beside it; those are looked up one at a time."""
    process, address, unmet = start(rate_limit_per_minute=3), unique_address(), await key()
    assert await process.statuses(5, address=address, **guess()) == {401: 3, 429: 2}
    keys = process.services.keys
    look_up = keys._look_up
    at_once, most = 0, 0

    async def counted(digest: bytes) -> tuple[float, Principal] | None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        found = await look_up(digest)
        at_once -= 1
        return found

    monkeypatch.setattr(keys, "_look_up", counted)
    guesses = [process.call(address=address, **guess()) for _ in range(10)]
    right, *wrong = await asyncio.gather(process.call(address=address, **unmet), *guesses)
    assert right.status_code == 200
    assert [response.status_code for response in wrong] == [429] * 10
    assert most == 1


async def test_who_is_known_is_not_locked_out_by_a_neighbour(start: Start, key: NewCaller, settings: Settings) -> None:
    """Behind one address, or behind a proxy that was not configured, one guesser must not shut out the rest."""
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
