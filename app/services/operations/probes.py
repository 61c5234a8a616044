"""One look at a part that the API itself does not use: mail server, document storage, payment gateway (NFR-003).

Each look is short, changes nothing, and needs no login. It is shared: however many ask for `/health`, a part is looked
at once in some seconds, and while one look hangs there is no second one.
"""

import asyncio
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from app.config import Settings, SettingsError
from app.config_rules import is_mail_catcher
from app.services.payments.gateway.port import MOCK_HEADER

KEEP_SECONDS = 5.0
LOOK_SECONDS = 1.2
_LONGEST_LINE = 4096
_MOST_HEADERS = 100
_SMTP_READY = b"220"

Look = Callable[[], Awaitable[None]]


class StandInError(Exception):
    """In production, a part is a substitute for development: a mock gateway, a mail catcher."""


class SharedLook:
    """Remembers how the last look ended, for `keep_seconds`.

    Args:
        look: returns when the part works, raises when it does not.
        limit_seconds: how long anyone waits for it. A look that takes longer goes on alone, and counts as failed.
    """

    def __init__(
        self,
        look: Look,
        *,
        keep_seconds: float = KEEP_SECONDS,
        limit_seconds: float = LOOK_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._keep = keep_seconds
        self._limit = limit_seconds
        self._monotonic = monotonic
        self._running: asyncio.Task[None] | None = None
        self._fault: str | None = None
        self._until = float("-inf")

    async def fault(self) -> str | None:
        """Return what kind of error the last look met, or None when the part works."""
        if self._monotonic() < self._until:
            return self._fault
        if self._running is None:
            self._running = asyncio.create_task(self._one_look())
        done, _ = await asyncio.wait({self._running}, timeout=self._limit)
        if not done:
            self._note("TimeoutError")
        return self._fault

    async def close(self) -> None:
        """Give up a look that is still under way."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def _one_look(self) -> None:
        try:
            await self._look()
        except Exception as fault:  # noqa: BLE001 - any fault of the part is the answer
            self._note(type(fault).__name__)
        else:
            self._note(None)
        finally:
            self._running = None

    def _note(self, fault: str | None) -> None:
        self._fault = fault
        self._until = self._monotonic() + self._keep


def smtp_look(settings: Settings) -> Look:
    """Return a look at the mail server: it greets. One that wants TLS from the first byte: it accepts.

    In production, a mail catcher is a StandInError.
    """

    async def look() -> None:
        async with asyncio.timeout(LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(settings.smtp_host, settings.smtp_port, limit=_LONGEST_LINE)
            try:
                if settings.smtp_tls != "implicit":
                    greeting = await reader.readline()
                    if not greeting.startswith(_SMTP_READY):
                        raise ConnectionError("no greeting")
                    if settings.environment == "production" and is_mail_catcher(greeting[4:].decode("latin-1")):
                        raise StandInError("SMTP_HOST leads to a mail catcher, which delivers nothing")
                    writer.write(b"QUIT\r\n")
                    await writer.drain()
            finally:
                writer.close()

    return look


def gateway_look(settings: Settings) -> Look:
    """Return a look at the payment gateway: it answers HTTP, with any status below 500.

    In production, a mock gateway is a StandInError.
    """
    address = urlsplit(settings.payment_gateway_url)
    is_tls = address.scheme == "https"
    host = address.hostname or ""
    request = f"GET {address.path.rstrip('/')}/health HTTP/1.1\r\nHost: {address.netloc.rpartition('@')[2]}\r\n"
    request += "User-Agent: articurated\r\nConnection: close\r\n\r\n"

    async def look() -> None:
        async with asyncio.timeout(LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, address.port or (443 if is_tls else 80), ssl=_trusted() if is_tls else None, limit=_LONGEST_LINE
            )
            try:
                writer.write(request.encode())
                await writer.drain()
                version, status, *_ = (await reader.readline()).split(b" ", 2)
                if not version.startswith(b"HTTP/") or not 100 <= int(status) < 500:
                    raise ConnectionError("not well")
                if settings.environment == "production" and await _has_header(reader, MOCK_HEADER.encode()):
                    raise StandInError("PAYMENT_GATEWAY_URL leads to a mock gateway, which moves no money")
            finally:
                writer.close()

    return look


async def _has_header(reader: asyncio.StreamReader, wanted: bytes) -> bool:
    """Return whether a header is among those of the answer; reads at most `_MOST_HEADERS`."""
    for _ in range(_MOST_HEADERS):
        line = await reader.readline()
        if not line.strip():
            return False
        if line.partition(b":")[0].strip().lower() == wanted:
            return True
    return False


async def refuse_stand_ins(settings: Settings) -> None:
    """Refuse to start production on a mock gateway or a mail catcher; a part that is away is judged when it is back.

    Raises:
        SettingsError: the message names the variable of each.
    """
    if settings.environment != "production":
        return
    looks = (gateway_look(settings), smtp_look(settings))
    outcomes = await asyncio.gather(*(look() for look in looks), return_exceptions=True)
    faults = [f"  {outcome}" for outcome in outcomes if isinstance(outcome, StandInError)]
    if faults:
        raise SettingsError("\n".join(["Configuration refused:", *faults]))


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


def storage_look(settings: Settings) -> Look:
    """Return a look at the document storage: a file can be written to a folder, a bucket can be asked for a key."""
    if settings.storage_type == "local":
        return lambda: asyncio.to_thread(_write_something, settings.storage_path)

    async def ask() -> None:
        # Imported here: a local folder, the default, needs none of it, and it is large.
        from app.utils.storage import storage_for  # noqa: PLC0415

        async with asyncio.timeout(LOOK_SECONDS):
            await storage_for(settings).exists("health/look")

    return ask


def _write_something(folder: Path) -> None:
    """Write a file without a name, which has no entry in the folder and which the kernel removes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"?")
        file.flush()
