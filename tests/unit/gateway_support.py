"""Real servers for the gateway tests: the gateway itself, a webhook receiver, a server that says anything."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx2
import uvicorn

from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.gateway.port import GatewayPayment, PaymentRequest, RefundRequest
from devtools.mock_gateway.main import create_app
from devtools.mock_gateway.settings import GatewaySettings

API_KEY = "sk_test_unit"
SECRET = "whsec_unit-test-secret"


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail the test when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.01)


def gateway_settings(folder: Path, **overrides: Any) -> GatewaySettings:
    """Return settings for a gateway whose ledger is in `folder`."""
    values: dict[str, Any] = {
        "data_dir": folder,
        "api_key": API_KEY,
        "webhook_secret": SECRET,
        "webhook_retry_base_seconds": 0.05,
        "webhook_retry_cap_seconds": 0.2,
    }
    return GatewaySettings(**{**values, **overrides})


@dataclass(frozen=True)
class LiveGateway:
    """A gateway behind a real socket, and a client that knows its key."""

    url: str
    client: httpx2.Client

    def fault(self, operation: str, mode: str, **more: Any) -> None:
        """Order a fault."""
        self.send("POST", "/control/faults", {"operation": operation, "mode": mode, **more})

    def profile(self, **values: Any) -> None:
        """Become another kind of gateway."""
        self.send("PUT", "/control/profile", values)

    def ledger(self) -> dict[str, Any]:
        """Return the whole ledger."""
        ledger: dict[str, Any] = self.send("GET", "/control/ledger")
        return ledger

    def events(self) -> list[dict[str, Any]]:
        """Return all events with their deliveries."""
        events: list[dict[str, Any]] = self.send("GET", "/control/events")["data"]
        return events

    def moved(self, reference: object, kind: str) -> int:
        """Return how many movements of a kind there were for one of our references."""
        entry = self.ledger()["references"].get(str(reference))
        return 0 if entry is None else int(entry["counts"][kind])

    def charge(self, reference: object, amount: str, currency: str, token: str) -> Any:
        """Take money as a storefront does."""
        payment = {"reference": str(reference), "amount": amount, "currency": currency, "payment_token": token}
        return self.send("POST", "/v1/payments", {**payment, "capture": True})

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a call that has to succeed and return its JSON."""
        answer = self.client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def live_gateway(
    folder: Path,
    *,
    http: Literal["h11", "httptools"] = "httptools",
    loop: Literal["asyncio", "uvloop"] = "uvloop",
    **overrides: Any,
) -> Iterator[LiveGateway]:
    """Run a gateway in a thread on a free port."""
    app = create_app(gateway_settings(folder, **overrides))
    config = uvicorn.Config(app, http=http, loop=loop, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive())
            headers = {"Authorization": f"Bearer {API_KEY}"}
            with httpx2.Client(base_url=url, headers=headers, timeout=10, trust_env=False) as client:
                yield LiveGateway(url, client)
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            assert not thread.is_alive()


@dataclass
class Delivery:
    """One webhook that was received."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body as JSON."""
        event: dict[str, Any] = json.loads(self.body)
        return event


@dataclass
class Receiver:
    """What a webhook receiver was sent, and how it answers: `statuses` in turn, then 200."""

    url: str
    deliveries: list[Delivery] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@contextmanager
def webhook_receiver() -> Iterator[Receiver]:
    """Run a webhook receiver in a thread on a free port."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                receiver.deliveries.append(Delivery(headers, body))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep the test output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def scripted_server(answer: bytes, *, hold_seconds: float = 0.0, drip_seconds: float = 0.0) -> Iterator[str]:
    """Run a server that reads a request, waits, sends `answer` as it stands and closes; yields its URL.

    With `drip_seconds` it waits so long after each byte, for as long as the client listens.
    """
    stop = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if stop.is_set():
                    return
                continue
            with connection:
                connection.settimeout(5)
                _read_request(connection)
                stop.wait(hold_seconds)
                if not drip_seconds:
                    connection.sendall(answer)
                    continue
                with suppress(OSError):
                    for byte in answer:
                        connection.sendall(bytes([byte]))
                        stop.wait(drip_seconds)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def _read_request(connection: socket.socket) -> None:
    """Read all of a request: closing over unread bytes would reset the connection under the answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0]) - len(body) if lengths else 0
    while missing > 0:
        missing -= len(connection.recv(65_536))


def http_answer(status: int, body: object, *headers: str) -> bytes:
    """Return the bytes of an HTTP answer; a str or bytes body is sent as it stands, all else as JSON."""
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
    content = json.dumps(body).encode() if content is None else content
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def adapter(url: str, timeout_seconds: float = 2.0, **more: Any) -> HttpPaymentGateway:
    """Return an adapter that knows the key of the test gateway."""
    return HttpPaymentGateway(base_url=url, api_key=API_KEY, timeout_seconds=timeout_seconds, **more)


def payment_request(**changes: Any) -> PaymentRequest:
    """Return a plausible payment request."""
    values: dict[str, Any] = {
        "payment_id": uuid4(),
        "amount": Decimal("120.50"),
        "currency": "USD",
        "payment_token": "tok_visa",
    }
    return PaymentRequest(**{**values, **changes})


def refund_request(payment: GatewayPayment | str, amount: str = "20.5", **changes: Any) -> RefundRequest:
    """Return a plausible refund request for a payment, or for the gateway's id of one."""
    refund_id = changes.pop("refund_id", uuid4())
    return RefundRequest(
        refund_id=refund_id,
        gateway_payment_id=payment if isinstance(payment, str) else payment.id,
        amount=Decimal(amount),
        currency=changes.pop("currency", "USD"),
        idempotency_key=changes.pop("idempotency_key", f"refund:{refund_id}"),
        **changes,
    )
