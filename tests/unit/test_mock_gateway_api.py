"""The gateway's interface for merchants: rules of money, strangers, bad input."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from devtools.mock_gateway.main import create_app
from tests.unit.gateway_merchant import PAYMENT, Clock, captured, error_of, give_back, movements, pay
from tests.unit.gateway_support import API_KEY, gateway_settings

pytestmark = pytest.mark.req("INT-001")


JSON = {"Content-Type": "application/json"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock) -> Iterator[TestClient]:
    with TestClient(
        create_app(gateway_settings(tmp_path), clock), headers={"Authorization": f"Bearer {API_KEY}"}
    ) as client:
        yield client


@pytest.mark.req("INT-001.1")
def test_authorise_then_capture_then_refund_in_parts(client: TestClient) -> None:
    payment = pay(client).json()
    assert payment["status"] == "authorized"
    assert (payment["amount"], payment["amount_captured"]) == ("120.50", "0.00")
    answer = client.post(f"/v1/payments/{payment['id']}/capture", json={"amount": "100"})
    assert answer.json()["status"] == "captured"
    assert answer.json()["amount_captured"] == "100.00"
    refund = give_back(client, payment["id"], "60.25").json()
    assert refund["status"] == "succeeded"
    assert refund["payment"] == payment["id"]
    assert give_back(client, payment["id"], "39.75", reference="r-2").status_code == 200
    assert client.get(f"/v1/payments/{payment['id']}").json()["amount_refunded"] == "100.00"
    assert movements(client) == [
        ("authorization", "p-1", "120.50"),
        ("capture", "p-1", "100.00"),
        ("refund", "r-1", "60.25"),
        ("refund", "r-2", "39.75"),
    ]


def test_a_capture_without_amount_takes_everything(client: TestClient) -> None:
    payment_id = pay(client).json()["id"]
    answer = client.post(f"/v1/payments/{payment_id}/capture")
    assert answer.json()["amount_captured"] == "120.50"


def test_a_payment_without_token_is_reported_and_captured_at_once(client: TestClient) -> None:
    payment = pay(client, payment_token=None, payment_method="bank_transfer").json()
    assert (payment["status"], payment["source"]) == ("captured", "reported")
    assert movements(client) == [("capture", "p-1", "120.50")]
    assert give_back(client, payment["id"], "120.50").status_code == 200


def test_void_releases_an_authorisation(client: TestClient) -> None:
    payment_id = pay(client).json()["id"]
    assert client.post(f"/v1/payments/{payment_id}/void").json()["status"] == "voided"
    capture = client.post(f"/v1/payments/{payment_id}/capture")
    assert error_of(capture) == (409, "invalid_request_error", "payment_not_authorized")
    assert movements(client) == [("authorization", "p-1", "120.50"), ("void", "p-1", "120.50")]


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("tok_declined", "card_declined"),
        ("tok_insufficient_funds", "insufficient_funds"),
        ("tok_expired_card", "expired_card"),
        ("tok_processing_error", "processing_error"),
    ],
)
def test_declined_tokens_move_nothing_and_leave_the_reference_free(client: TestClient, token: str, code: str) -> None:
    assert error_of(pay(client, payment_token=token, capture=True)) == (402, "card_error", code)
    assert movements(client) == []
    found = client.get("/v1/payments", params={"reference": "p-1"}).json()["data"]
    assert [(payment["status"], payment["failure_code"]) for payment in found] == [("failed", code)]
    captured(client)
    assert len(client.get("/v1/payments", params={"reference": "p-1"}).json()["data"]) == 2


def test_refunds_of_a_token_that_refuses_them_fail(client: TestClient) -> None:
    payment_id = captured(client, payment_token="tok_refund_fails")
    assert error_of(give_back(client, payment_id, "1")) == (402, "card_error", "refund_declined")
    found = client.get("/v1/refunds", params={"reference": "r-1"}).json()["data"]
    assert [refund["status"] for refund in found] == ["failed"]
    assert client.get(f"/v1/refunds/{found[0]['id']}").json() == found[0]
    assert client.get(f"/v1/payments/{payment_id}").json()["amount_refunded"] == "0.00"


def test_a_reference_pays_once(client: TestClient) -> None:
    payment_id = captured(client)
    second = pay(client)
    assert error_of(second) == (409, "invalid_request_error", "reference_exists")
    assert second.json()["error"]["payment"] == payment_id


@pytest.mark.req("NFR-004.8")
def test_a_card_number_is_not_a_token(client: TestClient) -> None:
    for number in ("4242424242424242", "4242 4242 4242 4242"):
        assert error_of(pay(client, payment_token=number))[2] == "token_invalid"
    assert movements(client) == []


def test_never_more_is_refunded_than_was_captured(client: TestClient) -> None:
    payment_id = captured(client)
    too_much = give_back(client, payment_id, "120.51")
    assert error_of(too_much) == (409, "invalid_request_error", "amount_exceeds_refundable")
    assert give_back(client, payment_id, "60").status_code == 200
    again = give_back(client, payment_id, "60.51")
    assert again.json()["error"]["refundable"] == "60.50"
    assert [movement[2] for movement in movements(client) if movement[0] == "refund"] == ["60.00"]


def test_refusals_of_refunds(client: TestClient) -> None:
    authorized = pay(client).json()["id"]
    assert error_of(give_back(client, authorized, "1"))[::2] == (409, "payment_not_captured")
    assert error_of(give_back(client, "pay_none", "1"))[::2] == (404, "resource_missing")
    payment_id = captured(client, reference="p-2")
    assert error_of(give_back(client, payment_id, "1", currency="EUR"))[::2] == (400, "currency_mismatch")
    assert error_of(client.post(f"/v1/payments/{authorized}/capture", json={"amount": "121"}))[::2] == (
        400,
        "amount_too_large",
    )
    assert error_of(client.post(f"/v1/payments/{payment_id}/capture"))[0] == 409
    assert error_of(client.get("/v1/refunds/re_none"))[0] == 404
    assert error_of(client.get("/v1/payments/pay_none"))[0] == 404
    assert error_of(client.post("/v1/payments/pay_none/void"))[0] == 404


def test_the_schema_itself_refuses_to_refund_too_much(client: TestClient, tmp_path: Path) -> None:
    payment_id = captured(client)
    with (
        sqlite3.connect(tmp_path / "ledger.sqlite3") as books,
        pytest.raises(sqlite3.IntegrityError),
    ):
        books.execute("UPDATE payments SET refunded = captured + 1 WHERE id = ?", (payment_id,))


@pytest.mark.parametrize("path", ["/v1/balance", "/v1/transactions", "/control/ledger", "/openapi.json", "/no"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", API_KEY, f"Basic {API_KEY}", f"Bearer {API_KEY}x"])
def test_strangers_are_refused(client: TestClient, path: str, header: str | None) -> None:
    del client.headers["Authorization"]
    answer = client.get(path, headers={} if header is None else {"Authorization": header})
    assert error_of(answer)[::2] == (401, "unauthenticated")


def test_health_needs_no_key(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.get("/health").json() == {"status": "ok", "mock": True}


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 120.5},
        {"amount": 120},
        {"amount": "0"},
        {"amount": "0.00"},
        {"amount": "-1"},
        {"amount": "1.234"},
        {"amount": "1e3"},
        {"amount": "NaN"},
        {"amount": ""},
        {"amount": "1" * 13},
        {"amount": "\u0661"},
        {"amount": None},
        {"currency": "usd"},
        {"currency": "US"},
        {"currency": 840},
        {"reference": ""},
        {"reference": "x" * 129},
        {"reference": "a b"},
        {"reference": "a\x00"},
        {"reference": "\ud800"},
        {"capture": "true"},
        {"capture": 1},
        {"payment_token": ""},
        {"metadata": {"a": 1}},
        {"metadata": "a"},
        {"surprise": 1},
    ],
)
def test_bad_parameters_are_400_and_not_stored(client: TestClient, change: dict[str, Any]) -> None:
    body = json.dumps({**PAYMENT, **change})
    answer = client.post("/v1/payments", content=body, headers={"Idempotency-Key": "k", **JSON})
    assert error_of(answer)[:2] == (400, "invalid_request_error")
    assert next(iter(change)) in answer.json()["error"]["message"].lower()
    assert movements(client) == []
    assert pay(client, "k").status_code == 200  # the key is still free


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"amount": NaN}', b"[" * 20_000, b'{"a":' * 5_000]
)
def test_bodies_that_are_no_objects_are_400(client: TestClient, body: bytes) -> None:
    for path in ("/v1/payments", "/v1/refunds", "/control/faults"):
        answer = client.post(path, content=body, headers=JSON)
        assert error_of(answer)[:2] == (400, "invalid_request_error")


def test_a_large_body_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/payments", content=b" " * 70_000)
    assert error_of(answer)[::2] == (413, "body_too_large")


def test_framework_errors_have_the_same_shape(client: TestClient) -> None:
    assert error_of(client.get("/v2"))[::2] == (404, "resource_missing")
    assert error_of(client.delete("/v1/payments"))[::2] == (405, "method_not_allowed")


def test_an_unforeseen_failure_is_a_typed_500(tmp_path: Path) -> None:
    app = create_app(gateway_settings(tmp_path))
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        app.state.gateway.store.write("DROP TABLE transactions")
        assert error_of(client.get("/v1/balance")) == (500, "api_error", "internal_error")
