"""The writes that record money: the only places where a payment or a refund changes after its creation.

Refund jobs, webhooks, reconciliation and the dead letters all meet here. Each function works in the
caller's transaction, takes the lock of the refund's row first, and can be called twice without harm.

Locks are taken in one order, so that no two of them wait for each other: refund, payment, return, dead letter, job.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.core.enums import EntityType, RefundState
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest
from app.services import events
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind

SETTLED_EFFECTS = (JobKind.NOTIFY_REFUND_PROCESSED, JobKind.ISSUE_CREDIT_NOTE)
"""What follows once the money has moved, and not before (REQ-006)."""


async def locked_refund(session: AsyncSession, refund_id: UUID) -> Refund | None:
    """Return the refund under its row lock, as the last committed transaction left it."""
    statement = select(Refund).where(Refund.id == refund_id).with_for_update().execution_options(populate_existing=True)
    return (await session.execute(statement)).scalar_one_or_none()


async def change_refund(session: AsyncSession, refund: Refund, state: RefundState, at: datetime, **values: Any) -> None:
    """Bring a locked refund into `state`, with its event."""
    refund.state = state
    refund.version += 1
    refund.updated_at = at
    for column, value in values.items():
        setattr(refund, column, value)
    await session.flush()
    data = {"order_id": str(refund.order_id), "amount": str(refund.amount), "currency": refund.currency}
    event_type = f"refund.{state.lower()}"
    await events.append(session, EntityType.REFUND, refund.id, refund.version, event_type, at, data)


async def settle(session: AsyncSession, refund: Refund, gateway_refund_id: str, at: datetime) -> bool:
    """Record that the money of a locked refund has moved; return False when that was known.

    The transaction id goes onto the return, and the confirmation mail and the credit note become due.
    """
    if refund.state == RefundState.SUCCEEDED:
        return False
    if refund.released_at is not None:
        # A person gave it up, but the gateway paid: the reservation is made again, or the CHECK raises an error.
        await _reserve(session, refund)
    await change_refund(
        session,
        refund,
        RefundState.SUCCEEDED,
        at,
        gateway_refund_id=gateway_refund_id,
        succeeded_at=at,
        last_error=None,
        released_at=None,
    )
    if refund.return_id is not None:
        await _note_on_return(session, refund.return_id, gateway_refund_id, at)
    for kind in SETTLED_EFFECTS:
        await job_service.add(session, kind, refund.id, f"{kind}:{refund.id}")
    return True


async def release(session: AsyncSession, refund: Refund) -> bool:
    """Release the reservation of a locked refund that failed permanently; return whether there was one.

    Only FAILED: of an UNKNOWN refund the money may have moved, so its share of the payment stays reserved.
    """
    if refund.state != RefundState.FAILED or refund.released_at is not None:
        return False
    await session.execute(
        update(Payment)
        .where(Payment.id == refund.payment_id)
        .values(refund_reserved_amount=Payment.refund_reserved_amount - refund.amount)
    )
    refund.released_at = func.now()
    await session.flush()
    return True


async def left_to_refund(connection: AsyncConnection, order_id: UUID) -> Decimal:
    """Return what of an order's payment is neither refunded, here or elsewhere, nor reserved for a refund."""
    left = Payment.captured_amount - Payment.refunded_elsewhere_amount - Payment.refund_reserved_amount
    found = (await connection.execute(select(left).where(Payment.order_id == order_id))).scalar_one_or_none()
    return Decimal(0) if found is None else Decimal(found)


async def _reserve(session: AsyncSession, refund: Refund) -> None:
    await session.execute(
        update(Payment)
        .where(Payment.id == refund.payment_id)
        .values(refund_reserved_amount=Payment.refund_reserved_amount + refund.amount)
    )


async def _note_on_return(session: AsyncSession, return_id: UUID, gateway_refund_id: str, at: datetime) -> None:
    version = (
        await session.execute(
            update(ReturnRequest)
            .where(ReturnRequest.id == return_id)
            .values(
                refund_transaction_id=gateway_refund_id,
                version=ReturnRequest.version + 1,
                updated_at=func.greatest(ReturnRequest.updated_at, at),
            )
            .returning(ReturnRequest.version)
        )
    ).scalar_one()
    data = {"refund_transaction_id": gateway_refund_id}
    await events.append(session, EntityType.RETURN, return_id, version, "return.refunded", at, data)
