"""A refund whose money has moved, and what follows from it (REQ-006).

Refund jobs, webhooks and reconciliation meet here.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import EntityType
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.services import events
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.ledger import refunds as refund_ledger

SETTLED_EFFECTS = (JobKind.NOTIFY_REFUND_PROCESSED, JobKind.ISSUE_CREDIT_NOTE)
"""What follows once the money has moved, and not before (REQ-006)."""


async def settle(session: AsyncSession, refund: Refund, gateway_refund_id: str, at: datetime) -> bool:
    """Record that the money of a locked refund has moved; return False when that was known.

    The transaction id goes onto the return, and the confirmation mail and the credit note become due.
    """
    if not await refund_ledger.record_paid(session, refund, gateway_refund_id, at):
        return False
    if refund.return_id is not None:
        await _note_on_return(session, refund.return_id, gateway_refund_id, at)
    for kind in SETTLED_EFFECTS:
        await job_service.add(session, kind, refund.id, f"{kind}:{refund.id}")
    return True


async def _note_on_return(session: AsyncSession, return_id: UUID, gateway_refund_id: str, at: datetime) -> None:
    version = (
        await session.execute(
            update(ReturnRequest)
            .where(ReturnRequest.id == return_id)
            .values(
                refund_transaction_id=gateway_refund_id,
                version=ReturnRequest.version + 1,
                updated_at=func.greatest(ReturnRequest.updated_at, at),
            )
            .returning(ReturnRequest.version)
        )
    ).scalar_one()
    data = {"refund_transaction_id": gateway_refund_id}
    await events.append(session, EntityType.RETURN, return_id, version, "return.refunded", at, data)
