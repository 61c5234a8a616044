"""Returns: request, review, follow, complete, and what each step sets off (REQ-002)."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import EntityType, OrderStatus, RejectionReason, ReturnStatus
from app.core.precondition import Precondition
from app.database import Database
from app.models.order import Order
from app.models.return_request import ReturnRequest, return_number_seq
from app.schemas.common import PageQuery
from app.schemas.return_request import (
    ReturnApprove,
    ReturnCreate,
    ReturnQuery,
    ReturnReject,
    ReturnStateUpdate,
)
from app.services import events
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_orders, visible_returns
from app.services.jobs import service as job_service
from app.services.jobs.due_time import due_time, hold_overdue
from app.services.jobs.service import JobKind
from app.services.ledger import payments as payment_ledger
from app.services.ledger import statements as money_statements
from app.services.paging import Page
from app.services.returns.draft import Taken, new_return, taken_by
from app.services.returns.inspection import inspected, require_inspection_fits
from app.services.returns.views import ReturnView, return_view
from app.services.workflow import audit, tampering, transitions
from app.services.workflow.transitions import Effect, Machine, Outcome, TransitionRequest, Transitions
from app.services.workflow.views import RecordView, TransitionOptionsView
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import (
    InvalidInputError,
    OrderNotFoundError,
    ReturnAlreadyExistsError,
    ReturnNotAllowedError,
    ReturnNotFoundError,
)
from app.utils.formatting import date_text
from app.utils.shop_time import ReturnWindow

CREATION_EFFECTS = (JobKind.NOTIFY_RETURN_RECEIVED, JobKind.NOTIFY_RETURN_AWAITING_REVIEW)
EFFECTS = (
    Effect(ReturnStatus.APPROVED, JobKind.NOTIFY_RETURN_APPROVED),
    Effect(ReturnStatus.REJECTED, JobKind.NOTIFY_RETURN_REJECTED),
    Effect(ReturnStatus.RECEIVED, JobKind.NOTIFY_GOODS_RECEIVED),
    Effect(ReturnStatus.RECEIVED, JobKind.NOTIFY_RETURN_ARRIVED),
    Effect(ReturnStatus.COMPLETED, JobKind.NOTIFY_RETURN_COMPLETED),
)
"""Which job follows which step. The refund follows in `MONEY`, for it needs a row of its own."""

# COMPLETED: the refund is due from this very statement on, its amount reserved under the payment's cap.
MONEY = f"""{money_statements.RETURN_PAYMENT},
{money_statements.RETURN_REFUND},
{money_statements.REFUND_FACT},
{transitions.REFUND_WORK}"""

MACHINE = Machine(
    entity_type=EntityType.RETURN,
    table="return_requests",
    stamps={
        ReturnStatus.APPROVED: "approved_at",
        ReturnStatus.REJECTED: "rejected_at",
        ReturnStatus.IN_TRANSIT: "in_transit_at",
        ReturnStatus.RECEIVED: "received_at",
        ReturnStatus.COMPLETED: "completed_at",
    },
    columns={
        "manager_notes": "text",
        "rejection_reason": "text",
        "restocking_fee": "numeric",
        "refund_amount": "numeric",
        "inspection": "jsonb",
        "deduction_amount": "numeric",
        "deduction_reason": "text",
        "reviewed_by": "uuid",
        "carrier": "text",
        "tracking_number": "text",
    },
    effects=EFFECTS,
    money=MONEY,
    answer=", ".join(f"m.{column.name}" for column in ReturnRequest.__table__.c),
)
STATEMENT = MACHINE.statement()


class ReturnService:
    """What can be done with returns; each method is one unit of work."""

    def __init__(self, database: Database, return_window: ReturnWindow, clock: Clock = utc_now) -> None:
        self._database = database
        self._window = return_window
        self._clock = clock
        self._transitions = Transitions(database, STATEMENT)

    async def create(self, data: ReturnCreate, actor: Actor) -> ReturnView:
        """Request a return of a delivered order; return it, in REQUESTED.

        Raises:
            ForbiddenError: the role may not.
            OrderNotFoundError: there is no such order that this actor may see.
            ReturnNotAllowedError: not delivered, the window has closed, or all of it has been returned.
            ReturnAlreadyExistsError: the order has one that is neither rejected nor completed.
            InvalidInputError: a line that is not the order's, or more of it than is left.
        """
        permissions.require(actor, Action.CREATE_RETURN)
        now = self._clock()
        try:
            async with self._database.transaction() as session:
                order = await _locked_order(session, data.order_id, actor)
                taken = await _taken_of(session, order.id)
                self._require_returnable(order, now)
                number = await _next_number(session, self._window.shop_time.day(now).year)
                request = new_return(order, data, actor, now, number=number, taken=taken)
                session.add(request)
                await session.flush()
                await events.append(
                    session,
                    EntityType.RETURN,
                    request.id,
                    1,
                    "return.created",
                    now,
                    {
                        "order_id": str(order.id),
                        "return_number": number,
                        **permissions.on_behalf_of(actor, order.customer_id),
                    },
                )
                for kind in CREATION_EFFECTS:
                    await job_service.add(session, kind, request.id, f"{kind}:{request.id}:1")
        except IntegrityError as fault:
            # One that was written past this service, which does not hold the order's lock.
            if "uq_return_requests_open_order_id" in str(fault.orig):
                raise ReturnAlreadyExistsError(data.order_id) from None
            raise
        columns = {
            attribute.key: getattr(request, attribute.key) for attribute in ReturnRequest.__mapper__.column_attrs
        }
        return return_view(columns, actor)

    def _require_returnable(self, order: Order, now: datetime) -> None:
        if order.status != OrderStatus.DELIVERED or order.delivered_at is None:
            raise ReturnNotAllowedError(
                "NOT_DELIVERED",
                f"Order {order.order_number} is {order.status}; only a delivered order can be returned.",
                current_state=order.status,
            )
        closes_at = self._window.closes_at(order.delivered_at)
        if now >= closes_at:
            last_day = self._window.last_day(order.delivered_at)
            raise ReturnNotAllowedError(
                "WINDOW_CLOSED",
                f"The last day to request a return of order {order.order_number} was {date_text(last_day)}.",
                delivered_at=order.delivered_at,
                window_closed_at=closes_at,
            )

    async def get(self, return_id: UUID, actor: Actor) -> ReturnView:
        """Return a return.

        Raises:
            ReturnNotFoundError: there is none that this actor may see.
        """
        return return_view((await self._row(return_id, actor))._mapping, actor)

    async def list(self, query: ReturnQuery, actor: Actor) -> Page[ReturnView]:
        """Return a page of returns, newest first.

        Raises:
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_RETURN)
        table = ReturnRequest.__table__.c
        statement = select(*table).where(
            *pages.given(
                (query.customer_id, table.customer_id.__eq__),
                (query.order_id, table.order_id.__eq__),
                (query.return_number, table.return_number.__eq__),
                (query.created_from, table.created_at.__ge__),
                (query.created_to, table.created_at.__lt__),
            ),
            visible_returns(actor),
        )
        return await self._database.reading(
            lambda connection: pages.fetch_page(
                connection,
                statement,
                (table.created_at, table.id),
                query,
                lambda row: return_view(row._mapping, actor),
                newest_first=True,
                one_of=[(table.status, query.status)] if query.status else [],
            )
        )

    async def approve(
        self, return_id: UUID, data: ReturnApprove, actor: Actor, expected: Precondition | None = None
    ) -> ReturnView:
        """Approve a return, with a restocking fee or a partial refund if given; return it.

        Raises:
            ForbiddenError, ReturnNotFoundError, VersionConflictError, InvalidStateTransitionError: as `transition`.
            InvalidInputError: the fee or the refund is more than the returned lines are worth, or than is left of the
                payment, of which less may have come in than the order costs.
        """
        permissions.require_transition(actor, EntityType.RETURN, ReturnStatus.APPROVED)
        row = await self._row(return_id, actor)
        fee = data.restocking_fee if data.restocking_fee is not None else Decimal(0)
        left = await self._left_to_refund(row.order_id)
        refund = data.refund_amount if data.refund_amount is not None else min(row.items_amount - fee, left)
        # Amounts matter only where the step itself is legal; otherwise the refusal below is the answer.
        if row.status == ReturnStatus.REQUESTED:
            if fee > row.items_amount:
                raise InvalidInputError(("restocking_fee", f"must not exceed the returned lines: {row.items_amount}"))
            if refund > row.items_amount - fee:
                raise InvalidInputError(
                    ("refund_amount", f"must not exceed the returned lines less the fee: {row.items_amount - fee}")
                )
            if refund > left:
                raise InvalidInputError(("refund_amount", f"must not exceed what is left of the payment: {left}"))
        changes = {
            "manager_notes": data.notes,
            "restocking_fee": fee,
            "refund_amount": refund,
            "reviewed_by": actor.id,
        }
        metadata = {"notes": data.notes, "restocking_fee": str(fee), "refund_amount": str(refund)}
        return await self._move(return_id, ReturnStatus.APPROVED, actor, metadata, changes, expected)

    async def _left_to_refund(self, order_id: UUID) -> Decimal:
        async with self._database.autocommit() as connection:
            return await payment_ledger.left_to_refund(connection, order_id)

    async def reject(
        self, return_id: UUID, data: ReturnReject, actor: Actor, expected: Precondition | None = None
    ) -> ReturnView:
        """Reject a return with a category and notes; return it.

        Raises:
            As `transition`.
        """
        permissions.require_transition(actor, EntityType.RETURN, ReturnStatus.REJECTED)
        changes = {"manager_notes": data.notes, "rejection_reason": data.rejection_reason, "reviewed_by": actor.id}
        metadata = {"notes": data.notes, "rejection_reason": data.rejection_reason}
        return await self._move(return_id, ReturnStatus.REJECTED, actor, metadata, changes, expected)

    async def transition(
        self, return_id: UUID, update: ReturnStateUpdate, actor: Actor, expected: Precondition | None = None
    ) -> ReturnView:
        """Bring a return into `update.new_state`; return it. The review has its own methods.

        Raises:
            ForbiddenError: the actor's role may not bring a return there.
            ReturnNotFoundError: there is none that this actor may see.
            VersionConflictError: it is of another version than expected.
            InvalidStateTransitionError: the table does not allow it; the attempt is on record.
            InvalidInputError: a review that is due, asked for without its notes; an inspection that does not fit.
        """
        permissions.require_transition(actor, EntityType.RETURN, update.new_state)
        verb = {ReturnStatus.APPROVED: "approve", ReturnStatus.REJECTED: "reject"}.get(update.new_state)
        if verb is not None and (await self._row(return_id, actor)).status == ReturnStatus.REQUESTED:
            raise InvalidInputError(("new_state", f"a review needs its notes: use PATCH /returns/{{id}}/{verb}"))
        require_inspection_fits(update)
        changes = {"carrier": update.carrier, "tracking_number": update.tracking_number}
        given: dict[str, Any] = {column: value for column, value in changes.items() if value is not None}
        metadata = {**({"reason": update.reason} if update.reason is not None else {}), **given}
        if update.inspection is not None or update.deduction_amount is not None:
            row = await self._row(return_id, actor)
            # It matters only where the step itself is legal; the approved amounts of such a return are fixed.
            if row.status == ReturnStatus.RECEIVED:
                found, record = inspected(row._mapping, update)
                given |= found
                metadata |= record
        return await self._move(return_id, update.new_state, actor, metadata, given, expected)

    async def expire_unreviewed(self, older_than: timedelta, limit: int = 500) -> int:
        """Reject as EXPIRED, as SYSTEM, up to `limit` requests that no manager reviewed; return how many (REQ-002).

        One that somebody holds is passed over, so that one held for long does not keep the others waiting.
        """
        async with self._database.transaction() as session:
            now = await due_time(session, self._clock())
            changes = {"rejection_reason": RejectionReason.EXPIRED}
            requests = [
                TransitionRequest(
                    entity_id=return_id,
                    new_state=ReturnStatus.REJECTED,
                    actor=SYSTEM_JOB,
                    at=now,
                    metadata=changes,
                    changes=changes,
                    expected_state=ReturnStatus.REQUESTED,
                )
                for return_id in await hold_overdue(
                    session, ReturnRequest, ReturnStatus.REQUESTED, now - older_than, limit
                )
            ]
            results = await tampering.apply_to_sound(session, STATEMENT, requests)
        return sum(result.outcome is Outcome.MOVED for result in results)

    async def transitions(self, return_id: UUID, actor: Actor) -> TransitionOptionsView:
        """Return which states this actor could bring the return into now, and why not the others.

        Raises:
            ReturnNotFoundError: there is none that this actor may see.
        """
        row = await self._row(return_id, actor)
        return transitions.options(EntityType.RETURN, row.status, actor)

    async def history(self, return_id: UUID, page: PageQuery, actor: Actor) -> Page[RecordView]:
        """Return a page of the return's transitions, oldest first.

        Raises:
            ReturnNotFoundError: there is none that this actor may see.
        """
        await self._row(return_id, actor)
        async with self._database.autocommit() as connection:
            return await audit.history_of(connection, EntityType.RETURN, return_id, page, actor)

    async def _row(self, return_id: UUID, actor: Actor) -> Row[Any]:
        permissions.require(actor, Action.READ_RETURN)
        table = ReturnRequest.__table__.c
        statement = select(*table).where(table.id == return_id, visible_returns(actor))
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise ReturnNotFoundError(return_id)
        return row

    async def _move(
        self,
        return_id: UUID,
        new_state: ReturnStatus,
        actor: Actor,
        metadata: Mapping[str, Any],
        changes: Mapping[str, Any],
        expected: Precondition | None,
    ) -> ReturnView:
        request = TransitionRequest(
            entity_id=return_id,
            new_state=new_state,
            actor=actor,
            at=self._clock(),
            metadata=metadata,
            changes={column: value for column, value in changes.items() if value is not None},
            expected_versions=expected.versions if expected is not None else None,
        )
        result = await self._transitions.apply(request)
        row = transitions.moved_row(
            EntityType.RETURN, new_state, result, lambda: ReturnNotFoundError(return_id), expected
        )
        return return_view(row, actor)


async def _locked_order(session: AsyncSession, order_id: UUID, actor: Actor) -> Order:
    """Return an order with its lines under its row lock, so that its returns are requested one after another."""
    statement = select(Order).where(Order.id == order_id, visible_orders(actor)).options(selectinload(Order.line_items))
    order = (await session.execute(statement.with_for_update(key_share=True))).scalar_one_or_none()
    if order is None:
        raise OrderNotFoundError(order_id)
    return order


async def _taken_of(session: AsyncSession, order_id: UUID) -> dict[UUID, Taken]:
    """Return how much of each line the order's returns take back, rejected ones apart.

    Raises:
        ReturnAlreadyExistsError: one of them is still open.
    """
    statement = select(ReturnRequest.id, ReturnRequest.return_number, ReturnRequest.status, ReturnRequest.items).where(
        ReturnRequest.order_id == order_id, ReturnRequest.status != ReturnStatus.REJECTED
    )
    returns = (await session.execute(statement)).all()
    for row in returns:
        if row.status != ReturnStatus.COMPLETED:
            raise ReturnAlreadyExistsError(order_id, row.id, row.return_number)
    return taken_by(row.items for row in returns)


async def _next_number(session: AsyncSession, year: int) -> str:
    number = (await session.execute(select(return_number_seq.next_value()))).scalar_one()
    return f"RET-{year}-{number:06d}"
