"""Jobs that gave up: seen, tried again, or dismissed by a person (REQ-004).

What is decided is on record twice: on the dead letter (who, when, why), and as an event of the job.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import EntityType, JobState
from app.database import Database
from app.models.event import Event
from app.models.job import DeadLetter, Job
from app.schemas.operations import DeadLetterQuery
from app.services import event_service, money_ledger, pages, permissions
from app.services.job_service import JobKind
from app.services.permissions import Action
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import InvalidStateTransitionError, NotFoundError

_COLUMNS = (*DeadLetter.__table__.c, Job.__table__.c.queue)
_RESOLUTION_STATES = {"RETRIED": JobState.PENDING, "DISMISSED": JobState.DISMISSED}


class DeadLetterService:
    """What a person can do about a job whose retries are spent."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def list(self, query: DeadLetterQuery, actor: Actor) -> dict[str, Any]:
        """Return a page of dead letters, newest first.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_JOBS)
        letters = DeadLetter.__table__.c
        statement = select(*_COLUMNS).join(Job, Job.id == letters.job_id)
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

    async def retry(self, dead_letter_id: UUID, actor: Actor, note: str | None = None) -> dict[str, Any]:
        """Make the job due again, with all of its retries; return the resolved dead letter.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is no such dead letter.
            InvalidStateTransitionError: someone has resolved it already.
        """
        return await self._resolve(dead_letter_id, actor, "RETRIED", note)

    async def dismiss(self, dead_letter_id: UUID, actor: Actor, note: str | None = None) -> dict[str, Any]:
        """Give the job up for good; return the resolved dead letter.

        The money that a refund had reserved is free again, if it surely was not paid.

        Raises:
            As `retry`.
        """
        return await self._resolve(dead_letter_id, actor, "DISMISSED", note)

    async def _resolve(self, dead_letter_id: UUID, actor: Actor, resolution: str, note: str | None) -> dict[str, Any]:
        permissions.require(actor, Action.RESOLVE_JOBS)
        async with self._database.transaction() as session:
            letter = await _locked(session, dead_letter_id)
            if letter.resolution is not None:
                raise InvalidStateTransitionError(letter.resolution, resolution, [])
            letter.resolution = resolution
            letter.resolved_at = self._clock()
            letter.resolved_by = actor.id
            letter.resolution_note = note
            # First the refund's row, then the job's: the order in which the work itself locks them.
            if resolution == "DISMISSED" and letter.kind == JobKind.PROCESS_REFUND:
                await money_ledger.release(session, letter.entity_id)
            await _move_job(session, letter.job_id, _RESOLUTION_STATES[resolution])
            facts = {"dead_letter_id": str(letter.id), "actor_id": str(actor.id) if actor.id else None, "note": note}
            seq = await _next_seq(session, letter.job_id)
            event_type = f"job.{resolution.lower()}"
            await event_service.append(
                session, EntityType.JOB, letter.job_id, seq, event_type, letter.resolved_at, facts
            )
            await session.flush()
            statement = select(*_COLUMNS).join(Job, Job.id == DeadLetter.job_id).where(DeadLetter.id == letter.id)
            return _view((await session.execute(statement)).one())


async def _locked(session: AsyncSession, dead_letter_id: UUID) -> DeadLetter:
    statement = select(DeadLetter).where(DeadLetter.id == dead_letter_id).with_for_update()
    letter = (await session.execute(statement)).scalar_one_or_none()
    if letter is None:
        raise NotFoundError(f"Dead letter {dead_letter_id} was not found.", {"dead_letter_id": str(dead_letter_id)})
    return letter


async def _move_job(session: AsyncSession, job_id: UUID, state: JobState) -> None:
    values: dict[str, Any] = {"state": state}
    if state is JobState.PENDING:
        # Both budgets start afresh; the fence goes on counting, so a zombie of long ago stays locked out.
        values |= {"failures": 0, "claims": 0, "run_at": func.now(), "published_at": None, "finished_at": None}
    moved = await session.execute(
        update(Job).where(Job.id == job_id, Job.state == JobState.DEAD).values(**values).returning(Job.id)
    )
    if moved.first() is None:
        current = (await session.execute(select(Job.state).where(Job.id == job_id))).scalar_one()
        raise InvalidStateTransitionError(current, state, [])


async def _next_seq(session: AsyncSession, job_id: UUID) -> int:
    # Under the job's row lock, which `_move_job` holds.
    statement = select(func.coalesce(func.max(Event.seq), 0) + 1).where(
        Event.entity_type == EntityType.JOB, Event.entity_id == job_id
    )
    return int((await session.execute(statement)).scalar_one())


def _view(row: Row[Any]) -> dict[str, Any]:
    columns = row._asdict()
    return {
        "id": columns["id"],
        "job_id": columns["job_id"],
        "kind": columns["kind"],
        "queue": columns["queue"],
        "entity_id": columns["entity_id"],
        "error": columns["error"],
        "failures": columns["failures"],
        "claims": columns["claims"],
        "created_at": columns["created_at"],
        "resolution": columns["resolution"],
        "resolved_at": columns["resolved_at"],
        "resolved_by": columns["resolved_by"],
        "resolution_note": columns["resolution_note"],
    }
