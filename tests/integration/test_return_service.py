"""Returns against a real database: who may have one, what it is worth, and its review (REQ-002)."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.return_request import ReturnApprove, ReturnReject
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.utils.exceptions import (
    InvalidInputError,
    ReturnAlreadyExistsError,
    ReturnNotAllowedError,
)
from tests.conftest import MovableClock
from tests.factories import LineFactory
from tests.integration.jobs_support import order_in, rows
from tests.integration.returns_support import REJECTION, Desk, count

pytestmark = pytest.mark.req("REQ-002")


@pytest.fixture
def desk(orders: OrderService, returns: ReturnService, admin: Actor) -> Desk:
    return Desk(orders, returns, admin)


async def refused(desk: Desk, order_id: UUID) -> dict[str, Any]:
    with pytest.raises(ReturnNotAllowedError) as refusal:
        await desk.ask(order_id)
    assert isinstance(refusal.value.details, dict)
    return refusal.value.details


def fields(refusal: InvalidInputError) -> list[str]:
    return [str(fault["field"]) for fault in refusal.details if isinstance(fault, dict)]


@pytest.mark.req("REQ-002.2")
@pytest.mark.parametrize("state", [state for state in OrderStatus if state is not OrderStatus.DELIVERED])
async def test_only_what_was_delivered_is_returned(
    desk: Desk, orders: OrderService, admin: Actor, database: Database, state: OrderStatus
) -> None:
    order = await order_in(orders, admin, state)
    details = await refused(desk, order["id"])
    assert (details["reason"], details["current_state"]) == ("NOT_DELIVERED", state)
    assert await count(database, "return_requests") == 0


@pytest.mark.req("REQ-002.2")
async def test_the_window_closes_at_the_end_of_its_last_day_to_the_microsecond(desk: Desk, clock: MovableClock) -> None:
    kept, late = await desk.delivered(), await desk.delivered()
    assert kept["delivered_at"] is not None
    last_day = kept["delivered_at"].replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=30)
    clock.now = last_day + timedelta(days=1, microseconds=-1)
    assert (await desk.ask(kept["id"]))["status"] == "REQUESTED"
    clock.now = last_day + timedelta(days=1)
    details = await refused(desk, late["id"])
    assert details["reason"] == "WINDOW_CLOSED"
    assert details["window_closed_at"] == clock.now


@pytest.mark.req("REQ-002.3")
async def test_of_twenty_requests_at_once_one_is_made(desk: Desk, database: Database) -> None:
    order = await desk.delivered()
    answers = await asyncio.gather(*(desk.ask(order["id"]) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert sum(isinstance(answer, ReturnAlreadyExistsError) for answer in answers) == 19
    made = ("SELECT 1 FROM return_requests", "SELECT 1 FROM events WHERE type = 'return.created'")
    assert [len(await rows(database, sql)) for sql in made] == [1, 1]
    mails = await rows(database, "SELECT kind FROM jobs WHERE kind LIKE 'notify.return%' ORDER BY kind")
    assert [row.kind for row in mails] == ["notify.return_awaiting_review", "notify.return_received"]


async def test_all_lines_come_back_when_none_is_named(desk: Desk) -> None:
    order = await desk.delivered()
    request = await desk.ask(order["id"])
    assert [(item["quantity"], item["amount"]) for item in request["items"]] == [
        (2, Decimal("289.20")),
        (1, Decimal("42.00")),
    ]
    assert (request["items_amount"], request["refund_amount"], request["restocking_fee"]) == (
        Decimal("331.20"),
        Decimal("331.20"),
        Decimal(0),
    )
    assert request == await desk.returns.get(request["id"], desk.admin)


@pytest.mark.parametrize(("quantity", "worth"), [(1, Decimal("3.67")), (2, Decimal("7.33")), (3, Decimal("11.00"))])
async def test_part_of_a_line_is_worth_its_share_to_the_cent(desk: Desk, quantity: int, worth: Decimal) -> None:
    lines = [LineFactory(quantity=3, unit_price=3.33, tax_rate=0.101), LineFactory(unit_price=99)]
    order = await desk.delivered(line_items=lines)
    first = order["line_items"][0]
    assert (first["subtotal"], first["tax_amount"]) == (Decimal("9.99"), Decimal("1.01"))
    request = await desk.ask(order["id"], items=[{"line_item_id": first["id"], "quantity": quantity}])
    assert [(item["quantity"], item["amount"]) for item in request["items"]] == [(quantity, worth)]
    assert request["items_amount"] == request["refund_amount"] == worth


async def test_parts_add_up(desk: Desk) -> None:
    lines = [LineFactory(quantity=quantity, unit_price=0.07, tax_rate=0.19) for quantity in (3, 7, 11)]
    order = await desk.delivered(line_items=lines)
    items = [{"line_item_id": line["id"], "quantity": line["quantity"] - 1} for line in order["line_items"]]
    request = await desk.ask(order["id"], items=items)
    worths = [item["amount"] for item in request["items"]]
    assert sum(worths) == request["items_amount"]
    for worth, line in zip(worths, order["line_items"], strict=True):
        paid = line["subtotal"] + line["tax_amount"]
        share = paid * (line["quantity"] - 1) / line["quantity"]
        assert abs(worth - share) <= Decimal("0.005")


async def test_lines_and_quantities_must_be_the_orders(desk: Desk, database: Database) -> None:
    order, other = await desk.delivered(), await desk.delivered()
    first, second = (line["id"] for line in order["line_items"])
    items = [
        {"line_item_id": other["line_items"][0]["id"], "quantity": 1},
        {"line_item_id": first, "quantity": 3},
        {"line_item_id": second, "quantity": 1},
        {"line_item_id": second, "quantity": 1},
    ]
    with pytest.raises(InvalidInputError) as refusal:
        await desk.ask(order["id"], items=items)
    assert fields(refusal.value) == [
        "items.0.line_item_id",
        "items.1.quantity",
        "items.3.line_item_id",
    ]
    for nothing in (0, -1, True, 1.5, "1"):
        with pytest.raises(ValidationError):
            await desk.ask(order["id"], items=[{"line_item_id": first, "quantity": nothing}])
    assert await count(database, "return_requests") == 0


@pytest.mark.req("REQ-002.6")
async def test_approval_with_a_fee(desk: Desk) -> None:
    request = await desk.ask((await desk.delivered())["id"])
    approval = ReturnApprove(notes="Box was open", restocking_fee=Decimal("31.20"))
    approved = await desk.returns.approve(request["id"], approval, desk.admin)
    assert (approved["status"], approved["restocking_fee"], approved["refund_amount"]) == (
        "APPROVED",
        Decimal("31.20"),
        Decimal("300.00"),
    )
    assert (approved["manager_notes"], approved["reviewed_by"]) == ("Box was open", desk.admin.id)
    [entry] = (await desk.returns.history(request["id"], PageQuery(), desk.admin))["data"]
    assert entry["metadata"] == {"notes": "Box was open", "restocking_fee": "31.20", "refund_amount": "300.00"}


@pytest.mark.req("REQ-002.6")
async def test_approval_of_a_partial_refund(desk: Desk) -> None:
    request = await desk.ask((await desk.delivered())["id"])
    approval = ReturnApprove(notes="Scratched", restocking_fee=Decimal("10.00"), refund_amount=Decimal("0.01"))
    approved = await desk.returns.approve(request["id"], approval, desk.admin)
    assert (approved["items_amount"], approved["restocking_fee"], approved["refund_amount"]) == (
        Decimal("331.20"),
        Decimal("10.00"),
        Decimal("0.01"),
    )


@pytest.mark.req("REQ-002.7")
@pytest.mark.parametrize(
    ("fee", "amount", "field"),
    [
        ("331.21", None, "restocking_fee"),
        ("331.21", "0.00", "restocking_fee"),
        (None, "331.21", "refund_amount"),
        ("0.01", "331.20", "refund_amount"),
    ],
)
async def test_more_than_the_lines_are_worth_is_not_approved(
    desk: Desk, fee: str | None, amount: str | None, field: str
) -> None:
    request = await desk.ask((await desk.delivered())["id"])
    approval = ReturnApprove(
        notes="Fine",
        restocking_fee=None if fee is None else Decimal(fee),
        refund_amount=None if amount is None else Decimal(amount),
    )
    with pytest.raises(InvalidInputError) as refusal:
        await desk.returns.approve(request["id"], approval, desk.admin)
    assert fields(refusal.value) == [field]
    assert await desk.returns.get(request["id"], desk.admin) == request


@pytest.mark.req("REQ-002.5")
async def test_a_rejection_carries_its_category(desk: Desk) -> None:
    with pytest.raises(ValidationError):
        ReturnReject.model_validate({"notes": "Worn"})
    request = await desk.ask((await desk.delivered())["id"])
    rejected = await desk.returns.reject(request["id"], REJECTION, desk.admin)
    assert (rejected["status"], rejected["rejection_reason"]) == ("REJECTED", "POLICY_VIOLATION")
    assert (rejected["manager_notes"], rejected["reviewed_by"]) == ("Worn", desk.admin.id)
