"""Leases on jobs: claim, renew, put back (REQ-004). Each is one prepared statement that commits by itself.

A worker does this for every job, so the statements run on the driver (`app.prepared`). How a job ends is written in the
transaction that holds its effect: `service.finish`.

A message wakes a worker for one job. After it, the worker takes jobs of the same queue that are due and have no message
(`claim_next`): with many jobs due, a message for each costs more CPU than the claim. The guarantees are those of any
claim. The row is locked, so two workers never get the same job. A job whose worker is killed has a lease that runs out,
and the relay sends it. A job that has a message is left to the worker that gets the message.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import String, bindparam, text

from app.core.enums import JobState, Queue
from app.database import Database
from app.prepared import RECORD, Prepared
from app.services.jobs.service import Claim, JobKind, LeaseLostError

_TAKEN = f"""
UPDATE jobs SET state = '{JobState.RUNNING}', claims = claims + 1, fence = fence + 1, lease_owner = :owner,
    lease_until = now() + CAST(:lease AS interval), started_at = now()
WHERE {{which}}
RETURNING id, kind, queue, entity_id, dedupe_key, payload, failures, claims, fence, last_error,
    CAST(extract(epoch FROM started_at - run_at) AS float8) AS waited,
    CAST(extract(epoch FROM started_at - created_at) AS float8) AS age
"""  # noqa: S608 - constants of this code base

_CLAIM = Prepared(
    text(
        _TAKEN.format(
            which=f"id = CAST(:job_id AS uuid) AND (state IN ('{JobState.PENDING}', '{JobState.PUBLISHED}')"
            f" AND run_at <= now() OR state = '{JobState.RUNNING}' AND lease_until < now())"
        )
    ).bindparams(bindparam("owner", type_=String))
)

_FIRST_WITHOUT_MESSAGE = (
    f"SELECT id FROM jobs WHERE state = '{JobState.PENDING}' AND run_at <= now() AND queue = :queue"  # noqa: S608 - as above
    " ORDER BY run_at LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_CLAIM_NEXT = Prepared(
    text(_TAKEN.format(which=f"id = ({_FIRST_WITHOUT_MESSAGE}) AND state = '{JobState.PENDING}'")).bindparams(
        bindparam("owner", type_=String), bindparam("queue", type_=String)
    )
)

_HELD = f"id = CAST(:job_id AS uuid) AND fence = CAST(:fence AS bigint) AND state = '{JobState.RUNNING}'"

_RENEW = Prepared(
    text(
        f"UPDATE jobs SET lease_until = now() + CAST(:lease AS interval) WHERE {_HELD} RETURNING id"  # noqa: S608 - as above
    )
)

_POSTPONE = Prepared(
    text(
        f"UPDATE jobs SET state = '{JobState.PENDING}', failures = failures + CAST(:failed AS int),"  # noqa: S608 - as above
        " claims = claims - 1 + CAST(:failed AS int), run_at = now() + CAST(:delay AS interval), last_error = :error,"
        f" lease_owner = NULL, lease_until = NULL WHERE {_HELD} RETURNING id"
    ).bindparams(bindparam("error", type_=String))
)

_IS_FINISHED = Prepared(
    text(
        "SELECT id FROM jobs WHERE id = CAST(:job_id AS uuid) AND fence = CAST(:fence AS bigint)"  # noqa: S608 - as above
        f" AND state = '{JobState.SUCCEEDED}'"
    )
)


async def claim(database: Database, job_id: UUID, owner: str, lease: timedelta) -> Claim | None:
    """Take the job for `owner`, or return None when it is not due, held by another, or done.

    One UPDATE: of two duplicate messages one gets the row, the other none.
    """
    return _claim(await database.rows(_CLAIM, job_id=job_id, owner=owner, lease=lease), owner)


async def claim_next(database: Database, queue: Queue, owner: str, lease: timedelta) -> Claim | None:
    """Take the job of a queue that has been due for longest and has no message; None when there is none."""
    return _claim(await database.rows(_CLAIM_NEXT, queue=queue.value, owner=owner, lease=lease), owner)


def _claim(rows: list[RECORD], owner: str) -> Claim | None:
    if not rows:
        return None
    [row] = rows
    return Claim(
        job_id=row["id"],
        kind=JobKind(row["kind"]),
        queue=Queue(row["queue"]),
        entity_id=row["entity_id"],
        dedupe_key=row["dedupe_key"],
        payload=row["payload"],
        failures=row["failures"],
        claims=row["claims"],
        fence=row["fence"],
        owner=owner,
        last_error=row["last_error"],
        waited_seconds=row["waited"],
        age_seconds=row["age"],
    )


async def renew(database: Database, held: Claim, lease: timedelta) -> None:
    """Push the end of the lease out.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    _require(await database.rows(_RENEW, job_id=held.job_id, fence=held.fence, lease=lease), held)


async def is_finished(database: Database, held: Claim) -> bool:
    """Return whether the job was finished under this very claim."""
    return bool(await database.rows(_IS_FINISHED, job_id=held.job_id, fence=held.fence))


async def postpone(database: Database, held: Claim, error: str, delay: timedelta, *, failed: bool) -> None:
    """Put the job back for later; `failed` says whether this try counts, as a failure and as a claim.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    rows = await database.rows(
        _POSTPONE, job_id=held.job_id, fence=held.fence, error=error, delay=delay, failed=int(failed)
    )
    _require(rows, held)


def _require(rows: list[RECORD], held: Claim) -> None:
    if not rows:
        raise LeaseLostError(f"job {held.job_id} is no longer held under fence {held.fence}")
