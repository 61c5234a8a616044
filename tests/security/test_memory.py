"""The memory of a real API process stays small under any request (NFR-004)."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.config import ROOT, Settings
from app.local.process import choose_port, spawn, stop, tail, wait_until
from devtools.embedded.stack import answers
from tests import databases
from tests.databases import TestServers
from tests.integration.conftest import API_KEY
from tests.security.hostile_traffic import SCENARIOS, Target

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security, pytest.mark.xdist_group("api processes")]

LIMIT_KIB = 200 * 1024
START_SECONDS = 60


def peak_kib(pid: int) -> int:
    """Return the most memory that a process has had, in KiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.fixture
def process(
    servers: TestServers, database_name: str, worker_id: str, clean_database: None, tmp_path: Path
) -> Iterator[tuple[Target, int]]:
    """Start one API process; return where it is, and its pid."""
    number = int(worker_id.removeprefix("gw")) + 1 if worker_id.startswith("gw") else 1
    # What coverage holds in a process that it traces is not the API's: up to 20 MiB.
    known = {name.upper() for name in Settings.model_fields} | {"COVERAGE_PROCESS_CONFIG"}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in known},
        "PYTHONPATH": str(ROOT),
        "ENVIRONMENT": "testing",
        "API_KEY": API_KEY,
        "DATABASE_URL": databases.url_of(servers.app_url, database_name),
        "REDIS_URL": make_url(servers.redis_url).set(database=str(number)).render_as_string(hide_password=False),
        "STORAGE_PATH": str(tmp_path / "storage"),
        "RATE_LIMIT_PER_MINUTE": "0",
        "LOG_LEVEL": "ERROR",
    }
    with ExitStack() as stack:
        port, log = choose_port(), tmp_path / "api.log"
        command = [sys.executable, "-P", "-m", "app", "api", "--port", str(port), "--workers", "1"]
        started = spawn(command, log=log, env=environment, cwd=tmp_path)
        stack.callback(stop, started, signal.SIGTERM, 15)
        ready = wait_until(
            lambda: answers(f"http://127.0.0.1:{port}/api/v1/health/live"),
            seconds=START_SECONDS,
            alive=lambda: started.poll() is None,
        )
        assert ready, tail(log)
        yield Target(port, API_KEY), started.pid


def test_no_traffic_makes_an_api_process_large(process: tuple[Target, int]) -> None:
    target, pid = process
    peaks = {"at first": peak_kib(pid)}
    for scenario in SCENARIOS:
        scenario(target)
        peaks[scenario.__name__] = peak_kib(pid)
    status, orders = target.request("GET", "/api/v1/orders?limit=1&include_total=true")
    assert status == 200
    assert json.loads(orders)["pagination"]["total"] == 21, "what was refused has written nothing"
    assert peaks[SCENARIOS[-1].__name__] < LIMIT_KIB, peaks
