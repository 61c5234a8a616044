"""Orders: create, read, transition, cancel, and what each transition sets off (REQ-001)."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.actor import Actor
from app.core.enums import ActorType, EntityType, OrderStatus, Role, Trigger
from app.core.precondition import Precondition
from app.database import Database
from app.models.order import Order
from app.prepared import RECORD
from app.schemas.common import PageQuery
from app.schemas.order import OrderCancel, OrderCreate, OrderQuery, OrderStateUpdate
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_orders
from app.services.jobs.due_time import due_time, hold_overdue
from app.services.jobs.service import JobKind, queue_of
from app.services.ledger import statements as money_statements
from app.services.orders import draft as order_draft
from app.services.orders import reading, writing
from app.services.orders import search as order_search
from app.services.orders.views import OrderSummaryView, OrderView, order_summary, with_lines
from app.services.orders.writing import NewOrder
from app.services.paging import Page
from app.services.workflow import audit, tampering, transitions
from app.services.workflow.coalescing import Coalescer
from app.services.workflow.transitions import Effect, Machine, Outcome, TransitionRequest, Transitions
from app.services.workflow.views import RecordView, TransitionOptionsView
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.exceptions import ForbiddenError, OrderNotFoundError
from app.utils.shop_time import UTC_CALENDAR, ShopTime

EFFECTS = (
    Effect(OrderStatus.PAID, JobKind.NOTIFY_ORDER_CONFIRMATION),
    Effect(OrderStatus.PAID, JobKind.NOTIFY_WAREHOUSE_ORDER_READY),
    Effect(OrderStatus.SHIPPED, JobKind.ISSUE_INVOICE),
    Effect(OrderStatus.SHIPPED, JobKind.NOTIFY_ORDER_SHIPPED),
    Effect(OrderStatus.DELIVERED, JobKind.NOTIFY_ORDER_DELIVERED),
    # Not from PENDING_PAYMENT: the address may be a stranger's, who would get a mail for each attempt.
    Effect(OrderStatus.CANCELLED, JobKind.NOTIFY_ORDER_CANCELLED, origin=OrderStatus.PAID),
)
"""Which job follows which transition. Money follows in `MONEY`, for it needs rows of its own."""

# PAID: unless the gateway itself reported the money, a job finds it there, or reports it as received elsewhere.
#
# CANCELLED, unpaid: the provider was asked before. What it reserved after that, and reported before this statement, is
# released by a job; what it reports later is released by the webhook's own.
MONEY = f"""{money_statements.ORDER_PAYMENT},
capture AS (
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state)
    SELECT '{JobKind.CAPTURE_PAYMENT}', 'refunds', id, '{JobKind.CAPTURE_PAYMENT}:' || id, '{{job_state}}'
    FROM money WHERE status = 'PAID' AND trigger <> '{Trigger.WEBHOOK}' AND captured_amount > 0
),
{money_statements.ORDER_REFUND},
release AS (
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state)
    SELECT '{JobKind.RELEASE_PAYMENT}', '{queue_of(JobKind.RELEASE_PAYMENT)}', m.id,
        '{JobKind.RELEASE_PAYMENT}:' || m.id || ':' || m.version, '{{job_state}}'
    FROM moved m WHERE m.status = 'CANCELLED' AND m.from_state = 'PENDING_PAYMENT'
        AND EXISTS (SELECT FROM gateway_events g WHERE g.reference = m.id AND g.type = 'payment.authorized')
),
{money_statements.REFUND_FACT},
{transitions.REFUND_WORK}"""  # noqa: S608 - constants of this code base

MACHINE = Machine(
    entity_type=EntityType.ORDER,
    table="orders",
    stamps={
        OrderStatus.PAID: "paid_at",
        OrderStatus.SHIPPED: "shipped_at",
        OrderStatus.DELIVERED: "delivered_at",
        OrderStatus.CANCELLED: "cancelled_at",
    },
    columns={
        "carrier": "text",
        "tracking_number": "text",
        "cancellation_reason": "text",
        "payment_transaction_id": "text",
    },
    effects=EFFECTS,
    money=MONEY,
    answer=reading.answer("m"),
)
STATEMENT = MACHINE.statement()

NOTHING_TO_PAY = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.API_CALL)
"""Who brings an order that costs nothing to PAID."""


_Question = tuple[UUID, UUID | None]
"""An order to be read, and the customer whose orders the reader may see; None for all."""


class OrderService:
    """What can be done with orders; each method is one unit of work."""

    def __init__(
        self,
        database: Database,
        clock: Clock = utc_now,
        shop_time: ShopTime = UTC_CALENDAR,
        priced_by: Literal["anyone", "service"] = "anyone",
    ) -> None:
        """Keep what the methods work with.

        Args:
            shop_time: the calendar of the shop, for the year in order numbers.
            priced_by: who may set prices, `Settings.prices_set_by`.
        """
        self._database = database
        self._clock = clock
        self._shop_time = shop_time
        self._priced_by = priced_by
        self._transitions = Transitions(database, STATEMENT)
        self._creations = Coalescer(database, self._create_set, self._create)
        self._reads = Coalescer(database, self._read_set, self._read)

    async def create(self, data: OrderCreate, actor: Actor) -> OrderView:
        """Create an order in PENDING_PAYMENT with its lines and its payment; return it.

        One that costs nothing is PAID in the same transaction.

        Raises:
            ForbiddenError: the role may not, a customer orders for another one, or a customer sets prices where
                only a service may.
            InvalidInputError: the total is beyond what an amount can hold.
        """
        permissions.require(actor, Action.CREATE_ORDER)
        if actor.role is Role.CUSTOMER and data.customer_id != actor.customer_id:
            raise ForbiddenError("A customer orders for themselves.", {"customer_id": str(data.customer_id)})
        self._require_may_price(actor)
        now = self._clock()
        view = order_draft.new_order(data, uuid7(now), now)
        placed_by = str(actor.role or actor.type).lower()
        order = NewOrder(view, self._shop_time.day(now).year, data.payment_token, placed_by)
        if view["total_amount"] == 0:
            async with self._database.joined_unit_of_work():
                await self._create(order)
                return await self._pay_nothing(order.id, now)
        view["order_number"] = await self._creations.submit(order)
        return view

    async def _create(self, order: NewOrder) -> str:
        [number] = await writing.create(self._database, [order])
        return number

    async def _create_set(self, orders: Sequence[NewOrder]) -> list[str | None]:
        return [*await writing.create(self._database, orders)]

    def _require_may_price(self, actor: Actor) -> None:
        # A request to create an order always carries its prices.
        if self._priced_by == "service" and actor.role is not None and actor.role not in permissions.PRICING_ROLES:
            raise ForbiddenError(
                "A customer may not set prices here (ORDERS_PRICED_BY is service): the storefront creates the order with"
                " a key of role service.",
                {"role": actor.role, "needed": sorted(permissions.PRICING_ROLES)},
            )

    async def _pay_nothing(self, order_id: UUID, at: datetime) -> OrderView:
        """Bring a new order that costs nothing to PAID, as SYSTEM: no payment will be reported for it."""
        request = TransitionRequest(
            entity_id=order_id,
            new_state=OrderStatus.PAID,
            actor=NOTHING_TO_PAY,
            at=at,
            metadata={"reason": "nothing to pay"},
        )
        result = await self._transitions.apply(request)
        return with_lines(
            transitions.moved_row(EntityType.ORDER, OrderStatus.PAID, result, lambda: OrderNotFoundError(order_id))
        )

    async def get(self, order_id: UUID, actor: Actor) -> OrderView:
        """Return an order with its lines.

        Raises:
            OrderNotFoundError: there is none that this actor may see.
        """
        permissions.require(actor, Action.READ_ORDER)
        rows = await self._reads.submit((order_id, actor.sees_only))
        if not rows:
            raise OrderNotFoundError(order_id)
        return with_lines(rows[0])

    async def _read(self, question: _Question) -> list[RECORD]:
        order_id, owner = question
        return await self._database.rows(reading.READ, id=order_id, owner=owner)

    async def _read_set(self, questions: Sequence[_Question]) -> list[list[RECORD] | None]:
        if len(questions) == 1:
            return [await self._read(questions[0])]
        ids, owners = zip(*questions, strict=True)
        rows = await self._database.rows(reading.READ_SET, ids=list(ids), owners=list(owners))
        return [[row] if row["id"] is not None else [] for row in rows]

    async def list(self, query: OrderQuery, actor: Actor) -> Page[OrderSummaryView]:
        """Return a page of orders, newest first, without their lines.

        Raises:
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_ORDER)
        if query.q is None and query.offset is None and not query.include_total:
            return await self._page(query, actor)
        columns = Order.__table__.c
        statement = select(*reading.LISTED).where(visible_orders(actor), *_filters(query))
        key = (columns.created_at, columns.id)
        statuses: list[pages.OneOf] = [(columns.status, query.status)] if query.status else []

        async def page(connection: AsyncConnection) -> Page[OrderSummaryView]:
            wanted = statement
            is_of_one = (actor.sees_only or query.customer_id) is not None
            if query.q is not None and is_of_one:
                wanted = statement.where(order_search.matches(query.q))
            elif query.q is not None:
                return await order_search.page(connection, query, statement, statuses)
            return await pages.fetch_page(
                connection, wanted, key, query, order_summary, newest_first=True, one_of=statuses
            )

        return await self._database.reading(page)

    async def _page(self, query: OrderQuery, actor: Actor) -> Page[OrderSummaryView]:
        after, after_id = (
            pages.decode_cursor(query.cursor, [datetime, UUID]) if query.cursor is not None else (None, None)
        )
        filters = {
            "owner": actor.sees_only,
            "customer_id": query.customer_id,
            "order_number": query.order_number,
            "created_from": query.created_from,
            "created_to": query.created_to,
            "after_id": after_id,
        }
        given = {name: value for name, value in filters.items() if value is not None}
        statuses = dict.fromkeys(query.status)
        statement = reading.listing(tuple(given), len(statuses), query.limit + 1)
        if after is not None:
            given["after"] = after
        given |= {f"status_{n}": status for n, status in enumerate(statuses)}
        rows = await self._database.read_rows(statement, **given)
        for row in rows:
            for name in reading.REPEATED:
                row[name] = orjson.Fragment(row[name])
        orders = cast("list[OrderSummaryView]", rows)
        return pages.first_rows(orders, query, lambda row: [row["created_at"], row["id"]])

    async def transition(
        self, order_id: UUID, update: OrderStateUpdate, actor: Actor, expected: Precondition | None = None
    ) -> OrderView:
        """Bring an order into `update.new_state`; return it.

        Raises:
            ForbiddenError: the actor's role may not bring an order there.
            OrderNotFoundError: there is none that this actor may see.
            VersionConflictError: it is of another version than expected.
            InvalidStateTransitionError: the table does not allow it; the attempt is on record.
        """
        permissions.require_transition(actor, EntityType.ORDER, update.new_state)
        changes = {
            "carrier": update.carrier,
            "tracking_number": update.tracking_number,
            "cancellation_reason": update.reason if update.new_state is OrderStatus.CANCELLED else None,
        }
        return await self._move(order_id, update.new_state, actor, update.reason, changes, expected)

    async def cancel(
        self, order_id: UUID, data: OrderCancel, actor: Actor, expected: Precondition | None = None
    ) -> OrderView:
        """Cancel an order before it is in the warehouse; when it was paid, its refund is due at once.

        Raises:
            As `transition`.
        """
        permissions.require_transition(actor, EntityType.ORDER, OrderStatus.CANCELLED)
        changes = {"cancellation_reason": data.reason}
        return await self._move(order_id, OrderStatus.CANCELLED, actor, data.reason, changes, expected)

    async def cancel_unpaid(self, order_ids: Collection[UUID], older_than: timedelta) -> int:
        """Cancel, as SYSTEM, those of these orders that are unpaid for longer than `older_than`; return how many.

        `UnpaidOrders` calls it with orders for which the provider holds no money (REQ-001).

        One paid in the meantime is left alone, for the condition is checked under its lock. One that somebody holds is
        passed over, so that one held for long does not keep the others waiting.
        """
        async with self._database.transaction() as session:
            now = await due_time(session, self._clock())
            reason = "not paid in time"
            requests = [
                TransitionRequest(
                    entity_id=order_id,
                    new_state=OrderStatus.CANCELLED,
                    actor=transitions.SYSTEM_JOB,
                    at=now,
                    metadata={"reason": reason},
                    changes={"cancellation_reason": reason},
                    expected_state=OrderStatus.PENDING_PAYMENT,
                )
                for order_id in await hold_overdue(
                    session,
                    Order,
                    OrderStatus.PENDING_PAYMENT,
                    now - older_than,
                    len(order_ids),
                    Order.id.in_(order_ids),
                )
            ]
            results = await tampering.apply_to_sound(session, STATEMENT, requests)
        return sum(result.outcome is Outcome.MOVED for result in results)

    async def transitions(self, order_id: UUID, actor: Actor) -> TransitionOptionsView:
        """Return which states this actor could bring the order into now, and why not the others.

        Raises:
            OrderNotFoundError: there is none that this actor may see.
        """
        order = await self.get(order_id, actor)
        return transitions.options(EntityType.ORDER, order["status"], actor)

    async def history(self, order_id: UUID, page: PageQuery, actor: Actor) -> Page[RecordView]:
        """Return a page of the order's transitions, oldest first.

        Raises:
            OrderNotFoundError: there is none that this actor may see.
        """
        await self.get(order_id, actor)
        async with self._database.autocommit() as connection:
            return await audit.history_of(connection, EntityType.ORDER, order_id, page, actor)

    async def _move(
        self,
        order_id: UUID,
        new_state: OrderStatus,
        actor: Actor,
        reason: str | None,
        changes: Mapping[str, Any],
        expected: Precondition | None,
    ) -> OrderView:
        given = {column: value for column, value in changes.items() if value is not None}
        metadata = {"reason": reason, "carrier": given.get("carrier"), "tracking_number": given.get("tracking_number")}
        request = TransitionRequest(
            entity_id=order_id,
            new_state=new_state,
            actor=actor,
            at=self._clock(),
            metadata={key: value for key, value in metadata.items() if value is not None},
            changes=given,
            expected_versions=expected.versions if expected is not None else None,
        )
        result = await self._transitions.apply(request)
        return with_lines(
            transitions.moved_row(EntityType.ORDER, new_state, result, lambda: OrderNotFoundError(order_id), expected)
        )


def _filters(query: OrderQuery) -> list[ColumnElement[bool]]:
    columns = Order.__table__.c
    return pages.given(
        (query.customer_id, columns.customer_id.__eq__),
        (query.order_number, columns.order_number.__eq__),
        (query.created_from, columns.created_at.__ge__),
        (query.created_to, columns.created_at.__lt__),
    )
