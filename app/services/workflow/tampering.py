"""Records that were changed outside the application: refused to callers by name, and a case for a person (REQ-003).

A superuser can write an audit row or an event ahead of an order or return. The next step, or the next change, of that
entity then meets a number that is taken. It is refused until the record is put right.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import CaseKind, EntityType
from app.database import Database
from app.models.return_request import ReturnRequest
from app.services.cases import service as case_service
from app.services.workflow import transitions
from app.services.workflow.transitions import Statement, TransitionRequest, TransitionResult
from app.utils.exceptions import RecordTamperedError

logger = structlog.get_logger(__name__)

_CASE_ENTITIES = frozenset(
    {EntityType.ORDER, EntityType.RETURN, EntityType.INVOICE, EntityType.PAYMENT, EntityType.REFUND}
)


async def report(database: Database, fault: RecordTamperedError) -> None:
    """Open the case of a tampered record, once, in a transaction of its own."""
    async with database.transaction() as session:
        await open_case(session, fault)


async def open_case(session: AsyncSession, fault: RecordTamperedError) -> None:
    """Open the case of a tampered record, once, in the caller's transaction."""
    logger.critical(
        "record.tampered", entity_type=fault.entity_type, entity_id=str(fault.entity_id), constraint=fault.constraint
    )
    entity_type = EntityType(fault.entity_type)
    if entity_type not in _CASE_ENTITIES:
        return
    await case_service.open_case(
        session,
        CaseKind.TAMPERED_RECORD,
        entity_type=entity_type,
        entity_id=fault.entity_id,
        order_id=await _order_of(session, entity_type, fault.entity_id),
        evidence={"number_taken": fault.number, "constraint": fault.constraint},
        dedupe_key=f"tampered_record:{entity_type}:{fault.entity_id}",
    )


async def _order_of(session: AsyncSession, entity_type: EntityType, entity_id: UUID) -> UUID | None:
    if entity_type is EntityType.ORDER:
        return entity_id
    if entity_type is EntityType.RETURN:
        return await session.scalar(select(ReturnRequest.order_id).where(ReturnRequest.id == entity_id))
    return None


async def apply_to_sound(
    session: AsyncSession, statement: Statement, requests: Sequence[TransitionRequest]
) -> list[TransitionResult]:
    """Carry out the requests as `transitions.apply` does, without those about tampered records.

    Each of these has its case opened, in the caller's transaction; the others do not wait for it.
    """
    sound = list(requests)
    while sound:
        try:
            async with session.begin_nested():
                return await transitions.apply(session, statement, sound)
        except RecordTamperedError as fault:
            remaining = [request for request in sound if request.entity_id != fault.entity_id]
            if len(remaining) == len(sound):
                raise
            sound = remaining
            await open_case(session, fault)
    return []
