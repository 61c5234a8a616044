"""Booking money that came in: the one place where a payment becomes captured because the provider says so.

Webhooks, the question before a cancellation, reconciliation and the decision of a case all meet here. Each function
works in the caller's transaction and can be called twice without harm. Locks: order, payment, then what follows.
"""

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import MONEY_LIMIT
from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, OrderStatus, PaymentState, WebhookOutcome
from app.models.payment import Payment, Refund
from app.services.cases.service import open_case
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.ledger import payments as payment_ledger
from app.services.ledger import refunds as refund_ledger
from app.services.payments.gateway.port import GatewayPayment, GatewayRefund
from app.services.workflow import transitions
from app.services.workflow.transitions import Outcome, TransitionRequest

logger = structlog.get_logger(__name__)

CENT = Decimal("0.01")

CASES: dict[WebhookOutcome, CaseKind] = {
    WebhookOutcome.AMOUNT_MISMATCH: CaseKind.AMOUNT_MISMATCH,
    WebhookOutcome.SECOND_PAYMENT: CaseKind.SECOND_PAYMENT,
    WebhookOutcome.SECOND_REFUND: CaseKind.SECOND_REFUND,
    WebhookOutcome.REFUND_REVERSED: CaseKind.REFUND_REVERSED,
    WebhookOutcome.REFUNDED_ELSEWHERE: CaseKind.REFUNDED_ELSEWHERE,
    WebhookOutcome.UNKNOWN_REFERENCE: CaseKind.UNKNOWN_REFERENCE,
}
"""Outcomes that a person must decide → the kind of the case that they open."""


async def book(
    session: AsyncSession,
    order_statement: transitions.Statement,
    payment: Payment | None,
    reported: GatewayPayment,
    actor: Actor,
    at: datetime,
) -> WebhookOutcome:
    """Book what the provider captured for an order, as far as it fits; return the outcome.

    Outcomes: PAID, PAID_AFTER_CANCEL, ALREADY_CAPTURED; and, with nothing booked, AMOUNT_MISMATCH, SECOND_PAYMENT,
    REFUNDED_ELSEWHERE, UNKNOWN_REFERENCE. What the provider has refunded in part is booked as refunded elsewhere; so is
    what it has refunded of an order that was marked PAID by hand, which is REFUNDED_ELSEWHERE too.

    Args:
        payment: from `ledger.payments.locked_payment`; None when no order has the reference.
        reported: captured, under the order's id as its reference.
    """
    if payment is None:
        return WebhookOutcome.UNKNOWN_REFERENCE
    if (difference := _difference(payment, reported)) is not None:
        return difference
    if payment.state == PaymentState.CAPTURED:
        return await _book_id(session, payment, reported)
    if reported.refunded_amount >= reported.captured_amount:
        return WebhookOutcome.REFUNDED_ELSEWHERE
    if await mark_paid(session, order_statement, payment, reported.id, actor, at):
        await payment_ledger.record_refunded_elsewhere(session, payment, reported.refunded_amount)
        return WebhookOutcome.PAID
    await give_back(session, payment, reported.id, reported.captured_amount, at, elsewhere=reported.refunded_amount)
    return WebhookOutcome.PAID_AFTER_CANCEL


async def _book_id(session: AsyncSession, payment: Payment, reported: GatewayPayment) -> WebhookOutcome:
    """Book whose money it is that counts as captured: the order was marked PAID by hand, or it is no news."""
    if payment.gateway_payment_id is not None:
        return WebhookOutcome.ALREADY_CAPTURED
    await payment_ledger.record_gateway_id(session, payment, reported.id, reported.refunded_amount)
    return WebhookOutcome.REFUNDED_ELSEWHERE if reported.refunded_amount else WebhookOutcome.ALREADY_CAPTURED


def _difference(payment: Payment, reported: GatewayPayment) -> WebhookOutcome | None:
    if payment.gateway_payment_id not in (None, reported.id):
        return WebhookOutcome.SECOND_PAYMENT
    if (reported.captured_amount, reported.currency) != (expected_amount(payment), payment.currency):
        return WebhookOutcome.AMOUNT_MISMATCH
    return None if is_storable(reported.refunded_amount) else WebhookOutcome.AMOUNT_MISMATCH


def is_storable(amount: Decimal) -> bool:
    """Return whether a column of money holds exactly this amount: the gateway's may have more digits."""
    return amount <= MONEY_LIMIT and amount == amount.quantize(CENT)


def expected_amount(payment: Payment) -> Decimal:
    """Return what must come in: the order's total, or what a person accepted in its place."""
    return payment.amount if payment.accepted_amount is None else payment.accepted_amount


async def mark_paid(
    session: AsyncSession,
    order_statement: transitions.Statement,
    payment: Payment,
    gateway_payment_id: str | None,
    actor: Actor,
    at: datetime,
    **metadata: str,
) -> bool:
    """Bring the order of a locked payment to PAID, with its money booked; return False when it was cancelled.

    Args:
        gateway_payment_id: the provider's; None when there is nothing to pay.
        metadata: more facts for the audit row.
    """
    known = {"gateway_payment_id": gateway_payment_id} if gateway_payment_id else {"reason": "nothing to pay"}
    request = TransitionRequest(
        entity_id=payment.order_id,
        new_state=OrderStatus.PAID,
        actor=actor,
        at=at,
        metadata={**known, **metadata},
        changes={"payment_transaction_id": gateway_payment_id} if gateway_payment_id else {},
        expected_state=OrderStatus.PENDING_PAYMENT,
    )
    [result] = await transitions.apply(session, order_statement, [request])
    await session.refresh(payment)
    return result.outcome is Outcome.MOVED


async def give_back(
    session: AsyncSession,
    payment: Payment,
    gateway_payment_id: str,
    captured: Decimal,
    at: datetime,
    *,
    elsewhere: Decimal = Decimal(0),
) -> None:
    """Book money that came for a cancelled order, and make a refund due over all of it that has not gone back."""
    refund = await refund_ledger.record_late_capture(
        session, payment, gateway_payment_id, captured, at, elsewhere=elsewhere
    )
    await job_service.add(session, JobKind.PROCESS_REFUND, refund.id, f"{JobKind.PROCESS_REFUND}:{refund.id}")


async def ask_about_refused(
    session: AsyncSession,
    reported: GatewayPayment | GatewayRefund,
    subject: Payment | Refund | None,
    refusal: IntegrityError,
    at: datetime,
    **evidence: Any,
) -> WebhookOutcome:
    """Open the case of what the provider reports and a constraint refuses to book; return the outcome.

    Such as a payment that another order has already, or a refund that was given up, whose share went to another one.
    """
    outcome = WebhookOutcome.SECOND_REFUND if isinstance(reported, GatewayRefund) else WebhookOutcome.SECOND_PAYMENT
    constraint = getattr(getattr(refusal.orig, "diag", None), "constraint_name", None)
    logger.critical("gateway_money.refused", gateway_id=reported.id, error=constraint)
    await ask_a_person(session, outcome, reported, subject, at, refused_by=constraint, **evidence)
    return outcome


async def ask_a_person(
    session: AsyncSession,
    outcome: WebhookOutcome,
    reported: GatewayPayment | GatewayRefund,
    subject: Payment | Refund | None,
    at: datetime,
    **evidence: Any,
) -> bool:
    """Open the case of an outcome, once for each payment or refund of the provider; return whether it is new.

    Of a payment that was refunded elsewhere, once for each amount that has gone back in all.
    """
    kind = CASES[outcome]
    facts: dict[str, Any] = {
        "gateway_id": reported.id,
        "reference": str(reported.reference),
        "reported_amount": str(moved(reported)),
        "reported_currency": reported.currency,
        **evidence,
    }
    if isinstance(reported, GatewayPayment) and reported.refunded_amount:
        facts["refunded_amount"] = str(reported.refunded_amount)
    if subject is not None:
        agreed = expected_amount(subject) if isinstance(subject, Payment) else subject.amount
        facts |= {"expected_amount": str(agreed), "expected_currency": subject.currency}
    order_id = subject.order_id if subject is not None else None
    if order_id is None and isinstance(reported, GatewayRefund):
        # Made in the provider's console: no refund of ours is meant, and the payment may be ours.
        known = select(Payment.order_id).where(Payment.gateway_payment_id == reported.payment_id)
        order_id = (await session.execute(known)).scalar_one_or_none()
    key = case_key(kind, reported.id)
    if kind is CaseKind.REFUNDED_ELSEWHERE and isinstance(reported, GatewayPayment):
        key = went_back_key(reported.id, reported.refunded_amount)
    entity = CaseEntity.REFUND if isinstance(reported, GatewayRefund) else CaseEntity.ORDER
    return await open_case(
        session,
        kind,
        entity_type=entity,
        entity_id=reported.reference,
        order_id=order_id,
        evidence=facts,
        dedupe_key=key,
        at=at,
    )


def case_key(kind: CaseKind, foreign_id: str) -> str:
    """Return the dedupe key of a case about something of the provider's, whose ids may be longer than a key."""
    known = foreign_id if len(foreign_id) <= 128 else hashlib.sha256(foreign_id.encode()).hexdigest()
    return f"{kind.lower()}:{known}"


def went_back_key(gateway_payment_id: str, total: Decimal) -> str:
    """Return the dedupe key of the case about what went back of a payment; more that goes back is another case."""
    return case_key(CaseKind.REFUNDED_ELSEWHERE, f"{gateway_payment_id}:{total.normalize():f}")


def moved(reported: GatewayPayment | GatewayRefund) -> Decimal:
    """Return what moved: of a payment what was taken, not what was authorised."""
    return reported.captured_amount if isinstance(reported, GatewayPayment) else reported.amount
