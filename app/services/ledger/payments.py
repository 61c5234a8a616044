"""Every write of a payment, and its lock. The beginning and the capture of an order's payment are in `statements`."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.core.enums import EntityType
from app.models.order import Order
from app.models.payment import Payment
from app.services import events


async def locked_payment(session: AsyncSession, order_id: UUID) -> Payment | None:
    """Return the payment of an order, with the order and then the payment locked, as a transition locks them."""
    await session.execute(select(Order.id).where(Order.id == order_id).with_for_update(key_share=True))
    # A worker that collects it takes no other lock than the payment's own.
    payment = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return (await session.execute(payment)).scalar_one_or_none()


async def left_to_refund(connection: AsyncConnection, order_id: UUID) -> Decimal:
    """Return what of an order's payment is neither refunded, here or elsewhere, nor reserved for a refund."""
    left = Payment.captured_amount - Payment.refunded_elsewhere_amount - Payment.refund_reserved_amount
    found = (await connection.execute(select(left).where(Payment.order_id == order_id))).scalar_one_or_none()
    return Decimal(0) if found is None else Decimal(found)


async def record_accepted_amount(session: AsyncSession, payment: Payment, amount: Decimal, case_id: UUID) -> None:
    """Record what a manager accepts in place of the payment's amount, before it is captured.

    Guards: ck_payments_accepted, guard_accepted (never changed afterwards), guard_acceptance (the case says so).

    Args:
        amount: more than zero.
        case_id: the case that the manager decides in this transaction.
    """
    payment.accepted_amount = amount
    payment.accepted_case_id = case_id
    await session.flush()


async def record_gateway_id(
    session: AsyncSession, payment: Payment, gateway_payment_id: str, gone_back: Decimal
) -> None:
    """Record whose money a captured payment without an id is: its order was marked PAID by hand.

    Guards: uq_payments_gateway_payment_id, guard_captured_payment, guard_refunded_elsewhere, ck_payments_refund_cap.

    Args:
        gone_back: what the provider has paid back of it in all. No refund of ours was sent without the id, so it went
            back elsewhere; booked up to what is not reserved for refunds.
    """
    payment.gateway_payment_id = gateway_payment_id
    unreserved = payment.captured_amount - payment.refund_reserved_amount
    payment.refunded_elsewhere_amount = min(gone_back, unreserved)
    await session.flush()


async def record_collected(
    session: AsyncSession, payment_id: UUID, gateway_payment_id: str, gone_back: Decimal, at: datetime
) -> Payment | None:
    """Record the id of a payment that was found or reported at the gateway, with its event, unless one is recorded.

    It needs no lock of the caller's. Guards: as `record_gateway_id`.

    Args:
        gone_back: as of `record_gateway_id`.

    Returns:
        The payment; None when it had an id, and nothing was written.
    """
    changes: dict[str, object] = {"gateway_payment_id": gateway_payment_id}
    if gone_back:
        left = Payment.captured_amount - Payment.refund_reserved_amount
        changes["refunded_elsewhere_amount"] = func.least(gone_back, left)
    noted = await session.execute(
        update(Payment)
        .where(Payment.id == payment_id, Payment.gateway_payment_id.is_(None))
        .values(**changes)
        .returning(Payment)
    )
    payment = noted.scalar_one_or_none()
    if payment is not None:
        facts = {"gateway_payment_id": gateway_payment_id}
        await events.append(session, EntityType.PAYMENT, payment_id, 1, "payment.collected", at, facts)
    return payment


async def record_refunded_elsewhere(session: AsyncSession, payment: Payment, total: Decimal) -> None:
    """Record how much of a captured payment the provider has paid back without a refund of ours.

    Guards: guard_refunded_elsewhere (it never becomes less), ck_payments_refund_cap.

    Args:
        total: all of it, not what was added.
    """
    payment.refunded_elsewhere_amount = total
    await session.flush()


async def record_hold(session: AsyncSession, payment: Payment, case_id: UUID | None) -> None:
    """Record which case holds the refunds of a payment; with None, that none does and they may be sent.

    Guards: guard_hold (an open case holds until it is decided), and guard_held_refund of the refunds.
    """
    payment.refunds_held_by = case_id
    await session.flush()
