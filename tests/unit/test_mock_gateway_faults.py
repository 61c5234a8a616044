"""The gateway on its bad days: every fault mode, over a real socket, against the records."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from devtools.mock_gateway.connections import ConnectionDroppedError
from devtools.mock_gateway.main import create_app
from tests.unit.gateway_support import API_KEY, LiveGateway, gateway_settings, live_gateway, wait_for

pytestmark = pytest.mark.req("INT-001")

BROKEN = httpx2.ReadError  # a reset; an orderly close would be a RemoteProtocolError


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    with live_gateway(tmp_path) as gateway:
        yield gateway


@pytest.fixture
def payment(gateway: LiveGateway) -> str:
    body = {"reference": "p-1", "amount": "100", "currency": "USD", "payment_token": "tok", "capture": True}
    payment_id: str = gateway.send("POST", "/v1/payments", body)["id"]
    return payment_id


def refund(gateway: LiveGateway, payment: str, key: str | None = "k", **more: Any) -> httpx2.Response:
    body = {"payment": payment, "reference": "r-1", "amount": "10", "currency": "USD"}
    headers = {} if key is None else {"Idempotency-Key": key}
    timeout = more.pop("timeout", 10)
    return gateway.client.post("/v1/refunds", json={**body, **more}, headers=headers, timeout=timeout)


def replayed(answer: httpx2.Response) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


def test_error_before_moves_nothing_and_frees_the_key(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "error_before")
    answer = refund(gateway, payment)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")
    assert gateway.moved("r-1", "refund") == 0
    again = refund(gateway, payment)
    assert (again.status_code, replayed(again)) == (200, False)
    assert gateway.moved("r-1", "refund") == 1


def test_unavailable_moves_nothing(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "unavailable", times=2)
    assert [refund(gateway, payment).status_code for _ in range(3)] == [503, 503, 200]


def test_error_after_moves_the_money_and_replays_the_500(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "error_after")
    first = refund(gateway, payment)
    assert first.status_code == 500
    assert gateway.moved("r-1", "refund") == 1
    again = refund(gateway, payment)
    assert (again.status_code, again.content, replayed(again)) == (500, first.content, True)
    assert gateway.moved("r-1", "refund") == 1


@pytest.mark.parametrize("profile", ["2xx_only", "none"])
def test_error_after_is_paid_twice_by_gateways_that_forget(gateway: LiveGateway, payment: str, profile: str) -> None:
    gateway.profile(idempotency=profile)
    gateway.fault("refund", "error_after")
    assert [refund(gateway, payment).status_code for _ in range(2)] == [500, 200]
    assert gateway.moved("r-1", "refund") == 2


@pytest.mark.req("INT-001.4")
def test_a_decline_on_order(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "decline")
    answer = refund(gateway, payment)
    assert (answer.status_code, answer.json()["error"]["type"]) == (402, "card_error")
    assert gateway.moved("r-1", "refund") == 0
    assert replayed(refund(gateway, payment))
    assert gateway.ledger()["refunds"][0]["status"] == "failed"


@pytest.mark.req("INT-001.4")
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_reset_after_moves_the_money(
    tmp_path: Path, http: Literal["h11", "httptools"], loop: Literal["asyncio", "uvloop"]
) -> None:
    with live_gateway(tmp_path, http=http, loop=loop) as gateway:
        body = {"reference": "p-1", "amount": "100", "currency": "USD"}
        payment_id = gateway.send("POST", "/v1/payments", body)["id"]
        gateway.fault("refund", "reset_after")
        with pytest.raises(BROKEN):
            refund(gateway, payment_id)
        assert gateway.moved("r-1", "refund") == 1
        again = refund(gateway, payment_id)
        assert (again.status_code, replayed(again)) == (200, True)
        assert gateway.moved("r-1", "refund") == 1


@pytest.mark.parametrize(("mode", "moved"), [("timeout_before", 0), ("timeout_after", 1)])
def test_timeouts_hold_the_connection_then_drop_it(gateway: LiveGateway, payment: str, mode: str, moved: int) -> None:
    gateway.fault("refund", mode, delay_seconds=0.3)
    begun = time.monotonic()
    with pytest.raises(BROKEN):
        refund(gateway, payment)
    assert 0.25 < time.monotonic() - begun < 3
    assert gateway.moved("r-1", "refund") == moved
    again = refund(gateway, payment)
    assert (again.status_code, replayed(again)) == (200, bool(moved))
    assert gateway.moved("r-1", "refund") == 1


def test_the_answer_is_there_while_the_first_caller_still_waits(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "timeout_after", delay_seconds=30)
    with pytest.raises(httpx2.ReadTimeout):
        refund(gateway, payment, timeout=0.3)
    assert replayed(refund(gateway, payment))
    assert gateway.moved("r-1", "refund") == 1


@pytest.mark.req("INT-001.4")
def test_delay_answers_late(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "delay", delay_seconds=0.3)
    begun = time.monotonic()
    assert refund(gateway, payment).status_code == 200
    assert time.monotonic() - begun > 0.25


def test_a_delayed_request_is_carried_out_after_its_caller_has_gone(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "delay", delay_seconds=0.6)
    with pytest.raises(httpx2.ReadTimeout):
        refund(gateway, payment, timeout=0.2)
    assert gateway.moved("r-1", "refund") == 0
    wait_for(lambda: gateway.moved("r-1", "refund") == 1)


def test_the_same_key_at_the_same_time_is_409(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "delay", delay_seconds=0.8)
    begun = threading.Event()

    def first() -> httpx2.Response:
        begun.set()
        return refund(gateway, payment)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        begun.wait()
        wait_for(lambda: gateway.send("GET", "/control/faults")["data"] == [])
        second = refund(gateway, payment)
        assert second.status_code == 409
        assert second.json()["error"]["type"] == "idempotency_error"
        assert second.json()["error"]["code"] == "idempotency_key_in_use"
        assert running.result().status_code == 200
    assert replayed(refund(gateway, payment))
    assert gateway.moved("r-1", "refund") == 1


def test_many_at_once_move_once(gateway: LiveGateway, payment: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: refund(gateway, payment), range(40)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    bodies = {answer.content for answer in answers if answer.status_code == 200}
    assert len(bodies) == 1
    assert gateway.moved("r-1", "refund") == 1


def test_many_at_once_never_refund_more_than_was_captured(gateway: LiveGateway, payment: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda number: refund(gateway, payment, str(number), reference=f"r-{number}"), range(30))
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [409] * 20
    assert gateway.ledger()["totals"]["USD"]["refunded"] == "100.00"


def test_a_fault_strikes_only_the_named_operation(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("authorize", "error_before", times=None)
    assert refund(gateway, payment).status_code == 200
    body = {"reference": "p-2", "amount": "1", "currency": "USD"}
    assert gateway.client.post("/v1/payments", json=body).status_code == 500


def test_a_fault_strikes_only_the_named_reference(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "error_before", reference="r-2")
    assert refund(gateway, payment, "a").status_code == 200
    assert refund(gateway, payment, "b", reference="r-2").status_code == 500


def test_a_payments_reference_reaches_its_refunds(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "error_before", reference="p-1")
    assert refund(gateway, payment).status_code == 500


def test_a_fault_strikes_until_cleared(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("any", "unavailable", times=None)
    for _ in range(3):
        assert refund(gateway, payment).status_code == 503
    assert gateway.client.get("/v1/payments", params={"reference": "p-1"}).status_code == 503
    assert gateway.client.post(f"/v1/payments/{payment}/void").status_code == 503
    assert gateway.send("GET", "/control/faults")["data"][0]["hits"] == 5
    assert gateway.send("DELETE", "/control/faults") == {"cleared": 1}
    assert refund(gateway, payment).status_code == 200


def test_faults_strike_in_the_order_they_were_given(gateway: LiveGateway, payment: str) -> None:
    gateway.fault("refund", "error_before")
    gateway.fault("refund", "unavailable")
    assert [refund(gateway, payment).status_code for _ in range(3)] == [500, 503, 200]


def test_capture_also_means_one_call_payments(gateway: LiveGateway) -> None:
    gateway.fault("capture", "decline", times=2)
    body = {"reference": "p-2", "amount": "1", "currency": "USD", "payment_token": "tok"}
    authorized = gateway.send("POST", "/v1/payments", body)
    answer = gateway.client.post(f"/v1/payments/{authorized['id']}/capture")
    assert (answer.status_code, gateway.moved("p-2", "capture")) == (402, 0)
    at_once = gateway.client.post("/v1/payments", json={**body, "reference": "p-3", "capture": True})
    assert (at_once.status_code, gateway.moved("p-3", "authorization")) == (402, 0)


def test_faults_of_look_ups(gateway: LiveGateway, payment: str) -> None:
    query = {"reference": "p-1"}
    for mode, status in (
        ("error_before", 500),
        ("error_after", 500),
        ("unavailable", 503),
        ("delay", 200),
    ):
        gateway.fault("lookup", mode, delay_seconds=0.01)
        assert gateway.client.get("/v1/payments", params=query).status_code == status
    for mode in ("timeout_before", "timeout_after", "reset_after"):
        gateway.fault("lookup", mode, delay_seconds=0.05)
        with pytest.raises(BROKEN):
            gateway.client.get("/v1/payments", params=query)
    assert gateway.send("GET", f"/v1/payments/{payment}")["id"] == payment
    gateway.fault("lookup", "unavailable", reference="p-1")
    assert gateway.client.get("/v1/payments", params={"reference": "p-9"}).status_code == 200
    assert gateway.client.get(f"/v1/payments/{payment}").status_code == 503


@pytest.mark.parametrize(
    "order",
    [
        {"operation": "lookup", "mode": "decline"},
        {"operation": "lookup", "mode": "drop_webhook"},
        {"operation": "steal", "mode": "decline"},
        {"operation": "any", "mode": "explode"},
        {"operation": "any", "mode": "delay", "times": 0},
        {"operation": "any", "mode": "delay", "delay_seconds": -1},
        {"operation": "any", "mode": "delay", "delay_seconds": 301},
        {"operation": "any", "mode": "delay", "more": 1},
    ],
)
def test_impossible_orders(gateway: LiveGateway, order: dict[str, Any]) -> None:
    answer = gateway.client.post("/control/faults", json=order)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_faults_and_profile_survive_a_restart(tmp_path: Path) -> None:
    with live_gateway(tmp_path) as gateway:
        gateway.fault("refund", "decline", times=3)
        gateway.profile(idempotency="2xx_only", lookup=False)
    with live_gateway(tmp_path) as gateway:
        assert gateway.send("GET", "/control/faults")["data"][0]["remaining"] == 3
        assert gateway.send("GET", "/control/profile") == {"idempotency": "2xx_only", "lookup": False}


def test_half_a_request_is_no_request(gateway: LiveGateway) -> None:
    body = {"reference": "p-1", "amount": "100", "currency": "USD", "payment_token": "tok"}
    payment = gateway.send("POST", "/v1/payments", body)["id"]
    address = httpx2.URL(gateway.url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        head = f"POST /v1/payments/{payment}/capture HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {API_KEY}\r\n"
        more = 'Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{"amount":'
        connection.sendall((head + more).encode())
        time.sleep(0.1)
    time.sleep(0.1)
    assert gateway.moved("p-1", "capture") == 0
    assert gateway.send("POST", f"/v1/payments/{payment}/capture")["amount_captured"] == "100.00"


async def test_without_a_socket_a_dropped_connection_is_an_exception(tmp_path: Path) -> None:
    app = create_app(gateway_settings(tmp_path))
    headers = {"Authorization": f"Bearer {API_KEY}"}
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        fault = {"operation": "authorize", "mode": "reset_after"}
        assert (await client.post("/control/faults", json=fault)).status_code == 200
        with pytest.raises(ConnectionDroppedError):
            await client.post("/v1/payments", json={"reference": "p", "amount": "1", "currency": "USD"})
        assert (await client.get("/v1/balance")).json()["balances"]["USD"]["captured"] == "1.00"
