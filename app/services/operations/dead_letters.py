"""Jobs that gave up: seen, tried again, or dismissed by a person (REQ-004)."""

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import RefundState
from app.database import Database
from app.models.job import DeadLetter, Job
from app.schemas.operations import DeadLetterQuery
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.jobs import resolution as job_resolution
from app.services.jobs.resolution import Resolution
from app.services.jobs.service import JobKind
from app.services.ledger import refunds as refund_ledger
from app.services.order_lookup import order_id_of, order_number_of
from app.services.paging import Page
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import InvalidStateTransitionError, NotFoundError

_ORDER_ID = order_id_of(DeadLetter.__table__.c.entity_id)
_COLUMNS = (*DeadLetter.__table__.c, Job.__table__.c.queue, _ORDER_ID, order_number_of(_ORDER_ID))
_SURE = {RefundState.SUCCEEDED, RefundState.FAILED}
"""What is known of a refund whose job may be given up: it was paid, or it was not."""


class DeadLetterView(TypedDict):
    """A job that gave up, and what a person decided about it."""

    id: UUID
    job_id: UUID
    kind: str
    queue: str
    entity_id: UUID
    order_id: UUID | None
    order_number: str | None
    error: str
    failures: int
    claims: int
    created_at: datetime
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: UUID | None
    resolved_operator: str | None
    resolution_note: str | None


class DeadLetterService:
    """What a person can do about a job whose retries are spent."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def list(self, query: DeadLetterQuery, actor: Actor) -> Page[DeadLetterView]:
        """Return a page of dead letters, newest first.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_JOBS)
        letters = DeadLetter.__table__.c
        # Each has its job; an outer join need not look for it where rows are counted.
        statement = select(*_COLUMNS).outerjoin(Job, Job.id == letters.job_id)
        if not query.include_resolved:
            statement = statement.where(letters.resolution.is_(None))
        async with self._database.autocommit() as connection:
            return await pages.fetch_page(
                connection, statement, (letters.created_at, letters.id), query, _view, newest_first=True
            )

    async def open_letter(self, letter_or_job_id: UUID) -> UUID:
        """Return the id of the unresolved dead letter with this id, or of the job with this id.

        Raises:
            NotFoundError: neither waits for anyone.
        """
        statement = select(DeadLetter.id).where(
            or_(DeadLetter.id == letter_or_job_id, DeadLetter.job_id == letter_or_job_id),
            DeadLetter.resolution.is_(None),
        )
        async with self._database.autocommit() as connection:
            letter_id = (await connection.execute(statement)).scalar_one_or_none()
        if letter_id is None:
            raise NotFoundError(f"No dead letter of {letter_or_job_id} is open.", {"id": str(letter_or_job_id)})
        return letter_id

    async def retry(self, dead_letter_id: UUID, actor: Actor, note: str | None = None) -> DeadLetterView:
        """Make the job due again, with all of its retries; return the resolved dead letter.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is no such dead letter.
            InvalidStateTransitionError: someone has resolved it already.
        """
        return await self._resolve(dead_letter_id, actor, "RETRIED", note)

    async def dismiss(self, dead_letter_id: UUID, actor: Actor, note: str | None = None) -> DeadLetterView:
        """Dismiss the job, which is never run again; return the resolved dead letter.

        The money that a failed refund had reserved is free again.

        Raises:
            As `retry`; InvalidStateTransitionError also when the job's refund may have been paid: to give that
                up would leave the outcome unknown.
        """
        return await self._resolve(dead_letter_id, actor, "DISMISSED", note)

    async def _resolve(
        self, dead_letter_id: UUID, actor: Actor, resolution: Resolution, note: str | None
    ) -> DeadLetterView:
        permissions.require(actor, Action.RESOLVE_JOBS)
        async with self._database.transaction() as session:
            kind, entity_id = await _subject(session, dead_letter_id)
            # First the refund, then the letter, then the job: as everything else that money goes through locks them.
            refund = await refund_ledger.locked_refund(session, entity_id) if kind == JobKind.PROCESS_REFUND else None
            letter = await session.get_one(DeadLetter, dead_letter_id, with_for_update=True)
            if refund is not None and resolution == "DISMISSED" and letter.resolution is None:
                if refund.state not in _SURE:
                    raise InvalidStateTransitionError(refund.state, resolution, ["RETRIED"])
                await refund_ledger.release_reservation(session, refund)
            await job_resolution.resolve(session, letter, resolution, self._clock(), actor, note)
            statement = select(*_COLUMNS).join(Job, Job.id == DeadLetter.job_id).where(DeadLetter.id == letter.id)
            return _view((await session.execute(statement)).one())


async def _subject(session: AsyncSession, dead_letter_id: UUID) -> tuple[str, UUID]:
    """Return kind and entity of a letter's job, which never change."""
    statement = select(DeadLetter.kind, DeadLetter.entity_id).where(DeadLetter.id == dead_letter_id)
    found = (await session.execute(statement)).first()
    if found is None:
        raise NotFoundError(f"Dead letter {dead_letter_id} was not found.", {"dead_letter_id": str(dead_letter_id)})
    return found.kind, found.entity_id


def _view(row: Row[Any]) -> DeadLetterView:
    columns = row._asdict()
    return {
        "id": columns["id"],
        "job_id": columns["job_id"],
        "kind": columns["kind"],
        "queue": columns["queue"],
        "entity_id": columns["entity_id"],
        "order_id": columns["order_id"],
        "order_number": columns["order_number"],
        "error": columns["error"],
        "failures": columns["failures"],
        "claims": columns["claims"],
        "created_at": columns["created_at"],
        "resolution": columns["resolution"],
        "resolved_at": columns["resolved_at"],
        "resolved_by": columns["resolved_by"],
        "resolved_operator": columns["resolved_operator"],
        "resolution_note": columns["resolution_note"],
    }
