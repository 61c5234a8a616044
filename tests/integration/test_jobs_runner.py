"""The runner against a real database: claims, leases, fences, budgets, dead letters."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.database import Database
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind, LeaseLostError
from app.services.payments.gateway.port import GatewayCircuitOpen
from app.tasks.runner import Handler, JobRunner, OnDeadLetter, Verdict, describe
from tests.integration.jobs_support import add_job, claim, execute, job, rows

pytestmark = pytest.mark.req("REQ-004")
KIND = JobKind.NOTIFY_ORDER_SHIPPED


class Work:
    """A handler whose effect is a row of its own, written in the transaction that finishes the job."""

    def __init__(self, database: Database, before: Callable[[Claim], Awaitable[None]] | None = None) -> None:
        self._database = database
        self._before = before
        self.runs = 0

    async def __call__(self, held: Claim) -> None:
        """Do the work, and finish."""
        self.runs += 1
        if self._before:
            await self._before(held)
        async with self._database.transaction() as session:
            await job_service.add(session, JobKind.NOTIFY_ORDER_DELIVERED, held.entity_id, f"effect:{uuid4()}")
            await job_service.finish(session, held)


def runner(
    database: Database,
    settings: Settings,
    handler: Handler,
    *,
    owner: str = "one",
    on_dead_letter: OnDeadLetter | None = None,
    time_limit: float = 25,
    **changes: float,
) -> JobRunner:
    return JobRunner(
        database,
        settings.model_copy(update=changes),
        {KIND: handler},
        on_dead_letter={KIND: on_dead_letter} if on_dead_letter else None,
        owner=owner,
        time_limit=timedelta(seconds=time_limit),
    )


async def effects(database: Database) -> int:
    return len(await rows(database, "SELECT 1 FROM jobs WHERE dedupe_key LIKE 'effect:%'"))


async def raising(fault: Exception) -> None:
    raise fault


@pytest.mark.req("REQ-004.10")
async def test_of_forty_duplicate_messages_one_does_the_work(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    work = Work(database)
    verdicts = await asyncio.gather(
        *(runner(database, settings, work, owner=f"worker {n}").run(job_id) for n in range(40))
    )
    assert sorted(verdicts) == [Verdict.NOTHING_TO_DO] * 39 + [Verdict.SUCCEEDED]
    assert (work.runs, await effects(database)) == (1, 1)
    done = await job(database, job_id)
    assert (done.state, done.failures, done.claims, done.fence, done.lease_until) == ("SUCCEEDED", 0, 1, 1, None)
    assert done.finished_at is not None


async def test_unknown_id_and_done_job_are_no_ops(database: Database, settings: Settings) -> None:
    work = Work(database)
    assert await runner(database, settings, work).run(uuid4()) is Verdict.NOTHING_TO_DO
    job_id = await add_job(database, KIND, uuid4())
    assert await runner(database, settings, work).run(job_id) is Verdict.SUCCEEDED
    assert await runner(database, settings, work).run(job_id) is Verdict.NOTHING_TO_DO
    assert await effects(database) == 1


async def test_a_job_for_later_is_not_claimed(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    await execute(database, "UPDATE jobs SET run_at = now() + interval '1 minute'")
    assert await runner(database, settings, Work(database)).run(job_id) is Verdict.NOTHING_TO_DO


@pytest.mark.req("REQ-004.11", "REQ-004.4")
async def test_failures_back_off_and_end_in_the_dead_letters(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    broken = runner(
        database,
        settings,
        Work(database, lambda _: raising(RuntimeError("smtp said ada@example.com is away"))),
        notification_retries=3,
        notification_retry_base_seconds=30,
        notification_retry_cap_seconds=100,
    )
    for expected in (30, 60, 100):
        assert await broken.run(job_id) is Verdict.POSTPONED
        waiting = await job(database, job_id)
        assert waiting.state == "PENDING"
        assert expected * 0.88 < waiting.wait < expected * 1.1
        assert waiting.last_error == "RuntimeError: smtp said <address> is away"
        assert await broken.run(job_id) is Verdict.NOTHING_TO_DO
        await execute(database, "UPDATE jobs SET run_at = now()")
    assert await broken.run(job_id) is Verdict.DEAD_LETTERED
    dead = await job(database, job_id)
    assert (dead.state, dead.failures, dead.claims) == ("DEAD", 4, 4)
    [letter] = await rows(database, "SELECT * FROM dead_letters")
    assert (letter.job_id, letter.failures, letter.error) == (job_id, 4, dead.last_error)
    [alert] = await rows(database, "SELECT * FROM jobs WHERE kind = 'notify.job_failed'")
    assert alert.entity_id == letter.id
    assert await effects(database) == 0
    assert await broken.run(job_id) is Verdict.NOTHING_TO_DO


async def test_an_alert_that_cannot_be_mailed_raises_no_alert(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, JobKind.NOTIFY_JOB_FAILED, uuid4())
    handlers: dict[JobKind, Handler] = {JobKind.NOTIFY_JOB_FAILED: lambda _: raising(RuntimeError("no"))}
    impatient = settings.model_copy(update={"notification_retries": 0})
    assert await JobRunner(database, impatient, handlers, owner="one").run(job_id) is Verdict.DEAD_LETTERED
    assert len(await rows(database, "SELECT 1 FROM jobs")) == 1


async def test_a_hopeless_error_burns_no_retries(database: Database, settings: Settings) -> None:
    class HopelessError(Exception):
        retryable = False

    job_id = await add_job(database, KIND, uuid4())
    broken = runner(database, settings, Work(database, lambda _: raising(HopelessError("template is broken"))))
    assert await broken.run(job_id) is Verdict.DEAD_LETTERED
    assert (await job(database, job_id)).claims == 1


@pytest.mark.req("NFR-003.3")
async def test_an_open_circuit_costs_neither_retry_nor_claim(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    waiting = runner(database, settings, Work(database, lambda _: raising(GatewayCircuitOpen(17))), job_max_claims=2)
    for _ in range(5):
        assert await waiting.run(job_id) is Verdict.POSTPONED
        row = await job(database, job_id)
        assert (row.state, row.failures, row.claims) == ("PENDING", 0, 0)
        assert 16 < row.wait < 17.1
        await execute(database, "UPDATE jobs SET run_at = now()")


async def test_a_job_that_kills_its_workers_ends_in_the_dead_letters(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    for _ in range(20):
        await claim(database, job_id)
        await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    work = Work(database)
    assert await runner(database, settings, work).run(job_id) is Verdict.DEAD_LETTERED
    assert work.runs == 0
    [letter] = await rows(database, "SELECT * FROM dead_letters")
    assert letter.error == "crashed 20 times"


@pytest.mark.req("REQ-004.10")
async def test_crashes_do_not_use_up_retries(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    for _ in range(15):
        await claim(database, job_id)
        await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    assert await runner(database, settings, Work(database), notification_retries=0).run(job_id) is Verdict.SUCCEEDED
    assert (await job(database, job_id)).failures == 0


@pytest.mark.req("REQ-004.10")
async def test_a_worker_without_its_lease_cannot_finish(database: Database, settings: Settings) -> None:
    """Frozen past its lease, overtaken, and woken up again: its effect rolls back with its end of the job."""
    job_id = await add_job(database, KIND, uuid4())
    frozen, woken = asyncio.Event(), asyncio.Event()

    async def freeze(_: Claim) -> None:
        frozen.set()
        await woken.wait()

    zombie = asyncio.create_task(runner(database, settings, Work(database, freeze), owner="zombie").run(job_id))
    await frozen.wait()
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    assert await runner(database, settings, Work(database), owner="heir").run(job_id) is Verdict.SUCCEEDED
    woken.set()
    assert await zombie is Verdict.LEASE_LOST
    assert await effects(database) == 1
    assert (await job(database, job_id)).fence == 2


async def test_a_worker_cannot_finish_what_the_relay_took_back(database: Database) -> None:
    job_id = await add_job(database, KIND, uuid4())
    held = await claim(database, job_id)
    await execute(database, "UPDATE jobs SET state = 'PUBLISHED', lease_until = NULL, lease_owner = NULL")
    with pytest.raises(LeaseLostError):
        async with database.transaction() as session:
            await job_service.finish(session, held)


async def test_the_lease_is_renewed_while_the_work_lasts(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    slow = runner(database, settings, Work(database, lambda _: asyncio.sleep(1.2)), job_lease_seconds=0.4)
    rival = runner(database, settings, Work(database), owner="rival", job_lease_seconds=0.4)
    working = asyncio.create_task(slow.run(job_id))
    await asyncio.sleep(0.2)
    verdicts = []
    while not working.done():
        verdicts.append(await rival.run(job_id))
        await asyncio.sleep(0.05)
    assert set(verdicts) == {Verdict.NOTHING_TO_DO}
    assert await working is Verdict.SUCCEEDED
    assert (await job(database, job_id)).claims == 1


async def test_work_is_stopped_when_the_lease_is_lost(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    stopped = asyncio.Event()

    async def endless(_: Claim) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    working = asyncio.create_task(runner(database, settings, endless, job_lease_seconds=0.4).run(job_id))
    await asyncio.sleep(0.15)
    await execute(database, "UPDATE jobs SET fence = fence + 1, lease_owner = 'another'")
    assert await asyncio.wait_for(working, 5) is Verdict.LEASE_LOST
    assert stopped.is_set()
    row = await job(database, job_id)
    assert (row.state, row.lease_owner, row.failures) == ("RUNNING", "another", 0)


async def test_a_renewal_after_the_end_is_no_loss(database: Database, settings: Settings) -> None:
    """Between commit and return the renewal finds the job finished: by us, so nothing was lost."""
    job_id = await add_job(database, KIND, uuid4())

    async def lingering(held: Claim) -> None:
        async with database.transaction() as session:
            await job_service.finish(session, held)
        await asyncio.sleep(0.5)

    assert await runner(database, settings, lingering, job_lease_seconds=0.4).run(job_id) is Verdict.SUCCEEDED


async def test_a_job_over_its_time_counts_as_failed(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, uuid4())
    slow = runner(database, settings, Work(database, lambda _: asyncio.sleep(60)), time_limit=0.2)
    assert await slow.run(job_id) is Verdict.POSTPONED
    row = await job(database, job_id)
    assert (row.failures, row.last_error) == (1, "JobTimeoutError: not done within 0.2 s")


async def test_a_dead_letter_and_what_follows_are_one_transaction(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, KIND, entity_id := uuid4())

    async def rites(session: AsyncSession, held: Claim) -> None:
        await job_service.add(session, JobKind.NOTIFY_GOODS_RECEIVED, held.entity_id, "rites")

    async def failing_rites(session: AsyncSession, held: Claim) -> None:
        await rites(session, held)
        await session.execute(text("SELECT 1 / 0"))

    work = Work(database, lambda _: raising(RuntimeError("no")))
    with pytest.raises(Exception, match="division by zero"):
        await runner(database, settings, work, on_dead_letter=failing_rites, notification_retries=0).run(job_id)
    assert (await job(database, job_id)).state == "RUNNING"
    assert await rows(database, "SELECT 1 FROM dead_letters") == []
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    await runner(database, settings, work, on_dead_letter=rites, notification_retries=0).run(job_id)
    assert (await job(database, job_id)).state == "DEAD"
    [written] = await rows(database, "SELECT entity_id FROM jobs WHERE dedupe_key = 'rites'")
    assert written.entity_id == entity_id


async def test_a_kind_without_handler_is_a_failure(database: Database, settings: Settings) -> None:
    job_id = await add_job(database, JobKind.NOTIFY_ORDER_DELIVERED, uuid4())
    assert await runner(database, settings, Work(database)).run(job_id) is Verdict.POSTPONED


async def test_database_errors_are_described_without_the_row(database: Database) -> None:
    await add_job(database, KIND, UUID(int=1), "secret-key-of-ada")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the driver makes of it
        await execute(
            database,
            "INSERT INTO jobs (kind, queue, entity_id, dedupe_key) SELECT kind, queue, id, dedupe_key FROM jobs",
        )
    assert describe(caught.value) == "UniqueViolation: 23505: uq_jobs_dedupe_key"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ValueError("not a mail address: 'eve@example.com'"), "ValueError: not a mail address: '<address>'"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("two\nlines\x00"), "RuntimeError: two lines "),
        (RuntimeError("\ud800"), "RuntimeError: ?"),
        (RuntimeError("x" * 5000), f"RuntimeError: {'x' * 986}"),
    ],
)
def test_errors_are_described_in_one_clean_line(fault: Exception, told: str) -> None:
    assert describe(fault) == told
