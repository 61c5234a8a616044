"""Carrying out what a manager decided about a payment, in the transaction that closes the case.

Each function refuses what the records no longer allow: then the case stays open, and the person sees why.
"""

from datetime import datetime
from decimal import Decimal
from functools import partial

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, OrderStatus, PaymentState
from app.models.case import Case
from app.models.order import Order
from app.models.payment import Payment
from app.services.cases.service import Decisions, Reopenings
from app.services.ledger import payments as payment_ledger
from app.services.payments import disputes, money_in
from app.services.workflow import transitions
from app.services.workflow.transitions import Outcome, TransitionRequest
from app.utils.exceptions import InvalidInputError


def decisions(order_statement: transitions.Statement) -> Decisions:
    """Return the ways out that the system carries out itself, by kind of case and action."""
    return {
        (CaseKind.AMOUNT_MISMATCH, "ACCEPT"): partial(_accept, order_statement),
        (CaseKind.AMOUNT_MISMATCH, "REFUND"): partial(_refund, order_statement),
        (CaseKind.DISPUTE, "RELEASE"): disputes.release,
        (CaseKind.DISPUTE, "KEEP"): disputes.keep,
        (CaseKind.DISPUTE, ""): disputes.keep,
    }


def reopenings() -> Reopenings:
    """Return the decisions that may be taken after a case was closed, by kind of case and action."""
    return {(CaseKind.DISPUTE, "RELEASE"): disputes.reopened}


async def _accept(
    order_statement: transitions.Statement, session: AsyncSession, case: Case, actor: Actor, at: datetime
) -> None:
    """Take what came in as the full payment of an unpaid order, which becomes PAID."""
    payment, came_in = await _decidable(session, case)
    gateway_id = str(case.evidence["gateway_id"])
    await payment_ledger.record_accepted_amount(session, payment, came_in, case.id)
    if not await money_in.mark_paid(
        session, order_statement, payment, gateway_id, actor, at, case_id=str(case.id), accepted_amount=str(came_in)
    ):
        raise _refused("the order is not waiting for a payment any more; take REFUND")
    gone_back = Decimal(case.evidence.get("refunded_amount", "0"))
    await payment_ledger.record_refunded_elsewhere(session, payment, gone_back)


async def _refund(
    order_statement: transitions.Statement, session: AsyncSession, case: Case, actor: Actor, at: datetime
) -> None:
    """Give back what came in for an order that is unpaid, and cancelled with it, or was cancelled before."""
    payment, came_in = await _decidable(session, case)
    reason = "another amount was paid"
    request = TransitionRequest(
        entity_id=payment.order_id,
        new_state=OrderStatus.CANCELLED,
        actor=actor,
        at=at,
        metadata={"reason": reason, "case_id": str(case.id)},
        changes={"cancellation_reason": reason},
        expected_state=OrderStatus.PENDING_PAYMENT,
    )
    status = (await session.execute(select(Order.status).where(Order.id == payment.order_id))).scalar_one()
    if status != OrderStatus.CANCELLED:
        [result] = await transitions.apply(session, order_statement, [request])
        if result.outcome is not Outcome.MOVED:
            raise _refused("the order is neither unpaid nor cancelled; refund it in the gateway's console")
        await session.refresh(payment)
    await payment_ledger.record_accepted_amount(session, payment, came_in, case.id)
    elsewhere = Decimal(case.evidence.get("refunded_amount", "0"))
    gateway_id = str(case.evidence["gateway_id"])
    await money_in.give_back(session, payment, gateway_id, came_in, at, elsewhere=elsewhere)


async def _decidable(session: AsyncSession, case: Case) -> tuple[Payment, Decimal]:
    """Return the locked payment of a case and what came in.

    Raises:
        InvalidInputError: it cannot be booked here: not about an order's payment, another currency, nothing left of
            it, or the payment is booked already.
    """
    payment = None
    if case.entity_type == CaseEntity.ORDER and case.order_id is not None:
        payment = await payment_ledger.locked_payment(session, case.order_id)
    if payment is None:
        raise _refused("it is not about the payment of an order")
    if payment.state == PaymentState.CAPTURED:
        raise _refused("the payment is booked already; refund the other one in the gateway's console")
    if case.evidence["reported_currency"] != payment.currency:
        raise _refused(f"what came in is not in {payment.currency}; refund it in the gateway's console")
    came_in, gone_back = (Decimal(case.evidence.get(name, "0")) for name in ("reported_amount", "refunded_amount"))
    if not (money_in.is_storable(came_in) and money_in.is_storable(gone_back)):
        raise _refused("the amount cannot be booked exactly; refund it in the gateway's console")
    if came_in <= gone_back:
        raise _refused("nothing of what came in is left at the gateway")
    return payment, came_in


def _refused(why: str) -> InvalidInputError:
    return InvalidInputError(("action", f"cannot be carried out: {why}"))
