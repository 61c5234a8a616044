"""Limits on connections, over real sockets: what one of them may send, hold and leave unread (NFR-004)."""

import asyncio
import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from app.api.http import incoming
from app.api.http import protocol as http_protocol
from app.api.http.incoming import in_time
from app.api.http.protocol import HEAD_BYTES, PIPELINE_MAXIMUM, BoundedHttpProtocol
from app.utils.exceptions import RequestTimeoutError

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

CONNECTIONS = 4
SHORT = 0.05
BODY = b"x" * 3_000_000


class Application:
    """An ASGI application that notes its requests, and answers each path in its own way."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.paths.append(scope["path"])
        match scope["path"]:
            case "/refuses":
                await _answer(send, 413, b"too large")
            case "/reads":
                received = 0
                while True:
                    message = await receive()
                    received += len(message.get("body", b""))
                    if not message.get("more_body"):
                        break
                await _answer(send, 200, b"%d" % received)
            case "/works":
                await asyncio.to_thread(self.go_on.wait, 30)
                await _answer(send, 200, b"worked")
            case "/slow":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
                await asyncio.to_thread(self.go_on.wait, 30)
                await send({"type": "http.response.body", "body": b"slow"})
            case "/large":
                await _answer(send, 200, b"y" * 20_000_000)
            case _:
                await _answer(send, 200, b"here")


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """A running server: where it is, and what its application has seen."""

    def __init__(self, port: int, application: Application) -> None:
        self.port = port
        self.application = application

    def connect(self) -> socket.socket:
        """Return a connection; nothing on it waits longer than ten seconds."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def answer_to(self, sent: bytes) -> bytes:
        """Send bytes, and return all that comes back until the server ends the connection."""
        with self.connect() as connection:
            with suppress(ConnectionError):
                connection.sendall(sent)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def served(connection: socket.socket, sent: bytes) -> bool:
    """Send a request; return whether it is answered. Head and body of an answer may come apart."""
    connection.sendall(sent)
    found = b""
    while not found.endswith(b"here") and (piece := connection.recv(65_536)):
        found += piece
    return found.startswith(b"HTTP/1.1 200 ")


def error_in(answer: bytes) -> tuple[int, str]:
    """Return status and code of an answer, which must have the one error shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert sorted(error) == ["code", "details", "message", "request_id"]
    headers = head.lower().split(b"\r\n")
    assert b"connection: close" in headers
    assert b"content-length: %d" % len(body) in headers
    assert f"x-request-id: {error['request_id']}".encode() in headers
    return int(head.split(b" ")[1]), error["code"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # No test needs the time itself: those of a deadline make it short.
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 30)
    application = Application()
    config = uvicorn.Config(
        application,
        port=0,
        loop="uvloop",
        http=BoundedHttpProtocol,
        ws="none",
        limit_concurrency=CONNECTIONS,
        lifespan="off",
        timeout_keep_alive=60,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    started = threading.Event()
    wait_started = running.startup

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await wait_started(sockets)
        started.set()

    monkeypatch.setattr(running, "startup", startup)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield Server(running.servers[0].sockets[0].getsockname()[1], application)
    application.go_on.set()
    running.should_exit = True
    thread.join(30)


def get(path: str = "/", extra: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), extra)


def post(path: str, length: int, extra: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\ncontent-length: %d\r\n%b\r\n" % (path.encode(), length, extra)


# --- head and body of an answer -------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that notes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Note it."""
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return b"closed" in self.written

    def close(self) -> None:
        """Note it."""
        self.written.append(b"closed")


def transport_on(wire: Wire) -> tuple[Any, SimpleNamespace]:
    """Return our transport over a wire, and the protocol that it asks, with an answer begun."""
    asked = SimpleNamespace(
        cycle=SimpleNamespace(response_started=True), loop=asyncio.get_running_loop(), is_receiving=False
    )
    return http_protocol._Transport(wire, cast("BoundedHttpProtocol", asked)), asked


async def test_head_and_body_of_each_answer_are_written_together() -> None:
    transport, asked = transport_on(wire := Wire())
    for piece in (b"head ", b"body", b"more"):
        transport.write(piece)
    asked.cycle = SimpleNamespace(response_started=True)
    for piece in (b"next ", b"body"):
        transport.write(piece)
    await asyncio.sleep(0)
    assert wire.written == [b"head body", b"more", b"next body"]


async def test_a_head_without_a_body_is_written_when_the_loop_comes_round() -> None:
    transport, _ = transport_on(wire := Wire())
    transport.write(b"head")
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [b"head"]


async def test_a_head_is_written_before_the_connection_is_closed_and_not_after() -> None:
    transport, asked = transport_on(wire := Wire())
    transport.write(b"head")
    transport.close()
    asked.cycle = SimpleNamespace(response_started=True)
    transport.write(b"late")
    await asyncio.sleep(0)
    assert wire.written == [b"head", b"closed"]


async def test_what_is_written_before_an_answer_begins_is_not_held() -> None:
    transport, asked = transport_on(wire := Wire())
    asked.cycle.response_started = False
    transport.write(b"100 Continue")
    assert wire.written == [b"100 Continue"]


def test_a_head_does_not_wait_for_a_slow_body(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(get("/slow"))
        assert connection.recv(65_536).endswith(b"content-length: 4\r\n\r\n")
        server.application.go_on.set()
        assert connection.recv(65_536) == b"slow"


# --- an answer that comes before the body has -----------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}], ids=["kept alive", "closed"])
def test_an_early_answer_reaches_a_client_that_still_sends(server: Server, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/refuses", BODY, headers)
    answered = connection.getresponse()
    assert (answered.status, answered.read()) == (413, b"too large")
    connection.close()
    with httpx2.Client(trust_env=False) as client:
        for _ in range(2):
            response = client.post(f"http://127.0.0.1:{server.port}/refuses", content=BODY, headers=headers)
            assert (response.status_code, response.content) == (413, b"too large")


def test_the_connection_of_an_early_answer_serves_the_next_request(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(post("/refuses", 100) + b"x" * 100 + get("/next", b"connection: close\r\n"))
        assert read_all(connection).count(b"HTTP/1.1 ") == 2
    assert server.application.paths == ["/refuses", "/next"]


@pytest.mark.parametrize("extra", [b"", b"connection: close\r\n"])
def test_no_more_of_a_refused_body_is_read_than_the_limit(
    server: Server, monkeypatch: pytest.MonkeyPatch, extra: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "DRAIN_BYTES", 100_000)
    with server.connect() as connection:
        connection.sendall(post("/refuses", 1_000_000_000, extra))
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * 200_000_000)


@pytest.mark.parametrize("extra", [b"", b"connection: close\r\n"])
def test_the_rest_of_a_refused_body_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, extra: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "DRAIN_SECONDS", SHORT)
    ended = threading.Event()
    _on_loss(monkeypatch, ended.set)
    with server.connect() as connection:
        connection.sendall(post("/refuses", 100, extra) + b"x" * 99)
        assert ended.wait(20), "the connection is still there"
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")


def test_a_connection_whose_refused_body_was_read_ends_when_it_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keep-alive of uvicorn is cancelled by each byte of the body."""
    monkeypatch.setattr(http_protocol, "DRAIN_SECONDS", 30)
    monkeypatch.setattr(BoundedHttpProtocol, "timeout_keep_alive", property(lambda _: SHORT, lambda *_: None), False)
    with server.connect() as connection:
        connection.sendall(post("/refuses", 100))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"x" * 100)
        read_all(connection)


# --- the head of a request ------------------------------------------------------------------------------------------

OVER = HEAD_BYTES + 1


@pytest.mark.parametrize(
    "sent",
    [
        get("/", b"x-long: " + b"v" * OVER + b"\r\n"),
        get("/", b"n" * OVER + b": v\r\n"),
        get("/", b"a: b\r\n" * (OVER // 6)),
        get("/?" + "q" * OVER),
        get("/" + "p" * OVER),
        b"GET / HTTP/1.1\r\nx-endless: " + b"v" * 400_000,
        b"GET /" + b"p" * 400_000,
        b"POST /reads HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"a: b\r\n" * OVER,
    ],
    ids=["value", "name", "many", "query", "path", "endless value", "endless path", "trailers"],
)
def test_headers_have_a_limit(server: Server, sent: bytes) -> None:
    assert error_in(server.answer_to(sent)) == (431, "HEADERS_TOO_LARGE")
    assert server.application.paths in ([], ["/reads"])


def test_headers_up_to_the_limit_pass(server: Server) -> None:
    sent = get("/", b"x-long: " + b"v" * (HEAD_BYTES - 200) + b"\r\n")
    with server.connect() as connection:
        for _ in range(3):
            assert served(connection, sent)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHo", b"G", get() + b"GET /"])
def test_headers_have_a_deadline(server: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SHORT)
    answered = server.answer_to(sent)
    assert error_in(answered[answered.rindex(b"HTTP/1.1 ") :]) == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
def test_a_connection_on_which_no_request_begins_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SHORT)
    assert server.answer_to(sent) == b""


def test_blank_lines_do_not_keep_a_connection_open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cancel the keep-alive of uvicorn, and no request begins."""
    with server.connect() as connection:
        assert served(connection, get())
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SHORT)
        connection.sendall(b"\r\n\r\n")
        assert read_all(connection) == b""


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTP/9\r\n\r\n", b"\0" * 10])
def test_what_is_no_http_is_refused_in_the_one_shape(server: Server, sent: bytes) -> None:
    assert error_in(server.answer_to(sent)) == (400, "BAD_REQUEST")
    assert server.application.paths == []


# --- the body -------------------------------------------------------------------------------------------------------


async def test_a_body_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "BODY_SECONDS", SHORT)
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {"type": "http.request"}

    with pytest.raises(RequestTimeoutError):
        await in_time(receive)()


async def test_a_client_that_sends_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as many bytes as it has sent; what comes behind the body, a disconnect, is waited for as long as asked."""
    monkeypatch.setattr(incoming, "BODY_SECONDS", 0)
    monkeypatch.setattr(incoming, "BYTES_A_SECOND", 1)
    arriving: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": b"x" * 60, "more_body": True},
            {"type": "http.request", "body": b"", "more_body": False},
            {"type": "http.disconnect"},
        ]
    )
    waits = iter([False, True, True])

    async def receive() -> Message:
        if next(waits):
            await asyncio.sleep(0)
        return next(arriving)

    receive_in_time = in_time(receive)
    assert [(await receive_in_time())["type"] for _ in range(3)] == ["http.request", "http.request", "http.disconnect"]


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_new_connection_takes_the_place_of_the_one_that_waited_longest(server: Server) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        for connection in (*waiting, waiting[0]):
            assert served(connection, get())
        assert served(stack.enter_context(server.connect()), get())
        assert read_all(waiting[1]) == b""
        for connection in (waiting[0], waiting[2], waiting[3]):
            assert served(connection, get())


def test_beyond_the_limit_of_connections_at_work_the_next_is_refused(server: Server) -> None:
    with ExitStack() as stack:
        working = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS)]
        for connection in working:
            connection.sendall(get("/works", b"connection: close\r\n"))
        for _ in range(10):
            with server.connect() as refused:
                answered = read_all(refused)
            if answered.startswith(b"HTTP/1.1 503 "):
                assert error_in(answered) == (503, "SERVICE_UNAVAILABLE")
                assert b"retry-after: " in answered.lower()
        server.application.go_on.set()
        assert [read_all(connection).endswith(b"worked") for connection in working] == [True] * CONNECTIONS


def test_few_requests_may_be_sent_ahead(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(get("/works") + get() * PIPELINE_MAXIMUM)
        server.application.go_on.set()
        found = b""
        while found.count(b"HTTP/1.1 200") < 1 + PIPELINE_MAXIMUM:
            found += connection.recv(65_536)
    server.application.go_on.clear()
    server.application.paths.clear()
    read_all_of = server.answer_to(get("/works") + get() * 1_000)
    assert read_all_of == b""
    assert len(server.application.paths) <= 1


def test_a_client_that_reads_nothing_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALL_SECONDS", SHORT)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", server.port))
        ended = threading.Event()
        _on_loss(monkeypatch, ended.set)
        connection.sendall(get("/large"))
        assert ended.wait(30), "the connection is still there"


def test_a_client_that_reads_slowly_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALL_SECONDS", 5)
    with server.connect() as connection:
        connection.sendall(get("/large", b"connection: close\r\n"))
        assert len(read_all(connection)) > 20_000_000


def _on_loss(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Any]) -> None:
    lost = BoundedHttpProtocol.connection_lost

    def connection_lost(self: BoundedHttpProtocol, exc: Exception | None) -> None:
        lost(self, exc)
        then()

    monkeypatch.setattr(BoundedHttpProtocol, "connection_lost", connection_lost)


def test_a_reset_leaves_nothing_behind(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    seen: list[BoundedHttpProtocol] = []
    lost = BoundedHttpProtocol.connection_lost

    def connection_lost(self: BoundedHttpProtocol, exc: Exception | None) -> None:
        lost(self, exc)
        seen.append(self)
        ended.set()

    monkeypatch.setattr(BoundedHttpProtocol, "connection_lost", connection_lost)
    with server.connect() as connection:
        connection.sendall(b"GET / HT")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ended.wait(30)
    assert seen[0]._timers == {}
