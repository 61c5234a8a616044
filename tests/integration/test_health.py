"""`GET /health` names the degraded part and what to do, in two seconds even where a part hangs (NFR-003)."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import redis
from sqlalchemy import make_url

from app.composition import Services
from app.config import Settings
from app.core.enums import WORKER_QUEUES, Role
from app.database import Database
from app.services.jobs.service import JobKind
from app.services.operations import health as health_service
from app.services.operations.health import ALIVE_PREFIX, HealthService
from app.services.operations.probes import SharedLook
from app.tasks import heartbeat
from app.utils.clock import utc_now, uuid7
from app.utils.disk import DiskSpace, LastSeen
from tests.integration.away import Speaker, hanging, listening, port_of, unreachable
from tests.integration.conftest import Connect, error_of, new_order
from tests.integration.dead import bury_job
from tests.integration.jobs_support import add_job

pytestmark = pytest.mark.req("NFR-003.2")

HEALTH = "/api/v1/health"
ALL_QUEUES = ",".join(WORKER_QUEUES)


@pytest.fixture
async def mail() -> AsyncIterator[Speaker]:
    async with listening(Speaker(greets=b"220 mail.example ESMTP\r\n")) as speaker:
        yield speaker


@pytest.fixture
async def gateway() -> AsyncIterator[Speaker]:
    async with listening(Speaker(answers=b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as speaker:
        yield speaker


@pytest.fixture
async def well(
    settings: Settings, services: Services, redis_client: redis.Redis, mail: Speaker, gateway: Speaker
) -> AsyncIterator[Settings]:
    """A system in which every part is there; the settings of its health."""
    redis_client.set(f"{ALIVE_PREFIX}worker:celery@here", ALL_QUEUES, ex=30)
    redis_client.set(f"{ALIVE_PREFIX}relay:here:1", "", ex=30)
    redis_client.set(f"{ALIVE_PREFIX}beat:here:2", "", ex=30)
    redis_client.set("articurated:something:else", "1", ex=30)
    given = settings.model_copy(
        update={
            "smtp_host": "127.0.0.1",
            "smtp_port": mail.port,
            "payment_gateway_url": f"http://127.0.0.1:{gateway.port}",
        }
    )
    services.health = HealthService(services.database, given)
    yield given
    await services.health.close()


async def report(client: httpx2.AsyncClient, status: int = 200) -> dict[str, Any]:
    """Ask for the health; every part that is not ok must say what to do."""
    answer = await client.get(HEALTH)
    assert answer.status_code == status
    found: dict[str, Any] = answer.json()
    for part, check in found["checks"].items():
        assert ("hint" in check) == (check["status"] != "ok"), part
        assert len(check.get("hint", "")) < 200
        assert "127.0.0.1" not in check.get("hint", "")
    return found


async def test_health_is_ok_when_all_is_there(api: httpx2.AsyncClient, well: Settings) -> None:
    found = await report(api)
    assert found["status"] == "ok"
    assert found["version"] == "0.1.0"
    checks = found["checks"]
    assert set(checks) == {
        *("database", "redis", "worker", "relay", "beat", "jobs", "disk", "guards", "smtp", "storage", "gateway"),
    }
    assert checks["worker"] == {"status": "ok", "workers": 1}
    assert checks["relay"] == checks["beat"] == {"status": "ok", "processes": 1}
    assert checks["jobs"] == {"status": "ok", "oldest_due_seconds": 0.0, "dead_letters": 0, "open_cases": 0}
    assert checks["smtp"] == checks["storage"] == checks["gateway"] == {"status": "ok"}
    head = await api.head(HEALTH)
    assert (head.status_code, head.content) == (200, b"")


async def test_without_credentials_health_gives_its_status_alone(
    anonymous: httpx2.AsyncClient,
    callers: dict[Role, httpx2.AsyncClient],
    connect: Connect,
    well: Settings,
    redis_client: redis.Redis,
) -> None:
    answered = await anonymous.get(HEALTH)
    assert (answered.status_code, answered.json()) == (200, {"status": "ok"})
    for client in callers.values():
        assert set((await client.get(HEALTH)).json()) == {"status", "version", "checks"}
    for wrong in ({"X-API-Key": f"ack_{'0' * 8}_{'0' * 43}"}, {"Authorization": "Bearer x.y.z"}):
        refused = await connect(**wrong).get(HEALTH)
        assert refused.status_code == 401
        assert error_of(refused)["code"] == "UNAUTHENTICATED"
    redis_client.delete(f"{ALIVE_PREFIX}relay:here:1")
    answered = await anonymous.get(HEALTH)
    assert (answered.status_code, answered.json()) == (200, {"status": "degraded"})


def test_processes_show_themselves_where_health_looks() -> None:
    assert heartbeat.KEY_PREFIX == ALIVE_PREFIX


@pytest.mark.parametrize("part", ["worker", "relay", "beat"])
async def test_without_one_of_our_processes_it_is_degraded(
    part: str, api: httpx2.AsyncClient, redis_client: redis.Redis, well: Settings
) -> None:
    for key in redis_client.scan_iter(f"{ALIVE_PREFIX}{part}:*"):
        redis_client.delete(key)
    found = await report(api)
    assert found["status"] == "degraded"
    assert found["checks"][part]["status"] == "down"
    assert f"start `articurated {part}`" in found["checks"][part]["hint"]
    assert [name for name, check in found["checks"].items() if check["status"] != "ok"] == [part]


async def test_a_queue_without_a_worker_shows(
    api: httpx2.AsyncClient, redis_client: redis.Redis, well: Settings
) -> None:
    redis_client.set(f"{ALIVE_PREFIX}worker:celery@here", "invoices", ex=30)
    redis_client.set(f"{ALIVE_PREFIX}worker:celery@there", "notifications", ex=30)
    worker = (await report(api))["checks"]["worker"]
    assert (worker["status"], worker["workers"]) == ("degraded", 2)
    assert "No worker takes from: refunds, sweeps." in worker["hint"]


@pytest.mark.parametrize(
    ("free_bytes", "status", "hint"),
    [
        (2**40, "ok", ""),
        (100 * 2**20, "degraded", "The disk at /srv has 100 MB left."),
        (4096, "down", "The disk at /srv is full: writes fail"),
    ],
)
async def test_a_disk_that_is_low_or_full_is_named(
    free_bytes: int,
    status: str,
    hint: str,
    api: httpx2.AsyncClient,
    well: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = DiskSpace(Path("/srv"), free_bytes, 2**41, has_files_left=True)
    monkeypatch.setattr(health_service, "disk_space", lambda _folder: space)
    found = await report(api)
    assert found["status"] == ("ok" if status == "ok" else "degraded")
    assert found["checks"]["disk"]["status"] == status
    assert hint in found["checks"]["disk"].get("hint", "")


async def test_a_write_that_postgresql_has_no_room_for_shows(
    api: httpx2.AsyncClient, well: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    seen = LastSeen(lambda: now[0])
    monkeypatch.setattr(health_service, "database_full", seen)
    seen.note()
    check = (await report(api))["checks"]["database"]
    assert (check["status"], "PostgreSQL's disk is full" in check["hint"]) == ("degraded", True)
    now[0] += health_service.DATABASE_FULL_SECONDS
    assert (await report(api))["status"] == "ok"


async def test_backups_that_do_not_go_on_show(
    api: httpx2.AsyncClient, services: Services, well: Settings, tmp_path: Path
) -> None:
    status = {"last_backup_at": utc_now().isoformat()}
    services.health = HealthService(services.database, well.model_copy(update={"backup_path": tmp_path}))
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert (await report(api))["checks"]["backup"] == {"status": "ok"}
    await services.health.close()
    status["last_backup_at"] = (utc_now() - timedelta(hours=8)).isoformat()
    (tmp_path / "status.json").write_text(json.dumps(status))
    services.health = HealthService(services.database, well.model_copy(update={"backup_path": tmp_path}))
    found = await report(api)
    assert found["status"] == found["checks"]["backup"]["status"] == "degraded"
    shown = (await api.get("/api/v1/metrics")).text.splitlines()
    [age] = [line.split()[1] for line in shown if line.startswith("articurated_backup_age_seconds ")]
    assert float(age) >= 8 * 3600
    assert "articurated_backup_interval_seconds 21600.0" in shown
    await services.health.close()


async def test_a_redis_that_takes_no_writes_shows(
    api: httpx2.AsyncClient, services: Services, well: Settings, redis_client: redis.Redis
) -> None:
    """As it does while its append-only file cannot be written; here for one login alone, for others use the server."""
    name = f"reader-{uuid7(utc_now())}"
    redis_client.acl_setuser(name, enabled=True, passwords=["+secret"], categories=["+@read"], keys=["*"])
    url = make_url(well.redis_url).set(username=name, password="secret")
    reader = well.model_copy(update={"redis_url": url.render_as_string(hide_password=False)})
    services.health = HealthService(services.database, reader)
    try:
        checks = (await report(api))["checks"]
    finally:
        await services.health.close()
        redis_client.acl_deluser(name)
    assert checks["redis"]["status"] == "degraded"
    assert "takes no writes (NoPermissionError)" in checks["redis"]["hint"]
    assert {checks[part]["status"] for part in ("worker", "relay", "beat")} == {"degraded"}


@pytest.mark.req("NFR-003.1")
async def test_without_redis_it_is_degraded_and_requests_are_served(
    services: Services, api: httpx2.AsyncClient, well: Settings
) -> None:
    services.health = HealthService(
        services.database, well.model_copy(update={"redis_url": f"redis://{unreachable()}/0"})
    )
    found = await report(api)
    assert found["status"] == "degraded"
    assert {part for part, check in found["checks"].items() if check["status"] == "down"} == {
        *("redis", "worker", "relay", "beat"),
    }
    assert (await new_order(api, "PAID"))["status"] == "PAID"


def away(part: str, tmp_path: Path) -> dict[str, Any]:
    """Return the settings under which a part is away."""
    if part == "smtp":
        return {"smtp_port": port_of(unreachable())}
    if part == "gateway":
        return {"payment_gateway_url": f"http://{unreachable()}"}
    (tmp_path / "in the way").write_text("a file where the folder should be")
    return {"storage_path": tmp_path / "in the way" / "storage"}


@pytest.mark.req("NFR-003.1")
@pytest.mark.parametrize("part", ["smtp", "storage", "gateway"])
async def test_a_part_that_workers_need_shows_when_it_is_away(
    part: str, services: Services, api: httpx2.AsyncClient, well: Settings, tmp_path: Path
) -> None:
    services.health = HealthService(services.database, well.model_copy(update=away(part, tmp_path)))
    found = await report(api)
    assert found["status"] == "degraded"
    assert [name for name, check in found["checks"].items() if check["status"] != "ok"] == [part]
    assert found["checks"][part]["status"] == "down"
    assert (await new_order(api, "PAID"))["status"] == "PAID"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("mail", b"421 too busy\r\n"),
        ("gateway", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
        ("gateway", b"SSH-2.0-something\r\n"),
        ("gateway", b""),
    ],
)
async def test_a_part_that_answers_badly_is_not_well(
    part: str, says: bytes, api: httpx2.AsyncClient, well: Settings, mail: Speaker, gateway: Speaker
) -> None:
    mail.greets = says if part == "mail" else mail.greets
    gateway.answers = says if part == "gateway" else gateway.answers
    checks = (await report(api))["checks"]
    assert checks["smtp" if part == "mail" else "gateway"]["status"] == "down"


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("gateway", "GatewayOutcomeUnknown: http_500: The payment gateway answered 500."),
        ("gateway", "GatewayCircuitOpen: circuit_open: The payment gateway has failed repeatedly."),
        ("smtp", "MailUnavailable: the mail was not taken: 451 later"),
        ("storage", "StorageError: The document storage cannot be used just now. (disk full)"),
    ],
)
async def test_a_part_that_greets_and_then_fails_shows_by_its_jobs(
    part: str, error: str, database: Database, api: httpx2.AsyncClient, well: Settings
) -> None:
    job_id = await add_job(database, JobKind.PROCESS_REFUND, uuid7(utc_now()))
    later = "UPDATE jobs SET failures = 1, last_error = $1, run_at = now() + interval '2 min', started_at = now()"
    async with database.autocommit() as connection:
        await connection.exec_driver_sql(later.replace("$1", "%s"), (error,))
    check = (await report(api))["checks"][part]
    assert check["status"] == "degraded"
    assert "1 jobs failed on it" in check["hint"]
    async with database.autocommit() as connection:
        await connection.exec_driver_sql("UPDATE jobs SET started_at = now() - interval '61 s'")
    assert (await report(api))["checks"][part] == {"status": "ok"}, job_id


async def test_work_that_waits_too_long_shows(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection, well: Settings
) -> None:
    await new_order(api, "PAID")
    await bury_job(services.database)
    owner_connection.execute("UPDATE jobs SET run_at = now() - interval '45 seconds' WHERE state = 'PENDING'")
    found = await report(api)
    assert found["status"] == "degraded"
    assert found["checks"]["jobs"]["status"] == "degraded"
    assert 45 <= found["checks"]["jobs"]["oldest_due_seconds"] < 90
    assert found["checks"]["jobs"]["dead_letters"] == 1


async def test_a_database_that_takes_no_writes_shows(
    api: httpx2.AsyncClient, services: Services, well: Settings
) -> None:
    narrow = Database(well, pool_size=1)
    async with narrow.autocommit() as connection:
        await connection.exec_driver_sql("SET default_transaction_read_only = on")
    services.health = HealthService(narrow, well)
    found = await report(api)
    assert found["status"] == "degraded"
    assert found["checks"]["database"]["status"] == "degraded"
    assert "takes no writes" in found["checks"]["database"]["hint"]
    await services.health.close()
    await narrow.close()


async def test_health_does_not_hang_with_what_hangs(settings: Settings, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with hanging() as database, hanging() as broker, hanging() as mail, hanging() as gateway:
        given = settings.model_copy(
            update={
                "database_url": f"postgresql://nobody:x@127.0.0.1:{port_of(database)}/none",
                "redis_url": f"redis://127.0.0.1:{port_of(broker)}/0",
                "smtp_host": "127.0.0.1",
                "smtp_port": port_of(mail),
                "payment_gateway_url": f"http://127.0.0.1:{port_of(gateway)}",
            }
        )
        pool = Database(given)
        service = HealthService(pool, given, check_seconds=0.3)
        async with asyncio.timeout(2):
            found = await service.check()
        assert found["status"] == "down"
        states = {part: check["status"] for part, check in found["checks"].items()}
        assert states.pop("storage") == states.pop("disk") == "ok"
        assert set(states.values()) == {"down"}
        await service.close()
        await pool.close()


async def test_each_wait_of_health_is_limited_to_less_than_the_two_seconds_of_the_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, float] = {}
    limited, waiting = asyncio.timeout, asyncio.wait

    def shortened(seconds: float) -> asyncio.Timeout:
        limits[sys._getframe(1).f_code.co_qualname] = seconds
        return limited(min(seconds, 0.2))

    async def briefly(tasks: Any, *, timeout: float) -> Any:  # noqa: ASYNC109 - the signature of asyncio.wait
        limits[sys._getframe(1).f_code.co_qualname] = timeout
        return await waiting(tasks, timeout=min(timeout, 0.2))

    monkeypatch.setattr(asyncio, "timeout", shortened)
    monkeypatch.setattr(asyncio, "wait", briefly)
    with hanging() as silent:
        addresses = {
            "database_url": f"postgresql://nobody:x@127.0.0.1:{port_of(silent)}/none",
            "redis_url": f"redis://127.0.0.1:{port_of(silent)}/0",
            "smtp_host": "127.0.0.1",
            "smtp_port": port_of(silent),
            "payment_gateway_url": f"http://127.0.0.1:{port_of(silent)}",
        }
        given = settings.model_copy(update=addresses)
        pool = Database(given)
        service = HealthService(pool, given)
        found = await service.check()
        await service.close()
        await pool.close()
    assert found["status"] == "down"
    # The libraries limit waits of their own.
    own = {name: seconds for name, seconds in limits.items() if "look" in name.lower() or "Health" in name}
    assert own.keys() == {
        "HealthService.figures",
        "HealthService._check_redis",
        "SharedLook.fault",
        "smtp_look.<locals>.look",
        "gateway_look.<locals>.look",
    }
    assert max(limits.values()) < 2


class Hours:
    """A clock for looks, moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


async def test_however_many_ask_a_part_is_looked_at_once_in_some_seconds() -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        if looks > 1:
            raise ConnectionRefusedError

    hours = Hours()
    shared = SharedLook(look, keep_seconds=5, monotonic=hours)
    assert await asyncio.gather(*(shared.fault() for _ in range(20))) == [None] * 20
    hours.now = 4.9
    assert await shared.fault() is None
    assert looks == 1
    hours.now = 5.1
    assert await shared.fault() == "ConnectionRefusedError"
    assert looks == 2


async def test_a_look_that_hangs_is_waited_for_once_and_never_doubled() -> None:
    looks, release = 0, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        await release.wait()

    hours = Hours()
    shared = SharedLook(look, keep_seconds=5, limit_seconds=0.05, monotonic=hours)
    for hours.now in (0.0, 6.0, 12.0):
        assert await shared.fault() == "TimeoutError"
    assert looks == 1
    release.set()
    await asyncio.sleep(0.01)
    assert await shared.fault() is None
    await shared.close()
