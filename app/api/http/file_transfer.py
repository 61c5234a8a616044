"""Sending files: in pieces, so many at once, and within a time (NFR-004).

A file that is stored is never in memory as a whole, and a reader who stops reading gives up the place of others: after
`STALL_SECONDS` without taking a piece, or `TRANSFER_SECONDS` in all, the connection is closed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from fastapi import Response
from fastapi.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from app.utils.exceptions import ServiceUnavailableError

if TYPE_CHECKING:
    # The storage's library is loaded when the first file is asked for.
    from app.utils.storage import StoredBytes

logger = structlog.get_logger(__name__)

TRANSFERS_AT_ONCE = 16
"""Of one process. One more is answered 503, so that readers who stall cannot make it hold more."""

TRANSFER_SECONDS = 120.0
STALL_SECONDS = 20.0

Open = Callable[[], Awaitable["str | StoredBytes"]]


class _Places:
    """Counts the transfers of this process."""

    def __init__(self) -> None:
        self.taken = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            ServiceUnavailableError: all are taken.
        """
        if self.taken >= TRANSFERS_AT_ONCE:
            raise ServiceUnavailableError("Too many files are being sent right now; try again in a moment.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


places = _Places()


class FileTransfer(Response):
    """A file from the storage, or the address at which the storage gives it out.

    Args:
        open_file: finds out which, and checks the bytes; called when there is a place.
        headers: of the answer with the file itself.
    """

    def __init__(self, open_file: Open, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, 200, dict(headers), media_type)
        self._open = open_file
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            AppError: before anything was sent: no place is free, or the file cannot be opened, or not in time.
        """
        async with places.one():
            try:
                async with asyncio.timeout(TRANSFER_SECONDS):
                    await self._transfer(scope, receive, send)
            except TimeoutError:
                if not self._is_started:
                    raise ServiceUnavailableError("The file could not be read in time; try again.") from None
                # Without the rest of what Content-Length promised the server closes the connection.
                logger.warning("file_transfer.stalled", path=scope["path"])
            except ServiceUnavailableError:
                if not self._is_started:
                    raise
                logger.exception("file_transfer.broken_off", path=scope["path"])

    async def _transfer(self, scope: Scope, receive: Receive, send: Send) -> None:
        source = await self._open()
        if isinstance(source, str):
            await RedirectResponse(source, 307)(scope, receive, send)
            return
        self.headers["Content-Length"] = str(source.size)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._is_started = True
        if scope["method"] != "HEAD":
            async for piece in source.pieces:
                async with asyncio.timeout(STALL_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
