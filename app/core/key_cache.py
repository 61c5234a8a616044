"""A cache of the identity provider's keys: from a file or a URL, recent enough, refreshed without delaying requests (NFR-004).

    a file    read again when 5 seconds old: a key taken out of it is dead that soon, and all are when it is removed
    a URL     fetched again when `JWKS_REFRESH_SECONDS` old; ahead of that, behind the back of requests
    a `kid`   that is not there: fetched again at once, but at most every 10 seconds (or as often as a set is fetched
              ahead, if that is more often), so that made-up ones cost nothing
    a failure of the source: the last good set serves on for an hour, then no caller is let in by it

One fetch runs at a time, however many wait for it; it ends after two seconds, follows no redirect and reads 64 kB at most.
A token's own pointers (`jku`, `x5u`, `jwk`) are not looked at.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from jwt import PyJWK

from app.config import Settings
from app.core import jwks
from app.core.jwks import KeySetError, ProviderKeys
from app.core.security import CredentialsError

FILE_SECONDS = 5.0
RETRY_SECONDS = 10.0
KEPT_SECONDS = 3600.0
FETCH_SECONDS = 2.0
_AHEAD = 0.8
"""Share of its age from which a set is fetched ahead of need."""
_NO_KEYS = b'{"keys": []}'

logger = structlog.get_logger(__name__)


class KeySetUnavailableError(Exception):
    """The provider's keys cannot be read, and the cache has none that are recent enough."""


class KeyCache:
    """The last good set of one source. Belongs to one event loop."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        maximum_age: float,
        retry_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing; the first use does.

        Args:
            read: gives the document, or raises KeySetError.
            maximum_age: seconds after which the set is read again before it is used.
            retry_seconds: least time between two readings.
            monotonic: seconds that only ever grow.
        """
        self._read = read
        self._maximum_age = maximum_age
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._keys: ProviderKeys = {}
        self._document: bytes | None = None
        # When the reading that gave the set began, and when the last one did, even if it failed.
        self._good_at = float("-inf")
        self._asked_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, header: Mapping[str, Any]) -> PyJWK:
        """Return the key that a token's header names.

        Raises:
            CredentialsError: the provider has no such key.
            KeySetUnavailableError: what the provider has is not known.
        """
        age = self._monotonic() - self._good_at
        if age >= self._maximum_age:
            await self._refreshed()
        elif age >= self._maximum_age * _AHEAD:
            self._start()
        key = jwks.find(self._usable(), header)
        if key is None and await self._refreshed():
            key = jwks.find(self._usable(), header)
        if key is None:
            raise CredentialsError("unknown key")
        return key

    async def close(self) -> None:
        """Give up a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _usable(self) -> ProviderKeys:
        if self._monotonic() - self._good_at >= KEPT_SECONDS:
            raise KeySetUnavailableError
        return self._keys

    async def _refreshed(self) -> bool:
        """Wait for a reading, the one under way or a new one; return whether there was one."""
        reading = self._start()
        if reading is None:
            return False
        # A caller who goes away must not take the others' reading along.
        await asyncio.shield(reading)
        return True

    def _start(self) -> asyncio.Task[None] | None:
        """Return the reading under way, begun now if it is time for one; None if it is too early."""
        if self._reading is None and self._monotonic() - self._asked_at >= self._retry_seconds:
            self._asked_at = self._monotonic()
            self._reading = asyncio.create_task(self._renew(self._asked_at))
        return self._reading

    async def _renew(self, began: float) -> None:
        try:
            document = await self._read()
            if document != self._document:
                # In a thread: loading keys takes a while, the first time with the code for it.
                self._keys = await asyncio.to_thread(jwks.parse, document)
                self._document = document
                logger.info("jwks.read", keys=len(self._keys))
            self._good_at = began
        except KeySetError as fault:
            logger.warning("jwks.not_read", error=str(fault), kept=self._document is not None)
        finally:
            self._reading = None


def provider_keys(settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> KeyCache | None:
    """Return the keys that the settings name, or None when they name none."""
    if settings.jwks_file is not None:
        path = settings.jwks_file
        return KeyCache(lambda: _from_file(path), FILE_SECONDS, FILE_SECONDS, monotonic)
    if settings.jwks_url is not None:
        url = settings.jwks_url
        maximum_age = settings.jwks_refresh_seconds
        # Never so long that a set outlives its age, nor that it cannot be fetched ahead.
        return KeyCache(lambda: _from_url(url), maximum_age, min(RETRY_SECONDS, maximum_age * _AHEAD), monotonic)
    return None


async def _from_file(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(_contents, path)
    except FileNotFoundError:
        # A file that was removed means that no caller is let in by its keys.
        logger.warning("jwks.file_not_found")
        return _NO_KEYS
    except OSError as fault:
        raise KeySetError(type(fault).__name__) from None


def _contents(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(jwks.MAXIMUM_BYTES + 1)


async def _from_url(url: str) -> bytes:
    # In a thread: loading the client and the certificate authorities would hold up every request.
    httpx2, context = await asyncio.to_thread(_client)
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx2.AsyncClient(
                verify=context,
                timeout=FETCH_SECONDS,
                follow_redirects=False,
                trust_env=False,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "articurated"},
            ) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                raise KeySetError(f"answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > jwks.MAXIMUM_BYTES:
                    raise KeySetError(f"more than {jwks.MAXIMUM_BYTES} bytes")
            return bytes(body)
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, TimeoutError, OSError) as fault:
        raise KeySetError(type(fault).__name__) from None


def _client() -> tuple[ModuleType, ssl.SSLContext]:
    import httpx2  # noqa: PLC0415

    return httpx2, httpx2.create_ssl_context()
