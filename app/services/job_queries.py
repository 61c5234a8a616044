"""Looking at jobs, for people; `job_service` is for those who do them."""

from typing import Any
from uuid import UUID

from sqlalchemy import select

from app.core.enums import JobState
from app.database import Database
from app.models.job import Job
from app.services.order_lookup import order_id_of, order_number_of
from app.utils.exceptions import NotFoundError

_ORDER_ID = order_id_of(Job.__table__.c.entity_id)
_COLUMNS = (*Job.__table__.c, _ORDER_ID, order_number_of(_ORDER_ID))


async def list_jobs(database: Database, state: JobState, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` jobs in `state`, newest first."""
    statement = select(*_COLUMNS).where(Job.state == state).order_by(Job.id.desc()).limit(limit)
    async with database.autocommit() as connection:
        return [row._asdict() for row in await connection.execute(statement)]


async def show_job(database: Database, job_id: UUID) -> dict[str, Any]:
    """Return one job, all of it.

    Raises:
        NotFoundError: there is none.
    """
    async with database.autocommit() as connection:
        row = (await connection.execute(select(*_COLUMNS).where(Job.id == job_id))).first()
    if row is None:
        raise NotFoundError(f"Job {job_id} was not found.", {"job_id": str(job_id)})
    return row._asdict()
