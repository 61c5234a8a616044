"""Before an unpaid order is cancelled, by a person or by time, the provider is asked what it holds for it (INT-001).

    captured      the webhook was lost: the order becomes PAID, as if it had come
    authorised    the reservation is released, then the order may be cancelled
    nothing       the order may be cancelled
    no answer     the order is left as it is: the sweep tries again, a person gets 503

No connection and no lock is held while the provider answers. What is found is booked under the lock of the order, in a
transaction of its own, and a webhook that arrives in between has booked it already. What dying leaves behind:

    after the answer, before booking    nothing: the next one asks again
    after a release, before the cancel  a released reservation and an unpaid order: the next one finds nothing held
    after booking                       a PAID order, which stays PAID or is cancelled with a refund
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Row, select, tuple_
from sqlalchemy.exc import IntegrityError

from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import ActorType, EntityType, OrderStatus, Trigger, WebhookOutcome
from app.database import Database
from app.models.order import Order
from app.models.payment import Payment
from app.services.access import permissions
from app.services.access.visibility import visible_orders
from app.services.jobs import service as job_service
from app.services.jobs.due_time import due_time
from app.services.jobs.service import Claim
from app.services.ledger import payments as payment_ledger
from app.services.orders.service import STATEMENT, OrderService
from app.services.payments import money_in
from app.services.payments.gateway.port import (
    GatewayError,
    GatewayPayment,
    GatewayRejected,
    GatewayUnavailable,
    PaymentGateway,
)
from app.services.workflow import tampering
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import RecordTamperedError, ServiceUnavailableError

logger = structlog.get_logger(__name__)

FOUND_BY_ASKING = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.API_CALL)
"""Who books a payment that is found because a person wants to cancel the order."""

AT_ONCE = 8
"""How many orders a sweep asks about at the same time."""

_PAGE = 64
_RETRY_AFTER_SECONDS = 30


class Standing(StrEnum):
    """What the provider holds for an unpaid order."""

    NOTHING = "NOTHING"
    BOOKED = "BOOKED"
    UNDECIDED = "UNDECIDED"


class UnpaidOrders:
    """Asking the provider about unpaid orders, and cancelling those that it holds nothing for."""

    def __init__(
        self, database: Database, orders: OrderService, gateway: PaymentGateway, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._orders = orders
        self._gateway = gateway
        self._clock = clock

    async def before_cancel(self, order_id: UUID, actor: Actor) -> None:
        """Settle what the provider holds for an order that a person wants to cancel, if it is unpaid.

        An order that the actor may not see, or that is not unpaid, is left to the cancellation itself.

        Raises:
            ServiceUnavailableError: the provider gives no answer that can be relied on; nothing was changed.
        """
        if not permissions.may_enter(actor, EntityType.ORDER, OrderStatus.CANCELLED):
            return
        unpaid = await self._unpaid(Order.id == order_id, visible_orders(actor))
        if not unpaid:
            return
        try:
            standing = await self._settle(unpaid[0], FOUND_BY_ASKING)
        except GatewayError as fault:
            logger.warning("unpaid_order.not_asked", order_id=str(order_id), error=str(fault))
            raise ServiceUnavailableError(
                "The payment provider cannot say right now whether this order was paid; try again in a moment.",
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            ) from None
        logger.info("unpaid_order.asked", order_id=str(order_id), standing=standing)

    async def cancel_overdue(self, older_than: timedelta, limit: int = 500) -> int:
        """Cancel, as SYSTEM, up to `limit` orders unpaid for longer than `older_than`; return how many (REQ-001).

        An order for which the provider holds money becomes PAID or waits for a person. When the provider cannot be
        reached, the rest waits for the next call; one that it cannot answer for is passed over.
        """
        async with self._database.autocommit() as connection:
            made_before = await due_time(connection, self._clock()) - older_than
        cancelled = 0
        after: tuple[datetime, UUID] | None = None
        while cancelled < limit:
            conditions: list[ColumnElement[bool]] = [Order.created_at < made_before]
            if after is not None:
                conditions.append(tuple_(Order.created_at, Order.id) > after)
            page = await self._unpaid(*conditions, limit=min(_PAGE, limit - cancelled))
            if not page:
                break
            after = page[-1].created_at, page[-1].id
            clear, reachable = await self._clear(page)
            cancelled += await self._orders.cancel_unpaid(clear, older_than) if clear else 0
            if not reachable:
                break
        return cancelled

    async def settle(self, order_id: UUID, actor: Actor) -> Standing:
        """Ask about any order, release what is reserved for it, and book what was captured; see `Standing`.

        Raises:
            GatewayError: no answer that can be relied on.
        """
        [order] = await self._read(Order.id == order_id)
        return await self._settle(order, actor)

    async def release(self, claim: Claim) -> None:
        """Job `payment.release`: release what is reserved for a cancelled order, or book what was captured for it.

        Raises:
            GatewayError: no answer that can be relied on; the job is tried again.
        """
        await self.settle(claim.entity_id, SYSTEM_JOB)
        async with self._database.transaction() as session:
            await job_service.finish(session, claim)

    async def _clear(self, orders: Sequence[Row[*tuple[object, ...]]]) -> tuple[list[UUID], bool]:
        """Return which orders the provider holds nothing for, and whether it can be reached."""
        clear: list[UUID] = []
        for begin in range(0, len(orders), AT_ONCE):
            chunk = orders[begin : begin + AT_ONCE]
            answers = await asyncio.gather(
                *(self._settle(order, SYSTEM_JOB) for order in chunk), return_exceptions=True
            )
            away = False
            for order, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, GatewayError):
                    logger.warning("unpaid_order.not_asked", order_id=str(order.id), error=str(answer))
                    away |= isinstance(answer, GatewayUnavailable)
                elif isinstance(answer, RecordTamperedError):
                    await tampering.report(self._database, answer)
                elif isinstance(answer, BaseException):
                    raise answer
                elif answer is Standing.NOTHING:
                    clear.append(order.id)
            if away:
                return clear, False
        return clear, True

    async def _settle(self, order: Row[*tuple[object, ...]], actor: Actor) -> Standing:
        """Ask about one order, release what is reserved, and book what was captured.

        Raises:
            GatewayError: no answer that can be relied on.
        """
        if order.amount == 0 and order.status == OrderStatus.PENDING_PAYMENT:
            return await self._book_nothing(order.id, actor)
        found = await self._found(order.id)
        if found is not None and found.status == "authorized":
            found = await self._released(found)
        if found is None or found.status != "captured":
            return Standing.NOTHING
        outcome = await self._booked(order.id, found, actor)
        logger.warning("unpaid_order.paid", order_id=str(order.id), gateway_id=found.id, outcome=outcome)
        if outcome not in money_in.CASES:
            return Standing.BOOKED
        # Money of another amount that has all gone back is nothing held either.
        return Standing.NOTHING if found.refunded_amount >= found.captured_amount else Standing.UNDECIDED

    async def _booked(self, order_id: UUID, found: GatewayPayment, actor: Actor) -> WebhookOutcome:
        """Book what was captured, with the case that it may need; return the outcome, as `money_in.book` does."""
        try:
            async with self._database.transaction() as session:
                payment = await payment_ledger.locked_payment(session, order_id)
                now = self._clock()
                outcome = await money_in.book(session, STATEMENT, payment, found, actor, now)
                partly = outcome == WebhookOutcome.PAID and found.refunded_amount > 0
                if outcome in money_in.CASES or partly:
                    asked = WebhookOutcome.REFUNDED_ELSEWHERE if partly else outcome
                    await money_in.ask_a_person(session, asked, found, payment, now, found_by="look-up")
                return outcome
        except IntegrityError as refusal:
            # A person decides; the orders behind this one do not wait for it.
            async with self._database.transaction() as session:
                payment = await payment_ledger.locked_payment(session, order_id)
                return await money_in.ask_about_refused(
                    session, found, payment, refusal, self._clock(), found_by="look-up"
                )

    async def _book_nothing(self, order_id: UUID, actor: Actor) -> Standing:
        """Bring an order of an earlier release that costs nothing to PAID."""
        async with self._database.transaction() as session:
            payment = await payment_ledger.locked_payment(session, order_id)
            if payment is None:
                return Standing.NOTHING
            paid = await money_in.mark_paid(session, STATEMENT, payment, None, actor, self._clock())
        return Standing.BOOKED if paid else Standing.NOTHING

    async def _found(self, order_id: UUID) -> GatewayPayment | None:
        try:
            return await self._gateway.find_payment(order_id)
        except GatewayRejected as refusal:
            # Where the provider cannot look up, a payment that comes late is given back when it is reported.
            if refusal.code != "lookup_unsupported":
                raise
            return None

    async def _released(self, reserved: GatewayPayment) -> GatewayPayment | None:
        """Release a reservation; return what the provider holds now."""
        try:
            return await self._gateway.void(reserved.id)
        except GatewayRejected:
            # Captured or released at this very moment, by the storefront: only what it is now counts.
            now = await self._found(reserved.reference)
            if now is not None and now.status == "authorized":
                raise
            return now

    async def _unpaid(self, *conditions: ColumnElement[bool], limit: int = 1) -> Sequence[Row[*tuple[object, ...]]]:
        return await self._read(Order.status == OrderStatus.PENDING_PAYMENT, *conditions, limit=limit)

    async def _read(self, *conditions: ColumnElement[bool], limit: int = 1) -> Sequence[Row[*tuple[object, ...]]]:
        statement = (
            select(Order.id, Order.created_at, Order.status, Payment.amount)
            .join(Payment, Payment.order_id == Order.id)
            .where(*conditions)
            .order_by(Order.created_at, Order.id)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return (await connection.execute(statement)).all()
