"""A merchant of the gateway, in process: short words for what tests do again and again."""

from datetime import UTC, datetime
from typing import Any

import httpx2
from fastapi.testclient import TestClient

PAYMENT = {"reference": "p-1", "amount": "120.50", "currency": "USD", "payment_token": "tok_visa"}


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the present."""
        return self.now


def pay(client: TestClient, key: str | None = None, **changes: Any) -> httpx2.Response:
    """Make a payment."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/payments", json={**PAYMENT, **changes}, headers=headers)


def captured(client: TestClient, **changes: Any) -> str:
    """Make a captured payment and return its id."""
    answer = pay(client, capture=True, **changes)
    assert answer.status_code == 200, answer.text
    payment_id: str = answer.json()["id"]
    return payment_id


def give_back(client: TestClient, payment: str, amount: str, key: str | None = None, **changes: Any) -> httpx2.Response:
    """Ask for a refund."""
    body = {"payment": payment, "reference": "r-1", "amount": amount, "currency": "USD", **changes}
    return client.post("/v1/refunds", json=body, headers={} if key is None else {"Idempotency-Key": key})


def error_of(answer: httpx2.Response) -> tuple[int, str, str]:
    """Return status, type and code of an error, which has the one error shape."""
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert error["message"]
    return answer.status_code, error["type"], error["code"]


def movements(client: TestClient) -> list[tuple[str, str, str]]:
    """Return type, reference and amount of every movement."""
    listed = client.get("/v1/transactions", params={"limit": 100}).json()["data"]
    return [(movement["type"], movement["reference"], movement["amount"]) for movement in listed]
