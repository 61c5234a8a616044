"""What the gateway has answered is in its books, whenever it is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.unit.gateway_support import API_KEY, SECRET, wait_for

pytestmark = pytest.mark.req("INT-001")

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {"Authorization": f"Bearer {API_KEY}"}


@contextmanager
def gateway_process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a gateway as a process of its own on a socket that we opened."""
    environment = {
        **os.environ,
        "GATEWAY_DATA_DIR": str(folder),
        "PAYMENT_GATEWAY_API_KEY": API_KEY,
        "PAYMENT_WEBHOOK_SECRET": SECRET,
    }
    environment.pop("PAYMENT_WEBHOOK_URL", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "uvicorn", "--factory", "devtools.mock_gateway.main:create_app_from_env"]
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno()), "--log-level", "error"],
            cwd=ROOT,
            env=environment,
            pass_fds=[listener.fileno()],
        )
    try:
        wait_for(lambda: process.poll() is not None or is_up(url), 30)
        assert process.poll() is None
        yield process, url
    finally:
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.req("INT-001.3")
@pytest.mark.parametrize("after", [1, 20])
def test_nothing_that_was_answered_is_lost_by_sigkill(tmp_path: Path, after: int) -> None:
    answered: list[str] = []
    in_doubt: list[str] = []
    with gateway_process(tmp_path) as (process, url):
        body = {"reference": "p-1", "amount": "10000", "currency": "USD"}
        payment = httpx2.post(f"{url}/v1/payments", json=body, headers=HEADERS, trust_env=False).json()["id"]
        enough = threading.Event()

        def pay_back() -> None:
            with httpx2.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
                for number in range(10_000):
                    reference = f"r-{number}"
                    order = {"payment": payment, "reference": reference, "amount": "0.01", "currency": "USD"}
                    try:
                        answer = client.post("/v1/refunds", json=order, headers={"Idempotency-Key": reference})
                    except httpx2.HTTPError:
                        in_doubt.append(reference)
                        return
                    assert answer.status_code == 200
                    answered.append(reference)
                    if len(answered) >= after:
                        enough.set()

        thread = threading.Thread(target=pay_back)
        thread.start()
        assert enough.wait(20)
        process.send_signal(signal.SIGKILL)
        thread.join()
    with (
        gateway_process(tmp_path) as (_, url),
        httpx2.Client(base_url=url, headers=HEADERS, trust_env=False) as client,
    ):
        books = client.get("/control/ledger").json()
        in_books = {movement["reference"] for movement in books["movements"] if movement["type"] == "refund"}
        assert len(answered) >= after
        assert set(answered) <= in_books <= {*answered, *in_doubt}
        (refunded,) = [paid["amount_refunded"] for paid in books["payments"] if paid["id"] == payment]
        assert refunded == f"{len(in_books) / 100:.2f}"
        # the answer was stored with the movement: a repetition is a replay, also for the one in doubt
        for reference in [answered[-1], *in_doubt]:
            order = {"payment": payment, "reference": reference, "amount": "0.01", "currency": "USD"}
            answer = client.post("/v1/refunds", json=order, headers={"Idempotency-Key": reference})
            assert answer.status_code == 200
            assert (answer.headers.get("Idempotent-Replayed") == "true") == (reference in in_books)
        counts = client.get("/control/ledger").json()["references"]
        assert all(counts[reference]["counts"]["refund"] == 1 for reference in [*answered, *in_doubt])
        events = client.get("/control/events").json()["data"]
        assert len(events) == 1 + len(answered) + len(in_doubt)


def test_a_second_process_on_the_same_ledger_does_not_start(tmp_path: Path) -> None:
    with gateway_process(tmp_path), pytest.raises(AssertionError), gateway_process(tmp_path):
        pytest.fail("two gateways keep the same ledger")
