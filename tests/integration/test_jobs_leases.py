"""Jobs that a worker takes without a message: due, of its queue, held by nobody else (REQ-004)."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.core.enums import Queue
from app.database import Database
from app.services.jobs import leases
from app.services.jobs.service import JobKind, LeaseLostError
from tests.integration.jobs_support import LEASE, add_job, execute, job

pytestmark = pytest.mark.req("REQ-004")
MAIL = JobKind.NOTIFY_ORDER_SHIPPED


async def due(database: Database, kind: JobKind = MAIL, minutes: int = 1) -> UUID:
    """Return a job that has been due for some minutes; negative ones are still to come."""
    job_id = await add_job(database, kind, uuid4(), f"key:{uuid4()}")
    statement = "UPDATE jobs SET run_at = now() - make_interval(mins => :minutes) WHERE id = :id"
    await execute(database, statement, id=job_id, minutes=minutes)
    return job_id


async def next_of(database: Database, queue: Queue = Queue.NOTIFICATIONS) -> UUID | None:
    taken = await leases.claim_next(database, queue, "one", LEASE)
    return None if taken is None else taken.job_id


async def test_the_job_that_has_been_due_for_longest_is_next(database: Database) -> None:
    wanted = [await due(database, minutes=minutes) for minutes in (3, 9, 6)]
    assert [await next_of(database) for _ in range(4)] == [wanted[1], wanted[2], wanted[0], None]


async def test_a_job_of_another_queue_or_of_later_is_not_taken(database: Database) -> None:
    await due(database, JobKind.ISSUE_INVOICE)
    await due(database, minutes=-5)
    assert await next_of(database) is None


async def test_a_job_that_has_a_message_is_left_to_it(database: Database) -> None:
    sent = await due(database)
    await execute(database, "UPDATE jobs SET state = 'PUBLISHED', published_at = now() WHERE id = :id", id=sent)
    assert await next_of(database) is None
    assert await leases.claim(database, sent, "two", LEASE) is not None


async def test_it_is_held_under_the_next_fence_with_a_lease(database: Database) -> None:
    job_id = await due(database)
    held = await leases.claim_next(database, Queue.NOTIFICATIONS, "one", LEASE)
    row = await job(database, job_id)
    assert held is not None
    assert (row.state, row.fence, row.claims, row.lease_owner) == ("RUNNING", 1, 1, "one")
    assert (held.fence, held.claims, held.kind) == (1, 1, MAIL)
    assert held.waited_seconds >= 60
    assert await leases.claim(database, job_id, "two", LEASE) is None


async def test_workers_that_take_at_once_never_share_a_job(database: Database) -> None:
    wanted = {await due(database) for _ in range(12)}
    taken = await asyncio.gather(*(next_of(database) for _ in range(20)))
    found = [job_id for job_id in taken if job_id is not None]
    assert len(found) == len(set(found))
    # One that was being taken by another is passed over: nothing waits, and the next look finds the rest.
    while (more := await next_of(database)) is not None:
        found.append(more)
    assert sorted(found) == sorted(wanted)


async def test_a_job_that_another_holds_the_row_of_is_passed_over(database: Database) -> None:
    first, second = await due(database, minutes=9), await due(database, minutes=3)
    async with database.unit_of_work() as connection:
        await connection.exec_driver_sql("SELECT id FROM jobs WHERE id = %s FOR UPDATE", (first,))
        taken = await asyncio.create_task(outside(database))
    assert taken == second


async def outside(database: Database) -> UUID | None:
    """Take a job apart from the unit of work that the caller has."""
    other = Database.__new__(Database)
    other.__dict__.update(database.__dict__)
    return await next_of(other)


async def test_renewing_and_putting_back_ask_for_the_fence(database: Database) -> None:
    job_id = await due(database)
    old = await leases.claim(database, job_id, "one", timedelta(0))
    new = await leases.claim(database, job_id, "two", LEASE)
    assert old is not None
    assert new is not None
    for late in (
        leases.renew(database, old, LEASE),
        leases.postpone(database, old, "error", timedelta(minutes=1), failed=True),
    ):
        with pytest.raises(LeaseLostError):
            await late
    await leases.renew(database, new, LEASE)
    await leases.postpone(database, new, "busy", timedelta(minutes=1), failed=False)
    row = await job(database, job_id)
    assert (row.state, row.failures, row.claims, row.last_error, row.lease_until) == ("PENDING", 0, 1, "busy", None)
    assert 50 < row.wait <= 60
    assert not await leases.is_finished(database, new)


async def test_an_unknown_job_is_not_claimed(database: Database) -> None:
    assert await leases.claim(database, uuid4(), "one", LEASE) is None
