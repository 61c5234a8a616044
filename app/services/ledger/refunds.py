"""Every write of a refund, with its reservation on the payment, and its lock.

Refunds of cancelled orders and of completed returns are created in `statements`.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import EntityType, PaymentState, RefundReason, RefundState
from app.models.payment import Payment, Refund
from app.services import events
from app.utils.clock import uuid7


async def locked_refund(session: AsyncSession, refund_id: UUID) -> Refund | None:
    """Return the refund under its row lock, as the last committed transaction left it."""
    statement = select(Refund).where(Refund.id == refund_id).with_for_update().execution_options(populate_existing=True)
    return (await session.execute(statement)).scalar_one_or_none()


async def reserve_refund(
    session: AsyncSession,
    payment: Payment,
    amount: Decimal,
    reason: RefundReason,
    at: datetime,
    return_id: UUID | None = None,
) -> Refund:
    """Create a PENDING refund of a captured payment, its amount reserved, with its event; return it.

    Guards: ck_payments_refund_cap, uq_refunds_return_id, uq_refunds_whole_order, ck_refunds_amount,
    ck_refunds_return_id, guard_beginning, guard_refund_caused, guard_refund_reserved.

    Args:
        amount: more than zero, and no more than is left of the payment.
        return_id: the return that it pays back; None when it pays the whole order back.
    """
    payment.refund_reserved_amount += amount
    return await _add_refund(session, payment, amount, reason, at, return_id)


async def record_late_capture(
    session: AsyncSession,
    payment: Payment,
    gateway_payment_id: str,
    captured: Decimal,
    at: datetime,
    *,
    elsewhere: Decimal = Decimal(0),
) -> Refund:
    """Record money that came for a cancelled order; return the new refund of all of it that has not gone back.

    Guards: those of `ORDER_PAYMENT` and `reserve_refund`.

    Args:
        captured: what the provider took: the payment's amount, or what was accepted in its place.
        elsewhere: what of it the provider has paid back already; less than `captured`.
    """
    amount = captured - elsewhere
    payment.state = PaymentState.CAPTURED
    payment.captured_at = at
    payment.captured_amount = captured
    payment.refunded_elsewhere_amount = elsewhere
    payment.refund_reserved_amount = amount
    payment.gateway_payment_id = gateway_payment_id
    return await _add_refund(session, payment, amount, RefundReason.PAID_AFTER_CANCEL, at)


async def _add_refund(
    session: AsyncSession,
    payment: Payment,
    amount: Decimal,
    reason: RefundReason,
    at: datetime,
    return_id: UUID | None = None,
) -> Refund:
    """Insert a refund whose reservation is set on the payment; both are written in one flush."""
    refund = Refund(
        id=uuid7(at),
        payment_id=payment.id,
        order_id=payment.order_id,
        return_id=return_id,
        reason=reason,
        amount=amount,
        currency=payment.currency,
        created_at=at,
        updated_at=at,
    )
    session.add(refund)
    await session.flush()
    await _append_event(session, refund, "refund.created", at)
    return refund


async def record_sending(session: AsyncSession, refund: Refund, at: datetime) -> None:
    """Record that a refund is about to be sent: PROCESSING, to be committed before any byte goes out.

    Guards: guard_legal_refund_move (from PENDING or UNKNOWN), guard_held_refund (no case holds the payment's refunds).
    """
    refund.first_sent_at = refund.first_sent_at or at
    await _change(session, refund, RefundState.PROCESSING, at)


async def record_failed_try(
    session: AsyncSession, refund: Refund, state: RefundState, at: datetime, *, error: str, declined: bool = False
) -> None:
    """Record how a try ended that paid nothing for certain (PENDING), or nothing that is known of (UNKNOWN).

    Guards: guard_legal_refund_move.

    Args:
        error: what the gateway or the connection said, without personal data.
        declined: the gateway refused it for good under this idempotency key; the next try gets another one.
    """
    refund.last_error = error
    refund.declines += declined
    await _change(session, refund, state, at)


async def record_given_up(session: AsyncSession, refund: Refund, at: datetime) -> None:
    """Record that the last try of an unpaid refund has failed: FAILED when certainly nothing was paid, else UNKNOWN.

    Guards: guard_legal_refund_move.
    """
    is_certain = refund.state == RefundState.PENDING
    await _change(session, refund, RefundState.FAILED if is_certain else RefundState.UNKNOWN, at)


async def record_paid(session: AsyncSession, refund: Refund, gateway_refund_id: str, at: datetime) -> bool:
    """Record that the money of a refund has moved; return False when that was known, and nothing was written.

    One that a person gave up, and that the gateway paid all the same, is reserved again, as far as the cap allows.
    Guards: ck_payments_refund_cap, uq_refunds_gateway_refund_id, ck_refunds_succeeded_at, guard_legal_refund_move,
    guard_paid_refund (it never changes afterwards).
    """
    if refund.state == RefundState.SUCCEEDED:
        return False
    if refund.released_at is not None:
        await _add_to_reserved(session, refund, refund.amount)
    refund.gateway_refund_id = gateway_refund_id
    refund.succeeded_at = at
    refund.last_error = None
    refund.released_at = None
    await _change(session, refund, RefundState.SUCCEEDED, at)
    return True


async def release_reservation(session: AsyncSession, refund: Refund) -> bool:
    """Release the reservation of a refund that failed permanently; return whether there was one.

    Only FAILED: of an UNKNOWN refund the money may have moved, so its share of the payment stays reserved.
    Guards: ck_refunds_released_at, guard_refund_reserved of both tables.
    """
    if refund.state != RefundState.FAILED or refund.released_at is not None:
        return False
    await _add_to_reserved(session, refund, -refund.amount)
    refund.released_at = func.now()
    await session.flush()
    return True


async def _add_to_reserved(session: AsyncSession, refund: Refund, amount: Decimal) -> None:
    await session.execute(
        update(Payment)
        .where(Payment.id == refund.payment_id)
        .values(refund_reserved_amount=Payment.refund_reserved_amount + amount)
    )


async def _change(session: AsyncSession, refund: Refund, state: RefundState, at: datetime) -> None:
    """Bring a refund into `state` and the next version, with its event."""
    refund.state = state
    refund.version += 1
    refund.updated_at = at
    await session.flush()
    await _append_event(session, refund, f"refund.{state.lower()}", at)


async def _append_event(session: AsyncSession, refund: Refund, event_type: str, at: datetime) -> None:
    data = {"order_id": str(refund.order_id), "amount": str(refund.amount), "currency": refund.currency}
    await events.append(session, EntityType.REFUND, refund.id, refund.version, event_type, at, data)
