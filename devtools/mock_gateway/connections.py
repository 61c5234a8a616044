"""What happens at the edge: who may speak, how much may be said, and connections that break on order."""

import asyncio
import hmac
import os
import socket
import struct
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devtools.mock_gateway.errors import error_body

MAX_BODY_BYTES = 65_536
IDENTITY_HEADER = "articurated-mock-gateway"
"""On every answer and every webhook, so that a client in production can refuse it."""
_OPEN_PATHS = frozenset({"/", "/health"})
_TRANSPORT = "articurated.gateway.transport"


class ConnectionDroppedError(Exception):
    """Raised in place of a dropped connection where there is no socket, e.g. under an in-process client."""


class _CallerGoneError(Exception):
    """The caller went away in the middle of a request."""


class GatewayMiddleware:
    """Middleware: refuses callers without the key (401) and large bodies (413), and keeps the connection for faults.

    The health check and the human page are open: they show no token and no key. Every answer has IDENTITY_HEADER.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _identified(send)
        if scope["path"] not in _OPEN_PATHS and not self._is_known(scope):
            await _refuse(401, "unauthenticated", "A valid API key is required.")(scope, receive, send)
            return
        try:
            body = await _read_body(receive)
        except _CallerGoneError:
            return  # an incomplete request is not answered: an absent body is a valid request
        if body is None:
            await _refuse(413, "body_too_large", f"At most {MAX_BODY_BYTES} bytes.")(scope, receive, send)
            return
        scope[_TRANSPORT] = getattr(getattr(receive, "__self__", None), "transport", None)
        handed_over = False

        async def again() -> Message:
            nonlocal handed_over
            if handed_over:
                return await receive()
            handed_over = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    def _is_known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


def _identified(send: Send) -> Send:
    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (IDENTITY_HEADER.encode(), b"true")]
        await send(message)

    return send_on


def _refuse(status: int, code: str, message: str) -> Response:
    headers = {"Connection": "close", "WWW-Authenticate": "Bearer"}
    return JSONResponse(error_body("invalid_request_error", code, message), status, headers)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, None when it is larger than this service reads.

    Raises:
        _CallerGoneError: the connection ended before the body did.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CallerGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


class DroppedConnection(Response):
    """Answers nothing: holds the connection, then breaks it with a TCP reset."""

    def __init__(self, hold_seconds: float = 0.0) -> None:
        super().__init__()
        self._hold_seconds = hold_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Hold until the time is over or the caller has gone away, then reset."""
        try:
            async with asyncio.timeout(self._hold_seconds):
                await _gone(receive)
                return
        except TimeoutError:
            transport = scope.get(_TRANSPORT)
        if transport is None:
            raise ConnectionDroppedError
        _reset(transport)
        await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _reset(transport: Any) -> None:
    """Close a transport so that the peer sees a reset: no lingering, no orderly end."""
    duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    with duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
