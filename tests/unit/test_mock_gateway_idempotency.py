"""Idempotency keys as Stripe's v1 keeps them by its public contract, and gateways that do not."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

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


def test_a_repetition_gets_the_first_answer(client: TestClient) -> None:
    payment_id = captured(client)
    first = give_back(client, payment_id, "10", "k")
    second = give_back(client, payment_id, "10", "k")
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert (second.status_code, second.content) == (200, first.content)
    assert len(movements(client)) == 3


def test_a_decline_is_replayed(client: TestClient) -> None:
    first = pay(client, "k", payment_token="tok_declined")
    second = pay(client, "k", payment_token="tok_declined")
    assert (second.status_code, second.content) == (402, first.content)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(client.get("/v1/payments", params={"reference": "p-1"}).json()["data"]) == 1


def test_a_conflict_is_replayed(client: TestClient) -> None:
    payment_id = captured(client)
    refused = give_back(client, payment_id, "500", "k")
    again = give_back(client, payment_id, "500", "k")
    assert (again.status_code, again.content) == (409, refused.content)
    assert again.headers["Idempotent-Replayed"] == "true"


def test_other_parameters_are_an_error(client: TestClient) -> None:
    payment_id = captured(client)
    give_back(client, payment_id, "10", "k")
    for answer in (give_back(client, payment_id, "11", "k"), pay(client, "k", reference="p-2")):
        assert error_of(answer) == (400, "idempotency_error", "idempotency_key_reused")
    assert len(movements(client)) == 3


def test_without_a_key_everything_is_new(client: TestClient) -> None:
    payment_id = captured(client)
    give_back(client, payment_id, "10")
    give_back(client, payment_id, "10")
    assert len(movements(client)) == 4


def test_keys_are_forgotten_after_a_day(client: TestClient, clock: Clock) -> None:
    payment_id = captured(client)
    give_back(client, payment_id, "10", "k")
    clock.now += timedelta(hours=23, minutes=59)
    assert "Idempotent-Replayed" in give_back(client, payment_id, "10", "k").headers
    clock.now += timedelta(minutes=2)
    assert "Idempotent-Replayed" not in give_back(client, payment_id, "10", "k").headers
    assert len(movements(client)) == 4


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_impossible_keys(client: TestClient, key: str) -> None:
    assert error_of(pay(client, key))[::2] == (400, "idempotency_key_invalid")


@pytest.mark.parametrize(("profile", "refunds"), [("stripe", 1), ("2xx_only", 1), ("none", 2)])
def test_profiles_and_success(client: TestClient, profile: str, refunds: int) -> None:
    payment_id = captured(client)
    client.put("/control/profile", json={"idempotency": profile})
    for _ in range(2):
        assert give_back(client, payment_id, "10", "k").status_code == 200
    assert len(movements(client)) == 2 + refunds


@pytest.mark.parametrize(("profile", "attempts"), [("stripe", 1), ("2xx_only", 2), ("none", 2)])
def test_profiles_and_declines(client: TestClient, profile: str, attempts: int) -> None:
    client.put("/control/profile", json={"idempotency": profile})
    for _ in range(2):
        assert pay(client, "k", payment_token="tok_declined").status_code == 402
    found = client.get("/v1/payments", params={"reference": "p-1"}).json()["data"]
    assert len(found) == attempts
