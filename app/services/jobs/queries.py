"""Looking at jobs, for people; `job_service` is for those who do them."""

from typing import Any
from uuid import UUID

from sqlalchemy import or_, select

from app.core.enums import JobState
from app.database import Database
from app.models.job import DeadLetter, Job
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
    return row._asdict()
