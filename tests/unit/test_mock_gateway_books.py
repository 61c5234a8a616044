"""What the gateway's records say: transactions, balance, look-ups, the page for people."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from devtools.mock_gateway.main import create_app
from tests.unit.gateway_merchant import Clock, captured, error_of, give_back, movements, pay
from tests.unit.gateway_support import API_KEY, gateway_settings

pytestmark = pytest.mark.req("INT-001")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock) -> Iterator[TestClient]:
    with TestClient(
        create_app(gateway_settings(tmp_path), clock), headers={"Authorization": f"Bearer {API_KEY}"}
    ) as client:
        yield client


def test_transactions_are_paged_in_order(client: TestClient) -> None:
    for number in range(5):
        captured(client, reference=f"p-{number}")
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = client.get("/v1/transactions", params=query).json()
        seen += [movement["id"] for movement in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        query["after"] = page["next_cursor"]
    whole = client.get("/v1/transactions", params={"limit": 100}).json()["data"]
    assert seen == [movement["id"] for movement in whole]
    assert len(seen) == len(set(seen)) == 10
    captures = client.get("/v1/transactions", params={"type": "capture", "limit": 100}).json()["data"]
    assert [movement["reference"] for movement in captures] == [f"p-{number}" for number in range(5)]


@pytest.mark.parametrize("query", [{"after": "txn_none"}, {"limit": 0}, {"limit": 101}, {"type": "gift"}])
def test_bad_queries(client: TestClient, query: Mapping[str, Any]) -> None:
    assert error_of(client.get("/v1/transactions", params=query))[0] == 400


def test_balance_and_ledger_agree(client: TestClient) -> None:
    usd = captured(client)
    give_back(client, usd, "20.50")
    captured(client, reference="p-2", currency="JPY", amount="500.00")
    balances = client.get("/v1/balance").json()["balances"]
    assert balances["USD"] == {
        "authorized": "120.50",
        "captured": "120.50",
        "voided": "0.00",
        "refunded": "20.50",
        "net": "100.00",
    }
    assert balances["JPY"]["net"] == "500"
    books = client.get("/control/ledger").json()
    assert books["totals"] == balances
    assert books["references"]["r-1"]["refunded"] == "20.50"
    assert books["references"]["r-1"]["counts"]["refund"] == 1
    assert len(books["movements"]) == 5


def test_a_gateway_without_look_up_says_so_instead_of_none(client: TestClient) -> None:
    payment_id = captured(client)
    client.put("/control/profile", json={"lookup": False})
    for path in ("/v1/payments", "/v1/refunds"):
        answer = client.get(path, params={"reference": "p-1"})
        assert error_of(answer)[::2] == (400, "lookup_unsupported")
    assert client.get(f"/v1/payments/{payment_id}").status_code == 200


def test_reset_forgets_everything(client: TestClient) -> None:
    captured(client)
    pay(client, "k", reference="p-9")
    client.put("/control/profile", json={"idempotency": "none", "lookup": False})
    client.post("/control/faults", json={"operation": "any", "mode": "delay"})
    assert client.post("/control/reset").status_code == 200
    assert movements(client) == []
    assert client.get("/control/faults").json() == {"data": []}
    assert client.get("/control/events").json() == {"data": []}
    assert client.get("/control/profile").json() == {"idempotency": "stripe", "lookup": True}
    assert "Idempotent-Replayed" not in pay(client, "k", reference="p-9").headers


def test_the_page_escapes_everything(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert "None yet." in client.get("/").text
    client.headers["Authorization"] = f"Bearer {API_KEY}"
    nasty = "<script>alert('1')</script>\"&{{7*7}}"
    payment_id = captured(client, payment_method=nasty)
    give_back(client, payment_id, "5", reason=nasty)
    page = client.get("/")
    assert "<script" not in page.text
    assert "49" not in page.text.split("<h2>")[1].replace(payment_id, "")
    assert page.text.count("&lt;script&gt;") == 2
    assert payment_id in page.text
    assert API_KEY not in page.text
    assert "tok_visa" not in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
