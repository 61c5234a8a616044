"""How a dead letter is resolved: its job is requeued or dismissed (REQ-004).

What is decided is on record twice: on the dead letter (who, when, why), and as an event of the job.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import EntityType, JobState
from app.models.event import Event
from app.models.job import DeadLetter, Job
from app.services import events
from app.utils.exceptions import InvalidStateTransitionError

Resolution = Literal["RETRIED", "DISMISSED"]

_STATES: Mapping[Resolution, JobState] = {"RETRIED": JobState.PENDING, "DISMISSED": JobState.DISMISSED}


async def resolve(
    session: AsyncSession,
    letter: DeadLetter,
    resolution: Resolution,
    at: datetime,
    actor: Actor,
    note: str | None,
) -> None:
    """Decide a dead letter whose row the caller has locked.

    Args:
        actor: who decided: a caller, someone at the command line, or the system because there is news.
        note: why.

    Raises:
        InvalidStateTransitionError: it was decided before, or its job is alive.
    """
    if letter.resolution is not None:
        raise InvalidStateTransitionError(letter.resolution, resolution, [])
    letter.resolution = resolution
    letter.resolved_at = at
    letter.resolved_by = actor.id
    letter.resolved_operator = actor.operator
    letter.resolution_note = note
    await _move_job(session, letter.job_id, _STATES[resolution])
    facts = {
        "dead_letter_id": str(letter.id),
        "actor_id": str(actor.id) if actor.id else None,
        "operator": actor.operator,
        "note": note,
    }
    seq = await _next_seq(session, letter.job_id)
    await events.append(session, EntityType.JOB, letter.job_id, seq, f"job.{resolution.lower()}", at, facts)
    await session.flush()


async def requeue(session: AsyncSession, dedupe_key: str, at: datetime, note: str) -> bool:
    """Make a dead job due again without a person, because there is news; return whether it was dead."""
    statement = (
        select(DeadLetter)
        .join(Job, Job.id == DeadLetter.job_id)
        .where(Job.dedupe_key == dedupe_key, DeadLetter.resolution.is_(None))
        .with_for_update(of=DeadLetter)
    )
    letter = (await session.execute(statement)).scalar_one_or_none()
    if letter is None:
        return False
    await resolve(session, letter, "RETRIED", at, SYSTEM_JOB, note)
    return True


async def _move_job(session: AsyncSession, job_id: UUID, state: JobState) -> None:
    values: dict[str, Any] = {"state": state}
    if state is JobState.PENDING:
        # Both budgets start again; the fencing token goes on counting, so an old worker that comes back stays refused.
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
