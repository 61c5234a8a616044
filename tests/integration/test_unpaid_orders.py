"""Before an unpaid order is cancelled, by a person or by time, the provider is asked what it holds (INT-001, REQ-001)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Role
from app.database import Database
from app.services.jobs.service import JobKind
from app.services.orders.views import OrderView
from app.services.payments import money_in
from app.services.payments.gateway.port import GatewayPayment
from app.services.payments.unpaid import UnpaidOrders
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.databases import past_guard
from tests.fakes import FakeGateway
from tests.integration.conftest import error_of, new_order
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import Shop, die

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-001")]

DAY = timedelta(hours=24)


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.fixture
def unpaid(shop: Shop) -> UnpaidOrders:
    return UnpaidOrders(shop.database, shop.orders, shop.gateway, shop.clock)


async def overdue(shop: Shop) -> OrderView:
    """Return an order that has been unpaid for 25 hours."""
    shop.clock.advance(days=-2)
    order = await shop.ordered()
    shop.clock.advance(hours=25)
    return order


async def status_of(shop: Shop, order: OrderView) -> str:
    return str((await shop.orders.get(order["id"], shop.admin))["status"])


# --- by time -----------------------------------------------------------------------------------------------------


async def test_a_lost_webhook_cancels_no_paid_order(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    payment = shop.charged(order)
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PAID"
    booked = await shop.payment(order["id"])
    assert (booked.state, booked.captured_amount, booked.gateway_payment_id) == ("CAPTURED", payment.amount, payment.id)
    [step] = await rows(shop.database, "SELECT * FROM state_history")
    assert (step.new_state, step.actor_type, step.trigger) == ("PAID", "SYSTEM", "BACKGROUND_JOB")
    kinds = {row.kind for row in await rows(shop.database, "SELECT kind FROM jobs")}
    assert JobKind.NOTIFY_ORDER_CONFIRMATION in kinds
    assert JobKind.NOTIFY_ORDER_CANCELLED not in kinds
    # The webhook that comes late after all has no further effect.
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"


async def test_a_reservation_is_released_with_the_order(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    reserved = shop.charged(order, status="authorized")
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await status_of(shop, order) == "CANCELLED"
    assert shop.gateway.payments[reserved.id].status == "voided"
    assert shop.gateway.keys("void") == [f"void:{reserved.id}"]
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []


@pytest.mark.parametrize("status", [None, "failed", "voided"])
async def test_nothing_held_means_cancelled(shop: Shop, unpaid: UnpaidOrders, status: Any) -> None:
    order = await overdue(shop)
    if status is not None:
        shop.charged(order, status=status)
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await status_of(shop, order) == "CANCELLED"
    assert shop.gateway.keys("lookup") == [str(order["id"])]


@pytest.mark.parametrize("fault", ["unavailable", "lost"])
async def test_a_provider_that_does_not_answer_is_asked_again(shop: Shop, unpaid: UnpaidOrders, fault: Any) -> None:
    order = await overdue(shop)
    shop.gateway.faults["lookup"] = [fault]
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PENDING_PAYMENT"
    assert await unpaid.cancel_overdue(DAY) == 1


async def test_one_that_cannot_be_answered_for_holds_up_no_other(shop: Shop, unpaid: UnpaidOrders) -> None:
    first = await overdue(shop)
    shop.clock.advance(hours=-24, minutes=-59)
    others = [await shop.ordered() for _ in range(3)]
    shop.clock.advance(hours=25)
    shop.gateway.faults["lookup"] = ["lost"]
    assert await unpaid.cancel_overdue(DAY, limit=2) == 2
    shop.gateway.faults["lookup"] = ["lost"]
    assert await unpaid.cancel_overdue(DAY) == 1
    assert [await status_of(shop, order) for order in (first, *others)] == ["PENDING_PAYMENT", *["CANCELLED"] * 3]


async def test_an_unreachable_provider_is_not_asked_for_each_order(shop: Shop, unpaid: UnpaidOrders) -> None:
    await overdue(shop)
    shop.clock.advance(hours=-25)
    for _ in range(19):
        await shop.ordered()
    shop.clock.advance(hours=25)
    shop.gateway.faults["lookup"] = ["unavailable"] * 100
    assert await unpaid.cancel_overdue(DAY) == 0
    assert len(shop.gateway.keys("lookup")) == 8


async def test_money_that_does_not_fit_is_a_case_and_not_cancelled(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    payment = shop.charged(order, captured=Decimal("10.00"))
    for _ in range(2):
        assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PENDING_PAYMENT"
    [case] = await rows(shop.database, "SELECT * FROM cases")
    assert (case.kind, case.order_id, case.evidence["gateway_id"]) == ("AMOUNT_MISMATCH", order["id"], payment.id)
    assert await shop.tell("payment.captured", payment) == "AMOUNT_MISMATCH"
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 1


async def test_money_that_went_back_already_is_nothing_held(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    payment = shop.charged(order)
    shop.gateway.payments[payment.id] = replace(payment, refunded_amount=payment.captured_amount)
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await status_of(shop, order) == "CANCELLED"
    assert (await shop.payment(order["id"])).state == "PENDING"


async def test_another_amount_that_went_back_is_nothing_held(shop: Shop, unpaid: UnpaidOrders) -> None:
    """The way out REFUND_AT_GATEWAY of its case leaves an order that is still cancelled in time."""
    order = await overdue(shop)
    payment = shop.charged(order, captured=Decimal("10.00"))
    assert await unpaid.cancel_overdue(DAY) == 0
    shop.gateway.payments[payment.id] = replace(payment, refunded_amount=Decimal("10.00"))
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await status_of(shop, order) == "CANCELLED"


async def test_money_that_the_database_refuses_holds_up_no_other(shop: Shop, unpaid: UnpaidOrders) -> None:
    """The provider names another order's payment for the oldest one, at every question."""
    first = await overdue(shop)
    shop.clock.advance(hours=-24, minutes=-59)
    other = await shop.ordered()
    known = await shop.payment((await shop.paid())["id"])
    shop.clock.advance(hours=25)
    foreign = replace(shop.charged(first), id=known.gateway_payment_id)
    shop.gateway.payments = {foreign.id: foreign}
    assert await unpaid.cancel_overdue(DAY) == 1
    assert [await status_of(shop, order) for order in (first, other)] == ["PENDING_PAYMENT", "CANCELLED"]
    [case] = await rows(shop.database, "SELECT * FROM cases")
    assert (case.kind, case.order_id) == ("SECOND_PAYMENT", first["id"])
    assert case.evidence["refused_by"] == "uq_payments_gateway_payment_id"


async def test_captured_while_it_is_being_released(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    reserved = shop.charged(order, status="authorized")

    async def captured() -> None:
        shop.gateway.payments[reserved.id] = replace(reserved, status="captured", captured_amount=reserved.amount)

    shop.gateway.hooks["void", "arrived"] = captured
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PAID"


@pytest.mark.parametrize("moment", ["arrived", "moved"])
async def test_killed_while_a_reservation_is_released(shop: Shop, unpaid: UnpaidOrders, moment: Any) -> None:
    order = await overdue(shop)
    reserved = shop.charged(order, status="authorized")
    shop.gateway.hooks["void", moment] = die
    await shop.killed(lambda: unpaid.cancel_overdue(DAY))
    assert await status_of(shop, order) == "PENDING_PAYMENT"
    assert await unpaid.cancel_overdue(DAY) == 1
    assert shop.gateway.payments[reserved.id].status == "voided"
    assert len(shop.gateway.moved("void", order["id"])) == 1


async def test_killed_before_what_was_found_is_booked(
    shop: Shop, unpaid: UnpaidOrders, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await overdue(shop)
    shop.charged(order)
    with monkeypatch.context() as patched:
        patched.setattr(money_in, "mark_paid", lambda *_, **__: die())
        await shop.killed(lambda: unpaid.cancel_overdue(DAY))
    assert await status_of(shop, order) == "PENDING_PAYMENT"
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PAID"


async def test_a_webhook_that_comes_while_the_provider_is_asked(shop: Shop, unpaid: UnpaidOrders) -> None:
    """No lock is held meanwhile, so the webhook gets through; its effect is there once."""
    order = await overdue(shop)

    async def paid() -> None:
        assert await shop.tell("payment.captured", shop.charged(order)) == "PAID"

    shop.gateway.hooks["lookup", "arrived"] = paid
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PAID"
    assert len(await rows(shop.database, "SELECT 1 FROM state_history")) == 1


async def test_a_payment_that_comes_after_the_question_is_given_back(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await shop.tell("payment.captured", shop.charged(order)) == "PAID_AFTER_CANCEL"


async def test_sweeps_and_payments_at_once_lose_no_money(shop: Shop, unpaid: UnpaidOrders) -> None:
    orders = [await overdue(shop)]
    shop.clock.advance(hours=-25)
    orders += [await shop.ordered() for _ in range(7)]
    shop.clock.advance(hours=25)

    async def pay(order: OrderView) -> str:
        return await shop.tell("payment.captured", shop.charged(order))

    await asyncio.gather(*(unpaid.cancel_overdue(DAY) for _ in range(3)), *(pay(order) for order in orders))
    for order in orders:
        status = await status_of(shop, order)
        due = await rows(shop.database, "SELECT amount FROM refunds WHERE order_id = :id", id=order["id"])
        assert (status == "PAID" and not due) or (status == "CANCELLED" and len(due) == 1), (status, due)


async def test_an_old_order_that_costs_nothing_becomes_paid(
    shop: Shop, unpaid: UnpaidOrders, owner_connection: psycopg.Connection
) -> None:
    order = await overdue(shop)
    past_guard(owner_connection, "payments", "guard_agreed", "UPDATE payments SET amount = 0")
    assert await unpaid.cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PAID"
    assert shop.gateway.calls == []


# --- a reservation for a cancelled order -------------------------------------------------------------------------


async def test_a_reservation_that_comes_after_the_cancellation_is_released(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    assert await unpaid.cancel_overdue(DAY) == 1
    reserved = shop.charged(order, status="authorized")
    assert await shop.tell("payment.authorized", reserved) == "RESERVED_AFTER_CANCEL"
    shop.gateway.hooks["void", "moved"] = die
    await shop.killed(lambda: shop.work(order["id"], JobKind.RELEASE_PAYMENT))
    assert await shop.work(order["id"], JobKind.RELEASE_PAYMENT) is Verdict.SUCCEEDED
    assert shop.gateway.payments[reserved.id].status == "voided"
    assert len(shop.gateway.moved("void", order["id"])) == 1


async def test_a_second_reservation_after_the_cancellation_is_released_too(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    assert await unpaid.cancel_overdue(DAY) == 1
    for number in (1, 2):
        reserved = shop.charged(order, status="authorized")
        assert await shop.tell("payment.authorized", reserved, f"evt_{number}") == "RESERVED_AFTER_CANCEL"
        assert await shop.tell("payment.authorized", reserved, f"evt_{number}") == "DUPLICATE"
        [job] = await rows(shop.database, "SELECT id FROM jobs WHERE kind = 'payment.release' AND state = 'PENDING'")
        assert await shop.bench().runner("one").run(job.id) is Verdict.SUCCEEDED
        del shop.gateway.payments[reserved.id]
    assert len(shop.gateway.moved("void", order["id"])) == 2


async def test_a_reservation_between_the_question_and_the_cancellation_is_released(
    shop: Shop, unpaid: UnpaidOrders
) -> None:
    """Its webhook finds the order unpaid, and so does nothing."""
    order = await overdue(shop)
    reserved: list[GatewayPayment] = []

    async def reserve() -> None:
        reserved.append(shop.charged(order, status="authorized"))
        assert await shop.tell("payment.authorized", reserved[0]) == "IGNORED"

    shop.gateway.hooks["lookup", "moved"] = reserve
    assert await unpaid.cancel_overdue(DAY) == 1
    assert await status_of(shop, order) == "CANCELLED"
    assert shop.gateway.payments[reserved[0].id].status == "authorized"
    assert await shop.work(order["id"], JobKind.RELEASE_PAYMENT) is Verdict.SUCCEEDED
    assert shop.gateway.payments[reserved[0].id].status == "voided"


async def test_what_was_captured_meanwhile_is_given_back(shop: Shop, unpaid: UnpaidOrders) -> None:
    order = await overdue(shop)
    await unpaid.cancel_overdue(DAY)
    reserved = shop.charged(order, status="authorized")
    assert await shop.tell("payment.authorized", reserved) == "RESERVED_AFTER_CANCEL"
    shop.gateway.payments[reserved.id] = replace(reserved, status="captured", captured_amount=reserved.amount)
    assert await shop.work(order["id"], JobKind.RELEASE_PAYMENT) is Verdict.SUCCEEDED
    refund = await refund_of(shop.database, order["id"])
    assert (refund.reason, refund.amount) == ("PAID_AFTER_CANCEL", reserved.amount)


# --- by a person -------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(services: Services) -> FakeGateway:
    assert isinstance(services.gateway, FakeGateway)
    return services.gateway


def charge(gateway: FakeGateway, order: dict[str, Any], **changes: Any) -> Any:
    return gateway.charge(UUID(order["id"]), Decimal(f"{order['total_amount']:.2f}"), order["currency"], **changes)


CANCELS = [("POST", "/cancel", None), ("PATCH", "/state", {"new_state": "CANCELLED"})]


@pytest.mark.parametrize(("method", "path", "body"), CANCELS)
@pytest.mark.parametrize("key", [None, "k-1"])
async def test_cancelling_what_was_paid_books_it_and_pays_it_back(
    api: httpx2.AsyncClient, gateway: FakeGateway, database: Database, method: str, path: str, body: Any, key: Any
) -> None:
    order = await new_order(api)
    charge(gateway, order)
    headers = {"Idempotency-Key": key} if key else {}
    answered = await api.request(method, f"/api/v1/orders/{order['id']}{path}", json=body, headers=headers)
    assert answered.status_code == 200, answered.text
    assert answered.json()["status"] == "CANCELLED"
    history = (await api.get(f"/api/v1/orders/{order['id']}/history")).json()["data"]
    assert [step["new_state"] for step in history] == ["PAID", "CANCELLED"]
    [refund] = (await api.get(f"/api/v1/orders/{order['id']}/refunds")).json()["data"]
    assert (refund["amount"], refund["reason"]) == (order["total_amount"], "ORDER_CANCELLED")


@pytest.mark.parametrize(("method", "path", "body"), CANCELS)
async def test_a_provider_that_cannot_be_reached_answers_503(
    api: httpx2.AsyncClient, gateway: FakeGateway, method: str, path: str, body: Any
) -> None:
    order = await new_order(api)
    gateway.faults["lookup"] = ["unavailable"]
    url = f"/api/v1/orders/{order['id']}{path}"
    refused = await api.request(method, url, json=body, headers={"Idempotency-Key": "k-2"})
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
    assert refused.headers["retry-after"] == "30"
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json() == order
    again = await api.request(method, url, json=body, headers={"Idempotency-Key": "k-2"})
    assert again.json()["status"] == "CANCELLED"


async def test_no_connection_is_held_while_the_provider_is_asked(
    api: httpx2.AsyncClient, gateway: FakeGateway, database: Database
) -> None:
    order = await new_order(api)
    held: list[int] = []

    async def look() -> None:
        held.append(database.engine.pool.checkedout())  # type: ignore[attr-defined]

    gateway.hooks["lookup", "arrived"] = look
    cancelled = await api.post(f"/api/v1/orders/{order['id']}/cancel", headers={"Idempotency-Key": "k-3"})
    assert cancelled.status_code == 200
    assert held == [0]


async def test_a_caller_who_may_not_cancel_causes_no_look_up(
    api: httpx2.AsyncClient, gateway: FakeGateway, callers: dict[Role, httpx2.AsyncClient]
) -> None:
    order = await new_order(api)
    for role, status in ((Role.CUSTOMER, 404), (Role.WAREHOUSE, 403)):
        refused = await callers[role].post(f"/api/v1/orders/{order['id']}/cancel")
        assert refused.status_code == status
    assert (await api.post("/api/v1/orders/nonsense/cancel")).status_code == 422
    await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    await api.post(f"/api/v1/orders/{order['id']}/cancel")
    assert gateway.calls == []


async def test_a_person_may_cancel_what_a_case_is_open_for(api: httpx2.AsyncClient, gateway: FakeGateway) -> None:
    order = await new_order(api)
    charge(gateway, order, captured=Decimal("1.00"))
    cancelled = await api.post(f"/api/v1/orders/{order['id']}/cancel")
    assert cancelled.json()["status"] == "CANCELLED"
    [case] = (await api.get("/api/v1/cases?state=OPEN")).json()["data"]
    assert (case["kind"], case["order_number"]) == ("AMOUNT_MISMATCH", order["order_number"])
