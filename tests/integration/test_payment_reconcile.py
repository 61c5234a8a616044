"""Our payments beside the gateway's records: every way in which they can differ, named with order and payment (INT-001)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.case import CaseQuery
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.cases.service import CaseService
from app.services.jobs.service import JobKind
from app.services.payments import reconciliation as payment_reconciliation
from app.services.payments.gateway.port import GatewayOutcomeUnknown, GatewayUnavailable, RefundRequest
from app.services.payments.reconciliation import PaymentReconciler, PaymentReconciliation
from app.services.payments.unpaid import Standing, UnpaidOrders
from tests.conftest import MovableClock
from tests.fakes import Movement
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


async def test_money_that_was_not_recorded(shop: Shop, reconcile: Reconcile) -> None:
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


async def test_another_amount_a_second_payment_and_one_without_an_order(shop: Shop, reconcile: Reconcile) -> None:
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
    [named] = (await shop.refunds.reconcile(shop.gateway)).differences
    assert (named.kind, named.order_number, named.gateway_payment_id) == (
        "UNKNOWN_REFERENCE", order["order_number"], payment_id,
    )  # fmt: skip
    [difference] = (await reconcile(repair=True)).differences
    assert difference.kind == "REFUNDS_DIFFER"
    assert (difference.our_amount, difference.their_amount) == (Decimal(0), Decimal("41.10"))
    assert [case.kind for case in await rows(shop.database, "SELECT kind FROM cases")] == ["REFUNDED_ELSEWHERE"]


async def agree(shop: Shop, reconcile: Reconcile) -> bool:
    """Return whether both comparisons find nothing."""
    found = [*(await reconcile()).differences, *(await shop.refunds.reconcile(shop.gateway)).differences]
    return not found


async def close_all(shop: Shop, action: str = "LEAVE_AS_IS") -> int:
    """Let a manager close the open cases; return how many there were."""
    cases = CaseService(shop.database, shop.clock)
    found = (await cases.list(CaseQuery(state="OPEN"), shop.admin))["data"]
    for case in found:
        await cases.close(case["id"], shop.admin, "looked into it", action)
    return len(found)


async def test_each_refund_in_the_console_is_booked_with_a_case(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.paid()
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    for number, (amount, total) in enumerate((("41.10", "41.10"), ("20.00", "61.10"), ("280.00", "341.10")), start=1):
        await returned_elsewhere(shop, payment_id, amount)
        assert not await agree(shop, reconcile), "loud while it is not booked"
        report = await reconcile(repair=True)
        assert (len(report.differences), report.repaired) == (1, 1)
        assert (await shop.payment(order["id"])).refunded_elsewhere_amount == Decimal(total)
        assert len(await rows(shop.database, "SELECT 1 FROM cases WHERE kind = 'REFUNDED_ELSEWHERE'")) == number
        assert await agree(shop, reconcile)
        assert (await reconcile(repair=True)).repaired == 0
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 3


async def test_a_refund_in_the_console_that_was_reported_has_one_case(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.paid()
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    for amount in ("41.10", "20.00"):
        await returned_elsewhere(shop, payment_id, amount)
        reported = list(shop.gateway.refunds.values())[-1]
        assert await shop.tell("refund.succeeded", reported) == "UNKNOWN_REFERENCE"
    found = await rows(shop.database, "SELECT kind, order_id FROM cases")
    assert [(case.kind, case.order_id) for case in found] == [("UNKNOWN_REFERENCE", order["id"])] * 2
    assert (await reconcile(repair=True)).repaired == 1
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 2
    assert await agree(shop, reconcile)


async def test_a_refund_in_the_console_beside_one_of_ours(shop: Shop, reconcile: Reconcile) -> None:
    """Only what is none of ours is booked, though our refund was paid and its answer lost."""
    refund = await shop.part_refund("50.00")
    payment_id = (await shop.payment(refund.order_id)).gateway_payment_id
    shop.gateway.faults["refund"] = ["timeout_after"]
    await shop.work(refund.id)
    await returned_elsewhere(shop, payment_id, "41.10")
    assert (await reconcile(repair=True)).repaired == 1
    assert (await shop.payment(refund.order_id)).refunded_elsewhere_amount == Decimal("41.10")
    assert (await reconcile()).differences == []
    assert [each.kind for each in (await shop.refunds.reconcile(shop.gateway)).differences] == ["PAID_BUT_NOT_RECORDED"]


async def test_what_cannot_be_booked_is_loud_until_it_is_decided(shop: Shop, reconcile: Reconcile) -> None:
    refund = await shop.cancelled()
    payment_id = (await shop.payment(refund.order_id)).gateway_payment_id
    for amount in ("41.10", "20.00"):
        await returned_elsewhere(shop, payment_id, amount)
        for _ in range(2):
            report = await reconcile(repair=True)
            assert [each.kind for each in report.differences] == ["REFUNDS_DIFFER"]
            assert (report.repaired, report.asked, report.decided) == (0, 1, 0)
        assert not await agree(shop, reconcile)
        assert await close_all(shop) == 1, "more that goes back is another question"
        assert (await reconcile(repair=True)).decided == 1
        assert await agree(shop, reconcile)


@pytest.mark.parametrize("settled", ["went back", "decided"])
async def test_a_second_payment_is_loud_until_it_is_settled(shop: Shop, reconcile: Reconcile, settled: str) -> None:
    order = await shop.paid()
    second = shop.charged(order)
    for _ in range(2):
        assert [each.kind for each in (await reconcile(repair=True)).differences] == ["CAPTURED_MORE_THAN_ONCE"]
    if settled == "went back":
        await returned_elsewhere(shop, second.id, "100.00")
        assert not await agree(shop, reconcile), "a part of it is left"
        await returned_elsewhere(shop, second.id, "241.10")
    else:
        assert await close_all(shop) == 1
    assert await agree(shop, reconcile)
    # What happens to the first one is seen all the same.
    await returned_elsewhere(shop, (await shop.payment(order["id"])).gateway_payment_id, "5.00")
    assert [each.kind for each in (await reconcile()).differences] == ["REFUNDS_DIFFER"]
    third = shop.charged(order)
    found = {each.kind: each.gateway_payment_id for each in (await reconcile()).differences}
    assert found["CAPTURED_MORE_THAN_ONCE"] == third.id  # type: ignore[index]


async def test_ours_gone_and_the_other_one_paid_back(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.paid()
    shop.gateway.movements.clear()
    other = shop.charged(order)
    assert [each.kind for each in (await reconcile()).differences] == ["OTHER_PAYMENT"]
    await returned_elsewhere(shop, other.id, "341.10")
    assert [each.kind for each in (await reconcile(repair=True)).differences] == ["RECORDED_BUT_NOT_CAPTURED"]
    assert await close_all(shop) == 1
    assert await agree(shop, reconcile)


async def test_another_amount_that_was_decided_is_loud_when_it_changes(shop: Shop, reconcile: Reconcile) -> None:
    order = await shop.ordered()
    payment = shop.charged(order, captured=Decimal("1.00"))
    assert [each.kind for each in (await reconcile(repair=True)).differences] == ["AMOUNT_DIFFERS"]
    assert await close_all(shop) == 1
    assert await agree(shop, reconcile)
    shop.gateway.movements.append(
        Movement("capture", str(payment.reference), payment.id, payment.id, Decimal("1.00"), payment.currency)
    )
    assert [each.kind for each in (await reconcile()).differences] == ["AMOUNT_DIFFERS"]


async def test_money_without_an_order_is_not_reported_once_it_was_refunded(shop: Shop, reconcile: Reconcile) -> None:
    foreign = shop.gateway.charge(uuid4(), Decimal("5.00"))
    assert [each.kind for each in (await reconcile()).differences] == ["UNKNOWN_REFERENCE"]
    await returned_elsewhere(shop, foreign.id, "5.00")
    assert await agree(shop, reconcile)


@pytest.mark.parametrize("reported", ["SECOND_REFUND", "REFUND_REVERSED"])
async def test_a_refund_that_was_decided_is_quiet(shop: Shop, reconcile: Reconcile, reported: str) -> None:
    refund = await shop.part_refund("50.00")
    await shop.work(refund.id)
    [paid] = shop.gateway.refunds.values()
    if reported == "SECOND_REFUND":
        request = RefundRequest(
            refund_id=refund.id,
            gateway_payment_id=paid.payment_id,
            amount=refund.amount,
            currency=refund.currency,
            idempotency_key="by hand",
        )
        assert await shop.tell("refund.succeeded", await shop.gateway.refund(request)) == "SECOND_REFUND"
    else:
        shop.gateway.movements = [entry for entry in shop.gateway.movements if entry.kind != "refund"]
        assert await shop.tell("refund.failed", replace(paid, status="failed")) == "REFUND_REVERSED"
    assert len((await shop.refunds.reconcile(shop.gateway)).differences) == 1
    await close_all(shop)
    report = await shop.refunds.reconcile(shop.gateway)
    assert (report.differences, report.decided) == ([], 1)


# --- the sweep ---------------------------------------------------------------------------------------------------


async def test_the_sweep_books_and_asks_and_one_that_fails_holds_up_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [await shop.ordered() for _ in range(3)]
    for order in lost:
        shop.charged(order)
    broken = min(order["id"] for order in lost)
    sweep = shop.bench().payment_reconciler
    settle = sweep._unpaid_orders.settle

    async def settled(order_id: UUID, actor: Actor) -> Standing:
        if order_id == broken:
            raise GatewayOutcomeUnknown("No answer that can be relied on.")
        return await settle(order_id, actor)

    monkeypatch.setattr(sweep._unpaid_orders, "settle", settled)
    twice = await shop.paid()
    shop.charged(twice)
    with capture_logs() as logs:
        assert await sweep.sweep(SYSTEM_JOB) == 4
    found = await rows(shop.database, "SELECT id FROM orders WHERE status = 'PENDING_PAYMENT'")
    assert [row.id for row in found] == [broken]
    assert [case.kind for case in await rows(shop.database, "SELECT kind FROM cases")] == ["SECOND_PAYMENT"]
    [log] = [entry for entry in logs if entry["event"] == "payments.mismatched"]
    assert (log["left"], log["repaired"], log["cases"]) == (2, 2, 1)


async def test_the_sweep_reads_and_repairs_within_bounds(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        shop.charged(await shop.ordered())
    sweep = shop.bench().payment_reconciler
    monkeypatch.setattr(payment_reconciliation, "SWEPT_REPAIRS", 2)
    monkeypatch.setattr(payment_reconciliation, "SWEPT_TRANSACTIONS", 2)
    with capture_logs() as logs:
        assert await sweep.sweep(SYSTEM_JOB) == 0
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("payments.not_compared", "error")]
    monkeypatch.setattr(payment_reconciliation, "SWEPT_TRANSACTIONS", 100)
    assert [await sweep.sweep(SYSTEM_JOB) for _ in range(3)] == [3, 1, 0]


async def test_a_sweep_whose_gateway_is_away_waits_for_the_next(shop: Shop) -> None:
    async def away() -> None:
        raise GatewayUnavailable("No connection to the payment gateway.")

    shop.charged(await shop.ordered())
    shop.gateway.hooks["lookup", "arrived"] = away
    with capture_logs() as logs:
        assert await shop.bench().payment_reconciler.sweep(SYSTEM_JOB) == 0
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("payments.not_compared", "warning")]


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
