"""Money out: one refund pays once, even when a process is killed (REQ-004).

    PENDING ──▶ PROCESSING ──▶ SUCCEEDED            the gateway said so
       ▲            │
       │            ├──▶ UNKNOWN ──▶ (look up) ──▶  time-out, reset, 5xx, or we were killed: the money may have moved
       └────────────┘                               declined, or nothing was sent: certainly not
    budget spent ──▶ FAILED, or still UNKNOWN       dead letter, alert, a person

PROCESSING is committed before any byte is sent, so a worker that finds a refund in PROCESSING knows that another
may have sent it, and asks the gateway by our reference before anything else. The idempotency key is the
refund's own, the same at every try; only a definite decline, which the gateway would replay under that key
for ever, adds its number to it. A refund that the gateway has accepted and not decided stays PROCESSING.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core import error_tracking
from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import RefundState
from app.database import Database
from app.models.order import Order
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest
from app.schemas.common import PageQuery
from app.schemas.refund import OrderRefund, RefundQuery
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_orders
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim
from app.services.ledger import refunds as refund_ledger
from app.services.paging import Page
from app.services.payments import collection, disputes, refund_decisions, settlement
from app.services.payments.gateway.port import (
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRefund,
    PaymentGateway,
    RefundRequest,
)
from app.services.payments.refund_reconciliation import (
    Difference,
    DifferenceKind,
    Reconciliation,
    compare,
    is_sample,
    refunds_at,
)
from app.services.payments.refund_views import OrderRefundView, RefundView, order_refund_view, refund_view
from app.services.workflow import tampering
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import NotFoundError, OrderNotFoundError, RecordTamperedError

logger = structlog.get_logger(__name__)

_RETURN_NUMBER = (
    select(ReturnRequest.return_number)
    .where(ReturnRequest.id == Refund.return_id)
    .correlate(Refund)
    .scalar_subquery()
    .label("return_number")
)


PENDING_LIMIT = timedelta(days=14)
"""Banks take up to ten working days. What a gateway has not decided by then, a person should ask about."""

_ASK_AGAIN_SECONDS = 1800.0
"""The gateway reports it by webhook; this is for a webhook that was lost."""


class RefundPendingError(Exception):
    """The gateway has the refund and has still to decide it; it is asked again later.

    That is no failure, so it uses up no retry, until `PENDING_LIMIT` is over.
    """

    retry_after = _ASK_AGAIN_SECONDS

    def __init__(self, refund: GatewayRefund, now: datetime) -> None:
        super().__init__(f"gateway refund {refund.id} is {refund.status}")
        self.consumes_retry = now - refund.created >= PENDING_LIMIT


class RefundHeldError(Exception):
    """The payment is disputed: its refunds wait until a manager has decided. That is no failure."""

    retry_after = _ASK_AGAIN_SECONDS
    consumes_retry = False

    def __init__(self, case_id: UUID) -> None:
        super().__init__(f"held by case {case_id}, until a manager decides it")


class RefundService:
    """Paying refunds back, showing them, and comparing them with the gateway's records."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def process(self, claim: Claim, gateway: PaymentGateway) -> None:
        """Job `refund.process`: pay one refund back.

        Raises:
            GatewayError: this try did not get there; its outcome is on the refund, the job is tried again.
            RefundPendingError: the gateway has still to decide.
            RefundHeldError: the payment is disputed; nothing was sent.
            LeaseLostError: another worker has the job.
        """
        refund_id = claim.entity_id
        payment_id = await self._payment_of(refund_id)
        # Before PROCESSING: this takes money in, if it must, and moves none out.
        gateway_payment_id = await collection.collected(self._database, gateway, payment_id, self._clock)
        await self._match_disputes(payment_id)
        request, perhaps_sent = await self._begin(claim, gateway_payment_id)
        if request is None:
            return
        try:
            paid = await _paid(gateway, request, perhaps_sent=perhaps_sent)
        except GatewayDeclined as refusal:
            await self._note(claim, RefundState.PENDING, refusal, declined=True)
            raise
        except GatewayOutcomeUnknown as fault:
            await self._note(claim, RefundState.UNKNOWN, fault)
            raise
        except GatewayError as fault:
            # Nothing was sent by this try; what an earlier one sent is as unknown as it was.
            await self._note(claim, RefundState.UNKNOWN if perhaps_sent else RefundState.PENDING, fault)
            raise
        await self._conclude(claim, paid)

    async def _payment_of(self, refund_id: UUID) -> UUID:
        async with self._database.autocommit() as connection:
            statement = select(Refund.payment_id).where(Refund.id == refund_id)
            return (await connection.execute(statement)).scalar_one()

    async def _match_disputes(self, payment_id: UUID) -> None:
        """Commit the hold of a dispute that was reported before the payment's id was recorded, however it was recorded."""
        async with self._database.transaction() as session:
            payment = await session.get(Payment, payment_id, with_for_update=True)
            if payment is not None:
                await disputes.match(session, payment, SYSTEM_JOB, self._clock())

    async def _begin(self, claim: Claim, gateway_payment_id: str) -> tuple[RefundRequest | None, bool]:
        """Commit PROCESSING; return the request to send, and whether one may have been sent before.

        None when there is nothing left to do: the job is finished then.
        """
        async with self._database.transaction() as session:
            refund = await refund_ledger.locked_refund(session, claim.entity_id)
            if refund is None or refund.state == RefundState.SUCCEEDED or refund.released_at is not None:
                logger.info("refund.not_needed", refund_id=str(claim.entity_id))
                await job_service.finish(session, claim)
                return None, False
            await _require_no_hold(session, refund.payment_id)
            await job_service.require_held(session, claim)
            perhaps_sent = refund.state in {RefundState.PROCESSING, RefundState.UNKNOWN}
            if refund.state != RefundState.PROCESSING:
                await refund_ledger.record_sending(session, refund, self._clock())
            attempt = f":{refund.declines + 1}" if refund.declines else ""
            request = RefundRequest(
                refund_id=refund.id,
                gateway_payment_id=gateway_payment_id,
                amount=refund.amount,
                currency=refund.currency,
                idempotency_key=f"refund:{refund.id}{attempt}",
                reason=refund.reason,
            )
            return request, perhaps_sent

    async def _note(self, claim: Claim, state: RefundState, fault: GatewayError, *, declined: bool = False) -> None:
        async with self._database.transaction() as session:
            refund = await refund_ledger.locked_refund(session, claim.entity_id)
            # A webhook may have settled it while we waited for the answer that we then did not get.
            if refund is None or refund.state == RefundState.SUCCEEDED:
                return
            await job_service.require_held(session, claim)
            await refund_ledger.record_failed_try(
                session, refund, state, self._clock(), error=str(fault), declined=declined
            )

    async def _conclude(self, claim: Claim, paid: GatewayRefund) -> None:
        """Record what the gateway said and finish the job, together and under the fence.

        Dying before this commit leaves PROCESSING: the next worker looks the refund up and ends here too.
        """
        async with self._database.transaction() as session:
            refund = await refund_ledger.locked_refund(session, claim.entity_id)
            if refund is None:
                raise NotFoundError(f"Refund {claim.entity_id} was not found.")
            if paid.status == "succeeded":
                await settlement.settle(session, refund, paid.id, self._clock())
                await job_service.finish(session, claim)
                return
        raise RefundPendingError(paid, self._clock())

    async def on_dead(self, session: AsyncSession, claim: Claim) -> None:
        """Mark the refund FAILED as its job becomes a dead letter, unless the money may have moved: then it stays UNKNOWN."""
        refund = await refund_ledger.locked_refund(session, claim.entity_id)
        if refund is None or refund.state in {RefundState.SUCCEEDED, RefundState.FAILED}:
            return
        try:
            async with session.begin_nested():
                await refund_ledger.record_given_up(session, refund, self._clock())
        except RecordTamperedError as fault:
            # The job gives up all the same; what the refund's record says is for a person to find out.
            await tampering.open_case(session, fault)

    async def list(self, query: RefundQuery, actor: Actor) -> Page[RefundView]:
        """Return a page of refunds, newest first.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_REFUNDS)
        table = Refund.__table__.c
        statement = select(*table, _RETURN_NUMBER)
        if query.order_id is not None:
            statement = statement.where(table.order_id == query.order_id)
        async with self._database.autocommit() as connection:
            return await pages.fetch_page(
                connection,
                statement,
                (table.created_at, table.id),
                query,
                lambda row: refund_view(row._mapping),
                newest_first=True,
                one_of=[(table.state, query.state)] if query.state else [],
            )

    async def of_order(self, order_id: UUID, query: PageQuery, actor: Actor) -> Page[OrderRefundView]:
        """Return a page of an order's refunds, newest first, without what only operations need.

        Raises:
            OrderNotFoundError: there is no such order that this actor may see.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_ORDER)
        visible = select(Order.id).where(Order.id == order_id, visible_orders(actor))
        table = Refund.__table__.c
        shown = [table[name] for name in OrderRefund.model_fields if name in table]
        async with self._database.autocommit() as connection:
            if (await connection.execute(visible)).first() is None:
                raise OrderNotFoundError(order_id)
            return await pages.fetch_page(
                connection,
                select(*shown, _RETURN_NUMBER).where(table.order_id == order_id),
                (table.created_at, table.id),
                query,
                lambda row: order_refund_view(row._mapping),
                newest_first=True,
            )

    async def get(self, refund_id: UUID, actor: Actor) -> RefundView:
        """Return a refund.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is none.
        """
        permissions.require(actor, Action.READ_REFUNDS)
        table = Refund.__table__.c
        async with self._database.autocommit() as connection:
            row = (await connection.execute(select(*table, _RETURN_NUMBER).where(table.id == refund_id))).first()
        if row is None:
            raise NotFoundError(f"Refund {refund_id} was not found.", {"refund_id": str(refund_id)})
        return refund_view(row._mapping)

    async def reconcile(
        self, gateway: PaymentGateway, *, repair: bool = False, without_samples: bool = False
    ) -> Reconciliation:
        """Compare our refunds with the gateway's transaction list.

        Args:
            repair: record as SUCCEEDED what the gateway paid and we do not know of. Nothing is ever paid here. What
                the database refuses stays a difference.
            without_samples: leave out sample data, which no gateway was asked for. Production has none.
        """
        # Refunds go on meanwhile: what their list must have is what we had before it was read, and what we must have
        # is what we have afterwards.
        earlier = await self._all()
        records = await refunds_at(gateway)
        theirs = records.by_reference
        ours = await self._all()
        samples = {reference for reference, row in ours.items() if without_samples and is_sample(row)} - theirs.keys()
        differences = [
            await self._with_order(difference)
            for reference in sorted((ours.keys() | theirs.keys()) - samples)
            if (
                difference := compare(reference, ours.get(reference), theirs.get(reference, []), earlier.get(reference))
            )
            is not None
        ]
        found = len(differences)
        differences = await refund_decisions.undecided(self._database, differences, records, ours)
        repaired = 0
        for difference in differences if repair else []:
            if difference.kind is DifferenceKind.PAID_BUT_NOT_RECORDED and difference.gateway_refund_id is not None:
                repaired += await self._record_paid(UUID(difference.reference), difference.gateway_refund_id)
        return Reconciliation(
            ours=len(ours) - len(samples),
            theirs=len(theirs),
            differences=differences,
            repaired=repaired,
            samples=len(samples),
            decided=found - len(differences),
        )

    async def _record_paid(self, refund_id: UUID, gateway_refund_id: str) -> bool:
        """Record what the gateway paid; return whether that was news and the database took it.

        It refuses more than was captured, as when the share of a refund given up went to another one meanwhile. That
        needs a person; the other refunds do not wait for it.
        """
        try:
            async with self._database.transaction() as session:
                refund = await refund_ledger.locked_refund(session, refund_id)
                return refund is not None and await settlement.settle(session, refund, gateway_refund_id, self._clock())
        except IntegrityError as refusal:
            error_tracking.report(refusal)
            logger.critical("paid_refund.not_recorded", refund_id=str(refund_id), exc_info=refusal)
            return False

    async def _all(self) -> dict[str, Row[*tuple[Any, ...]]]:
        statement = (
            select(*Refund.__table__.c, Order.order_number, Payment.gateway_payment_id)
            .join(Order, Order.id == Refund.order_id)
            .join(Payment, Payment.id == Refund.payment_id)
        )
        async with self._database.autocommit() as connection:
            return {str(row.id): row for row in await connection.execute(statement)}

    async def _with_order(self, difference: Difference) -> Difference:
        """Return a difference with the order whose payment it is about, though no refund of ours is meant."""
        if difference.order_id is not None or difference.gateway_payment_id is None:
            return difference
        statement = (
            select(Order.id, Order.order_number)
            .join(Payment, Payment.order_id == Order.id)
            .where(Payment.gateway_payment_id == difference.gateway_payment_id)
        )
        async with self._database.autocommit() as connection:
            found = (await connection.execute(statement)).first()
        return replace(difference, order_id=found.id, order_number=found.order_number) if found else difference


async def _require_no_hold(session: AsyncSession, payment_id: UUID) -> None:
    """Make sure that no dispute holds a payment's refunds; one that is being placed is waited for.

    Raises:
        RefundHeldError: one does.
    """
    held = select(Payment.refunds_held_by).where(Payment.id == payment_id).with_for_update(read=True)
    case_id = (await session.execute(held)).scalar_one()
    if case_id is not None:
        raise RefundHeldError(case_id)


async def _paid(gateway: PaymentGateway, request: RefundRequest, *, perhaps_sent: bool) -> GatewayRefund:
    """Return the gateway's refund: the one that an earlier try left there, else the one that this try makes.

    Raises:
        GatewayError: see `PaymentGateway`; what is found and does not fit is as unknown as no answer at all.
    """
    known = await gateway.find_refund(request.refund_id) if perhaps_sent else None
    if known is not None and known.status != "failed":
        if (known.payment_id, known.amount, known.currency) != (
            request.gateway_payment_id,
            request.amount,
            request.currency,
        ):
            raise GatewayOutcomeUnknown(f"Gateway refund {known.id} does not fit the request.", "refund_differs")
        return known
    # What failed may be an earlier attempt, while the last one is still on its way. Only its own key shows it: the
    # gateway answers what became of that attempt, and carries it out only if it never came.
    paid = await gateway.refund(request)
    if known is not None and paid.id == known.id:
        raise GatewayDeclined(known.failure_code or "failed", f"Gateway refund {known.id} failed.")
    return paid
