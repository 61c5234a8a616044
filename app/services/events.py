"""The facts: one event a change, numbered per entity by the entity's version.

State transitions write theirs inside their own statement (`app.services.workflow.transitions`); this is for the rest.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import EntityType
from app.models.event import Event
from app.utils.exceptions import RecordTamperedError


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

    Raises:
        RecordTamperedError: the entity has an event of that number, which cannot have been written through the
            application.
    """
    statement = insert(Event).values(
        entity_type=entity_type, entity_id=entity_id, seq=seq, type=event_type, data=dict(data or {}), created_at=at
    )
    try:
        await session.execute(statement)
    except IntegrityError as refusal:
        if (fault := tampered(refusal)) is not None:
            raise fault from refusal
        raise


_NUMBERED = frozenset({"uq_events_entity_type_entity_id_seq", "uq_state_history_entity_type_entity_id_seq"})
_KEY = re.compile(r"\(entity_type, entity_id, seq\)=\((\w+), ([0-9a-f-]{36}), (\d+)\)")


def tampered(refusal: IntegrityError) -> RecordTamperedError | None:
    """Return the error for a number in a history or among events that is taken, or None for another refusal."""
    diagnosis = getattr(refusal.orig, "diag", None)
    constraint = getattr(diagnosis, "constraint_name", None)
    if constraint not in _NUMBERED:
        return None
    key = _KEY.search(getattr(diagnosis, "message_detail", None) or "")
    if key is None:
        return None
    return RecordTamperedError(key[1], UUID(key[2]), int(key[3]), constraint)
