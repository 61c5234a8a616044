"""The load that benchmarks/locustfile.py makes is one that the system answers; how fast, no test says."""

import json
import subprocess
import sys

import pytest

from app.config import ROOT
from benchmarks.many_users import load
from devtools.embedded.run import RunningStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.performance,
    pytest.mark.req("NFR-001.1"),
    pytest.mark.xdist_group("stack"),
]
KINDS = {
    "POST /orders",
    "GET /orders",
    "GET /orders?status",
    "GET /orders/{id}",
    "GET /orders/{id}/history",
    "GET /orders/{id}/transitions",
    "PATCH /orders/{id}/state",
    "PATCH /orders/{id}/state (refused)",
}


def locust(host: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Let three users follow six orders to their end, however long that takes here."""
    short = ["--headless", "-u", "3", "-r", "3", "-t", "120s", "--stop-timeout", "60", "--pause", "0.01"]
    short += ["--orders", "6"]
    said = ["--json", "--skip-log", "--only-summary"]
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--host", host, *short, *said, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)


def test_many_users_at_once_are_answered(stack: RunningStack) -> None:
    done = locust(stack.info.api)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {f"{entry['method']} {entry['name']}": entry for entry in json.loads(done.stdout)}
    assert set(kinds) == KINDS
    assert {name: entry["num_failures"] for name, entry in kinds.items() if entry["num_failures"]} == {}
    # The users that are not done when the sixth order is may finish theirs.
    assert 24 <= kinds["PATCH /orders/{id}/state"]["num_requests"] <= 36


def test_the_table_of_many_users_has_what_locust_saw(stack: RunningStack) -> None:
    found = load(stack.info.api, users=3, pause=0.1, seconds=2)
    assert {kind.name for kind in found.kinds} <= KINDS
    assert found.failures == 0
    assert all(0 <= kind.percentile(50) <= kind.percentile(95) <= kind.percentile(100) for kind in found.kinds)
    assert "| all |" in found.markdown()


def test_a_failure_is_seen(stack: RunningStack) -> None:
    """The same load on addresses that are not there."""
    done = locust(f"{stack.info.api}/nowhere")
    assert done.returncode == 1
    [orders] = json.loads(done.stdout)
    assert orders["num_failures"] == orders["num_requests"] >= 6


def test_a_load_without_a_request_is_no_success(stack: RunningStack) -> None:
    done = locust(stack.info.api, "--pause", "60", "-t", "1s", "--stop-timeout", "0")
    assert done.returncode == 1
    assert "no request was made" in done.stdout
