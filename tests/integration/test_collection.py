"""Collecting what counts as paid: found at the gateway or taken there, once (INT-001)."""

import asyncio
from decimal import Decimal

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.jobs.service import JobKind
from app.services.orders.views import OrderView
from app.services.payments.gateway.port import GatewayPayment
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import RefundRow, Shop, die

pytestmark = pytest.mark.req("INT-001")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def collecting(shop: Shop, **fields: object) -> tuple[OrderView, RefundRow]:
    """Return an order that was marked PAID by hand, and its payment, which a job has to collect."""
    order = await shop.ordered(**fields)
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    return order, await shop.payment(order["id"])


async def test_money_is_taken_once(shop: Shop) -> None:
    order, payment = await collecting(shop)
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    [taken] = shop.gateway.payments.values()
    assert (taken.reference, taken.captured_amount) == (order["id"], payment.amount)
    assert shop.gateway.keys("capture") == [f"payment:{order['id']}"]
    assert (await shop.payment(taken.reference)).gateway_payment_id == taken.id
    facts = await rows(shop.database, "SELECT type FROM events WHERE entity_id = :id", id=payment.id)
    assert [fact.type for fact in facts] == ["payment.collected"]


async def test_marking_paid_never_charges_a_card(shop: Shop) -> None:
    """The order names a card that would be declined: it is not tried, the money is reported as received elsewhere."""
    _, payment = await collecting(shop, payment_token="tok_declined")
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    assert shop.gateway.tokens == [None]
    [reported] = shop.gateway.payments.values()
    assert (await shop.payment(reported.reference)).gateway_payment_id == reported.id


async def test_what_the_storefront_charged_is_adopted(shop: Shop) -> None:
    order, payment = await collecting(shop)
    charged = shop.charged(order)
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    assert (await shop.payment(charged.reference)).gateway_payment_id == charged.id
    assert shop.gateway.moved("capture", charged.reference) == [payment.amount]
    assert shop.gateway.keys("capture") == []


async def test_what_the_storefront_reserved_is_captured(shop: Shop) -> None:
    order, payment = await collecting(shop)
    reserved = shop.charged(order, status="authorized")
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    assert shop.gateway.keys("capture") == [f"capture:{reserved.id}"]
    assert shop.gateway.moved("capture", reserved.reference) == [payment.amount]
    assert (await shop.payment(reserved.reference)).gateway_payment_id == reserved.id


@pytest.mark.parametrize("status", ["captured", "authorized"])
@pytest.mark.parametrize("amount_and_currency", [("10.00", "USD"), ("341.10", "EUR")])
async def test_a_charge_of_another_amount_or_currency_is_not_adopted(
    shop: Shop, status: str, amount_and_currency: tuple[str, str]
) -> None:
    order, payment = await collecting(shop)
    amount, currency = amount_and_currency
    shop.gateway.charge(payment.order_id, Decimal(amount), currency, status=status)  # type: ignore[arg-type]
    moved = list(shop.gateway.movements)
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.DEAD_LETTERED
    assert shop.gateway.movements == moved
    assert (await shop.payment(payment.order_id)).gateway_payment_id is None
    await shop.orders.cancel(payment.order_id, OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, payment.order_id)
    assert await shop.work(refund.id) is Verdict.DEAD_LETTERED
    assert (await shop.refund(refund.id)).state == "FAILED"
    assert shop.gateway.movements == moved
    assert order["total_amount"] == Decimal("341.10")


async def test_a_charge_that_was_captured_in_part_is_not_adopted(shop: Shop) -> None:
    order, payment = await collecting(shop)
    shop.charged(order, captured=Decimal("10.00"))
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT) is Verdict.DEAD_LETTERED
    assert (await shop.payment(payment.order_id)).gateway_payment_id is None


async def test_two_workers_at_once_take_money_once(shop: Shop) -> None:
    """The payment's own job, and the refund of the order that was cancelled meanwhile."""
    order, payment = await collecting(shop)
    await shop.orders.cancel(payment.order_id, OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, payment.order_id)
    jobs = ((payment.id, JobKind.CAPTURE_PAYMENT), (refund.id, JobKind.PROCESS_REFUND))
    for _ in range(3):
        await asyncio.gather(*(shop.work(about, kind, owner=kind) for about, kind in jobs))
    assert shop.gateway.moved("capture", payment.order_id) == [payment.amount]
    assert await shop.job_state(payment.id, JobKind.CAPTURE_PAYMENT) == "SUCCEEDED"
    await shop.assert_paid_once(refund.id)
    assert order["id"] == payment.order_id


async def test_a_worker_killed_after_a_capture_leaves_it_to_be_found(shop: Shop) -> None:
    _, payment = await collecting(shop)
    shop.gateway.hooks["capture", "moved"] = die
    await shop.killed(lambda: shop.work(payment.id, JobKind.CAPTURE_PAYMENT))
    assert await shop.work(payment.id, JobKind.CAPTURE_PAYMENT, owner="heir") is Verdict.SUCCEEDED
    taken: list[GatewayPayment] = list(shop.gateway.payments.values())
    assert shop.gateway.moved("capture", payment.order_id) == [payment.amount]
    assert (await shop.payment(payment.order_id)).gateway_payment_id == taken[0].id


async def test_a_card_that_is_declined_refunds_nothing(shop: Shop) -> None:
    _, payment = await collecting(shop)
    await shop.orders.cancel(payment.order_id, OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, payment.order_id)
    shop.gateway.faults["capture"] = ["decline"]
    assert await shop.work(refund.id, refund_retries=0) is Verdict.DEAD_LETTERED
    assert (await shop.refund(refund.id)).state == "FAILED"
    assert shop.gateway.movements == []
