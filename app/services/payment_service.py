"""Money in: what the gateway reports, and the payments that it has yet to hear of (INT-001)."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import ActorType, EntityType, OrderStatus, PaymentState, RefundReason, RefundState, Trigger
from app.database import Database
from app.models.order import Order
from app.models.payment import GatewayEvent, Payment, Refund
from app.services import collection, event_service, job_resolution, job_service, money_ledger, transitions
from app.services.gateway_webhooks import WebhookEvent
from app.services.job_service import Claim, JobKind
from app.services.payment_gateway import GatewayPayment, GatewayRefund, PaymentGateway
from app.services.transitions import Outcome, TransitionRequest
from app.utils.clock import Clock, utc_now, uuid7

logger = structlog.get_logger(__name__)

GATEWAY = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.WEBHOOK)

NEEDS_A_PERSON = frozenset(
    {
        "UNKNOWN_REFERENCE",
        "AMOUNT_MISMATCH",
        "SECOND_PAYMENT",
        "PAID_AFTER_CANCEL",
        "SECOND_REFUND",
        "REFUND_REVERSED",
        "REFUND_DUE_AGAIN",
    }
)
"""Outcomes in which the gateway's books and ours tell different stories, or what a person was told is overtaken."""


class PaymentService:
    """What the gateway tells us, and what we tell it about payments."""

    def __init__(self, database: Database, order_statement: transitions.Statement, clock: Clock = utc_now) -> None:
        """Take the statement that moves an order (`order_service.STATEMENT`): capabilities do not import each other."""
        self._database = database
        self._order_statement = order_statement
        self._clock = clock

    async def receive_webhook(self, event: WebhookEvent, body: Mapping[str, Any]) -> str:
        """Store a verified webhook together with its effect and return the outcome.

        The event's id is its key: the same event twice has one effect and gives DUPLICATE. Outcomes that a
        person must look at are logged as critical, stay in `gateway_events`, and make an alert due with it.
        """
        async with self._database.transaction() as session:
            # The lock comes first: of two deliveries at once the second finds the first one's row.
            subject = await self._locked_subject(session, event)
            known = await session.execute(select(GatewayEvent.id).where(GatewayEvent.id == event.id))
            outcome = "DUPLICATE" if known.first() is not None else await self._effect(session, event, subject)
            if outcome != "DUPLICATE":
                await session.execute(
                    pg_insert(GatewayEvent)
                    .values(
                        id=event.id,
                        type=event.type,
                        reference=event.object.reference if event.object else None,
                        body=dict(body),
                        outcome=outcome,
                    )
                    .on_conflict_do_nothing()
                )
                if outcome in NEEDS_A_PERSON and event.object is not None:
                    await _alert(session, event.id, event.object)
        log = logger.critical if outcome in NEEDS_A_PERSON else logger.info
        log(
            "gateway event",
            event_id=event.id,
            type=event.type,
            outcome=outcome,
            reference=str(event.object.reference) if event.object else None,
            gateway_id=event.object.id if event.object else None,
        )
        return outcome

    async def _locked_subject(self, session: AsyncSession, event: WebhookEvent) -> Payment | Refund | None:
        """Return what the event is about, under the lock that every other change of it takes too."""
        if isinstance(event.object, GatewayRefund):
            return await money_ledger.locked_refund(session, event.object.reference)
        if isinstance(event.object, GatewayPayment):
            # The order before its payment, as a transition does.
            order_id = event.object.reference
            await session.execute(select(Order.id).where(Order.id == order_id).with_for_update(key_share=True))
            # A worker that collects it takes no other lock than the payment's own.
            payment = select(Payment).where(Payment.order_id == order_id).with_for_update(key_share=True)
            return (await session.execute(payment)).scalar_one_or_none()
        return None

    async def _effect(self, session: AsyncSession, event: WebhookEvent, subject: Payment | Refund | None) -> str:
        known = event.type in {"payment.captured", "refund.succeeded", "refund.failed"}
        if not known or event.object is None:
            return "IGNORED"
        if subject is None:
            return "UNKNOWN_REFERENCE"
        if (event.object.currency, _moved(event.object)) != (subject.currency, subject.amount):
            return "AMOUNT_MISMATCH"
        if isinstance(subject, Payment):
            return await self._captured(session, event.object.id, subject)
        return await self._refund_ended(session, event, subject)

    async def _captured(self, session: AsyncSession, gateway_payment_id: str, payment: Payment) -> str:
        if payment.gateway_payment_id not in (None, gateway_payment_id):
            return "SECOND_PAYMENT"
        if payment.state == PaymentState.CAPTURED:
            # Marked PAID by hand before the gateway reported it: now its id is known.
            payment.gateway_payment_id = gateway_payment_id
            return "ALREADY_CAPTURED"
        now = self._clock()
        request = TransitionRequest(
            entity_id=payment.order_id,
            new_state=OrderStatus.PAID,
            actor=GATEWAY,
            at=now,
            metadata={"gateway_payment_id": gateway_payment_id},
            changes={"payment_transaction_id": gateway_payment_id},
        )
        [result] = await transitions.apply(session, self._order_statement, [request])
        if result.outcome is Outcome.MOVED:
            return "PAID"
        await self._give_back(session, payment, gateway_payment_id, now)
        return "PAID_AFTER_CANCEL"

    async def _give_back(self, session: AsyncSession, payment: Payment, gateway_payment_id: str, now: datetime) -> None:
        """Money came for an order that was cancelled meanwhile: record it, and let all of it be refunded."""
        payment.state = PaymentState.CAPTURED
        payment.captured_at = now
        payment.captured_amount = payment.refund_reserved_amount = payment.amount
        payment.gateway_payment_id = gateway_payment_id
        refund = Refund(
            id=uuid7(now),
            payment_id=payment.id,
            order_id=payment.order_id,
            reason=RefundReason.PAID_AFTER_CANCEL,
            amount=payment.amount,
            currency=payment.currency,
            created_at=now,
            updated_at=now,
        )
        session.add(refund)
        await session.flush()
        facts = {"order_id": str(payment.order_id), "amount": str(refund.amount), "currency": refund.currency}
        await event_service.append(session, EntityType.REFUND, refund.id, 1, "refund.created", now, facts)
        await job_service.add(session, JobKind.PROCESS_REFUND, refund.id, f"{JobKind.PROCESS_REFUND}:{refund.id}")

    async def _refund_ended(self, session: AsyncSession, event: WebhookEvent, refund: Refund) -> str:
        gateway_refund_id = event.object.id if event.object is not None else ""
        job_key = f"{JobKind.PROCESS_REFUND}:{refund.id}"
        is_recorded = refund.state == RefundState.SUCCEEDED and refund.gateway_refund_id == gateway_refund_id
        if event.type == "refund.succeeded":
            if await money_ledger.settle(session, refund, gateway_refund_id, self._clock()):
                await job_service.hasten(session, job_key)
                return "REFUND_SETTLED"
            return "ALREADY_SETTLED" if is_recorded else "SECOND_REFUND"
        if is_recorded:
            # Reported as paid, then bounced: nothing here may decide what happens to the money now.
            return "REFUND_REVERSED"
        if refund.state in {RefundState.PROCESSING, RefundState.UNKNOWN}:
            # The job asks the gateway before anything else. It is one row, dead or alive, so no second one pays too.
            news = f"gateway event {event.id}: {event.type}"
            if await job_resolution.revive(session, job_key, self._clock(), news):
                return "REFUND_DUE_AGAIN"
            await job_service.hasten(session, job_key)
        # Of an attempt that the job hears of itself, or has long left behind.
        return "REFUND_FAILED"

    async def capture(self, claim: Claim, gateway: PaymentGateway) -> None:
        """Job `payment.capture`: let the gateway hold the money of an order that was marked PAID."""
        await collection.collected(self._database, gateway, claim.entity_id, self._clock)
        async with self._database.transaction() as session:
            await job_service.finish(session, claim)


def _moved(reported: GatewayPayment | GatewayRefund) -> Decimal:
    """Return what moved: of a payment what was taken, not what was authorised."""
    return reported.captured_amount if isinstance(reported, GatewayPayment) else reported.amount


async def _alert(session: AsyncSession, event_id: str, reported: GatewayPayment | GatewayRefund) -> None:
    """Make it due that operations hear of an event, in the transaction that stores it: once an event."""
    kind = JobKind.NOTIFY_GATEWAY_EVENT
    facts = {
        "event_id": event_id,
        "gateway_id": reported.id,
        "amount": str(_moved(reported)),
        "currency": reported.currency,
    }
    await job_service.add(session, kind, reported.reference, f"{kind}:{event_id}", facts)
