"""How fresh the keys of an identity provider are kept: a file's, a URL's, and what happens when it fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core import key_cache
from app.core.key_cache import KeyCache, KeySetUnavailableError, provider_keys
from tests.fakes import Stopwatch
from tests.identity_provider import KeyServer, jwk, key_server, key_set, knows

pytestmark = [pytest.mark.req("NFR-004.1"), pytest.mark.security]


# --- freshness: a file -------------------------------------------------------------------------------------------


def as_set(watch: Stopwatch, **values: Any) -> KeyCache:
    """Return the keys that these settings name."""
    keys = provider_keys(Settings(_env_file=None, **values), watch)
    assert keys is not None
    return keys


def from_file(path: Path, watch: Stopwatch) -> KeyCache:
    return as_set(watch, jwks_file=path)


async def test_a_key_taken_out_of_the_file_is_dead_within_five_seconds(tmp_path: Path) -> None:
    path, watch = tmp_path / "keys.json", Stopwatch()
    path.write_bytes(key_set(jwk("ES256", "old", 1), jwk("ES256", "new", 2)))
    cache = from_file(path, watch)
    assert await knows(cache, "old")
    assert await knows(cache, "new")
    path.write_bytes(key_set(jwk("ES256", "new", 2)))
    watch.seconds += 5
    assert not await knows(cache, "old")
    assert await knows(cache, "new")
    path.write_bytes(key_set())
    watch.seconds += 5
    assert not await knows(cache, "new"), "an emptied set lets nobody in"
    await cache.close()


async def test_a_file_that_is_removed_lets_no_caller_in_within_five_seconds(tmp_path: Path) -> None:
    path, watch = tmp_path / "keys.json", Stopwatch()
    path.write_bytes(key_set(jwk("ES256")))
    cache = from_file(path, watch)
    assert await knows(cache, "k1")
    path.unlink()
    watch.seconds += 5
    with capture_logs() as logs:
        assert not await knows(cache, "k1")
    assert ("jwks.file_not_found", "warning") in [(entry["event"], entry["log_level"]) for entry in logs]
    path.write_bytes(key_set(jwk("ES256")))
    watch.seconds += 5
    assert await knows(cache, "k1"), "it counts again once it is back"
    await cache.close()


async def test_a_file_that_was_never_there_lets_no_caller_in(tmp_path: Path) -> None:
    cache = from_file(tmp_path / "misspelt" / "keys.json", Stopwatch())
    assert not await knows(cache, "k1")
    await cache.close()


async def test_a_broken_file_leaves_the_last_good_set_for_an_hour(tmp_path: Path) -> None:
    path, watch = tmp_path / "keys.json", Stopwatch()
    path.write_bytes(b"")
    cache = from_file(path, watch)
    with pytest.raises(KeySetUnavailableError):
        await cache.find({"kid": "k1", "alg": "ES256"})
    path.write_bytes(key_set(jwk("ES256")))
    watch.seconds += key_cache.FILE_SECONDS
    assert await knows(cache, "k1")
    path.write_bytes(b'{"keys": [')
    watch.seconds += key_cache.KEPT_SECONDS - 1
    with capture_logs() as logs:
        assert await knows(cache, "k1")
    assert [(entry["event"], entry["kept"]) for entry in logs] == [("jwks.not_read", True)]
    path.unlink()
    path.mkdir()  # there, and not to be read
    watch.seconds += 1
    with pytest.raises(KeySetUnavailableError):
        await cache.find({"kid": "k1", "alg": "ES256"})
    await cache.close()


# --- freshness: a URL --------------------------------------------------------------------------------------------


def from_url(server: KeyServer, watch: Stopwatch, refresh: int = 300) -> KeyCache:
    return as_set(watch, jwks_url=server.url, jwks_refresh_seconds=refresh)


async def test_a_set_is_fetched_once_and_again_when_it_is_old() -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256", "old", 1))) as server:
        cache = from_url(server, watch)
        assert all(await asyncio.gather(*(knows(cache, "old") for _ in range(50))))
        assert len(server.fetches) == 1, "one fetch at a time, whoever waits"
        watch.seconds += 200
        assert await knows(cache, "old")
        assert len(server.fetches) == 1
        server.document = key_set(jwk("ES256", "new", 2))
        watch.seconds += 100
        assert not await knows(cache, "old"), "as old as it may become: nothing passes on the strength of it"
        assert len(server.fetches) == 2
        await cache.close()


@pytest.mark.parametrize("refresh", [1, 5, 300])
async def test_a_key_taken_out_at_the_url_is_dead_within_the_seconds_that_are_set(refresh: int) -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256", "old", 1), jwk("ES256", "new", 2))) as server:
        cache = from_url(server, watch, refresh)
        assert await knows(cache, "old")
        server.document = key_set(jwk("ES256", "new", 2))
        watch.seconds += refresh
        assert not await knows(cache, "old")
        assert await knows(cache, "new")
        await cache.close()


async def test_a_set_of_few_seconds_is_fetched_ahead_too() -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256"))) as server:
        cache = from_url(server, watch, refresh=5)
        assert await knows(cache, "k1")
        watch.seconds += 4
        assert await knows(cache, "k1")
        assert cache._reading is not None
        await cache._reading
        assert len(server.fetches) == 2
        await cache.close()


async def test_there_is_one_fetch_at_a_time_however_long_it_takes() -> None:
    with key_server(key_set(jwk("ES256"))) as server:
        cache = KeyCache(lambda: key_cache._from_url(server.url), 300, 0, monotonic=Stopwatch())
        assert all(await asyncio.gather(*(knows(cache, "k1") for _ in range(50))))
        assert len(server.fetches) == 1
        await cache.close()


async def test_a_busy_service_fetches_ahead_and_keeps_no_request_waiting() -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256"))) as server:
        cache = from_url(server, watch)
        assert await knows(cache, "k1")
        watch.seconds += 250
        server.seconds = 0.2
        assert await knows(cache, "k1")
        assert cache._reading is not None, "it is still under way, and the answer came without it"
        await cache._reading
        assert len(server.fetches) == 2
        await cache.close()


async def test_an_unknown_key_is_looked_for_at_once_and_made_up_ones_cost_nothing() -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256", "old", 1))) as server:
        cache = from_url(server, watch)
        assert await knows(cache, "old")
        server.document = key_set(jwk("ES256", "old", 1), jwk("ES256", "new", 2))
        for number in range(100):
            assert not await knows(cache, f"made-up-{number}")
        assert len(server.fetches) == 1, "too early for another fetch"
        watch.seconds += key_cache.RETRY_SECONDS
        assert await knows(cache, "new"), "a new key works as soon as it signs"
        assert await knows(cache, "old")
        assert len(server.fetches) == 2
        for number in range(100):
            assert not await knows(cache, f"made-up-{number}")
        assert len(server.fetches) == 2
        await cache.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, "answered 302"),
        ({"status": 404}, "answered 404"),
        ({"document": b"x" * 70_000}, "more than 65536 bytes"),
        # Given up as soon as it is too large, not when all of it is there.
        ({"document": b"x" * 70_000, "headers": {"Content-Length": "99999999"}}, "more than 65536 bytes"),
        ({"document": b"not JSON"}, "no JSON"),
        ({"headers": {"Content-Length": "9999"}}, "RemoteProtocolError"),
    ],
    ids=["500", "redirect", "404", "large", "endless", "no JSON", "cut off"],
)
async def test_a_failing_provider_leaves_the_last_good_set_for_an_hour(change: dict[str, Any], reason: str) -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256"))) as server:
        cache = from_url(server, watch)
        assert await knows(cache, "k1")
        for name, value in change.items():
            setattr(server, name, value)
        watch.seconds += 301
        with capture_logs() as logs:
            assert await knows(cache, "k1")
            assert await knows(cache, "k1")
        assert [(entry["event"], entry["error"]) for entry in logs] == [("jwks.not_read", reason)]
        assert [fetch["path"] for fetch in server.fetches] == ["/keys", "/keys"], "no redirect is followed, no rush"
        watch.seconds += key_cache.KEPT_SECONDS
        with pytest.raises(KeySetUnavailableError):
            await cache.find({"kid": "k1", "alg": "ES256"})
        await cache.close()


async def test_a_provider_that_hangs_delays_no_request_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "FETCH_SECONDS", 0.1)
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256"))) as server:
        cache = from_url(server, watch)
        assert await knows(cache, "k1")
        server.seconds = 60
        watch.seconds += 300
        async with asyncio.timeout(30):
            assert await knows(cache, "k1")
        await cache.close()


async def test_a_provider_that_drips_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte in time, the whole not: the limit is on the whole."""
    monkeypatch.setattr(key_cache, "FETCH_SECONDS", 0.3)
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256", "old", 1))) as server:
        cache = from_url(server, watch)
        assert await knows(cache, "old")
        server.document = key_set(jwk("ES256", "new", 2))
        server.seconds_between_bytes = 0.01
        watch.seconds += 300
        with capture_logs() as logs:
            assert await knows(cache, "old")
        assert [entry["error"] for entry in logs] == ["TimeoutError"]
        await cache.close()


async def test_a_caller_who_leaves_does_not_take_the_fetch_along() -> None:
    watch = Stopwatch()
    with key_server(key_set(jwk("ES256"))) as server:
        server.seconds = 0.1
        cache = from_url(server, watch)
        first = asyncio.create_task(knows(cache, "k1"))
        second = asyncio.create_task(knows(cache, "k1"))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second
        assert len(server.fetches) == 1
        await cache.close()


async def test_the_event_loop_goes_on_while_a_set_is_fetched() -> None:
    """Nothing of a fetch may run on the loop for long: not the connection, nor the loading of code and keys."""
    with key_server(key_set(jwk("ES256"))) as server:
        server.seconds = 0.3
        cache = from_url(server, Stopwatch())
        looking = asyncio.create_task(knows(cache, "k1"))
        turns = 0
        while not looking.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert await looking
        assert turns > 3
        await cache.close()
