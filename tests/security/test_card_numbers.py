"""No card number gets in: tokens only (NFR-004)."""

from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.card_numbers import any_holds_card_number, holds_card_number, may_be_card_number, passes_luhn
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.test_api_hostile_bodies import rows

pytestmark = [pytest.mark.req("NFR-004.10"), pytest.mark.security]

CARDS = (
    "4242424242424242",
    "4000 0566 5566 5556",
    "5555-5555-5555-4444",
    "2223003122003222",
    "378282246310005",
    "3782 822463 10005",
    "6011111111111117",
    "3566002020360505",
    "30569309025904",
    "6205500000000000004",
    "4222222222222",
)
DISGUISED = (
    "tok_4242424242424242",
    "card:4242.4242.4242.4242 12/28 123",
    "\uff14\uff12" * 8,
    "\u0664\u0662" * 8,
    "4242\u00a04242\u20114242\u20134242",
    "4242\u200b4242\u200b4242\u200b4242",
    "1234 4242 4242 4242 4242",
)
HARMLESS = (
    "tok_visa",
    "pm_1NXyz0aBcDeFgHiJkLmNoPqR",
    "cus_9s6XKzkNRiz8i3",
    "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60",
    "12345678-1234-1234-1234-123456789012",
    "+33 6 12 34 56 78 90, or 06 98 76 54 32",
    "1732320000000",
    "2026-11-23 14:05:00",
    "credit_card",
    "4242424242424241",
)


@pytest.mark.parametrize("card", [*CARDS, *DISGUISED])
def test_a_card_is_known_however_it_is_written(card: str) -> None:
    assert may_be_card_number(card)
    assert holds_card_number(card)
    assert holds_card_number(f"My card is {card}, thanks.")
    assert any_holds_card_number({"notes": [{"deep": card}]})


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_one_passes(text: str) -> None:
    assert not may_be_card_number(text)
    assert not holds_card_number(text)
    assert not any_holds_card_number({text: [text]})


@pytest.mark.parametrize("number", ["+4915112345678", "call +4479111234565 at noon", "tel:+378282246310005"])
def test_a_telephone_number_in_free_text_is_none(number: str) -> None:
    assert passes_luhn("".join(filter(str.isdigit, number)))
    assert holds_card_number(number.replace("+", ""))
    assert not holds_card_number(number)
    assert holds_card_number("+4242424242424242"), "no telephone number is that long"


def test_a_number_or_a_name_in_json_counts_too() -> None:
    assert any_holds_card_number({"n": 4242424242424242})
    assert any_holds_card_number({"4242424242424242": None})
    assert not any_holds_card_number({"n": 4242424242424241, "t": True, "f": 4.5, "none": None})


@given(st.text(alphabet="0123456789 -", max_size=60))
def test_one_wrong_digit_is_found_and_nothing_raises(text: str) -> None:
    may_be_card_number(text)
    holds_card_number(text)
    digits = "".join(filter(str.isdigit, text))
    if digits and passes_luhn(digits):
        changed = str((int(digits[-1]) + 1) % 10)
        assert not passes_luhn(digits[:-1] + changed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payment_token", CARDS[0]),
        ("payment_token", DISGUISED[0]),
        ("payment_token", "9 4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2"),
        ("payment_method", CARDS[1]),
        ("metadata", {"card": CARDS[0]}),
        ("metadata", {"card": 4242424242424242}),
        ("metadata", {CARDS[0]: True}),
    ],
)
async def test_no_order_takes_one(
    api: httpx2.AsyncClient, field: str, value: Any, owner_connection: psycopg.Connection
) -> None:
    before = rows(owner_connection)
    response = await api.post("/api/v1/orders", json=order_payload(**{field: value}))
    assert response.status_code == 422
    [fault] = error_of(response)["details"]
    assert (fault["field"], fault["message"]) == (
        field,
        "holds what looks like a card number; none is ever stored here",
    )
    assert CARDS[0] not in response.text
    assert rows(owner_connection) == before


async def test_no_note_or_reason_takes_one(api: httpx2.AsyncClient) -> None:
    note = f"please charge {CARDS[0]} instead"
    order = await new_order(api, *TO_DELIVERED)
    returned = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    path = f"/api/v1/returns/{returned['id']}"
    for method, url, body in (
        ("PATCH", f"/api/v1/orders/{order['id']}/state", {"new_state": "CANCELLED", "reason": note}),
        ("POST", f"/api/v1/orders/{order['id']}/cancel", {"reason": note}),
        ("POST", "/api/v1/returns", {"order_id": order["id"], "reason": note}),
        ("POST", "/api/v1/returns", {"order_id": order["id"], "reason": "so", "customer_notes": note}),
        ("PATCH", f"{path}/approve", {"notes": note}),
        ("PATCH", f"{path}/reject", {"notes": note, "rejection_reason": "OTHER"}),
        ("POST", f"/api/v1/jobs/dead/{uuid4()}/dismiss", {"note": note}),
    ):
        response = await api.request(method, url, json=body)
        assert response.status_code == 422, url
        assert CARDS[0] not in response.text
