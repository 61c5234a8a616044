"""Verification over the API: one at a time over all processes, its result shared, with progress (REQ-003)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

import httpx2
import psycopg
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.workflow.verification import ProgressView, VerificationService, record
from tests.integration.conftest import error_of, new_order

pytestmark = pytest.mark.req("REQ-003")

URL = "/api/v1/audit/verify"


def states(owner: psycopg.Connection) -> list[str]:
    return [state for (state,) in owner.execute("SELECT state FROM audit_verifications ORDER BY id")]


class Runs:
    """Runs that begin when the test says so."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.started: list[UUID] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.tasks: list[asyncio.Task[object]] = []

    async def start(self, run_id: UUID) -> None:
        """Start the run with this id."""
        self.started.append(run_id)
        self.begun.set()
        self.tasks.append(asyncio.create_task(self._run(run_id)))

    async def _run(self, run_id: UUID) -> None:
        await self.go.wait()
        await record(self.database, run_id)


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@asynccontextmanager
async def two_processes(
    database: Database, settings: Settings, runs: Runs, seconds: float
) -> AsyncIterator[list[VerificationService]]:
    yield [VerificationService(database, settings, runs.start, seconds) for _ in range(2)]
    runs.go.set()
    await asyncio.gather(*runs.tasks)


async def test_it_runs_in_a_process_of_its_own(api: httpx2.AsyncClient, owner_connection: psycopg.Connection) -> None:
    await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE")
    response = await api.get(URL)
    while response.status_code == 202:  # a busy machine
        response = await api.get(URL)
    assert response.status_code == 200, response.text
    found = response.json()
    assert found.pop("verified_at").endswith("Z")
    assert found == {"ok": True, "entities": 1, "rows": 2, "fault": None}
    assert states(owner_connection) == ["DONE"]


async def test_fourteen_callers_of_two_processes_share_one_run(
    database: Database, settings: Settings, runs: Runs, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    async with two_processes(database, settings, runs, 30) as services:
        asked = [asyncio.create_task(services[number % 2].verify(admin)) for number in range(14)]
        await runs.begun.wait()
        runs.go.set()
        answers = await asyncio.gather(*asked)
    assert len(runs.started) == 1
    assert all(is_done for is_done, _ in answers)
    assert len({str(found) for _, found in answers}) == 1
    # The result is of a moment before: who asks again gets another.
    async with two_processes(database, settings, runs, 30) as services:
        await services[0].verify(admin)
    assert states(owner_connection) == ["DONE", "DONE"]


async def test_a_long_one_is_answered_with_its_progress(
    database: Database, settings: Settings, runs: Runs, admin: Actor
) -> None:
    async with two_processes(database, settings, runs, 0) as [service, other]:
        for asked in (service, other):
            is_done, found = await asked.verify(admin)
            assert not is_done
            assert found.keys() == {"state", "rows_checked", "rows_expected", "started_at"}
            progress = cast("ProgressView", found)
            assert (progress["state"], progress["rows_checked"]) == ("RUNNING", 0)
    assert len(runs.started) == 1


async def test_one_without_a_heartbeat_is_given_up_and_done_again(
    database: Database, settings: Settings, runs: Runs, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    owner_connection.execute("INSERT INTO audit_verifications (updated_at) VALUES (now() - interval '61 seconds')")
    runs.go.set()
    async with two_processes(database, settings, runs, 30) as [service, _]:
        is_done, _ = await service.verify(admin)
    assert is_done
    assert states(owner_connection) == ["FAILED", "DONE"]


async def test_one_that_cannot_be_started_is_over_at_once(
    database: Database, settings: Settings, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    async def fail(_: UUID) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(OSError, match="temporarily"):
        await VerificationService(database, settings, fail).verify(admin)
    assert states(owner_connection) == ["FAILED"]


async def test_one_that_fails_is_an_error_of_the_one_shape(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    response = await api.get(URL)
    assert response.status_code == 503
    assert error_of(response)["code"] == "SERVICE_UNAVAILABLE"
    assert states(owner_connection) == ["FAILED"]


async def test_a_result_that_came_late_changes_nothing(
    database: Database, owner_connection: psycopg.Connection
) -> None:
    run_id = owner_connection.execute(
        "INSERT INTO audit_verifications (state) VALUES ('FAILED') RETURNING id"
    ).fetchone()
    assert run_id is not None
    await record(database, run_id[0])
    assert states(owner_connection) == ["FAILED"]
