"""Verification of the audit trail for the API: one run at a time over all processes, its result shared (REQ-003).

A run is a row of `audit_verifications` and a process of its own (`articurated audit verify --record ID`): it computes every
hash in Python, which would hold up the requests of the process that was asked. A caller who comes while one runs waits
for the same result. A run whose heartbeat has stopped counts as failed, and the next caller starts another.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypedDict, cast
from uuid import UUID

import structlog
from sqlalchemy import Row, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import VerificationState
from app.database import Database
from app.models.audit_verification import AuditVerification
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.workflow.audit import AuditService
from app.services.workflow.views import FaultView, VerificationView
from app.utils.clock import utc_now, uuid7
from app.utils.exceptions import ServiceUnavailableError

logger = structlog.get_logger(__name__)

WAIT_SECONDS = 10.0
"""How long a request waits for the result before it is answered with the progress."""
POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 1.0
DEAD_AFTER = timedelta(seconds=60)

Start = Callable[[UUID], Awaitable[None]]

_RUNS = AuditVerification.__table__.c
# The statistics of the planner are close enough for a progress bar; a count would read the whole table again.
_EXPECTED = text("SELECT nullif(reltuples, -1)::bigint FROM pg_class WHERE oid = 'public.state_history'::regclass")


class StoredFault(TypedDict):
    """The first row that does not hold, as JSON."""

    entity_type: str
    entity_id: str
    seq: int | None
    fault: str


class StoredVerification(TypedDict):
    """A `VerificationView` as JSON: what `audit_verifications.result` holds."""

    ok: bool
    entities: int
    rows: int
    fault: StoredFault | None
    verified_at: str


class ProgressView(TypedDict):
    """A run that is still at work; `rows_expected` is an estimate, None where there is none."""

    state: str
    rows_checked: int
    rows_expected: int | None
    started_at: datetime


class VerificationService:
    """Starts runs and waits for them.

    Args:
        start: starts the run with this id, in a process of its own unless given.
    """

    def __init__(
        self, database: Database, settings: Settings, start: Start | None = None, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._database = database
        self._settings = settings
        self._start = start or self._spawn
        self._wait_seconds = wait_seconds
        self._watched: set[asyncio.Task[None]] = set()

    async def verify(self, actor: Actor) -> tuple[bool, StoredVerification | ProgressView]:
        """Return whether the run is done, and its result or how far it is.

        Raises:
            ForbiddenError: the role may not.
            ServiceUnavailableError: the run failed; why is in the log.
        """
        permissions.require(actor, Action.SEARCH_AUDIT)
        run_id = await self._joined_or_started()
        until = time.monotonic() + self._wait_seconds
        while True:
            run = await self._read(run_id)
            if run.state == VerificationState.DONE:
                return True, cast("StoredVerification", dict(run.result))
            if run.state == VerificationState.FAILED:
                raise ServiceUnavailableError("The verification could not be finished; try again.")
            if time.monotonic() >= until:
                return False, _progress(run)
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """End the runs that this process started; they count as failed once their heartbeat is missed."""
        for task in self._watched:
            task.cancel()
        await asyncio.gather(*self._watched, return_exceptions=True)

    async def _joined_or_started(self) -> UUID:
        async with self._database.autocommit() as connection:
            await connection.execute(
                update(AuditVerification)
                .where(
                    _RUNS.state == VerificationState.RUNNING,
                    _RUNS.updated_at < func.now() - literal_column(f"interval '{DEAD_AFTER.total_seconds():.0f} s'"),
                )
                .values(state=VerificationState.FAILED)
            )
            run_id: UUID | None = None
            is_mine: UUID | None = None
            while run_id is None:
                added = (
                    insert(AuditVerification).values(id=uuid7(utc_now())).on_conflict_do_nothing().returning(_RUNS.id)
                )
                run_id = is_mine = (await connection.execute(added)).scalar()
                if run_id is None:
                    # It may have ended in between, and then the next one is ours to start.
                    running = select(_RUNS.id).where(_RUNS.state == VerificationState.RUNNING)
                    run_id = (await connection.execute(running)).scalar()
        if is_mine is not None:
            try:
                await self._start(run_id)
            except OSError:
                await finish(self._database, run_id, None)
                raise
        return run_id

    async def _read(self, run_id: UUID) -> Row[Any]:
        async with self._database.autocommit() as connection:
            return (await connection.execute(select(*_RUNS).where(_RUNS.id == run_id))).one()

    async def _spawn(self, run_id: UUID) -> None:
        command = [sys.executable, "-P", "-m", "app", "audit", "verify", "--record", str(run_id)]
        environment = {
            **os.environ,
            "DATABASE_URL": self._settings.database_url,
            "DATABASE_ROLE": self._settings.database_role,
        }
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        task = asyncio.create_task(self._watch(process, run_id))
        self._watched.add(task)
        task.add_done_callback(self._watched.discard)

    async def _watch(self, process: asyncio.subprocess.Process, run_id: UUID) -> None:
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            raise
        # A process that ends without a result has failed, and its exit code does not matter.
        if await finish(self._database, run_id, None):
            logger.error("audit_verification.failed", run_id=str(run_id), exit_code=code)


async def record(database: Database, run_id: UUID) -> VerificationView:
    """Verify the trail as the run `run_id`: keep its heartbeat and progress, then its result; return the result."""
    checked = 0

    def note(rows: int) -> None:
        nonlocal checked
        checked = rows

    async with database.autocommit() as connection:
        expected = (await connection.execute(_EXPECTED)).scalar()
        await connection.execute(
            update(AuditVerification)
            .where(_RUNS.id == run_id, _RUNS.state == VerificationState.RUNNING)
            .values(rows_expected=expected, updated_at=func.now())
        )

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            async with database.autocommit() as connection:
                await connection.execute(
                    update(AuditVerification)
                    .where(_RUNS.id == run_id, _RUNS.state == VerificationState.RUNNING)
                    .values(rows_checked=checked, updated_at=func.now())
                )

    beating = asyncio.create_task(beat())
    try:
        report = await AuditService(database).verify(note)
    finally:
        beating.cancel()
    await finish(database, run_id, report)
    return report


async def finish(database: Database, run_id: UUID, report: VerificationView | None) -> bool:
    """Keep the result of a run, or that it failed (`None`); return whether it was still running."""
    values: dict[str, Any] = {"state": VerificationState.FAILED}
    if report is not None:
        fault = report["fault"]
        result: StoredVerification = {
            "ok": report["ok"],
            "entities": report["entities"],
            "rows": report["rows"],
            "fault": None if fault is None else _stored(fault),
            "verified_at": report["verified_at"].isoformat().replace("+00:00", "Z"),
        }
        values = {"state": VerificationState.DONE, "result": result, "rows_checked": report["rows"]}
    async with database.autocommit() as connection:
        ended = await connection.execute(
            update(AuditVerification)
            .where(_RUNS.id == run_id, _RUNS.state == VerificationState.RUNNING)
            .values(updated_at=func.now(), **values)
            .returning(_RUNS.id)
        )
        return ended.first() is not None


def _stored(fault: FaultView) -> StoredFault:
    return {
        "entity_type": fault["entity_type"],
        "entity_id": str(fault["entity_id"]),
        "seq": fault["seq"],
        "fault": fault["fault"],
    }


def _progress(run: Row[Any]) -> ProgressView:
    return {
        "state": run.state,
        "rows_checked": run.rows_checked,
        "rows_expected": run.rows_expected,
        "started_at": run.started_at,
    }
