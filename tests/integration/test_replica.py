"""Lists, search and figures come from the read replica, and from the primary while it is away (NFR-002)."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import event, text
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from app import replica
from app.composition import Services
from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.doctor import databases as doctor
from app.doctor.findings import Level
from app.local.process import wait_until
from app.main import create_app
from app.schemas.order import OrderQuery
from app.services.operations import health as health_service
from app.services.operations.health import HealthService
from app.services.operations.replica_watch import BEHIND_SECONDS, ReplicaBehindError, ReplicaWatch
from tests.integration.away import hanging, port_of
from tests.integration.conftest import new_order, new_return
from tests.replication import WAIT_SECONDS, Pair, pair

pytestmark = [pytest.mark.req("NFR-002.3"), pytest.mark.xdist_group("replica")]

DELIVERED = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")


@pytest.fixture(scope="module")
def _running() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="articurated-replica-") as folder, pair(Path(folder)) as running:
        yield running


@pytest.fixture
def servers_pair(_running: Pair) -> Iterator[Pair]:
    """A primary, and a replica that keeps up with it; running again after each test."""
    yield _running
    if _running.standby.pid is None:
        _running.standby.launch()
        assert wait_until(_running.standby.ready, seconds=WAIT_SECONDS)
    _running.resume_replay()


@pytest.fixture
def settings(settings: Settings, servers_pair: Pair) -> Settings:
    urls = {"database_url": servers_pair.primary_url, "database_replica_url": servers_pair.standby_url}
    return settings.model_copy(update={**urls, "database_pool_size": 5})


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture
def application(settings: Settings, services: Services) -> FastAPI:
    return create_app(settings, services)


async def records(api: httpx2.AsyncClient, path: str, **filters: Any) -> list[dict[str, Any]]:
    answer = await api.get(f"/api/v1{path}", params=filters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_lists_come_from_the_replica_and_single_records_from_the_primary(
    api: httpx2.AsyncClient, services: Services, servers_pair: Pair, customer_id: UUID, admin: Actor
) -> None:
    mine = {"customer_id": str(customer_id)}
    known = await new_order(api, *DELIVERED, **mine)
    servers_pair.wait_until_caught_up()
    servers_pair.pause_replay()

    unknown = await new_order(api, **mine)
    asked_back = await new_return(api, known["id"])

    assert [order["id"] for order in await records(api, "/orders", **mine)] == [known["id"]]
    assert await records(api, "/returns", **mine) == []
    assert len(await records(api, "/audit", entity_id=known["id"])) == len(DELIVERED)
    assert await records(api, "/audit", entity_id=asked_back["id"]) == []
    assert await records(api, "/notifications", order_id=unknown["id"]) == []
    stats = (await api.get("/api/v1/stats")).json()
    assert stats["returns"]["REQUESTED"] == 0
    # Whoever asks for one record sees it as it is, and so does whoever decides by a list within a unit of work.
    assert (await api.get(f"/api/v1/orders/{unknown['id']}")).status_code == 200
    assert (await api.get(f"/api/v1/returns/{asked_back['id']}")).status_code == 200
    async with services.database.unit_of_work():
        assert len((await services.orders.list(OrderQuery(customer_id=customer_id), admin))["data"]) == 2

    servers_pair.resume_replay()
    servers_pair.wait_until_caught_up()
    assert len(await records(api, "/orders", **mine)) == 2
    assert len(await records(api, "/returns", **mine)) == 1


async def test_without_the_replica_the_primary_answers_until_it_is_back(
    api: httpx2.AsyncClient,
    services: Services,
    servers_pair: Pair,
    customer_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica, "PAUSE_SECONDS", 3600.0)
    mine = {"customer_id": str(customer_id)}
    database = services.database
    assert database.replica is not None
    asked: list[object] = []
    event.listen(database.replica.engine.sync_engine, "do_connect", lambda *_: asked.append(None))
    known = await new_order(api, **mine)
    servers_pair.wait_until_caught_up()
    await records(api, "/orders", **mine)
    assert len(asked) == 1

    servers_pair.standby.stop()
    with capture_logs() as log:
        for _ in range(3):
            assert [order["id"] for order in await records(api, "/orders", **mine)] == [known["id"]]
        assert (await api.get("/api/v1/stats")).status_code == 200
        # It rests, for one request found out; the others do not even try.
        assert len(asked) == 1
        database.replica._rests_until = float("-inf")
        for _ in range(3):
            await records(api, "/orders", **mine)
        assert len(asked) == 2
    assert [entry["event"] for entry in log if entry["event"].startswith("replica")] == ["replica.lost"]

    servers_pair.standby.launch()
    assert wait_until(servers_pair.standby.ready, seconds=WAIT_SECONDS)
    servers_pair.wait_until_caught_up()
    servers_pair.pause_replay()
    database.replica._rests_until = float("-inf")
    await new_order(api, **mine)
    with capture_logs() as log:
        assert [order["id"] for order in await records(api, "/orders", **mine)] == [known["id"]]
    assert [entry["event"] for entry in log if entry["event"].startswith("replica")] == ["replica.recovered"]


async def asked_of_replica(connection: AsyncConnection) -> bool:
    return bool((await connection.execute(text("SELECT pg_is_in_recovery()"))).scalar_one())


async def test_a_replica_that_freezes_is_given_up(
    database: Database, servers_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel still acknowledges what is sent to it, so that nothing but our own deadline ends the wait."""

    async def backend(connection: AsyncConnection) -> int:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    assert database.replica is not None
    frozen = await database.reading(backend)
    monkeypatch.setattr(replica, "ANSWER_SECONDS", 0.5)
    os.kill(frozen, signal.SIGSTOP)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            assert await database.reading(asked_of_replica) is False
        assert database.replica.is_away
        monkeypatch.undo()
        database.replica._rests_until = float("-inf")
        assert await database.reading(asked_of_replica) is True
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_a_replica_that_does_not_answer_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(replica, "CONNECT_SECONDS", 3600)
    with hanging() as silent:
        url = f"postgresql://nobody:x@127.0.0.1:{port_of(silent)}/none"
        database = Database(settings.model_copy(update={"database_replica_url": url}))
        assert database.replica is not None
        async with asyncio.timeout(WAIT_SECONDS):
            assert await database.reading(asked_of_replica) is False
        assert database.replica.is_away
        await database.close()


async def test_a_busy_replica_is_not_an_absent_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no connection free goes to the primary; the rest of the load stays where it is."""
    monkeypatch.setattr(replica, "POOL_SECONDS", 0.05)
    database = Database(settings, pool_size=1)
    assert database.replica is not None
    async with database.replica.engine.connect():
        assert await database.reading(asked_of_replica) is False
    assert await database.reading(asked_of_replica) is True
    await database.close()


@pytest.mark.parametrize("code", ["42P01", "42703", "53200", "53100", "58030"])
async def test_what_fails_on_the_replica_alone_is_asked_of_the_primary(database: Database, code: str) -> None:
    """It may not have replayed a migration yet, or be short of memory; other reads it may answer well."""

    async def failing(connection: AsyncConnection) -> bool:
        if is_replica := await asked_of_replica(connection):
            await connection.execute(text(f"DO $$ BEGIN RAISE 'not here' USING ERRCODE = '{code}'; END $$"))
        return is_replica

    assert await database.reading(failing) is False
    assert await database.reading(asked_of_replica) is True


async def test_what_the_replica_refuses_permanently_is_not_asked_of_the_primary(database: Database) -> None:
    """A statement that takes too long there would take too long here as well."""
    calls = []

    async def slow(connection: Any) -> None:
        calls.append(connection.engine is database.engine)
        await connection.exec_driver_sql("SET statement_timeout = 1")
        await connection.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(Exception, match="statement timeout"):
        await database.reading(slow)
    assert calls == [False]


async def test_what_cannot_be_sent_does_not_count_against_the_replica(database: Database) -> None:
    assert database.replica is not None
    with pytest.raises(DataError):
        await database.reading(lambda connection: connection.execute(text("SELECT :word"), {"word": "a\0b"}))
    assert not database.replica.is_away


@pytest.mark.parametrize("code", ["40001", "57P01"])
async def test_a_replica_that_breaks_off_is_not_the_end_of_a_request(database: Database, code: str) -> None:
    async def broken_off(connection: AsyncConnection) -> bool:
        (is_replica,) = (await connection.execute(text("SELECT pg_is_in_recovery()"))).one()
        if is_replica:
            await connection.execute(text(f"DO $$ BEGIN RAISE 'farewell' USING ERRCODE = '{code}'; END $$"))
        return bool(is_replica)

    assert await database.reading(broken_off) is False


@pytest.mark.req("NFR-003.2")
async def test_health_names_a_replica_that_is_away(
    api: httpx2.AsyncClient, services: Services, settings: Settings, servers_pair: Pair
) -> None:
    async def replica() -> dict[str, Any]:
        await services.health.close()
        services.health = HealthService(services.database, settings, check_seconds=WAIT_SECONDS)
        answer = await api.get("/api/v1/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"  # nobody works here
        found: dict[str, Any] = answer.json()["checks"]["replica"]
        return found

    assert await replica() == {"status": "ok"}
    servers_pair.standby.stop()
    away = await replica()
    assert away["status"] == "degraded"
    assert "come from the primary" in away["hint"]


@pytest.mark.req("NFR-003.2")
@pytest.mark.parametrize(
    ("fault", "primary_answers", "told"),
    [
        ("ReplicaBehindError", True, "Look at its replication"),
        ("TimeoutError", True, "come from the primary"),
        ("OperationalError", False, "PostgreSQL does not answer"),
    ],
)
async def test_health_says_what_is_wrong_with_a_replica(
    services: Services,
    fault: str,
    primary_answers: bool,  # noqa: FBT001
    told: str,
) -> None:
    """Measured against the primary, it is not to blame for that one's absence."""
    figures = await services.health.figures() if primary_answers else None
    check = health_service._replica(fault, figures)
    assert check["status"] == "degraded"
    assert told in check["hint"]


async def test_a_replica_that_does_not_keep_up_is_found_out(
    api: httpx2.AsyncClient, database: Database, servers_pair: Pair
) -> None:
    now = [0.0]
    watch = ReplicaWatch(database, lambda: now[0])
    servers_pair.wait_until_caught_up()
    await watch.look()
    servers_pair.pause_replay()
    await new_order(api)
    # It counts from when it was seen to be behind where the primary was; a replica at rest is not behind.
    await watch.look()
    await new_order(api)
    now[0] += BEHIND_SECONDS + 1
    with pytest.raises(ReplicaBehindError):
        await watch.look()
    servers_pair.resume_replay()
    servers_pair.wait_until_caught_up()
    await watch.look()


@pytest.mark.req("NFR-003.2")
async def test_the_doctor_looks_at_the_replica(
    api: httpx2.AsyncClient,
    settings: Settings,
    servers_pair: Pair,
    servers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = settings.model_copy(update={"database_replica_url": None})
    assert await doctor.replica(alone) == []
    assert [finding.level for finding in await doctor.replica(settings)] == [Level.OK]

    servers_pair.pause_replay()
    await new_order(api)
    monkeypatch.setattr(doctor, "REPLICA_SECONDS", 0.05)
    assert [finding.level for finding in await doctor.replica(settings)] == [Level.WARNING]

    foreign = settings.model_copy(update={"database_replica_url": servers.app_url})
    [finding] = await doctor.replica(foreign)
    assert finding.level is Level.FAILURE
    assert "another server" in finding.says


@pytest.mark.parametrize("url", ["", None])
def test_no_replica_is_the_default(url: str | None) -> None:
    assert Settings(_env_file=None, database_replica_url=url).database_replica_url is None


def test_a_replica_of_nothing_is_refused() -> None:
    """The embedded server would take the writes, and the lists would be another database's."""
    with pytest.raises(ValidationError, match="DATABASE_URL"):
        Settings(_env_file=None, database_replica_url="postgresql://shop@db/shop")
