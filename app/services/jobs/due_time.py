"""What is due, for sweeps. They do what cannot be undone, so a clock that is ahead must not make it due early."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.models.order import Order
from app.models.return_request import ReturnRequest


async def due_time(executor: AsyncConnection | AsyncSession, now: datetime) -> datetime:
    """Return the earlier of the caller's time and the database's.

    With a clock that is ahead a sweep would cancel, reject or delete too early, which cannot be undone; with one that
    is behind it is late.
    """
    earlier: datetime = (await executor.execute(select(func.least(now, func.now())))).scalar_one()
    return earlier


async def hold_overdue(
    session: AsyncSession,
    entity: type[Order] | type[ReturnRequest],
    status: str,
    made_before: datetime,
    limit: int,
    *conditions: ColumnElement[bool],
) -> Sequence[UUID]:
    """Lock up to `limit` orders or returns that were made before that and are in `status` still; return their ids.

    The oldest come first. One that somebody holds is passed over, so that one held for long does not keep the others
    waiting.
    """
    overdue = (
        select(entity.id)
        .where(entity.status == status, entity.created_at < made_before, *conditions)
        .order_by(entity.created_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return (await session.execute(overdue)).scalars().all()
