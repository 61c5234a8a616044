"""Money in: what the gateway reports, and the payments that it has not heard of (INT-001)."""

from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import ActorType, CaseEntity, CaseKind, OrderStatus, RefundState, Trigger, WebhookOutcome
from app.database import Database
from app.models.order import Order
from app.models.payment import GatewayEvent, Payment, Refund
from app.services.cases import service as case_service
from app.services.jobs import resolution as job_resolution
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind
from app.services.ledger import payments as payment_ledger
from app.services.ledger import refunds as refund_ledger
from app.services.payments import collection, disputes, money_in, settlement
from app.services.payments.gateway.port import GatewayDispute, GatewayPayment, GatewayRefund, PaymentGateway
from app.services.payments.webhooks import DISPUTE, WebhookEvent, concerns_money
from app.services.workflow import tampering, transitions
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import RecordTamperedError

logger = structlog.get_logger(__name__)

GATEWAY = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.WEBHOOK)

TOLD_BY_MAIL = frozenset({WebhookOutcome.PAID_AFTER_CANCEL, WebhookOutcome.REFUND_DUE_AGAIN})
"""Outcomes that operations get a mail about, and that need no decision: the system does what follows."""

NEEDS_A_PERSON = (
    TOLD_BY_MAIL
    | money_in.CASES.keys()
    | {
        WebhookOutcome.UNREADABLE,
        WebhookOutcome.UNKNOWN_KIND,
        WebhookOutcome.DISPUTE,
        WebhookOutcome.DISPUTE_CLOSED,
        WebhookOutcome.RECORD_TAMPERED,
    }
)
"""Outcomes in which the gateway's records and ours differ, or in which an earlier mail or case is no longer true."""


class PaymentService:
    """What the gateway reports, and what we ask of it about payments."""

    def __init__(self, database: Database, order_statement: transitions.Statement, clock: Clock = utc_now) -> None:
        """Take the statement that moves an order (`order_service.STATEMENT`): capabilities do not import each other."""
        self._database = database
        self._order_statement = order_statement
        self._clock = clock

    async def receive_webhook(self, event: WebhookEvent) -> WebhookOutcome:
        """Store a verified webhook together with its effect and return the outcome.

        The event's id is its key: the same event twice has one effect and gives DUPLICATE. Every event is kept, also
        one that cannot be read. Outcomes that a person must decide open a case with it; those of `TOLD_BY_MAIL` make
        an alert due.
        """
        async with self._database.transaction() as session:
            # The lock comes first: of two deliveries at once the second finds the first one's row.
            subject = await self._locked_subject(session, event)
            known = await session.execute(select(GatewayEvent.id).where(GatewayEvent.id == event.id))
            if known.first() is not None:
                return self._logged(event, WebhookOutcome.DUPLICATE)
            outcome = await self._sound_effect(session, event, subject)
            kept = await session.execute(
                pg_insert(GatewayEvent)
                .values(
                    id=event.id,
                    type=event.type,
                    reference=event.object.reference if event.object is not None else event.reference,
                    body=dict(event.body),
                    outcome=outcome,
                )
                .on_conflict_do_nothing()
                .returning(GatewayEvent.id)
            )
            if kept.first() is None:
                # Two deliveries at once of an event about nothing that could be locked: the first one counts.
                return self._logged(event, WebhookOutcome.DUPLICATE)
            if outcome in TOLD_BY_MAIL and isinstance(event.object, GatewayPayment | GatewayRefund):
                await _alert(session, event.id, event.object)
        return self._logged(event, outcome)

    @staticmethod
    def _logged(event: WebhookEvent, outcome: WebhookOutcome) -> WebhookOutcome:
        log = logger.critical if outcome in NEEDS_A_PERSON else logger.info
        reference = event.object.reference if event.object is not None else event.reference
        log(
            "gateway event",
            event_id=event.id,
            type=event.type,
            outcome=outcome,
            reference=str(reference) if reference else None,
            gateway_id=event.object.id if event.object else None,
            problem=event.problem,
        )
        return outcome

    async def _locked_subject(self, session: AsyncSession, event: WebhookEvent) -> Payment | Refund | None:
        """Return what the event is about, under the lock that every other change of it takes too."""
        if isinstance(event.object, GatewayRefund):
            return await refund_ledger.locked_refund(session, event.object.reference)
        if isinstance(event.object, GatewayPayment):
            return await payment_ledger.locked_payment(session, event.object.reference)
        if isinstance(event.object, GatewayDispute):
            order_id = await disputes.order_of(session, event.object)
            return await payment_ledger.locked_payment(session, order_id) if order_id is not None else None
        return None

    async def _sound_effect(
        self, session: AsyncSession, event: WebhookEvent, subject: Payment | Refund | None
    ) -> WebhookOutcome:
        """Return the outcome; what the database refuses to book has its case opened, and the webhook is kept."""
        try:
            async with session.begin_nested():
                return await self._effect(session, event, subject)
        except RecordTamperedError as fault:
            await tampering.open_case(session, fault)
            return WebhookOutcome.RECORD_TAMPERED
        except IntegrityError as refusal:
            if not isinstance(event.object, GatewayPayment | GatewayRefund):
                raise
            if subject is not None:
                await session.refresh(subject)
            facts = {"event_id": event.id, "event_type": event.type, "event_created": event.created}
            return await money_in.ask_about_refused(session, event.object, subject, refusal, self._clock(), **facts)

    async def _effect(
        self, session: AsyncSession, event: WebhookEvent, subject: Payment | Refund | None
    ) -> WebhookOutcome:
        if isinstance(event.object, GatewayDispute):
            payment = subject if isinstance(subject, Payment) else None
            return await disputes.receive(session, event.type, event.id, event.object, payment, GATEWAY, self._clock())
        if event.object is None:
            return await self._not_acted_on(session, event)
        if event.type == "payment.authorized":
            return await self._reserved(session, event.id, event.object.reference)
        if isinstance(event.object, GatewayPayment):
            payment = subject if isinstance(subject, Payment) else None
            outcome = await money_in.book(session, self._order_statement, payment, event.object, GATEWAY, self._clock())
            if payment is not None:
                await disputes.match(session, payment, GATEWAY, self._clock())
        else:
            refund = subject if isinstance(subject, Refund) else None
            outcome = await self._refund_outcome(session, event, event.object, refund)
        partly = (
            outcome == WebhookOutcome.PAID
            and isinstance(event.object, GatewayPayment)
            and event.object.refunded_amount > 0
        )
        if outcome in money_in.CASES or partly:
            asked = WebhookOutcome.REFUNDED_ELSEWHERE if partly else outcome
            facts = {"event_id": event.id, "event_type": event.type, "event_created": event.created}
            await money_in.ask_a_person(session, asked, event.object, subject, self._clock(), **facts)
        return outcome

    async def _not_acted_on(self, session: AsyncSession, event: WebhookEvent) -> WebhookOutcome:
        """Return the outcome of an event that is only kept, with a case where money may have moved with it."""
        if event.problem is None and DISPUTE not in event.type and not concerns_money(event):
            return WebhookOutcome.IGNORED
        unknown_reference = event.problem is not None and event.problem.startswith("reference ")
        kind = CaseKind.UNKNOWN_REFERENCE if unknown_reference else CaseKind.UNREADABLE_EVENT
        order_id = None
        if event.reference is not None:
            known = select(Order.id).where(Order.id == event.reference)
            order_id = (await session.execute(known)).scalar_one_or_none()
        await case_service.open_case(
            session,
            kind,
            entity_type=CaseEntity.GATEWAY_EVENT,
            entity_id=case_service.gateway_event_id(event.id),
            order_id=order_id,
            evidence={"event_id": event.id, "event_type": event.type, "problem": event.problem, **event.facts},
            dedupe_key=money_in.case_key(kind, event.id),
            at=self._clock(),
        )
        if unknown_reference:
            return WebhookOutcome.UNKNOWN_REFERENCE
        return WebhookOutcome.UNREADABLE if event.problem is not None else WebhookOutcome.UNKNOWN_KIND

    @staticmethod
    async def _reserved(session: AsyncSession, event_id: str, order_id: UUID) -> WebhookOutcome:
        """Let a reservation go that arrives for an order that was cancelled meanwhile.

        Each event has a job of its own: a storefront may reserve again after the first reservation was released.
        """
        status = (await session.execute(select(Order.status).where(Order.id == order_id))).scalar_one_or_none()
        if status != OrderStatus.CANCELLED:
            return WebhookOutcome.IGNORED
        kind = JobKind.RELEASE_PAYMENT
        await job_service.add(session, kind, order_id, f"{kind}:{order_id}:{event_id}")
        return WebhookOutcome.RESERVED_AFTER_CANCEL

    async def _refund_outcome(
        self, session: AsyncSession, event: WebhookEvent, reported: GatewayRefund, refund: Refund | None
    ) -> WebhookOutcome:
        if refund is None:
            return WebhookOutcome.UNKNOWN_REFERENCE
        if (reported.currency, reported.amount) != (refund.currency, refund.amount):
            return WebhookOutcome.AMOUNT_MISMATCH
        return await self._refund_ended(session, event, reported, refund)

    async def _refund_ended(
        self, session: AsyncSession, event: WebhookEvent, reported: GatewayRefund, refund: Refund
    ) -> WebhookOutcome:
        job_key = f"{JobKind.PROCESS_REFUND}:{refund.id}"
        is_recorded = refund.state == RefundState.SUCCEEDED and refund.gateway_refund_id == reported.id
        if event.type == "refund.succeeded":
            if await settlement.settle(session, refund, reported.id, self._clock()):
                await job_service.make_due_now(session, job_key)
                return WebhookOutcome.REFUND_SETTLED
            return WebhookOutcome.ALREADY_SETTLED if is_recorded else WebhookOutcome.SECOND_REFUND
        if is_recorded:
            # Reported as paid, then bounced: nothing here may decide what happens to the money now.
            return WebhookOutcome.REFUND_REVERSED
        if refund.state in {RefundState.PROCESSING, RefundState.UNKNOWN}:
            # The job asks the gateway before anything else. It is one row, dead or alive, so no second one pays too.
            news = f"gateway event {event.id}: {event.type}"
            if await job_resolution.requeue(session, job_key, self._clock(), news):
                return WebhookOutcome.REFUND_DUE_AGAIN
            await job_service.make_due_now(session, job_key)
        # Of an attempt that the job hears of itself, or has long left behind.
        return WebhookOutcome.REFUND_FAILED

    async def capture(self, claim: Claim, gateway: PaymentGateway) -> None:
        """Job `payment.capture`: let the gateway hold the money of an order that was marked PAID."""
        await collection.collected(self._database, gateway, claim.entity_id, self._clock)
        async with self._database.transaction() as session:
            await job_service.finish(session, claim)


async def _alert(session: AsyncSession, event_id: str, reported: GatewayPayment | GatewayRefund) -> None:
    """Make it due that operations hear of an event, in the transaction that stores it: once an event."""
    kind = JobKind.NOTIFY_GATEWAY_EVENT
    facts = {
        "event_id": event_id,
        "gateway_id": reported.id,
        "amount": str(money_in.moved(reported)),
        "currency": reported.currency,
    }
    await job_service.add(session, kind, reported.reference, f"{kind}:{event_id}", facts)
