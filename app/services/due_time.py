"""The time that sweeps go by. What they do cannot be taken back, so they believe no clock that may be ahead."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession


async def due_time(executor: AsyncConnection | AsyncSession, now: datetime) -> datetime:
    """Return the earlier of the caller's time and the database's.

    With a clock that is ahead a sweep would cancel, reject or delete too early, for good; with one that is behind it
    is late.
    """
    earlier: datetime = (await executor.execute(select(func.least(now, func.now())))).scalar_one()
    return earlier
