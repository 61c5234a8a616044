"""Which jobs need a message now, and the mark that one was sent: the relay's side of the jobs.

Everything is selected by state, never by a growing id: rows commit out of order. Each state has a partial index over
the moment that matters in it, so the answers stay cheap however many jobs there are.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, String, Update, and_, bindparam, false, func, select, update

from app.core.enums import JobState, Queue
from app.models.job import Job

DRIVEN = (JobState.RUNNING, JobState.PUBLISHED, JobState.PENDING)
"""The states in which a job may need a (new) message, in the order in which they are served.

What is sent again goes first, so that no backlog holds it back. Nor does it hold back the backlog for long: a job is
sent again once a lease or `redispatch_after` at most, and only what came out of the backlog can be.
"""

_MOMENT = dict(zip(DRIVEN, (Job.lease_until, Job.published_at, Job.run_at), strict=True))


def overdue_states(redispatch_after: timedelta) -> Select[*tuple[Any, ...]]:
    """Return the SELECT of one row: whether any job needs a message, per state of `DRIVEN`.

    Each answer is the first entry of a partial index, so that asking many times a second costs next to nothing,
    however many jobs there are.
    """
    return select(
        *(
            func.coalesce(
                select(func.min(column)).where(Job.state == _literal(state)).scalar_subquery()
                < _threshold(state, redispatch_after),
                false(),
            )
            for state, column in _MOMENT.items()
        )
    )


def due(queue: Queue, state: JobState, limit: int, redispatch_after: timedelta) -> Select[UUID]:
    """Return the SELECT of a queue's jobs in `state` that need a message now, locked so that relays share them.

    PENDING is what is due; RUNNING re-drives a lease that ran out (its worker was killed), PUBLISHED a message that no worker
    took in time (it was lost).
    """
    return (
        select(Job.id)
        .where(Job.queue == queue, _needs_message(state, redispatch_after))
        .order_by(_MOMENT[state])
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def _needs_message(state: JobState, redispatch_after: timedelta) -> ColumnElement[bool]:
    return and_(Job.state == _literal(state), _MOMENT[state] < _threshold(state, redispatch_after))


def _threshold(state: JobState, redispatch_after: timedelta) -> ColumnElement[datetime]:
    return func.now() - redispatch_after if state is JobState.PUBLISHED else func.now()


def _literal(state: JobState) -> ColumnElement[str]:
    """Return the state as a constant in the text of the statement.

    As a bound parameter it would hide from a generic plan that the partial index of that state can answer.
    """
    return bindparam(None, state.value, String, literal_execute=True)


def mark_published(job_ids: Sequence[UUID]) -> Update:
    """Return the UPDATE that notes the messages as sent.

    It takes the job from a worker whose lease ran out: that one's fence no longer opens anything.
    """
    return (
        update(Job)
        .where(Job.id.in_(job_ids))
        .values(state=JobState.PUBLISHED, published_at=func.now(), lease_owner=None, lease_until=None)
    )
