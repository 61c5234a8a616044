"""What a manager decides about money: amounts that differ, refunds made elsewhere, and disputes (INT-001, REQ-004)."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import CaseKind, OrderStatus, ReturnStatus
from app.database import Database
from app.schemas.case import CaseQuery
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnStateUpdate
from app.services.cases.service import CaseService
from app.services.cases.views import CaseView
from app.services.jobs.service import JobKind
from app.services.orders.service import STATEMENT
from app.services.orders.views import OrderView
from app.services.payments import disputes
from app.services.payments.decisions import decisions, reopenings
from app.services.payments.gateway.port import GatewayDispute, GatewayPayment
from app.tasks.runner import Verdict
from app.utils.exceptions import InvalidInputError, InvalidStateTransitionError
from tests.conftest import MovableClock
from tests.integration.conftest import Login
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import FULFILMENT, Shop, die

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-004")]


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.fixture
def cases(database: Database, clock: MovableClock) -> CaseService:
    return CaseService(database, clock, decisions(STATEMENT), reopenings())


async def open_cases(cases: CaseService, admin: Actor) -> list[CaseView]:
    return (await cases.list(CaseQuery(state="OPEN"), admin))["data"]


async def mismatched(shop: Shop, captured: str, **changes: Any) -> tuple[OrderView, GatewayPayment]:
    """Return an order and its payment of another amount, which the gateway has reported."""
    order = await shop.ordered()
    payment = replace(shop.charged(order, captured=Decimal(captured)), **changes)
    shop.gateway.payments[payment.id] = payment
    assert await shop.tell("payment.captured", payment) == "AMOUNT_MISMATCH"
    return order, payment


# --- another amount ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captured", ["90.96", "400.00"])
async def test_an_amount_that_a_manager_accepts_pays_the_order(
    shop: Shop, cases: CaseService, admin: Actor, captured: str
) -> None:
    order, payment = await mismatched(shop, captured)
    [case] = await open_cases(cases, admin)
    closed = await cases.close(case["id"], admin, "agreed with the customer", "ACCEPT")
    assert (closed["state"], closed["action"]) == ("CLOSED", "ACCEPT")
    assert (await shop.orders.get(order["id"], admin))["status"] == "PAID"
    booked = await shop.payment(order["id"])
    assert (booked.amount, booked.captured_amount) == (Decimal(f"{order['total_amount']:.2f}"), Decimal(captured))
    assert (booked.accepted_amount, booked.accepted_case_id) == (Decimal(captured), case["id"])
    [step] = await rows(shop.database, "SELECT * FROM state_history")
    assert (step.actor_id, step.metadata["case_id"]) == (admin.id, str(case["id"]))
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    # Never more goes back than came in.
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    refund = await refund_of(shop.database, order["id"])
    assert refund.amount == Decimal(captured)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_amount_that_a_manager_refuses_goes_back(
    shop: Shop,
    cases: CaseService,
    admin: Actor,
    is_cancelled: bool,  # noqa: FBT001 - a column
) -> None:
    order, payment = await mismatched(shop, "90.96")
    if is_cancelled:
        await shop.orders.cancel(order["id"], OrderCancel(), admin)
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "wrong amount", "REFUND")
    assert (await shop.orders.get(order["id"], admin))["status"] == "CANCELLED"
    refund = await refund_of(shop.database, order["id"])
    assert (refund.amount, refund.state) == (Decimal("90.96"), "PENDING")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)
    assert shop.gateway.payments[payment.id].refunded_amount == Decimal("90.96")


async def test_what_cannot_be_carried_out_leaves_the_case_open(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order, _ = await mismatched(shop, "90.96")
    [case] = await open_cases(cases, admin)
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    with pytest.raises(InvalidInputError):
        await cases.close(case["id"], admin, "accept", "ACCEPT")
    with pytest.raises(InvalidInputError):
        await cases.close(case["id"], admin, "no such way", "RELEASE")
    assert [found["id"] for found in await open_cases(cases, admin)] == [case["id"]]
    assert (await shop.payment(order["id"])).accepted_amount is None
    await cases.close(case["id"], admin, "refund", "REFUND")
    with pytest.raises(InvalidStateTransitionError):
        await cases.close(case["id"], admin, "refund", "REFUND")
    assert len(await rows(shop.database, "SELECT 1 FROM refunds")) == 1


async def test_another_currency_cannot_be_booked(shop: Shop, cases: CaseService, admin: Actor) -> None:
    await mismatched(shop, "341.10", currency="EUR")
    [case] = await open_cases(cases, admin)
    for action in ("ACCEPT", "REFUND"):
        with pytest.raises(InvalidInputError):
            await cases.close(case["id"], admin, "try", action)
    closed = await cases.close(case["id"], admin, "refunded there, re_1", "REFUND_AT_GATEWAY")
    assert closed["action"] == "REFUND_AT_GATEWAY"


# --- refunded elsewhere ------------------------------------------------------------------------------------------


async def test_a_payment_that_was_wholly_refunded_pays_nothing(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    gone = replace(payment, refunded_amount=payment.captured_amount)
    assert await shop.tell("payment.captured", gone) == "REFUNDED_ELSEWHERE"
    assert (await shop.orders.get(order["id"], admin))["status"] == "PENDING_PAYMENT"
    [case] = await open_cases(cases, admin)
    assert (case["kind"], case["order_number"]) == ("REFUNDED_ELSEWHERE", order["order_number"])
    assert case["evidence"]["refunded_amount"] == str(payment.captured_amount)


async def test_a_payment_that_was_partly_refunded_is_booked_as_such(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    order = await shop.ordered()
    payment = replace(shop.charged(order), refunded_amount=Decimal("41.10"))
    shop.gateway.payments[payment.id] = payment
    assert await shop.tell("payment.captured", payment) == "PAID"
    assert (await shop.orders.get(order["id"], admin))["status"] == "PAID"
    booked = await shop.payment(order["id"])
    assert (booked.captured_amount, booked.refunded_elsewhere_amount) == (Decimal("341.10"), Decimal("41.10"))
    [case] = await open_cases(cases, admin)
    assert case["kind"] == "REFUNDED_ELSEWHERE"
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    refund = await refund_of(shop.database, order["id"])
    assert refund.amount == Decimal("300.00")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


async def test_a_partly_refunded_payment_of_a_cancelled_order_gives_back_the_rest(shop: Shop, admin: Actor) -> None:
    order = await shop.ordered()
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    payment = replace(shop.charged(order), refunded_amount=Decimal("41.10"))
    shop.gateway.payments[payment.id] = payment
    assert await shop.tell("payment.captured", payment) == "PAID_AFTER_CANCEL"
    refund = await refund_of(shop.database, order["id"])
    assert refund.amount == Decimal("300.00")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED


@pytest.mark.parametrize("gone", ["41.10", "341.10"])
@pytest.mark.parametrize("found_by", ["webhook", "capture job", "refund job"])
async def test_what_went_back_of_an_order_marked_paid_by_hand_is_booked(
    shop: Shop, cases: CaseService, admin: Actor, found_by: str, gone: str
) -> None:
    order = await shop.ordered()
    payment = replace(shop.charged(order), refunded_amount=Decimal(gone))
    shop.gateway.payments[payment.id] = payment
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), admin)
    booked = await shop.payment(order["id"])
    if found_by == "webhook":
        assert await shop.tell("payment.captured", payment) == "REFUNDED_ELSEWHERE"
        assert await shop.work(booked.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
    elif found_by == "capture job":
        assert await shop.work(booked.id, JobKind.CAPTURE_PAYMENT) is Verdict.SUCCEEDED
        assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    else:
        # All of it is reserved for the refund by then, so nothing is left to be booked: the case tells.
        await shop.orders.cancel(order["id"], OrderCancel(), admin)
        await shop.work((await refund_of(shop.database, order["id"])).id)
    booked = await shop.payment(order["id"])
    elsewhere = "0" if found_by == "refund job" else gone
    assert (booked.gateway_payment_id, booked.refunded_elsewhere_amount) == (payment.id, Decimal(elsewhere))
    [case] = await open_cases(cases, admin)
    assert (case["kind"], case["order_number"]) == ("REFUNDED_ELSEWHERE", order["order_number"])
    assert case["evidence"]["refunded_amount"] == gone


async def test_our_own_refunds_are_not_refunded_elsewhere(shop: Shop, cases: CaseService, admin: Actor) -> None:
    refund = await shop.part_refund()
    await shop.work(refund.id)
    [payment] = shop.gateway.payments.values()
    assert payment.refunded_amount == Decimal("50.00")
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    assert await open_cases(cases, admin) == []


# --- what the database refuses -----------------------------------------------------------------------------------


async def test_a_payment_of_another_order_is_kept_and_a_case(shop: Shop, cases: CaseService, admin: Actor) -> None:
    known = await shop.payment((await shop.paid())["id"])
    order = await shop.ordered()
    foreign = replace(shop.charged(order), id=known.gateway_payment_id)
    assert await shop.tell("payment.captured", foreign, "evt_1") == "SECOND_PAYMENT"
    assert await shop.tell("payment.captured", foreign, "evt_1") == "DUPLICATE"
    [case] = await open_cases(cases, admin)
    assert (case["kind"], case["order_number"]) == ("SECOND_PAYMENT", order["order_number"])
    assert case["evidence"]["refused_by"] == "uq_payments_gateway_payment_id"
    assert (await shop.payment(order["id"])).state == "PENDING"
    [event] = await rows(shop.database, "SELECT outcome FROM gateway_events WHERE id = 'evt_1'")
    assert event.outcome == "SECOND_PAYMENT"


async def test_a_payment_of_another_refund_is_kept_and_a_case(shop: Shop, cases: CaseService, admin: Actor) -> None:
    first, second = await shop.cancelled(), await shop.cancelled()
    await shop.work(first.id)
    [paid] = shop.gateway.refunds.values()
    assert await shop.tell("refund.succeeded", replace(paid, reference=second.id)) == "SECOND_REFUND"
    [case] = await open_cases(cases, admin)
    assert case["kind"] == "SECOND_REFUND"
    assert case["evidence"]["refused_by"] == "uq_refunds_gateway_refund_id"
    assert (await shop.refund(second.id)).state == "PENDING"


async def test_a_part_of_more_digits_than_money_has_is_a_case(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order = await shop.ordered()
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    odd = replace(shop.charged(order), refunded_amount=Decimal("0.005"))
    assert await shop.tell("payment.captured", odd) == "AMOUNT_MISMATCH"
    assert (await shop.payment(order["id"])).state == "PENDING"


@pytest.mark.parametrize("captured", ["90.965", "999999999999.99"])
async def test_an_amount_that_no_column_holds_cannot_be_accepted(
    shop: Shop, cases: CaseService, admin: Actor, captured: str
) -> None:
    await mismatched(shop, captured)
    [case] = await open_cases(cases, admin)
    for action in ("ACCEPT", "REFUND"):
        with pytest.raises(InvalidInputError):
            await cases.close(case["id"], admin, "try", action)


async def test_of_managers_who_decide_at_once_one_does(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order, _ = await mismatched(shop, "90.96")
    [case] = await open_cases(cases, admin)
    actions = ["ACCEPT", "REFUND", "LEAVE_AS_IS", None] * 2
    answers = await asyncio.gather(
        *(cases.close(case["id"], admin, "so", action) for action in actions), return_exceptions=True
    )
    decided = [answer for answer in answers if isinstance(answer, dict)]
    assert len(decided) == 1
    assert all(isinstance(answer, InvalidStateTransitionError) for answer in answers if answer not in decided)
    refunds = await rows(shop.database, "SELECT amount FROM refunds")
    assert [refund.amount for refund in refunds] == [Decimal("90.96")] * (decided[0]["action"] == "REFUND")
    status = {"ACCEPT": "PAID", "REFUND": "CANCELLED"}.get(decided[0]["action"] or "", "PENDING_PAYMENT")
    assert (await shop.orders.get(order["id"], admin))["status"] == status
    assert len(await rows(shop.database, "SELECT 1 FROM events WHERE type = 'case.closed'")) == 1


# --- disputes ----------------------------------------------------------------------------------------------------


def dispute(payment: GatewayPayment | None, **changes: Any) -> GatewayDispute:
    given = {
        "id": "dp_1",
        "payment_id": payment.id if payment else None,
        "reference": None,
        "amount": "341.10",
        "currency": "USD",
        "reason": "product_not_received",
        "status": "needs_response",
        **changes,
    }
    return GatewayDispute(**given)


async def disputed(shop: Shop, **changes: Any) -> tuple[OrderView, UUID]:
    """Return a cancelled order whose payment is disputed, and its refund."""
    order = await shop.ordered()
    payment = shop.charged(order)
    await shop.tell("payment.captured", payment)
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, order["id"])
    assert await shop.tell("dispute.created", dispute(payment, **changes)) == "DISPUTE"
    return order, refund.id


async def test_a_dispute_holds_the_refunds_until_a_manager_lets_them_go(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    order, refund_id = await disputed(shop)
    [case] = await open_cases(cases, admin)
    assert (case["kind"], case["order_number"]) == ("DISPUTE", order["order_number"])
    assert case["evidence"]["dispute_id"] == "dp_1"
    assert {way["action"] for way in case["ways_out"]} == {"RELEASE", "KEEP"}
    for _ in range(8):
        assert await shop.work(refund_id) is Verdict.POSTPONED
    [job] = await rows(shop.database, "SELECT * FROM jobs WHERE kind = 'refund.process'")
    assert (job.failures, job.claims) == (0, 0), "waiting for a person costs no retry"
    assert (await shop.refund(refund_id)).state == "PENDING"
    assert shop.gateway.keys("refund") == []
    await cases.close(case["id"], admin, "the bank decided for us", "RELEASE")
    [job] = await rows(shop.database, "SELECT run_at <= now() AS due FROM jobs WHERE kind = 'refund.process'")
    assert job.due
    assert await shop.work(refund_id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund_id)


@pytest.mark.parametrize("action", ["KEEP", None])
async def test_refunds_that_a_manager_keeps_stay_held(
    shop: Shop, cases: CaseService, admin: Actor, action: str | None
) -> None:
    _, refund_id = await disputed(shop)
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "the bank took it back", action)
    assert await shop.work(refund_id) is Verdict.POSTPONED
    assert shop.gateway.keys("refund") == []


@pytest.mark.parametrize("action", ["KEEP", None])
async def test_a_manager_releases_later_what_was_kept(
    shop: Shop, cases: CaseService, admin: Actor, action: str | None
) -> None:
    order, refund_id = await disputed(shop)
    [case] = await open_cases(cases, admin)
    kept = await cases.close(case["id"], admin, "the bank took it back", action)
    for other in ("KEEP", None):
        with pytest.raises(InvalidStateTransitionError):
            await cases.close(case["id"], admin, "again", other)
    released = await cases.close(case["id"], admin, "the bank decided for us", "RELEASE")
    assert await cases.get(case["id"], admin) == kept, "a decision stays as it is"
    assert (released["state"], released["action"], released["closed_by"]) == ("CLOSED", "RELEASE", admin.id)
    assert (released["order_number"], released["close_note"]) == (order["order_number"], "the bank decided for us")
    assert released["evidence"] == {**case["evidence"], "follows": str(case["id"])}
    events = await rows(shop.database, "SELECT type FROM events WHERE entity_id = :id ORDER BY seq", id=released["id"])
    assert [event.type for event in events] == ["case.opened", "case.closed"]
    alerts = await rows(shop.database, "SELECT 1 FROM jobs WHERE kind = 'notify.case'")
    assert len(alerts) == 1, "nothing is asked once more"
    assert (await shop.payment(order["id"])).refunds_held_by is None
    assert await shop.work(refund_id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund_id)
    for closed in (case["id"], released["id"]):
        with pytest.raises(InvalidStateTransitionError):
            await cases.close(closed, admin, "again", "RELEASE")


async def test_of_managers_who_release_later_at_once_one_does(shop: Shop, cases: CaseService, admin: Actor) -> None:
    await disputed(shop)
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "wait", "KEEP")
    answers = await asyncio.gather(
        *(cases.close(case["id"], admin, "go on", "RELEASE") for _ in range(4)), return_exceptions=True
    )
    assert sorted(isinstance(answer, InvalidStateTransitionError) for answer in answers) == [False, True, True, True]
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 2


async def test_a_later_release_that_is_killed_leaves_the_hold(
    shop: Shop, cases: CaseService, admin: Actor, clock: MovableClock
) -> None:
    order, refund_id = await disputed(shop)
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "wait", "KEEP")

    async def killed(*given: Any) -> None:
        await disputes.release(*given)
        await die()

    dying = CaseService(shop.database, clock, {(CaseKind.DISPUTE, "RELEASE"): killed}, reopenings())
    await shop.killed(lambda: dying.close(case["id"], admin, "go on", "RELEASE"))
    assert (await shop.payment(order["id"])).refunds_held_by == case["id"]
    assert len(await rows(shop.database, "SELECT 1 FROM cases")) == 1
    assert await shop.work(refund_id) is Verdict.POSTPONED
    await cases.close(case["id"], admin, "go on", "RELEASE")
    assert await shop.work(refund_id) is Verdict.SUCCEEDED


async def test_the_end_of_a_dispute_comes_as_it_is_released_later(shop: Shop, cases: CaseService, admin: Actor) -> None:
    """One of the two is first: either the end asks the manager with its result, or it finds the refunds released."""
    for number in range(4):
        order, refund_id = await disputed(shop, id=f"dp_{number}")
        [case] = await open_cases(cases, admin)
        await cases.close(case["id"], admin, "wait", "KEEP")
        payment_id = (await shop.payment(order["id"])).gateway_payment_id
        ended = dispute(None, id=f"dp_{number}", payment_id=payment_id, status="won")
        outcome, answer = await asyncio.gather(
            shop.tell("dispute.closed", ended),
            cases.close(case["id"], admin, "go on", "RELEASE"),
            return_exceptions=True,
        )
        if outcome == "DISPUTE_CLOSED":
            assert isinstance(answer, InvalidStateTransitionError)
            [asked] = await open_cases(cases, admin)
            assert (await shop.payment(order["id"])).refunds_held_by == asked["id"]
            await cases.close(asked["id"], admin, "won", "RELEASE")
        else:
            assert (outcome, isinstance(answer, dict)) == ("DISPUTE_KNOWN", True)
        assert await open_cases(cases, admin) == []
        assert await shop.work(refund_id) is Verdict.SUCCEEDED


@pytest.mark.parametrize("kept_first", [True, False])
async def test_of_several_disputes_the_last_decision_counts(
    shop: Shop,
    cases: CaseService,
    admin: Actor,
    kept_first: bool,  # noqa: FBT001 - a column
) -> None:
    order, refund_id = await disputed(shop)
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    assert await shop.tell("dispute.created", dispute(None, id="dp_2", payment_id=payment_id)) == "DISPUTE"
    second, first = await open_cases(cases, admin)
    await cases.close(first["id"], admin, "decided", "KEEP" if kept_first else "RELEASE")
    assert (await shop.payment(order["id"])).refunds_held_by == second["id"]
    await cases.close(second["id"], admin, "decided", "RELEASE" if kept_first else "KEEP")
    if not kept_first:
        assert await shop.work(refund_id) is Verdict.POSTPONED
        await cases.close(second["id"], admin, "decided", "RELEASE")
    assert await shop.work(refund_id) is Verdict.SUCCEEDED


async def test_a_dispute_that_ends_is_decided_with_its_result(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order, refund_id = await disputed(shop)
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    ended = dispute(None, payment_id=payment_id, status="won")
    assert await shop.tell("dispute.closed", ended) == "DISPUTE_CLOSED"
    assert await shop.tell("dispute.closed", ended) == "DISPUTE_KNOWN"
    [case] = await open_cases(cases, admin)
    assert (case["evidence"]["event_type"], case["evidence"]["status"]) == ("dispute.closed", "won")
    [first] = await rows(shop.database, "SELECT * FROM cases WHERE state = 'CLOSED'")
    assert (first.action, first.closed_by) == ("SUPERSEDED", None)
    assert await shop.work(refund_id) is Verdict.POSTPONED
    await cases.close(case["id"], admin, "won", "RELEASE")
    assert await shop.work(refund_id) is Verdict.SUCCEEDED


async def test_the_end_of_a_dispute_that_was_released_is_no_news(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order, refund_id = await disputed(shop)
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "go on", "RELEASE")
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    for kind in ("dispute.updated", "dispute.closed"):
        assert await shop.tell(kind, dispute(None, payment_id=payment_id)) == "DISPUTE_KNOWN"
    assert await open_cases(cases, admin) == []
    assert await shop.work(refund_id) is Verdict.SUCCEEDED


async def test_disputes_of_one_payment_are_each_decided(shop: Shop, cases: CaseService, admin: Actor) -> None:
    order, refund_id = await disputed(shop)
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    assert await shop.tell("dispute.created", dispute(None, id="dp_2", payment_id=payment_id)) == "DISPUTE"
    for _ in range(2):
        assert await shop.work(refund_id) is Verdict.POSTPONED
        [case, *_] = await open_cases(cases, admin)
        await cases.close(case["id"], admin, "go on", "RELEASE")
    assert await shop.work(refund_id) is Verdict.SUCCEEDED


async def test_a_dispute_that_is_reported_after_its_end_opens_no_second_case(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    order = await shop.paid()
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    assert await shop.tell("dispute.closed", dispute(None, payment_id=payment_id, status="lost")) == "DISPUTE_CLOSED"
    assert await shop.tell("dispute.created", dispute(None, payment_id=payment_id)) == "DISPUTE_KNOWN"
    assert len(await open_cases(cases, admin)) == 1
    assert (await shop.payment(order["id"])).refunds_held_by is not None


async def test_a_dispute_of_nothing_that_is_known_is_a_case_all_the_same(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    assert await shop.tell("dispute.created", dispute(None, payment_id="pay_foreign", reference=uuid4())) == "DISPUTE"
    [case] = await open_cases(cases, admin)
    assert (case["kind"], case["order_number"], case["entity_type"]) == (CaseKind.DISPUTE, None, "GATEWAY_EVENT")
    await cases.close(case["id"], admin, "of another shop", "RELEASE")


async def test_the_payment_that_is_named_is_disputed_rather_than_the_reference(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    orders = [await shop.paid(), await shop.paid()]
    for number, (named, other) in enumerate((orders, orders[::-1]), start=1):
        payment_id = (await shop.payment(named["id"])).gateway_payment_id
        told = dispute(None, id=f"dp_{payment_id}", payment_id=payment_id, reference=other["id"])
        assert await shop.tell("dispute.created", told) == "DISPUTE"
        disputed = [case["order_id"] for case in await open_cases(cases, admin)]
        assert len(disputed) == number
        assert named["id"] in disputed


async def test_a_dispute_that_comes_as_the_refund_is_about_to_be_sent(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    """A refund that may have been sent is not sent again either while it is held; what is reported settles it."""
    order = await shop.paid()
    await shop.orders.cancel(order["id"], OrderCancel(), admin)
    refund = await refund_of(shop.database, order["id"])
    shop.gateway.faults["refund"] = ["lost"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    assert await shop.tell("dispute.created", dispute(None, payment_id=payment_id)) == "DISPUTE"
    calls = list(shop.gateway.calls)
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert shop.gateway.calls == calls
    assert (await shop.refund(refund.id)).state == "UNKNOWN"


@pytest.mark.parametrize("name", ["application", "owner", "superuser", "superuser in replica mode"])
async def test_the_database_sends_no_held_refund_and_lifts_no_hold(
    shop: Shop, login: Login, cases: CaseService, admin: Actor, name: str
) -> None:
    await disputed(shop)
    connection: psycopg.Connection = login(name)
    attacks = {
        "held_refund": "UPDATE refunds SET state = 'PROCESSING', first_sent_at = now()",
        "hold": "UPDATE payments SET refunds_held_by = NULL",
        "accepted": "UPDATE payments SET accepted_amount = captured_amount, accepted_case_id = (SELECT id FROM cases)",
    }
    for guard, attack in attacks.items():
        with pytest.raises(errors.IntegrityError) as refused:
            connection.execute(attack.encode())
        assert refused.value.diag.constraint_name == guard
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "keep", "KEEP")
    other = await shop.ordered()
    foreign = dispute(None, id="dp_2", reference=other["id"])
    assert await shop.tell("dispute.created", foreign) == "DISPUTE"
    for value in ("NULL", f"(SELECT id FROM cases WHERE order_id = '{other['id']}')"):
        with pytest.raises(errors.IntegrityError) as refused:
            connection.execute(f"UPDATE payments SET refunds_held_by = {value} WHERE state = 'CAPTURED'".encode())
        assert refused.value.diag.constraint_name == "hold"
    await cases.close(case["id"], admin, "go on", "RELEASE")
    connection.execute(attacks["held_refund"].encode())


@pytest.mark.parametrize("name", ["application", "owner", "superuser", "superuser in replica mode"])
async def test_money_that_went_back_elsewhere_does_not_return(shop: Shop, login: Login, name: str) -> None:
    order = await shop.ordered()
    await shop.tell("payment.captured", replace(shop.charged(order), refunded_amount=Decimal("41.10")))
    connection: psycopg.Connection = login(name)
    with pytest.raises(errors.IntegrityError) as refused:
        connection.execute(b"UPDATE payments SET refunded_elsewhere_amount = 41.09")
    assert refused.value.diag.constraint_name == "refunded_elsewhere"
    connection.execute(b"UPDATE payments SET refunded_elsewhere_amount = 41.11")


async def test_marked_paid_by_hand_stays_what_it_was(shop: Shop, admin: Actor) -> None:
    order = await shop.ordered()
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), admin)
    booked = await shop.payment(order["id"])
    assert (booked.captured_amount, booked.refunded_elsewhere_amount, booked.refunds_held_by) == (
        booked.amount,
        0,
        None,
    )


async def test_a_return_gives_back_no_more_than_came_in(shop: Shop, cases: CaseService, admin: Actor) -> None:
    """Of an order that was accepted short, the goods are worth more than what was paid."""
    order, _ = await mismatched(shop, "90.96")
    [case] = await open_cases(cases, admin)
    await cases.close(case["id"], admin, "agreed", "ACCEPT")
    for step in FULFILMENT:
        await shop.orders.transition(order["id"], OrderStateUpdate(new_state=step), admin)
    request = await shop.returns.create(ReturnCreate(order_id=order["id"], reason="Cracked"), admin)
    with pytest.raises(InvalidInputError):
        await shop.returns.approve(request["id"], ReturnApprove(notes="Fine", refund_amount=Decimal("90.97")), admin)
    approved = await shop.returns.approve(request["id"], ReturnApprove(notes="Fine"), admin)
    assert approved["refund_amount"] == Decimal("90.96")
    for state in (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED, ReturnStatus.COMPLETED):
        await shop.returns.transition(request["id"], ReturnStateUpdate(new_state=state), admin)
    refund = await refund_of(shop.database, order["id"])
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
