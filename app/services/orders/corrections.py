"""Corrections: what an order says of its customer and its parcel, changed while that matters, the old value kept (REQ-001).

A correction is one transaction under the order's lock: its row with old and new values, the order with its new version,
the event, and a mail to the warehouse where a parcel could go to the old address. A trigger refuses a change of these
columns without that row.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus
from app.core.precondition import Precondition
from app.database import Database
from app.models.order import Order, OrderLineItem
from app.models.order_correction import OrderCorrection
from app.schemas.common import PageQuery
from app.schemas.order import OrderCorrect
from app.services import events
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_orders
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.orders import search as order_search
from app.services.orders.draft import address_of
from app.services.orders.views import OrderView, written_view
from app.services.paging import Page
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.exceptions import (
    CorrectionNotAllowedError,
    ForbiddenError,
    InvalidInputError,
    OrderNotFoundError,
    VersionConflictError,
)

_BEFORE_SHIPPING = (OrderStatus.PENDING_PAYMENT, OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE)
STATES: Mapping[str, tuple[OrderStatus, ...]] = MappingProxyType(
    {
        "shipping_address": _BEFORE_SHIPPING,
        "billing_address": _BEFORE_SHIPPING,
        "carrier": (OrderStatus.SHIPPED,),
        "tracking_number": (OrderStatus.SHIPPED,),
        # Messages about refunds and returns follow in every state.
        "customer_email": tuple(OrderStatus),
        "customer_phone": tuple(OrderStatus),
    }
)
"""Field → the states in which correcting it matters. The database has the same rule: trigger `guard_correction`."""

_OF_THE_PARCEL = frozenset({"carrier", "tracking_number"})
_TO_THE_WAREHOUSE = (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE)


class Change(TypedDict):
    """A field's value before and after a correction."""

    old: Any
    new: Any


class CorrectionView(TypedDict):
    """A correction; for customers, `actor_id` and `ip_address` are None."""

    id: UUID
    order_id: UUID
    version: int
    changes: Mapping[str, Change]
    reason: str
    actor_id: UUID | None
    actor_role: str
    ip_address: str | None
    created_at: datetime


class CorrectionService:
    """Corrections of orders, and the list of them."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def correct(
        self, order_id: UUID, data: OrderCorrect, actor: Actor, expected: Precondition | None = None
    ) -> OrderView:
        """Correct the fields that are given; return the order with its lines.

        Raises:
            ForbiddenError: the role may not correct one of the fields.
            OrderNotFoundError: there is none.
            VersionConflictError: it is of another version than expected.
            CorrectionNotAllowedError: the order is in a state in which a field no longer matters.
            InvalidInputError: no field is given, or none that differs.
        """
        given = _given(data)
        _require_may_correct(actor, given)
        async with self._database.transaction() as session:
            order = await _locked(session, order_id)
            if expected is not None and order.version not in expected.versions:
                raise VersionConflictError(order.version, expected.given)
            changes = _changes(order, given)
            now = max(self._clock(), order.updated_at)
            await self._write(session, order, changes, data.reason, actor, now)
            lines = select(OrderLineItem).where(OrderLineItem.order_id == order.id).order_by(OrderLineItem.position)
            return written_view(order, (await session.execute(lines)).scalars())

    async def _write(
        self,
        session: AsyncSession,
        order: Order,
        changes: Mapping[str, Change],
        reason: str,
        actor: Actor,
        now: datetime,
    ) -> None:
        correction = OrderCorrection(
            id=uuid7(now),
            order_id=order.id,
            version=order.version + 1,
            changes=dict(changes),
            reason=reason,
            actor_id=actor.id,
            actor_role=actor.role,
            ip_address=actor.ip_address,
            created_at=now,
        )
        session.add(correction)
        # Before the order: the trigger looks for it.
        await session.flush()
        for field, change in changes.items():
            setattr(order, field, change["new"])
        order.version += 1
        order.updated_at = now
        await session.flush()
        await order_search.refresh(session, order)
        facts = {"correction_id": str(correction.id), "fields": sorted(changes)}
        await events.append(session, EntityType.ORDER, order.id, order.version, "order.corrected", now, facts)
        if "shipping_address" in changes and order.status in _TO_THE_WAREHOUSE:
            kind = JobKind.NOTIFY_WAREHOUSE_ORDER_READY
            key = f"{kind}:{order.id}:{order.version}"
            await job_service.add(session, kind, order.id, key, {"address_corrected": True})

    async def list(self, order_id: UUID, page: PageQuery, actor: Actor) -> Page[CorrectionView]:
        """Return a page of an order's corrections, oldest first; for customers, staff identity is omitted.

        Raises:
            OrderNotFoundError: there is no such order that this actor may see.
        """
        permissions.require(actor, Action.READ_ORDER)
        table = OrderCorrection.__table__.c
        seen = select(Order.id).where(Order.id == order_id, visible_orders(actor))
        async with self._database.autocommit() as connection:
            if (await connection.execute(seen)).first() is None:
                raise OrderNotFoundError(order_id)
            return await pages.fetch_page(
                connection,
                select(*table).where(table.order_id == order_id),
                (table.version,),
                page,
                lambda row: correction_view(row._mapping, actor),
                newest_first=False,
            )


def _given(data: OrderCorrect) -> dict[str, str | dict[str, str]]:
    values = {
        "customer_email": data.customer_email,
        "customer_phone": data.customer_phone,
        "shipping_address": address_of(data.shipping_address) if data.shipping_address else None,
        "billing_address": address_of(data.billing_address) if data.billing_address else None,
        "carrier": data.carrier,
        "tracking_number": data.tracking_number,
    }
    return {field: value for field, value in values.items() if value is not None}


def _require_may_correct(actor: Actor, given: Mapping[str, Any]) -> None:
    permissions.require(actor, Action.CORRECT_TRACKING)
    if not given.keys() <= _OF_THE_PARCEL:
        permissions.require(actor, Action.CORRECT_ORDER)
    if actor.id is None or actor.role is None:
        raise ForbiddenError("A correction is made by a person or program with credentials.")


async def _locked(session: AsyncSession, order_id: UUID) -> Order:
    statement = select(Order).where(Order.id == order_id).with_for_update(key_share=True)
    order = (await session.execute(statement)).scalar_one_or_none()
    if order is None:
        raise OrderNotFoundError(order_id)
    return order


def _changes(order: Order, given: Mapping[str, Any]) -> dict[str, Change]:
    if not given:
        raise InvalidInputError(("body", f"must have one of {', '.join(sorted(STATES))}"))
    changes: dict[str, Change] = {
        field: {"old": getattr(order, field), "new": value}
        for field, value in given.items()
        if getattr(order, field) != value
    }
    for field in changes:
        if order.status not in STATES[field]:
            raise CorrectionNotAllowedError(field, order.status, STATES[field])
    if not changes:
        raise InvalidInputError(*((field, "is what it was") for field in given))
    return changes


def correction_view(row: Mapping[Any, Any], actor: Actor) -> CorrectionView:
    """Return a correction as the API shows it to `actor`."""
    hidden = actor.sees_only is not None
    return {
        "id": row["id"],
        "order_id": row["order_id"],
        "version": row["version"],
        "changes": row["changes"],
        "reason": row["reason"],
        "actor_id": None if hidden else row["actor_id"],
        "actor_role": row["actor_role"],
        "ip_address": None if hidden else row["ip_address"],
        "created_at": row["created_at"],
    }
