"""What one connection may cost the server before a request of it is known to be worth anything (NFR-004).

uvicorn's HTTP/1.1 protocol has no limit of its own on headers, on the time that a client takes, on pipelined requests or
on unread answers. This class adds them, on one asyncio connection each:

    header      HEAD_BYTES in all, HEAD_SECONDS from its first byte, or from the connection's start; then 431 or 408
    body        DRAIN_BYTES and DRAIN_SECONDS more are read of one that was answered early (413, 401, …), and discarded:
                a client that is still sending would get a reset instead of the answer. `app.api.http.incoming` has the
                deadline of a body that is being waited for.
    pipeline    PIPELINE_MAXIMUM requests behind the one at work; then the connection ends
    answer      STALL_SECONDS without a byte taken by the client; then the connection ends
    connections the limit given to uvicorn as `limit_concurrency`. A new one beyond it takes the place of the one that has
                waited longest for a request to begin or to go on; where all are at work it is answered 503.

Every refusal has the one error shape. They are written past the application, so they are in the log as
`connection.refused` and not as requests.
"""

import asyncio
from time import monotonic
from typing import Any, cast
from uuid import uuid4

import structlog
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.http.responses import ERROR_KINDS, refusal

HEAD_BYTES = 32_768
HEAD_SECONDS = 10.0
DRAIN_BYTES = 16_777_216
DRAIN_SECONDS = 5.0
STALL_SECONDS = 30.0
PIPELINE_MAXIMUM = 16

logger = structlog.get_logger(__name__)


class _RefusedError(Exception):
    """Raised inside of a callback of the parser, which makes it stop."""


class _Transport:
    """A transport that writes the head of an answer together with its body, and whose `close` waits for the client.

    uvicorn writes a head and a body, each with a system call and a packet of its own. Here the head is held until the
    next write, or until the loop comes round.

    `close` waits, within bounds, for a request that is still arriving. Closed at once, the kernel would answer what the
    client goes on sending with a reset, and the client would lose the answer with it.
    """

    def __init__(self, transport: asyncio.Transport, protocol: "BoundedHttpProtocol") -> None:
        self.real = transport
        self._protocol = protocol
        self._is_closed = False
        self._head = b""
        self._headed: object = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, data: bytes) -> None:
        cycle = self._protocol.cycle
        if self._head:
            head, self._head = self._head, b""
            self.real.write(head + data)
        elif cycle is not self._headed and cycle is not None and cycle.response_started:
            self._headed = cycle
            self._head = data
            self._protocol.loop.call_soon(self.flush)
        else:
            self.real.write(data)

    def flush(self) -> None:
        """Write the head that is held, if there is one."""
        head, self._head = self._head, b""
        if head and not self.real.is_closing():
            self.real.write(head)

    def is_closing(self) -> bool:
        return self._is_closed or self.real.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        self.flush()
        self._is_closed = True
        if not self._protocol.is_receiving or not self.real.can_write_eof():
            self.real.close()
            return
        self.real.write_eof()
        self._protocol.drain()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on httptools, within the limits above.

    Attributes:
        is_receiving: whether the client is in the middle of a request.
        waiting_since: monotonic time since when the client is waited for, with no request at work; None while one is.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections_maximum, self.limit_concurrency = self.limit_concurrency, None
        self.is_receiving = False
        self.waiting_since: float | None = None
        self._in_head = True
        self._head_bytes = 0
        self._head_size = 0
        self._drained: int | None = None
        self._is_refused = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, if there is room for one more."""
        is_full = self._connections_maximum is not None and not self._make_room()
        super().connection_made(cast("asyncio.Transport", _Transport(transport, self)))
        self.waiting_since = monotonic()
        if is_full:
            self._refuse("SERVICE_UNAVAILABLE")
        else:
            self._set_timer("head", HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer is left behind."""
        for name in list(self._timers):
            self._stop_timer(name)
        super().connection_lost(exc)

    def _make_room(self) -> bool:
        """Return whether there is room for another connection; end the one that has waited longest if there is none."""
        if len(self.connections) < cast("int", self._connections_maximum):
            return True
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, BoundedHttpProtocol) and connection.waiting_since is not None
        ]
        if not waiting:
            return False
        longest = min(waiting, key=lambda connection: cast("float", connection.waiting_since))
        # Before it is lost for the server, the loop has to come round.
        self.connections.discard(longest)
        longest.abort()
        return True

    def abort(self) -> None:
        """End the connection now, even with bytes still to be read or written."""
        cast("_Transport", self.transport).real.abort()

    # --- what the client sends --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read on, and count."""
        if self._drained is not None:
            self._drained += len(data)
            if self._drained > DRAIN_BYTES:
                self.abort()
                return
        if self._has_ended():
            return
        # The size of what has arrived of the head, for the parser gives a header only once it is whole.
        self._head_size += len(data)
        super().data_received(data)
        if self._has_ended():
            return
        if self._in_head and self._head_size > HEAD_BYTES:
            self._refuse("HEADERS_TOO_LARGE")
        elif self.waiting_since is not None and self.timeout_keep_alive_task is None and not self._timers:
            # Blank lines before a request: uvicorn waits no longer for its keep-alive, and no request has begun.
            self._set_timer("head", HEAD_SECONDS, self._head_is_late)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, where ours have the one shape
        """Refuse what is no HTTP, and what a callback of ours refused."""
        if self._is_refused:
            return
        self._refuse("HEADERS_TOO_LARGE" if self._head_bytes > HEAD_BYTES else "BAD_REQUEST")

    def on_message_begin(self) -> None:
        """A request begins: its first byte is here."""
        super().on_message_begin()
        self.is_receiving = self._in_head = True
        self._head_bytes = 0
        self._set_timer("head", HEAD_SECONDS, self._head_is_late)

    def on_url(self, url: bytes) -> None:
        """Count a piece of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer behind a chunked body."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is known, and goes to the application."""
        self._stop_timer("head")
        self._in_head = False
        self._head_size = 0
        if len(self.pipeline) >= PIPELINE_MAXIMUM:
            self._is_refused = True
            self.abort()
            raise _RefusedError
        self.waiting_since = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is read to its end."""
        super().on_message_complete()
        self.is_receiving = False
        self._head_size = 0
        if self._drained is None:
            return
        self._stop_drain()
        if self.transport.is_closing():
            cast("_Transport", self.transport).real.close()
        elif self.timeout_keep_alive_task is None and not self.pipeline:
            # uvicorn sets it with the answer, and forgets it with the next byte of the body.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _has_ended(self) -> bool:
        return self._is_refused

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise _RefusedError

    def _head_is_late(self) -> None:
        if self._is_answering():
            # Of a pipelined request: its turn to be waited for has not come.
            self._set_timer("head", HEAD_SECONDS, self._head_is_late)
        elif self.is_receiving:
            self._refuse("REQUEST_TIMEOUT")
        else:
            self.transport.close()

    # --- what it is answered ----------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The answer is out; of a request that is still arriving, discard the rest."""
        super().on_response_complete()
        if self.pipeline or self.transport.is_closing():
            return
        self.waiting_since = monotonic()
        if self.is_receiving and not self._in_head:
            self.drain()

    def drain(self) -> None:
        """Read and discard what still comes of the request, within bounds."""
        if self._drained is None:
            self._drained = 0
            self._set_timer("drain", DRAIN_SECONDS, self.abort)
        self.flow.resume_reading()

    def _stop_drain(self) -> None:
        self._drained = None
        self._stop_timer("drain")

    def _refuse(self, code: str) -> None:
        """Answer `code` and end the connection."""
        self._is_refused = True
        # The first to go when there is no room.
        self.waiting_since = 0.0
        self._stop_timer("head")
        logger.warning("connection.refused", code=code, ip=self.client[0] if self.client else None)
        if self._is_answering() and self.cycle.response_started:
            self.abort()
            return
        self.transport.write(_written(code, self.server_state.default_headers))
        if self.cycle is not None and not self.cycle.response_complete:
            # The application is still at it: nothing of what it says goes out any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.is_receiving = True
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- a client that does not read --------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """More is written than the client has taken: watch whether it takes any."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client goes on reading."""
        self._stop_timer("stall")
        super().resume_writing()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < left:
                self._watch_writing()
            else:
                self.abort()

        self._set_timer("stall", STALL_SECONDS, look)

    def _set_timer(self, name: str, seconds: float, then: Any) -> None:
        self._stop_timer(name)
        self._timers[name] = self.loop.call_later(seconds, then)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _written(code: str, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the whole answer for an error code, as it goes over the wire."""
    kind = ERROR_KINDS[code]
    request_id = uuid4().hex
    retry = {"Retry-After": "1"} if kind.status == 503 else {}
    response: Response = refusal(
        code=code,
        status=kind.status,
        message=kind.message,
        details={},
        request_id=request_id,
        headers={"X-Request-ID": request_id, "Connection": "close", "Cache-Control": "no-store", **retry},
    )
    lines = [STATUS_LINE[kind.status]]
    lines += [b"%b: %b\r\n" % header for header in (*default_headers, *response.raw_headers)]
    return b"".join([*lines, b"\r\n", bytes(response.body)])
