"""`articurated doctor` names each part that is wrong, and what to do about it (NFR-003, DOC)."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import redis
from typer.testing import CliRunner

from app.cli.main import cli
from app.config import Settings, get_settings
from app.core.enums import WORKER_QUEUES
from app.database import Database
from app.doctor import databases, services
from app.doctor.findings import Level
from app.doctor.rounds import LOOKS
from app.services.operations.health import ALIVE_PREFIX
from tests.databases import TestServers, url_of
from tests.integration.dead import bury_job

pytestmark = [pytest.mark.req("NFR-003.2"), pytest.mark.xdist_group("doctor")]

PARTS = [
    *(
        "settings",
        "database",
        "guards",
        "login",
        "session",
        "clock",
        "server",
        "jobs",
        "redis",
        "worker",
        "relay",
        "beat",
        "gateway",
        "mail",
    ),
    *("storage", "disk", "renderer"),
]


class Sham:
    """A server of lines or of HTTP, as much of one as the doctor asks: for the mail server, and for the gateway."""

    def __init__(self, greets: bytes, answers: dict[bytes, bytes]) -> None:
        self._greets = greets
        self._answers = answers
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb", buffering=0) as stream:
                stream.write(self._greets)
                for line in stream:
                    word = line.split(b" ", 1)[0].strip().upper()
                    if word in self._answers:
                        stream.write(self._answers[word])
                    if word in {b"QUIT", b""}:
                        break


@pytest.fixture
def gateway() -> Iterator[Sham]:
    sham = Sham(b"", {b"": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"})
    yield sham
    sham.listener.close()


@pytest.fixture
def mail() -> Iterator[Sham]:
    sham = Sham(b"220 mail.example\r\n", {b"EHLO": b"250 mail.example\r\n", b"QUIT": b"221 bye\r\n"})
    yield sham
    sham.listener.close()


@pytest.fixture
def broker(redis_client: redis.Redis) -> redis.Redis:
    """A Redis that every process was seen in a moment ago."""
    redis_client.set(f"{ALIVE_PREFIX}worker:celery@here", ",".join(WORKER_QUEUES), ex=60)
    redis_client.set(f"{ALIVE_PREFIX}relay:here:1", "", ex=60)
    redis_client.set(f"{ALIVE_PREFIX}beat:here:2", "", ex=60)
    return redis_client


@pytest.fixture(autouse=True)
def _well(
    settings: Settings,
    clean_database: None,
    gateway: Sham,
    mail: Sham,
    broker: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Configure a system in which every part is there."""
    for name, value in {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "STORAGE_PATH": settings.storage_path,
        "PAYMENT_GATEWAY_URL": f"http://127.0.0.1:{gateway.port}",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": mail.port,
    }.items():
        monkeypatch.setenv(name, str(value))
    # The servers of the tests never wait for the disk, and a real doctor would mind.
    monkeypatch.setattr(databases, "_MUST_BE_ON", ("standard_conforming_strings",))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def diagnosis(expect: int = 0) -> dict[str, dict[str, Any]]:
    """Run `doctor --json`; return its findings by part. What is wrong must come with advice."""
    get_settings.cache_clear()
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == expect, (result.output, result.exception)
    findings = {finding["part"]: finding for finding in json.loads(result.stdout)}
    assert all((finding["level"] == "ok") == (finding["advice"] is None) for finding in findings.values()), findings
    return findings


def wrong(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {part: finding["level"] for part, finding in findings.items() if finding["level"] != "ok"}


def test_a_system_that_is_well(servers: TestServers) -> None:
    findings = diagnosis()
    # Worth a word: the Redis of the tests keeps nothing over a restart, and given servers have one login for everything.
    expected = {"redis": "warning"} | ({"login": "warning"} if servers.given else {})
    assert wrong(findings).items() <= expected.items()
    assert list(findings) == PARTS
    assert "invoices 1, refunds 1, notifications 1, sweeps 1" in findings["worker"]["says"]
    text = CliRunner().invoke(cli, ["doctor"])
    assert text.exit_code == 0
    assert [line[0] for line in text.stdout.splitlines()].count("✓") >= len(PARTS) - len(expected)


def test_each_part_that_is_away_is_named_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "in the way").touch()
    monkeypatch.setenv("SMTP_PORT", "9")
    monkeypatch.setenv("PAYMENT_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path / "in the way"))
    findings = diagnosis(expect=1)
    assert {part for part, level in wrong(findings).items() if level == "failure"} == {"mail", "gateway", "storage"}
    assert "SMTP_HOST" in findings["mail"]["advice"]


def test_without_database_and_redis_the_rest_is_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:s3cret@127.0.0.1:9/none")
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@127.0.0.1:9/0")
    get_settings.cache_clear()
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    marks = {line[2:].split()[0]: line[0] for line in result.stdout.splitlines()}
    failing = {"database", "session", "clock", "server", "work", "redis", "processes"}
    assert {part for part, mark in marks.items() if mark == "✗"} == failing
    assert {part for part, mark in marks.items() if mark == "✓"} == {
        *("settings", "gateway", "mail", "storage", "disk", "renderer"),
    }
    assert "s3cret" not in result.stdout


@pytest.mark.parametrize(("queues", "level"), [("invoices,notifications,sweeps", "failure"), (None, "failure")])
def test_queues_without_a_worker(broker: redis.Redis, queues: str | None, level: str) -> None:
    broker.delete(f"{ALIVE_PREFIX}worker:celery@here", f"{ALIVE_PREFIX}relay:here:1", f"{ALIVE_PREFIX}beat:here:2")
    if queues:
        broker.set(f"{ALIVE_PREFIX}worker:celery@here", queues)
    findings = diagnosis(expect=1)
    assert {part: findings[part]["level"] for part in ("worker", "relay", "beat")} == dict.fromkeys(
        ("worker", "relay", "beat"), level
    )
    if queues:
        assert findings["worker"]["advice"] == "start `articurated worker --queues refunds`"


async def test_dead_letters_and_late_work(database: Database, owner_connection: psycopg.Connection) -> None:
    await bury_job(database)
    owner_connection.execute("UPDATE jobs SET run_at = now() - interval '40 seconds' WHERE state = 'PENDING'")
    found = {finding.part: finding for finding in await databases.work(get_settings())}
    assert {part: finding.level for part, finding in found.items()} == {
        "jobs": Level.WARNING,
        "dead letters": Level.WARNING,
        "promises": Level.WARNING,
    }
    assert found["promises"].says == "past what is promised: 1 invoice"
    owner_connection.execute("UPDATE jobs SET run_at = now() - interval '301 seconds' WHERE state = 'PENDING'")
    [jobs, *_] = await databases.work(get_settings())
    assert jobs.level is Level.FAILURE


async def test_a_login_that_could_rewrite_history(servers: TestServers, database_name: str) -> None:
    owner = url_of(servers.owner_url, database_name)
    for environment, level in (("development", Level.WARNING), ("production", Level.FAILURE)):
        settings = get_settings().model_copy(update={"database_url": owner, "environment": environment})
        found = {finding.part: finding.level for finding in await databases.schema(settings)}
        assert found == {"database": Level.OK, "guards": Level.OK, "login": level}


def test_a_missing_migration(owner_connection: psycopg.Connection) -> None:
    before = owner_connection.execute("SELECT version_num FROM alembic_version").fetchone()
    owner_connection.execute("UPDATE alembic_version SET version_num = '0001'")
    try:
        database = diagnosis(expect=1)["database"]
    finally:
        owner_connection.execute("UPDATE alembic_version SET version_num = %s", before)
    assert database["level"] == "failure"
    assert "articurated migrate" in database["says"]


@pytest.mark.parametrize(("skew", "level"), [(1, Level.OK), (5, Level.WARNING), (-3600, Level.FAILURE)])
async def test_a_clock_that_is_off(skew: float, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "time", lambda: time.time() + skew)
    [clock] = await databases.clock(get_settings())
    assert clock.level is level


async def test_a_server_that_does_not_keep_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_MUST_BE_ON", ("enable_group_by_reordering_or_so",))
    with pytest.raises(Exception, match="enable_group_by"):
        await databases.server(get_settings())
    monkeypatch.setattr(databases, "_MUST_BE_ON", ("standard_conforming_strings", "log_statement_stats"))
    [server] = await databases.server(get_settings())
    assert (server.level, server.says) == (Level.WARNING, "log_statement_stats is off")
    [server] = await databases.server(get_settings().model_copy(update={"environment": "production"}))
    assert server.level is Level.FAILURE


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": 1}, Level.OK),
        ({"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": 0}, Level.WARNING),
        ({"redis_version": "7.2.4", "maxmemory_policy": "allkeys-lru", "aof_enabled": 1}, Level.FAILURE),
        ({"redis_version": "6.2.0", "maxmemory_policy": "noeviction", "aof_enabled": 1}, Level.FAILURE),
    ],
)
async def test_a_redis_that_loses_messages(
    facts: dict[str, Any], level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def info(_: Any) -> dict[str, Any]:
        return facts

    monkeypatch.setattr("app.doctor.services.Redis.info", info)
    [found] = await services.redis(get_settings())
    assert found.level is level


@pytest.mark.parametrize(("free", "level"), [(10**12, Level.OK), (10**9, Level.WARNING), (10**6, Level.FAILURE)])
async def test_a_disk_that_fills_up(free: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.services.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    [found] = await services.disk(get_settings())
    assert found.level is level


@pytest.mark.parametrize(
    ("status", "names"), [(b"401 No", "PAYMENT_GATEWAY_API_KEY"), (b"503 No", "PAYMENT_GATEWAY_URL")]
)
def test_a_gateway_that_refuses(status: bytes, names: str, gateway: Sham) -> None:
    gateway._answers[b""] = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    found = diagnosis(expect=1)["gateway"]
    assert found["level"] == "failure"
    assert names in found["advice"]


async def test_fonts_that_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.doctor.services.renderer_for", lambda _: (_ for _ in ()).throw(ValueError("no fonts")))
    with pytest.raises(ValueError, match="no fonts"):
        await services.renderer(get_settings())


def test_every_look_has_advice() -> None:
    assert all(advice for _, _, advice in LOOKS)
