"""Money in: what the gateway reports, whenever it does and however often (INT-001)."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.jobs.service import JobKind
from app.services.payments.gateway.port import GatewayRefund, RefundRequest
from app.tasks.runner import Verdict
from app.utils.exceptions import InvalidStateTransitionError
from tests.conftest import MovableClock
from tests.fakes import CREATED
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import RefundRow, Shop

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-001")]


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def outcome_of(shop: Shop, event_id: str) -> str | None:
    found = await rows(shop.database, "SELECT outcome FROM gateway_events WHERE id = :id", id=event_id)
    return found[0].outcome if found else None


async def at_gateway(shop: Shop, refund: RefundRow, key: str = "by hand") -> GatewayRefund:
    """Return a refund that the gateway paid behind our back."""
    gateway_payment_id = (await shop.payment(refund.order_id)).gateway_payment_id
    return await shop.gateway.refund(
        RefundRequest(
            refund_id=refund.id,
            gateway_payment_id=gateway_payment_id,
            amount=refund.amount,
            currency=refund.currency,
            idempotency_key=key,
        )
    )


@pytest.mark.req("INT-001.2")
async def test_of_twenty_deliveries_at_once_one_has_an_effect(shop: Shop) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    outcomes = await asyncio.gather(*(shop.tell("payment.captured", payment, "evt_same") for _ in range(20)))
    assert sorted(outcomes) == ["DUPLICATE"] * 19 + ["PAID"]
    assert len(await rows(shop.database, "SELECT 1 FROM state_history")) == 1
    assert await rows(shop.database, "SELECT 1 FROM transition_rejections") == []
    booked = await shop.payment(order["id"])
    assert (booked.state, booked.captured_amount) == ("CAPTURED", payment.amount)
    assert booked.gateway_payment_id == payment.id
    paid = await shop.orders.get(order["id"], shop.admin)
    assert (paid["status"], paid["payment_transaction_id"]) == ("PAID", payment.id)
    # The gateway reported it, so there is nothing to collect.
    assert await rows(shop.database, "SELECT 1 FROM jobs WHERE queue = 'refunds'") == []


async def test_twenty_events_about_one_payment_at_once_pay_it_once(shop: Shop) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    outcomes = await asyncio.gather(*(shop.tell("payment.captured", payment) for _ in range(20)))
    assert sorted(outcomes) == ["ALREADY_CAPTURED"] * 19 + ["PAID"]
    assert len(await rows(shop.database, "SELECT 1 FROM gateway_events")) == 20
    assert len(await rows(shop.database, "SELECT 1 FROM state_history")) == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"amount": Decimal("340.00"), "captured_amount": Decimal("340.00")},
        {"currency": "EUR"},
        {"captured_amount": Decimal("10.00")},
    ],
)
async def test_another_amount_or_currency_pays_nothing(shop: Shop, lie: dict[str, object]) -> None:
    order = await shop.ordered()
    payment = replace(shop.charged(order), **lie)  # type: ignore[arg-type]
    with capture_logs() as logs:
        assert await shop.tell("payment.captured", payment, "evt_lie") == "AMOUNT_MISMATCH"
    assert [entry["log_level"] for entry in logs] == ["critical"]
    assert await outcome_of(shop, "evt_lie") == "AMOUNT_MISMATCH"
    assert (await shop.orders.get(order["id"], shop.admin))["status"] == "PENDING_PAYMENT"
    assert (await shop.payment(order["id"])).state == "PENDING"


async def test_an_unknown_outcome_is_kept_for_a_person(shop: Shop) -> None:
    payment = shop.gateway.charge(uuid4(), Decimal("10.00"))
    refund = GatewayRefund(
        id="re_1",
        payment_id=payment.id,
        reference=uuid4(),
        status="succeeded",
        amount=Decimal("10.00"),
        currency="USD",
        failure_code=None,
        created=CREATED,
    )
    for kind, subject in (("payment.captured", payment), ("refund.succeeded", refund)):
        with capture_logs() as logs:
            assert await shop.tell(kind, subject, f"evt_{kind}") == "UNKNOWN_REFERENCE"
        assert [entry["log_level"] for entry in logs] == ["critical"]
        assert await outcome_of(shop, f"evt_{kind}") == "UNKNOWN_REFERENCE"
    order = await shop.ordered()
    reserved = shop.charged(order, status="authorized")
    assert await shop.tell("payment.authorized", reserved) == "IGNORED"
    assert await shop.tell("customer.updated", None) == "IGNORED"


async def test_a_second_payment_of_an_order_is_kept_for_a_person(shop: Shop) -> None:
    order = await shop.paid()
    booked = (await shop.payment(order["id"])).gateway_payment_id
    with capture_logs() as logs:
        assert await shop.tell("payment.captured", shop.charged(order)) == "SECOND_PAYMENT"
    assert [entry["log_level"] for entry in logs] == ["critical"]
    assert (await shop.payment(order["id"])).gateway_payment_id == booked


async def test_a_second_payment_is_seen_while_the_first_is_being_collected(shop: Shop) -> None:
    """The webhook may not overwrite what a worker notes at that very moment."""
    order = await shop.ordered()
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    first, second = shop.charged(order), shop.charged(order)
    payment = await shop.payment(order["id"])
    async with shop.database.engine.connect() as worker:
        await worker.exec_driver_sql(
            "UPDATE payments SET gateway_payment_id = %s WHERE id = %s", (first.id, payment.id)
        )
        telling = asyncio.create_task(shop.tell("payment.captured", second))
        await asyncio.wait({telling}, timeout=0.3)
        await worker.commit()
    assert await telling == "SECOND_PAYMENT"
    assert (await shop.payment(order["id"])).gateway_payment_id == first.id


async def test_marked_paid_by_hand_then_reported(shop: Shop) -> None:
    order = await shop.ordered()
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    payment = shop.charged(order)
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    booked = await shop.payment(order["id"])
    assert booked.gateway_payment_id == payment.id
    assert await shop.work(booked.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    assert shop.gateway.calls == []


async def test_money_for_a_cancelled_order_is_given_back(shop: Shop) -> None:
    order = await shop.ordered()
    await shop.orders.cancel(order["id"], OrderCancel(reason="changed my mind"), shop.admin)
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []
    payment = shop.charged(order)
    assert await shop.tell("payment.captured", payment) == "PAID_AFTER_CANCEL"
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    refund = await refund_of(shop.database, order["id"])
    assert (refund.reason, refund.amount) == ("PAID_AFTER_CANCEL", payment.amount)
    booked = await shop.payment(order["id"])
    assert booked.refund_reserved_amount == booked.captured_amount == payment.amount
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)
    assert (await shop.orders.get(order["id"], shop.admin))["status"] == "CANCELLED"


@pytest.mark.parametrize("round_number", range(4))
async def test_cancellation_and_payment_at_once_lose_no_money(shop: Shop, round_number: int) -> None:
    """In either order of arrival, the order ends CANCELLED, and all that was captured is due back, once."""
    order = await shop.ordered()
    payment = shop.charged(order)
    steps = [
        *(shop.tell("payment.captured", payment, "evt_same") for _ in range(3)),
        *(shop.orders.cancel(order["id"], OrderCancel(), shop.admin) for _ in range(3)),
    ]
    if round_number % 2:
        steps.reverse()
    answers = await asyncio.gather(*steps, return_exceptions=True)
    faults = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(fault, InvalidStateTransitionError) for fault in faults), faults
    assert len(faults) == 2
    assert (await shop.orders.get(order["id"], shop.admin))["status"] == "CANCELLED"
    refund = await refund_of(shop.database, order["id"])
    assert refund.amount == payment.amount
    assert refund.reason in {"ORDER_CANCELLED", "PAID_AFTER_CANCEL"}
    await shop.work(refund.id)
    await shop.assert_paid_once(refund.id)


async def test_a_refund_reported_before_our_own_commit(shop: Shop) -> None:
    refund = await shop.part_refund()

    async def report() -> None:
        [paid] = shop.gateway.refunds.values()
        assert await shop.tell("refund.succeeded", paid) == "REFUND_SETTLED"

    shop.gateway.hooks["refund", "moved"] = report
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


async def test_a_refund_reported_while_its_answer_is_lost(shop: Shop) -> None:
    refund = await shop.part_refund()

    async def report() -> None:
        [paid] = shop.gateway.refunds.values()
        outcomes = await asyncio.gather(*(shop.tell("refund.succeeded", paid, "evt_same") for _ in range(20)))
        assert sorted(outcomes) == ["DUPLICATE"] * 19 + ["REFUND_SETTLED"]

    shop.gateway.faults["refund"] = ["timeout_after"]
    shop.gateway.hooks["refund", "moved"] = report
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).state == "SUCCEEDED"
    calls = list(shop.gateway.calls)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert shop.gateway.calls == calls
    await shop.assert_paid_once(refund.id)


async def test_a_refund_reported_again_is_known(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    [paid] = shop.gateway.refunds.values()
    with capture_logs() as logs:
        assert await shop.tell("refund.succeeded", paid) == "ALREADY_SETTLED"
    assert [entry["log_level"] for entry in logs] == ["info"]
    assert await shop.tell("refund.succeeded", replace(paid, amount=Decimal("1.00"))) == "AMOUNT_MISMATCH"
    await shop.assert_paid_once(refund.id)


async def test_a_refund_that_was_paid_twice_is_kept_for_a_person(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    again = await at_gateway(shop, refund)
    with capture_logs() as logs:
        assert await shop.tell("refund.succeeded", again, "evt_again") == "SECOND_REFUND"
    assert [entry["log_level"] for entry in logs] == ["critical"]
    assert await outcome_of(shop, "evt_again") == "SECOND_REFUND"
    assert (await shop.refund(refund.id)).gateway_refund_id != again.id


async def test_a_refund_that_bounced_is_kept_for_a_person(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    [paid] = shop.gateway.refunds.values()
    assert await shop.tell("refund.failed", replace(paid, status="failed")) == "REFUND_REVERSED"
    assert (await shop.refund(refund.id)).state == "SUCCEEDED"


async def test_a_late_report_of_a_declined_attempt_is_no_alarm(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    await shop.work(refund.id)
    [declined] = shop.gateway.refunds.values()
    await shop.work(refund.id)
    await shop.assert_paid_once(refund.id)
    with capture_logs() as logs:
        assert await shop.tell("refund.failed", declined) == "REFUND_FAILED"
    assert [entry["log_level"] for entry in logs] == ["info"]
