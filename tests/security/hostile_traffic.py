"""Traffic that costs a careless server its memory: scenarios for one real API process.

Each scenario is a function of a `Target` that sends its traffic, reads what comes back and returns when the server has
answered or hung up. `SCENARIOS` is the list that `test_memory.py` runs through, one after the other, on one process.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from time import time
from typing import Any

from tests import files_support
from tests.factories import order_payload
from tests.files_support import MULTIPART, PDF, paper, part, photo

ORDERS = "/api/v1/orders"
WEBHOOK = "/api/v1/payments/webhook"
MEGABYTE = 1_048_576
UPLOAD_BYTES = 10 * MEGABYTE
_BLOCK = b"x" * 65_536


@dataclass(frozen=True)
class Target:
    """Where the API process listens, and a key that it takes."""

    port: int
    api_key: str
    host: str = "127.0.0.1"

    def connect(self, seconds: float = 60) -> socket.socket:
        """Return a connection."""
        return socket.create_connection((self.host, self.port), timeout=seconds)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """Send one request with the key and return the answer's status and body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            given = {"X-API-Key": self.api_key, "Content-Type": "application/json", **headers}
            connection.request(method, path, body or None, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def bodies() -> Iterator[tuple[str, bytes]]:
    """Yield bodies of up to 1 MiB, each the worst of its kind for someone, and a name for each."""
    room = MEGABYTE - 200
    name = b"n" * 60_000

    def filled(unit: bytes, before: bytes = b'{"a":[', after: bytes = b"]}") -> bytes:
        return before + b",".join([unit] * (room // (len(unit) + 1))) + after

    yield "a long name over 20,000 lists", b'{"' + name + b'":[' + b",".join([b"[]"] * 20_000) + b"]}"
    yield "a long name over 9,000 lists", b'{"' + name + b'":[' + b",".join([b"[]"] * 9_000) + b"]}"
    yield "nested long names", b'{"' + name[:30_000] + b'":[' + b",".join([b'{"a":[]}'] * 4_000) + b"]}"
    yield "integers", filled(b"0")
    yield "floats", filled(b"1e9")
    yield "long floats", filled(b"0." + b"1" * 300)
    yield "lists", filled(b"[]")
    yield "objects", filled(b"{}")
    yield "objects of one", filled(b'{"":0}')
    yield "texts", filled(b'""')
    yield "one name again and again", filled(b'"":0', b"{", b"}")
    yield "names in objects of 1,000", filled(b"{" + b",".join(b'"%d":0' % number for number in range(1_000)) + b"}")
    yield "one text", b'{"reason":"' + b"x" * room + b'"}'
    yield "one text of escapes", b'{"reason":"' + b"\\\\" * (room // 2) + b'"}'
    yield "one text of quotes", b'{"reason":"' + b'\\"' * (room // 2) + b'"}'
    yield "one text of digits", b'{"reason":"' + b"4111-" * (room // 5) + b'"}'
    yield "one name", b'{"' + b"x" * room + b'":1}'
    yield "names that no order has", b"{" + b",".join(b'"k%d":0' % number for number in range(1_000)) + b"}"
    lines = b",".join([b"{" + b",".join(b'"k%d":0' % number for number in range(49)) + b"}"] * 199)
    yield "faults in 200 lines", b'{"line_items":[' + lines + b"]}"
    yield "200 lines of long texts", b'{"line_items":[' + filled(b'{"sku":"' + b"1 " * 2_500 + b'"}', b"", b"") + b"]}"
    yield "100,000 lines", b'{"line_items":[' + filled(b"0", b"", b"") + b"]}"
    order = order_payload()
    order["metadata"] = {f"key-{number}": "4111 1111 " * 2_000 for number in range(49)}
    yield "metadata of 1 MB", json.dumps(order).encode()
    order["metadata"] = {"deep": [{"a": [number]} for number in range(30_000)]}
    yield "metadata of lists", json.dumps(order).encode()


def hostile_bodies(target: Target) -> None:
    """Send each of the bodies to two endpoints."""
    for name, body in bodies():
        for path in (ORDERS, "/api/v1/returns"):
            status, _ = target.request("POST", path, body)
            assert status in {413, 422}, (name, path, status)


def large_orders_in_lists(target: Target) -> None:
    """Create orders as large as they may be, and list them."""
    order = order_payload()
    order["metadata"] = {f"{number:02}" + "k" * 60: "v" * 240 for number in range(50)}
    for line in order["line_items"]:
        line["product_name"] = "é" * 300
    for _ in range(20):
        status, _ = target.request("POST", ORDERS, json.dumps(order).encode())
        assert status == 201
    for _ in range(5):
        status, _ = target.request("GET", f"{ORDERS}?limit=100")
        assert status == 200


def endless_header(target: Target) -> None:
    """Send one header of 200 MB, to two paths."""
    for start in (b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"GET /"):
        with target.connect() as connection, suppress(OSError):
            connection.sendall(start)
            for _ in range(200 * 16):
                connection.sendall(_BLOCK)


def many_headers(target: Target) -> None:
    """Send 50 MB of small headers."""
    with target.connect() as connection, suppress(OSError):
        connection.sendall(b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(800):
            connection.sendall(b"a: b\r\n" * 10_000)


def held_back_webhooks(target: Target) -> None:
    """Send 120 webhooks, unsigned and with a forged signature, that never send their last byte."""
    forged = b"webhook-id: evt_1\r\nwebhook-timestamp: %d\r\nwebhook-signature: v1,%s=\r\n" % (int(time()), b"A" * 43)
    for signature, size in ((b"", MEGABYTE), (forged, 65_536)):
        with ExitStack() as stack:
            connections = [stack.enter_context(target.connect()) for _ in range(120)]
            head = (
                b"POST %s HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
            )
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(head % (WEBHOOK.encode(), signature, size) + b" " * (size - 1))
            for connection in connections:
                _read_to_the_end(connection)


def pipelined_requests(target: Target) -> None:
    """Send 100,000 requests on one connection without reading an answer."""
    with target.connect(seconds=20) as connection, suppress(OSError):
        for _ in range(100):
            connection.sendall(b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000)


def chunks_and_trailers(target: Target) -> None:
    """Send 50 MB of chunk extensions and of trailers behind a refused body."""
    head = (
        b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"
        b"x-api-key: %s\r\ntransfer-encoding: chunked\r\n\r\n" % target.api_key.encode()
    )
    for tail in (b"1;" + b"x" * 65_000 + b"\r\n \r\n", b"0\r\n" + b"a: b\r\n" * 10_000):
        with target.connect() as connection, suppress(OSError):
            connection.sendall(head)
            for _ in range(800):
                connection.sendall(tail)


def stalled_readers(target: Target) -> None:
    """Ask for 100 lists on each of 20 connections, and read none of the answers."""
    ask = b"GET /api/v1/orders?limit=100 HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n\r\n" % target.api_key.encode()
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(20)]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            with suppress(OSError):
                connection.sendall(ask * 100)
        target.request("GET", "/api/v1/health/live")


def stalled_downloads(target: Target) -> None:
    """Follow the link to one file of 10 MB on each of 50 connections, and read none of the answers."""
    status, made = target.request("POST", ORDERS, json.dumps(order_payload()).encode())
    assert status == 201, made
    order_id = json.loads(made)["id"]
    for state in ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED"):
        target.request("PATCH", f"{ORDERS}/{order_id}/state", json.dumps({"new_state": state}).encode())
    asked = {"order_id": order_id, "reason": "Glaze is cracked"}
    status, made = target.request("POST", "/api/v1/returns", json.dumps(asked).encode())
    assert status == 201, made
    content = PDF[:9] + b"%" + b"x" * (10 * MEGABYTE - len(PDF) - 2) + b"\n" + PDF[9:]
    path = f"/api/v1/returns/{json.loads(made)['id']}/attachments"
    status, made = target.request(
        "POST", path, files_support.body(files_support.part(content)), **{"Content-Type": MULTIPART}
    )
    assert status == 201, made
    link = json.loads(made)["link"]
    ask = f"GET {link[link.index('/api/') :]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(target.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.sendall(ask)
        target.request("GET", "/api/v1/health/live")


def many_connections(target: Target) -> None:
    """Open 600 connections that say half a line, and hold them."""
    with ExitStack() as stack:
        for _ in range(600):
            with suppress(OSError):
                connection = stack.enter_context(target.connect(seconds=5))
                connection.sendall(b"GET /api/v1/health HT")
        target.request("GET", "/api/v1/health/live")


def bodies_at_once(target: Target) -> None:
    """Send 300 bodies of 1 MB at once, each but its last byte."""
    head = (
        b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\nx-api-key: %s\r\n"
        b"content-length: %d\r\n\r\n"
    ) % (target.api_key.encode(), MEGABYTE)
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect(seconds=5)) for _ in range(300)]
        for connection in connections:
            with suppress(OSError):
                connection.sendall(head + b" " * (MEGABYTE - 1))
        target.request("GET", "/api/v1/health/live")


def uploads_at_once(target: Target) -> None:
    """Upload 40 files of 10 MB at once, PDFs and padded JPEGs, each held back by its last byte and then completed."""
    path = _return_of_an_order(target)
    ends = b"\r\n--limit-of-parts--\r\n"
    statuses = []
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(40)]
        for number, connection in enumerate(connections):
            file = paper(UPLOAD_BYTES, b"%d" % number) if number % 2 else photo(number).ljust(UPLOAD_BYTES, b"\0")
            content = part(file)[:-2]
            head = (
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\nx-api-key: %s\r\n"
                b"content-type: %s\r\ncontent-length: %d\r\n\r\n"
            ) % (path.encode(), target.api_key.encode(), MULTIPART.encode(), len(content) + len(ends))
            with suppress(OSError):
                connection.sendall(head + content + ends[:-1])
        for connection in connections:
            with suppress(OSError):
                connection.sendall(ends[-1:])
        for connection in connections:
            with suppress(OSError):
                statuses.append(int(connection.recv(65_536)[9:12]))
            _read_to_the_end(connection)
    assert set(statuses) <= {201, 409, 503}, statuses
    # As many as the return takes; and some were not let in at all.
    assert (statuses.count(201), 503 in statuses) == (10, True), statuses


def _return_of_an_order(target: Target) -> str:
    """Return the path of the attachments of a return, made of an order that is there."""

    def sent(method: str, path: str, **body: str) -> dict[str, Any]:
        status, answer = target.request(method, path, json.dumps(body).encode() if body else b"")
        assert status in {200, 201}, (path, answer)
        found: dict[str, Any] = json.loads(answer)
        return found

    order_id = sent("GET", f"{ORDERS}?limit=1")["data"][0]["id"]
    for step in ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED"):
        sent("PATCH", f"{ORDERS}/{order_id}/state", new_state=step)
    returned = sent("POST", "/api/v1/returns", order_id=order_id, reason="Glaze is cracked")
    return f"/api/v1/returns/{returned['id']}/attachments"


def _read_to_the_end(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65_536):
            pass


SCENARIOS: list[Callable[[Target], None]] = [
    hostile_bodies,
    large_orders_in_lists,
    uploads_at_once,
    stalled_readers,
    stalled_downloads,
    endless_header,
    many_headers,
    chunks_and_trailers,
    pipelined_requests,
    held_back_webhooks,
    bodies_at_once,
    many_connections,
]
