"""The load generator: many keep-alive connections from one small process, a request in flight on each.

A general HTTP client would cost more than the server that it measures. This one writes prepared bytes and reads
an answer by its Content-Length. It runs as a process of its own: `python -m benchmarks.load <plan.json>`.
"""

import asyncio
import random
import re
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, cast

import orjson
import uvloop

from benchmarks.works import (
    LINES,
    LISTED_ROWS,
    LISTED_STATUSES,
    SHIPMENT,
    SHIPPING,
    STEPS,
    TAX_RATE,
    UNIT_PRICE,
    Pool,
    Work,
    order_id,
    slot,
)

PATIENCE_SECONDS = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and where to leave the samples.

    Attributes:
        ports: of the API on 127.0.0.1; connections are dealt out to them in turn.
        seconds: for how long new requests are sent.
        start: number of the first order to walk.
        readable: how many orders the pool READ has.
        samples: file for pairs of doubles, end and duration of each expected answer, in seconds.
        ready: file that is made when every connection is open.
        go: file that is waited for before the first request.
    """

    work: Work
    ports: list[int]
    api_key: str
    connections: int
    seconds: float
    start: int
    readable: int
    samples: str
    ready: str
    go: str

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> "Plan":
        """Rebuild it."""
        members = orjson.loads(text)
        return cls(**{**members, "work": Work(members["work"])})


class Requests(Protocol):
    """Where a connection takes its requests from."""

    status: bytes

    def next(self, *, succeeded: bool) -> tuple[bytes, bytes]:
        """Return the next request, and what its answer has to contain."""


class Walk:
    """Brings one order after the other through all its states."""

    status = b"200"

    def __init__(self, plan: Plan, connection: int) -> None:
        self._plan = plan
        self._connection = connection
        self._index, self._step = 0, -1
        self._bodies = [
            orjson.dumps({"new_state": state, **(SHIPMENT if state == "SHIPPED" else {})}) for state in STEPS
        ]

    def next(self, *, succeeded: bool) -> tuple[bytes, bytes]:
        """Return the order's next transition; one that failed is not walked on."""
        self._step += 1
        if self._step == len(STEPS) or not succeeded:
            self._index, self._step = self._index + 1, 0
        number = slot(self._plan.start, self._index, self._plan.connections, self._connection)
        path = f"/api/v1/orders/{order_id(Pool.API, number)}/state"
        request = _request("PATCH", path, self._plan.api_key, self._bodies[self._step])
        return request, f'"status":"{STEPS[self._step]}"'.encode()


class Reads:
    """Reads orders of the pool READ at random."""

    status = b"200"

    def __init__(self, plan: Plan, connection: int) -> None:
        self._plan = plan
        self._dice = random.Random(connection)

    def next(self, *, succeeded: bool) -> tuple[bytes, bytes]:  # noqa: ARG002 - of the protocol
        """Return a read."""
        wanted = order_id(Pool.READ, self._dice.randrange(self._plan.readable))
        return _request("GET", f"/api/v1/orders/{wanted}", self._plan.api_key), wanted.encode()


class Repeats:
    """Sends the same requests in turn, again and again."""

    def __init__(self, requests: Sequence[tuple[bytes, bytes]], status: bytes, first: int = 0) -> None:
        self._requests, self.status, self._index = requests, status, first - 1

    def next(self, *, succeeded: bool) -> tuple[bytes, bytes]:  # noqa: ARG002 - of the protocol
        """Return the request whose turn it is."""
        self._index = (self._index + 1) % len(self._requests)
        return self._requests[self._index]


NEW_ORDER = {
    "customer_id": "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60",
    "customer_email": "ada@example.com",
    "customer_name": "Ada Marchand",
    "currency": "EUR",
    "payment_method": "credit_card",
    "payment_token": "tok_visa",
    "shipping_amount": float(SHIPPING),
    "shipping_address": {"street": "4 Quai des Arts", "city": "Paris", "postal_code": "75001", "country": "FR"},
    "line_items": [
        {
            "product_id": f"vase-{position}",
            "product_name": f"Celadon vase {position}",
            "quantity": 1,
            "unit_price": float(UNIT_PRICE),
            "tax_rate": float(TAX_RATE),
        }
        for position in range(1, LINES + 1)
    ],
}


def requests_for(plan: Plan, connection: int) -> Requests:
    """Return the requests that a connection sends."""
    match plan.work:
        case Work.TRANSITION:
            return Walk(plan, connection)
        case Work.READ:
            return Reads(plan, connection)
        case Work.CREATE:
            request = _request("POST", "/api/v1/orders", plan.api_key, orjson.dumps(NEW_ORDER))
            return Repeats([(request, b'"status":"PENDING_PAYMENT"')], b"201")
        case Work.LIST:
            requests = [
                (
                    _request("GET", f"/api/v1/orders?status={status}&limit={LISTED_ROWS}", plan.api_key),
                    f'"status":"{status}"'.encode(),
                )
                for status in LISTED_STATUSES
            ]
            return Repeats(requests, b"200", first=connection % len(requests))


def _request(method: str, path: str, api_key: str, body: bytes | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"x-api-key: {api_key}"]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


class Recorder:
    """What all connections saw."""

    def __init__(self) -> None:
        self.samples = array("d")
        self.errors: Counter[str] = Counter()
        self.deadline = 0.0

    def expected(self, ended: float, took: float) -> None:
        """Note an answer that was as it should be."""
        self.samples.extend((ended, took))

    def unexpected(self, what: str) -> None:
        """Note anything else."""
        self.errors[what] += 1


class Client(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, requests: Requests, recorder: Recorder) -> None:
        self._requests = requests
        self._recorder = recorder
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._needed = 0
        self._sent_at = 0.0
        self._expected = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note a connection that the server ended."""
        if not self.done.done():
            self._recorder.unexpected(f"connection lost: {exc}")
            self.done.set_result(None)

    def send_next(self, *, succeeded: bool = True) -> None:
        """Send a request, or end when the time is over."""
        now = time.perf_counter()
        if now >= self._recorder.deadline or self._transport is None:
            self.done.set_result(None)
            return
        request, self._expected = self._requests.next(succeeded=succeeded)
        self._sent_at = now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; judge it when it is whole."""
        self._received = self._received + data if self._received else data
        if not self._needed:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._received, 0, head)
            self._needed = head + 4 + (int(length[1]) if length else 0)
        if len(self._received) < self._needed:
            return
        ended = time.perf_counter()
        answer, self._received, self._needed = self._received, b"", 0
        succeeded = answer[9:12] == self._requests.status and self._expected in answer
        if succeeded:
            self._recorder.expected(ended, ended - self._sent_at)
        else:
            body = answer.partition(b"\r\n\r\n")[2][:200].decode(errors="replace")
            self._recorder.unexpected(f"{answer[9:12].decode()} {_without_ids(body)}")
        self.send_next(succeeded=succeeded)


def _without_ids(text: str) -> str:
    """Return an answer's text with everything that differs from request to request left out."""
    return re.sub(r"[0-9a-f]{8}(-?[0-9a-f]{4,}){3,}|\d{4}-\d\d-\d\dT[0-9:.+Z-]+", "…", text)


async def generate(plan: Plan) -> Recorder:
    """Carry out a plan and return what was seen."""
    loop = asyncio.get_running_loop()
    recorder = Recorder()
    clients = []
    for number in range(plan.connections):
        client = Client(requests_for(plan, number), recorder)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", plan.ports[number % len(plan.ports)])  # type: ignore[misc]
        clients.append(client)
    Path(plan.ready).touch()  # noqa: ASYNC240 - nothing else runs in this loop
    while not Path(plan.go).exists():  # noqa: ASYNC110, ASYNC240 - likewise
        await asyncio.sleep(0.01)
    recorder.deadline = time.perf_counter() + plan.seconds
    for client in clients:
        client.send_next()
    _, hanging = await asyncio.wait([client.done for client in clients], timeout=plan.seconds + PATIENCE_SECONDS)
    for _ in hanging:
        recorder.unexpected(f"no answer within {PATIENCE_SECONDS:.0f} s")
    return recorder


def main() -> None:
    """Run as a process: plan from the file in the first argument, summary on standard output."""
    plan = Plan.from_json(Path(sys.argv[1]).read_bytes())
    before = time.process_time()
    recorder = uvloop.run(generate(plan))
    spent = time.process_time() - before
    with Path(plan.samples).open("wb") as file:
        recorder.samples.tofile(file)
    sys.stdout.buffer.write(orjson.dumps({"errors": dict(recorder.errors), "cpu_seconds": spent}))


if __name__ == "__main__":
    main()
