"""The facts: one event a change, numbered per entity by the entity's version (contract section 3).

State transitions write theirs inside their own statement (`app.services.transitions`); this is for the rest.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import EntityType
from app.models.event import Event


async def append(
    session: AsyncSession,
    entity_type: EntityType,
    entity_id: UUID,
    seq: int,
    event_type: str,
    at: datetime,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Record a fact in the caller's transaction.

    Args:
        seq: the entity's version after the change; a number used twice is refused by the database.
        event_type: noun and past participle, e.g. `order.created`.
        data: ids and codes, never names or addresses.
    """
    await session.execute(
        insert(Event).values(
            entity_type=entity_type, entity_id=entity_id, seq=seq, type=event_type, data=dict(data or {}), created_at=at
        )
    )
