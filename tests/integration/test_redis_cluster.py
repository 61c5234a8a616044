"""A Redis or Valkey cluster is refused with a reason, by every process that would use it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.composition import Services
from app.config import ROOT, Settings, SettingsError
from app.database import Database
from app.doctor import services as doctor
from app.doctor.findings import Level
from app.local.binaries import valkey_server
from app.local.process import LOOPBACK, EmbeddedError, choose_port, spawn, stop, wait_until
from app.main import create_app
from app.services.operations.health import HealthService
from app.services.operations.redis_check import refuse_cluster
from devtools.embedded.given import require_given_servers

pytestmark = [pytest.mark.req("NFR-003"), pytest.mark.xdist_group("redis_cluster")]


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Valkey that is a cluster of its own."""
    folder, port = tmp_path_factory.mktemp("cluster"), choose_port()
    file = folder / "valkey.conf"
    # The bus between nodes takes a second port, by default 10000 above.
    settings = (
        f"bind {LOOPBACK}\nport {port}\ncluster-enabled yes\ncluster-port {choose_port()}\nsave ''\ndir {folder}\n"
    )
    file.write_text(settings, encoding="utf-8")
    process = spawn([valkey_server(), file], log=folder / "log", cwd="/")
    url = f"redis://{LOOPBACK}:{port}/0"
    try:
        assert wait_until(lambda: _answers(url), seconds=60, alive=lambda: process.poll() is None), (
            folder / "log"
        ).read_text()
        yield url
    finally:
        stop(process, signal.SIGTERM, 10)


def test_a_cluster_is_refused_and_a_server_is_not(cluster_url: str, settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL is a node of a cluster.*cannot follow"):
        refuse_cluster(cluster_url)
    refuse_cluster(settings.redis_url)
    refuse_cluster("redis://127.0.0.1:9/0")


@pytest.mark.parametrize("part", ["worker", "relay", "beat"])
def test_no_process_starts_on_a_cluster(part: str, cluster_url: str, settings: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", part],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": cluster_url,
            "BEAT_SCHEDULE_FILE": str(tmp_path / "schedule"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "REDIS_URL is a node of a cluster" in done.stderr


async def test_the_api_does_not_start_on_a_cluster(cluster_url: str, settings: Settings, database: Database) -> None:
    of_cluster = settings.model_copy(update={"redis_url": cluster_url})
    application = create_app(of_cluster, Services(of_cluster, Database(of_cluster, pool_size=1)))
    with pytest.raises(SettingsError, match="REDIS_URL is a node of a cluster"):
        async with application.router.lifespan_context(application):
            pass


def test_the_embedded_system_is_not_started_beside_a_cluster(cluster_url: str) -> None:
    with pytest.raises(EmbeddedError, match=r"named by REDIS_URL, cannot be used: it is a node of a cluster"):
        require_given_servers(Settings(_env_file=None, environment="testing", redis_url=cluster_url))


@pytest.mark.req("NFR-003.2")
async def test_doctor_and_health_name_the_cluster(cluster_url: str, settings: Settings, database: Database) -> None:
    of_cluster = settings.model_copy(update={"redis_url": cluster_url})
    [finding] = await doctor.redis(of_cluster)
    assert (finding.level, finding.says) == (
        Level.FAILURE,
        "is a node of a cluster, and Celery's transport cannot follow its redirections",
    )
    health = HealthService(database, of_cluster)
    try:
        check = (await health.check())["checks"]["redis"]
    finally:
        await health.close()
    assert check["status"] == "degraded"
    assert "a node of a cluster" in check["hint"]
