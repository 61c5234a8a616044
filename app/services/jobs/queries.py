"""Looking at jobs, for people; `job_service` is for those who do them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row, or_, select

from app.core.enums import JobState
from app.database import Database
from app.models.job import DeadLetter, Job
from app.services.order_lookup import order_id_of, order_number_of
from app.utils.exceptions import NotFoundError

_ORDER_ID = order_id_of(Job.__table__.c.entity_id)
_COLUMNS = (*Job.__table__.c, _ORDER_ID, order_number_of(_ORDER_ID))


class JobView(TypedDict):
    """A job, all of it, and the order that it is about."""

    id: UUID
    kind: str
    queue: str
    entity_id: UUID
    dedupe_key: str
    payload: Mapping[str, Any]
    state: str
    failures: int
    claims: int
    run_at: datetime
    published_at: datetime | None
    lease_owner: str | None
    lease_until: datetime | None
    fence: int
    last_error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    order_id: UUID | None
    order_number: str | None


async def list_jobs(database: Database, state: JobState, limit: int) -> list[JobView]:
    """Return up to `limit` jobs in `state`, newest first."""
    statement = select(*_COLUMNS).where(Job.state == state).order_by(Job.id.desc()).limit(limit)
    async with database.autocommit() as connection:
        return [_view(row) for row in await connection.execute(statement)]


async def show_job(database: Database, job_id: UUID) -> JobView:
    """Return one job, all of it.

    Args:
        job_id: its id, or that of one of its dead letters.

    Raises:
        NotFoundError: there is none.
    """
    of_letter = select(DeadLetter.job_id).where(DeadLetter.id == job_id).scalar_subquery()
    statement = select(*_COLUMNS).where(or_(Job.id == job_id, Job.id == of_letter))
    async with database.autocommit() as connection:
        row = (await connection.execute(statement)).first()
    if row is None:
        raise NotFoundError(f"No job or dead letter {job_id} was found.", {"job_id": str(job_id)})
    return _view(row)


def _view(row: Row[Any]) -> JobView:
    columns = row._mapping
    return {
        "id": columns["id"],
        "kind": columns["kind"],
        "queue": columns["queue"],
        "entity_id": columns["entity_id"],
        "dedupe_key": columns["dedupe_key"],
        "payload": columns["payload"],
        "state": columns["state"],
        "failures": columns["failures"],
        "claims": columns["claims"],
        "run_at": columns["run_at"],
        "published_at": columns["published_at"],
        "lease_owner": columns["lease_owner"],
        "lease_until": columns["lease_until"],
        "fence": columns["fence"],
        "last_error": columns["last_error"],
        "created_at": columns["created_at"],
        "started_at": columns["started_at"],
        "finished_at": columns["finished_at"],
        "order_id": columns["order_id"],
        "order_number": columns["order_number"],
    }
