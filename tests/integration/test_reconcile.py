"""Our refunds against the gateway's list: every kind of difference is named, repair records and never pays."""

from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.operations.dead_letters import DeadLetterService
from app.services.payments.gateway.port import RefundRequest
from app.services.payments.refund_reconciliation import Difference, DifferenceKind
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.integration.jobs_support import execute, rows
from tests.integration.money_support import RefundRow, Shop

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def pay_at_gateway(
    shop: Shop, refund: RefundRow, amount: str | None = None, reference: UUID | None = None
) -> str:
    """Let somebody pay at the gateway, past us; return the gateway's id of the refund."""
    paid = await shop.gateway.refund(
        RefundRequest(
            refund_id=reference or refund.id,
            gateway_payment_id=(await shop.payment(refund.order_id)).gateway_payment_id,
            amount=Decimal(amount or refund.amount),
            currency=refund.currency,
            idempotency_key=f"by hand {uuid4()}",
        )
    )
    return paid.id


async def differences(shop: Shop) -> list[Difference]:
    return (await shop.refunds.reconcile(shop.gateway)).differences


@pytest.mark.req("INT-001.5")
async def test_books_that_agree(shop: Shop) -> None:
    paid, waiting, unknown = [await shop.part_refund() for _ in range(3)]
    await shop.work(paid.id)
    shop.gateway.faults["refund"] = ["lost"]
    await shop.work(unknown.id)
    found = await shop.refunds.reconcile(shop.gateway, repair=True)
    assert (found.ours, found.theirs, found.differences, found.repaired) == (3, 1, [], 0)
    assert [(await shop.refund(row.id)).state for row in (waiting, unknown)] == ["PENDING", "UNKNOWN"]


@pytest.mark.req("INT-001.5")
async def test_paid_but_not_recorded_is_recorded_and_never_paid(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["timeout_after"]
    await shop.work(refund.id)
    [difference] = await differences(shop)
    assert difference.kind is DifferenceKind.PAID_BUT_NOT_RECORDED
    assert (difference.reference, difference.our_amount) == (str(refund.id), difference.their_amount)
    assert (await shop.refund(refund.id)).state == "UNKNOWN"
    movements = list(shop.gateway.movements)
    first = await shop.refunds.reconcile(shop.gateway, repair=True)
    again = await shop.refunds.reconcile(shop.gateway, repair=True)
    assert (first.repaired, again.repaired, again.differences) == (1, 0, [])
    assert shop.gateway.movements == movements
    assert (await shop.refund(refund.id)).gateway_refund_id == difference.gateway_refund_id
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


async def test_recorded_but_not_paid(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    shop.gateway.movements = [entry for entry in shop.gateway.movements if entry.kind != "refund"]
    [difference] = await differences(shop)
    assert (difference.kind, difference.their_amount) == (DifferenceKind.RECORDED_BUT_NOT_PAID, None)
    assert (await shop.refunds.reconcile(shop.gateway, repair=True)).repaired == 0
    assert shop.gateway.moved("refund", refund.id) == []


async def test_a_refund_that_is_paid_while_the_list_is_read_is_no_difference(shop: Shop) -> None:
    """A person who reads that it was not paid would pay it again."""
    refund = await shop.part_refund()

    async def meanwhile() -> None:
        await shop.work(refund.id)

    shop.gateway.hooks["lookup", "arrived"] = meanwhile
    assert await differences(shop) == []
    await shop.assert_paid_once(refund.id)


@pytest.mark.req("INT-001.5")
async def test_paid_more_than_once(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    await pay_at_gateway(shop, refund)
    [difference] = await differences(shop)
    assert (difference.kind, difference.their_amount) == (DifferenceKind.PAID_MORE_THAN_ONCE, refund.amount * 2)


@pytest.mark.parametrize("recorded", ["SUCCEEDED", "PENDING"])
async def test_another_amount(shop: Shop, recorded: str) -> None:
    refund = await shop.part_refund()
    if recorded == "SUCCEEDED":
        await shop.work(refund.id)
        shop.gateway.movements = [entry for entry in shop.gateway.movements if entry.kind != "refund"]
    await pay_at_gateway(shop, refund, "5.00")
    found = await shop.refunds.reconcile(shop.gateway, repair=True)
    [difference] = found.differences
    assert (difference.kind, difference.their_amount) == (DifferenceKind.AMOUNT_DIFFERS, Decimal("5.00"))
    assert found.repaired == 0


async def test_another_currency(shop: Shop) -> None:
    refund = await shop.part_refund()
    payment = shop.gateway.charge(uuid4(), Decimal("100.00"), "JPY")
    await shop.gateway.refund(
        RefundRequest(
            refund_id=refund.id,
            gateway_payment_id=payment.id,
            amount=refund.amount,
            currency="JPY",
            idempotency_key="by hand",
        )
    )
    found = await shop.refunds.reconcile(shop.gateway, repair=True)
    assert [difference.kind for difference in found.differences] == [DifferenceKind.AMOUNT_DIFFERS]
    assert (found.repaired, (await shop.refund(refund.id)).state) == (0, "PENDING")


async def test_what_we_never_asked_for(shop: Shop) -> None:
    refund = await shop.part_refund()
    stranger = uuid4()
    await pay_at_gateway(shop, refund, "5.00", stranger)
    [difference] = await differences(shop)
    assert (difference.kind, difference.reference) == (DifferenceKind.UNKNOWN_REFERENCE, str(stranger))
    assert (difference.our_amount, difference.their_amount) == (None, Decimal("5.00"))


async def test_one_repair_that_is_refused_holds_up_no_other(shop: Shop) -> None:
    """The gateway paid both, one of them only after it was given up and its share had gone to another refund."""
    refused, healthy = await shop.part_refund(), await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    assert await shop.work(refused.id, refund_retries=0) is Verdict.DEAD_LETTERED
    [letter] = await rows(shop.database, "SELECT id FROM dead_letters")
    await DeadLetterService(shop.database, shop.clock).dismiss(letter.id, shop.admin, "paid in cash")
    await execute(
        shop.database,
        "UPDATE payments SET refund_reserved_amount = captured_amount WHERE id = :id",
        id=refused.payment_id,
    )
    await pay_at_gateway(shop, refused)
    await pay_at_gateway(shop, healthy)
    with capture_logs() as logs:
        found = await shop.refunds.reconcile(shop.gateway, repair=True)
    assert (len(found.differences), found.repaired) == (2, 1)
    [refusal] = [entry for entry in logs if entry["log_level"] == "critical"]
    assert refusal["refund_id"] == str(refused.id)
    assert refusal["exc_info"].orig.diag.constraint_name == "ck_payments_refund_cap"
    assert [(await shop.refund(row.id)).state for row in (refused, healthy)] == ["FAILED", "SUCCEEDED"]
