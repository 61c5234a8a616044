"""Our payments beside the gateway's books: every way in which they can differ, named with order and payment (INT-001)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.job_service import JobKind
from app.services.payment_gateway import RefundRequest
from app.services.payment_reconciliation import PaymentReconciler, PaymentReconciliation
from app.services.unpaid_orders import UnpaidOrders
from tests.conftest import MovableClock
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import Shop

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-004")]


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


Reconcile = Callable[..., Awaitable[PaymentReconciliation]]


@pytest.fixture
def reconcile(shop: Shop) -> Reconcile:
    async def reconciled(*, repair: bool = False) -> PaymentReconciliation:
        unpaid = UnpaidOrders(shop.database, shop.orders, shop.gateway, shop.clock)
        return await PaymentReconciler(shop.database, shop.gateway, unpaid).reconcile(shop.admin, repair=repair)

    return reconciled


async def returned_elsewhere(shop: Shop, payment_id: str, amount: str) -> None:
    """Let someone refund in the gateway's own console."""
    payment = shop.gateway.payments[payment_id]
    await shop.gateway.refund(
        RefundRequest(
            refund_id=uuid4(),
            gateway_payment_id=payment_id,
            amount=Decimal(amount),
            currency=payment.currency,
            idempotency_key=f"console:{amount}",
        )
    )


async def test_books_that_agree(shop: Shop, reconcile: Reconcile) -> None:
    await shop.paid()
    await shop.ordered()
    refund = await shop.part_refund()
    await shop.work(refund.id)
    by_hand = await shop.ordered()
    await shop.orders.transition(by_hand["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    under_way = await shop.part_refund("20.00")
    shop.gateway.faults["refund"] = ["timeout_after"]
    await shop.work(under_way.id)
    report = await reconcile()
    assert report.differences == []
    assert (report.ours, report.theirs) == (5, 3)


async def test_money_that_nobody_recorded(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    cancelled = await shop.ordered()
    await shop.orders.cancel(cancelled["id"], OrderCancel(), shop.admin)
    shop.charged(cancelled)
    report = await reconcile()
    assert [difference.kind for difference in report.differences] == ["CAPTURED_BUT_NOT_RECORDED"] * 2
    [found] = [difference for difference in report.differences if difference.order_id == order["id"]]
    assert (found.order_number, found.gateway_payment_id) == (order["order_number"], payment.id)
    assert (found.our_amount, found.their_amount) == (Decimal(0), payment.captured_amount)
    assert (await shop.orders.get(order["id"], shop.admin))["status"] == "PENDING_PAYMENT", "it only looks"
    repaired = await reconcile(repair=True)
    assert repaired.repaired == 2
    assert (await shop.orders.get(order["id"], shop.admin))["status"] == "PAID"
    assert (await refund_of(shop.database, cancelled["id"])).reason == "PAID_AFTER_CANCEL"
    assert (await reconcile()).differences == []


async def test_money_that_is_not_there(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.paid()
    booked = await shop.payment(order["id"])
    shop.gateway.movements.clear()
    [difference] = (await reconcile(repair=True)).differences
    assert (difference.kind, difference.order_number, difference.gateway_payment_id) == (
        "RECORDED_BUT_NOT_CAPTURED", order["order_number"], booked.gateway_payment_id,
    )  # fmt: skip
    [case] = await rows(shop.database, "SELECT * FROM cases")
    assert (case.kind, case.order_id) == ("PAYMENT_NOT_CAPTURED", order["id"])
    assert len((await reconcile(repair=True)).differences) == 1
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 1


async def test_another_amount_a_second_payment_and_one_of_nobody(shop: Shop, reconcile: Reconcile) -> None:
    less = await shop.ordered()
    shop.charged(less, captured=Decimal("1.00"))
    twice = await shop.paid()
    second = shop.charged(twice)
    foreign = shop.gateway.charge(uuid4(), Decimal("5.00"))
    found = {difference.kind: difference for difference in (await reconcile(repair=True)).differences}
    assert sorted(found) == ["AMOUNT_DIFFERS", "CAPTURED_MORE_THAN_ONCE", "UNKNOWN_REFERENCE"]
    assert found["AMOUNT_DIFFERS"].order_number == less["order_number"]  # type: ignore[index]
    assert found["CAPTURED_MORE_THAN_ONCE"].gateway_payment_id == second.id  # type: ignore[index]
    assert found["UNKNOWN_REFERENCE"].gateway_payment_id == foreign.id  # type: ignore[index]
    kinds = [case.kind for case in await rows(shop.database, "SELECT kind FROM cases ORDER BY kind")]
    assert kinds == ["AMOUNT_MISMATCH", "SECOND_PAYMENT"]


async def test_money_that_went_back_elsewhere(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.paid()
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    await returned_elsewhere(shop, payment_id, "41.10")
    [difference] = (await reconcile(repair=True)).differences
    assert difference.kind == "REFUNDS_DIFFER"
    assert (difference.our_amount, difference.their_amount) == (Decimal(0), Decimal("41.10"))
    assert [case.kind for case in await rows(shop.database, "SELECT kind FROM cases")] == ["REFUNDED_ELSEWHERE"]
    [named] = (await shop.refunds.reconcile(shop.gateway)).differences
    assert (named.kind, named.order_number, named.gateway_payment_id) == (
        "UNKNOWN_REFERENCE", order["order_number"], payment_id,
    )  # fmt: skip


async def test_a_part_that_was_booked_as_refunded_elsewhere_is_no_difference(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    await returned_elsewhere(shop, payment.id, "41.10")
    assert await shop.tell("payment.captured", shop.gateway.payments[payment.id]) == "PAID"
    assert (await reconcile()).differences == []


async def test_a_reservation_of_a_cancelled_order(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.ordered()
    waiting = await shop.ordered()
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    reserved = shop.charged(order, status="authorized")
    shop.charged(waiting, status="authorized")
    [difference] = (await reconcile()).differences
    assert (difference.kind, difference.gateway_payment_id) == ("RESERVED_AFTER_CANCEL", reserved.id)
    assert (await reconcile(repair=True)).repaired == 1
    assert shop.gateway.payments[reserved.id].status == "voided"
    assert (await reconcile()).differences == []


async def test_payments_go_on_while_the_list_is_read(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.ordered()
    refund = await shop.part_refund()

    async def goes_on() -> None:
        await shop.tell("payment.captured", shop.charged(order))
        await shop.work(refund.id)

    shop.gateway.hooks["lookup", "arrived"] = goes_on
    assert (await reconcile()).differences == []


async def test_an_answer_of_the_gateway_is_needed(shop: Shop, reconcile: Reconcile) -> None:
    payment = shop.charged(await shop.ordered())
    shop.gateway.payments[payment.id] = replace(payment, status="failed", captured_amount=Decimal(0))
    report = await reconcile(repair=True)
    assert (len(report.differences), report.repaired) == (1, 0), "its look-up says otherwise than its list"
    assert await rows(shop.database, "SELECT 1 FROM jobs WHERE kind = :kind", kind=JobKind.CAPTURE_PAYMENT) == []
