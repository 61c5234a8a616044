"""Carrying out one job: claim, work under a lease, finish, or put back (REQ-004).

What happens when this process is killed, line by line:

    before the claim commits    nothing has happened; the relay sends the message again
    after it                    the lease runs out, the relay sends the message again, the next claim has a new fence
    during the work             as above; each service says what its own lines leave behind
    in the last transaction     it holds the effect and the end of the job: both are there, or neither
    after it                    the message may come back; the job cannot be claimed any more

A process that was merely frozen wakes up as a zombie: the first thing it tries to commit for the job asks for its
fence, which is not the current one, and rolls back.
"""

import asyncio
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import JOB_TIME_LIMIT_SECONDS, Settings
from app.core import error_tracking, monitoring
from app.core.enums import Queue
from app.database import Database
from app.services.jobs import leases
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind, LeaseLostError, entity_of
from app.services.workflow import tampering
from app.utils.exceptions import RecordTamperedError
from app.utils.redaction import without_addresses

logger = structlog.get_logger(__name__)

JOB_TIME_LIMIT = timedelta(seconds=JOB_TIME_LIMIT_SECONDS)
"""A job that takes longer counts as failed. An asyncio time-out, so that it strikes between two steps: Celery's soft
limit would raise inside any line that happens to run, the event loop's own included."""

_RENEWALS_PER_LEASE = 4
_ERROR_LENGTH = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

Handler = Callable[[Claim], Awaitable[None]]
"""Does the work of one kind of job and finishes it in the transaction that holds the effect."""

OnDeadLetter = Callable[[AsyncSession, Claim], Awaitable[None]]
"""What else is written when a job of this kind becomes a dead letter, in the same transaction."""


class Verdict(StrEnum):
    """How a wake-up ended."""

    NOTHING_TO_DO = "NOTHING_TO_DO"
    SUCCEEDED = "SUCCEEDED"
    POSTPONED = "POSTPONED"
    DEAD_LETTERED = "DEAD_LETTERED"
    LEASE_LOST = "LEASE_LOST"


class JobTimeoutError(Exception):
    """The job was not done within its time limit."""


class JobCrashesError(Exception):
    """The job killed its worker again and again."""


class JobRunner:
    """Carries out jobs of one process.

    Args:
        handlers: what to do per kind of job.
        on_dead_letter: what else is written with a dead letter, per kind of job.
        owner: this process, as `jobs.lease_owner` shows it.
        time_limit: after which a job counts as failed.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        handlers: Mapping[JobKind, Handler],
        *,
        on_dead_letter: Mapping[JobKind, OnDeadLetter] | None = None,
        owner: str,
        time_limit: timedelta = JOB_TIME_LIMIT,
    ) -> None:
        self._database = database
        self._settings = settings
        self._handlers = handlers
        self._on_dead_letter = on_dead_letter or {}
        self._owner = owner
        self._time_limit = time_limit
        self._lease = timedelta(seconds=settings.job_lease_seconds)

    async def run(self, job_id: UUID) -> Verdict:
        """Carry out the job if it is due and no other worker has it; return how that ended.

        An unknown id, a duplicate message, a job that is done: NOTHING_TO_DO. A job's own errors are dealt with here;
        those of the database, without which nothing can be dealt with, are raised.
        """
        claim = await leases.claim(self._database, job_id, self._owner, self._lease)
        if claim is None:
            logger.info("job.not_claimed", job_id=str(job_id))
            return Verdict.NOTHING_TO_DO
        return await self._run(claim)

    async def run_next(self, queue: Queue) -> Verdict:
        """Carry out a job of the queue that is due and has no message; NOTHING_TO_DO when there is none."""
        claim = await leases.claim_next(self._database, queue, self._owner, self._lease)
        return Verdict.NOTHING_TO_DO if claim is None else await self._run(claim)

    async def _run(self, claim: Claim) -> Verdict:
        if claim.claims == claim.failures + 1:  # One that outlived its worker was picked up before.
            monitoring.job_picked_up(claim.queue, claim.waited_seconds)
        with structlog.contextvars.bound_contextvars(
            job_id=str(claim.job_id),
            job_kind=str(claim.kind),
            **{f"{entity_of(claim.kind).lower()}_id": str(claim.entity_id)},
            fence=claim.fence,
        ):
            started = time.perf_counter()
            try:
                verdict = await self._carry_out(claim)
            except LeaseLostError:
                logger.warning("job.lost")
                verdict = Verdict.LEASE_LOST
            seconds = time.perf_counter() - started
            monitoring.job_tried(claim.kind, verdict.lower(), seconds)
            if verdict is Verdict.SUCCEEDED:
                monitoring.job_completed(claim.kind, claim.age_seconds + seconds)
            return verdict

    async def _carry_out(self, claim: Claim) -> Verdict:
        if claim.claims > self._settings.job_max_claims:
            crashes = f"crashed {claim.claims - 1} times"
            return await self._dead_letter(claim, f"{crashes}: {claim.last_error}" if claim.last_error else crashes)
        logger.debug("job.started", claims=claim.claims, failures=claim.failures)
        try:
            await self._work(claim)
        except LeaseLostError:
            raise
        except Exception as fault:  # noqa: BLE001 - what a handler raises is this job's failure, and is recorded
            return await self._failed(claim, fault)
        logger.info("job.succeeded")
        return Verdict.SUCCEEDED

    async def _work(self, claim: Claim) -> None:
        """Run the handler while its lease is kept alive; stop it when the lease or the time is up."""
        handler = self._handlers[claim.kind]
        work = asyncio.ensure_future(handler(claim))
        keeper = asyncio.create_task(self._keep_lease(claim))
        try:
            deadline = asyncio.get_running_loop().time() + self._time_limit.total_seconds()
            await asyncio.wait(
                {work, keeper}, timeout=self._time_limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
            if keeper.done() and keeper.exception() is None:
                # The handler has committed and is about to return; there is no lease left to keep.
                await asyncio.wait({work}, timeout=deadline - asyncio.get_running_loop().time())
        finally:
            work.cancel()
            keeper.cancel()
            await asyncio.gather(work, keeper, return_exceptions=True)
        if not work.cancelled():
            work.result()
        elif not keeper.cancelled() and (lost := keeper.exception()) is not None:
            raise lost
        else:
            raise JobTimeoutError(f"not done within {self._time_limit.total_seconds():g} s")

    async def _keep_lease(self, claim: Claim) -> None:
        """Renew the lease until cancelled; return when the job was finished under this claim.

        Raises:
            LeaseLostError: another worker has it.
        """
        while True:
            await asyncio.sleep(self._lease.total_seconds() / _RENEWALS_PER_LEASE)
            try:
                await leases.renew(self._database, claim, self._lease)
            except LeaseLostError:
                if await leases.is_finished(self._database, claim):
                    return
                raise
            except (SQLAlchemyError, OSError) as fault:
                # Three more tries fit into the lease. If it does run out, the fence decides, not this worker.
                logger.warning("lease.not_renewed", error=describe(fault))

    async def _failed(self, claim: Claim, fault: Exception) -> Verdict:
        policy = job_service.policy_for(claim.queue, self._settings)
        if isinstance(fault, RecordTamperedError):
            await tampering.report(self._database, fault)
        error = describe(fault)
        counts = getattr(fault, "consumes_retry", True)
        hopeless = getattr(fault, "retryable", True) is False
        if counts and (hopeless or claim.failures >= policy.retries):
            return await self._dead_letter(claim, error, fault)
        wanted = timedelta(seconds=getattr(fault, "retry_after", None) or 0)
        delay = max(wanted, policy.delay(claim.failures + 1)) if counts else wanted or policy.delay(1)
        await leases.postpone(self._database, claim, error, delay, failed=counts)
        if claim.failures == 0 and not (error_tracking.is_outage(fault) or isinstance(fault, JobTimeoutError)):
            error_tracking.report(fault)
        logger.warning(
            "job.postponed",
            error=type(fault).__name__,
            failures=claim.failures + (1 if counts else 0),
            retries=policy.retries,
            delay_seconds=round(delay.total_seconds(), 1),
            trace=trace_of(fault),
        )
        return Verdict.POSTPONED

    async def _dead_letter(self, claim: Claim, error: str, fault: Exception | None = None) -> Verdict:
        async with self._database.transaction() as session:
            # First the entity's row, then the job's: the order in which the work itself locks them.
            if on_dead_letter := self._on_dead_letter.get(claim.kind):
                await on_dead_letter(session, claim)
            dead = await job_service.dead_letter(session, claim, error)
        error_tracking.report(fault or JobCrashesError(error))
        logger.critical(
            "job.dead_lettered",
            dead_letter_id=str(dead.dead_letter_id),
            failures=claim.failures + 1,
            claims=claim.claims,
            error=type(fault).__name__ if fault else "crashes",
            trace=trace_of(fault) if fault else [],
        )
        return Verdict.DEAD_LETTERED


def describe(fault: BaseException) -> str:
    """Return an error for `jobs.last_error`: its type and message, one line, without anyone's mail address.

    What a database error says can quote whole rows, so of those only the kind, code and constraint are kept.
    """
    if isinstance(fault, DBAPIError):
        diagnosis = getattr(fault.orig, "diag", None)
        facts = (type(fault.orig).__name__, getattr(fault.orig, "sqlstate", None))
        constraint = getattr(diagnosis, "constraint_name", None)
        return ": ".join(str(fact) for fact in (*facts, constraint) if fact)
    message = without_addresses(str(fault), _ERROR_LENGTH)
    text = f"{type(fault).__name__}: {message}" if message else type(fault).__name__
    return _CONTROL.sub(" ", text[:_ERROR_LENGTH]).encode(errors="replace").decode()


def trace_of(fault: BaseException, depth: int = 8) -> list[str]:
    """Return where an error came from, innermost last, without values: `module:line function`."""
    frames = traceback.extract_tb(fault.__traceback__)[-depth:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
