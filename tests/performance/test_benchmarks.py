"""The benchmark harness measures what it says: tiny runs, judged by their sanity and never by their speed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.config import ROOT
from benchmarks.load import Client, Recorder, Repeats
from benchmarks.samples import Comparison, Measurement, measure, percentile
from benchmarks.works import BenchmarkError, Side
from tests.databases import TestServers

pytestmark = pytest.mark.performance
WORKS = {"transition", "read", "create", "list"}


def _benchmark(servers: TestServers, results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--database-url", servers.owner_url, "--results", str(results)]
    tiny = ["--orders", "200", "--connections", "4", "--rounds", "1", "--seconds", "0.3"]
    environment = {**os.environ, "ARTICURATED_DATA_DIR": str(results / "data")}
    return subprocess.run(
        [*command, *tiny, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def _report_of(done: subprocess.CompletedProcess[str], results: Path, sides: set[str]) -> dict[str, Any]:
    """Return the figures of a run without an error, which measured all works on these sides."""
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = results.glob("*.json")
    report: dict[str, Any] = json.loads(written.read_text())
    assert report["errors"] == {}
    assert set(report["works"]) == WORKS
    for work in report["works"].values():
        assert set(work["ratios"]) == sides - {"new"}
        assert all(ratio > 0 for ratios in work["ratios"].values() for ratio in ratios.values())
        for side in sides:
            [only] = work[side]
            _assert_sane(only)
    assert any("as many as were reported" in finding for finding in report["findings"])
    held = [finding for finding in report["findings"] if "`audit verify` holds" in finding]
    assert len(held) == len(sides)
    return report


def _databases(servers: TestServers) -> set[str]:
    with psycopg.connect(servers.owner_url) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%benchmark%'").fetchall()
    return {str(name) for (name,) in names}


@pytest.mark.req("NFR-001.1")
def test_a_tiny_run_measures_all_works_on_both_sides_without_an_error(servers: TestServers, tmp_path: Path) -> None:
    before = _databases(servers)
    done = _benchmark(servers, tmp_path)

    report = _report_of(done, tmp_path, {"pgbench", "new"})
    # The suite's server gives up durability for speed, and the table has to say so.
    assert report["environment"]["durable"] is False
    [table] = tmp_path.glob("*.md")
    assert "Not durable" in table.read_text()
    assert table.read_text() in done.stdout
    assert list(tmp_path.glob("*.svg"))
    assert _databases(servers) == before


@pytest.mark.skipif(os.environ.get("TEST_PROFILE") != "nightly", reason="it makes a whole environment: nightly")
@pytest.mark.req("NFR-001.1")
def test_a_tiny_run_against_another_build_measures_both_and_leaves_no_worktree(
    servers: TestServers, tmp_path: Path
) -> None:
    done = _benchmark(servers, tmp_path, "--against", "HEAD")

    report = _report_of(done, tmp_path, {"pgbench", "old", "new"})
    assert f"orders of {report['old']} left the same rows." in done.stdout
    worktrees = subprocess.run(
        ["git", "worktree", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(tmp_path) not in worktrees


def test_a_build_that_does_not_exist_is_one_message_and_exit_code_1(servers: TestServers, tmp_path: Path) -> None:
    done = _benchmark(servers, tmp_path, "--against", "no-such-commit")

    assert done.returncode == 1
    assert "no-such-commit" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.req("NFR-001.1")
def test_a_tiny_comparison_of_the_drivers_measures_both(servers: TestServers) -> None:
    command = [sys.executable, "-m", "benchmarks.driver", "--database-url", servers.owner_url]
    tiny = ["--rounds", "1", "--orders", "5", "--connections", "2"]
    done = subprocess.run([*command, *tiny], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    measured = {name: figures for name, *figures in rows[2:]}
    assert list(measured) == ["psycopg", "asyncpg", "asyncpg ÷ psycopg"]
    assert all(float(figure.removesuffix(" µs").replace(",", "")) > 0 for row in measured.values() for figure in row)


def _assert_sane(measured: dict[str, Any]) -> None:
    assert 0 < measured["operations"] <= measured["answered"]
    assert measured["throughput"] == pytest.approx(measured["operations"] / 0.3)
    # The clock of a virtual machine may stop for half of so short a run: then its median is 0.
    assert 0 <= measured["p50_ms"] <= measured["p95_ms"] <= measured["p99_ms"]
    assert measured["p99_ms"] > 0
    assert measured["errors"] == {}


def test_a_server_that_cannot_be_reached_is_one_message_and_exit_code_1(servers: TestServers, tmp_path: Path) -> None:
    done = _benchmark(servers, tmp_path, "--database-url", "postgresql://nobody@127.0.0.1:1/none")

    assert done.returncode == 1
    assert "DATABASE_URL must name a login that may create databases" in done.stdout
    assert "Traceback" not in done.stderr


def test_only_what_ends_in_the_window_counts() -> None:
    run_up = [(10.0, 0.1), (10.4, 0.1)]  # the first began at 9.9: with 0.5 s of run-up the window opens at 10.4
    counted = [(10.9, 0.2), (11.39, 0.4)]
    run_out = [(11.4, 0.9)]

    found = measure(
        [*run_up[:1], *counted, *run_out], ramp=0.5, seconds=1, errors={}, cpu_seconds={"api": 0.004}, others_cpu=None
    )

    assert (found.operations, found.throughput, found.answered) == (2, 2.0, 4)
    assert (found.p50_ms, found.p95_ms) == (200, 400)
    assert found.cpu_us == {"api": pytest.approx(1000)}


def test_a_run_without_a_success_has_no_figures() -> None:
    with pytest.raises(BenchmarkError, match="503"):
        measure([], ramp=0, seconds=1, errors={"503": 7}, cpu_seconds={}, others_cpu=None)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)])
def test_percentiles_are_values_that_occurred(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    def side(*throughputs: float) -> list[Measurement]:
        return [
            Measurement(operations=1, throughput=each, p50_ms=1, p95_ms=1, p99_ms=1, answered=1) for each in throughputs
        ]

    compared = Comparison({Side.PGBENCH: side(100, 50, 10), Side.NEW: side(50, 20, 10)})
    assert compared.ratio("throughput", Side.PGBENCH) == 0.5


class _Server:
    """A transport that answers nothing and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)


ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


@pytest.mark.parametrize(
    ("pieces", "good", "bad"),
    [
        ([ANSWER], 1, 0),
        ([ANSWER[:9], ANSWER[9:30], ANSWER[30:]], 1, 0),
        ([ANSWER.replace(b"200 OK", b"409 No")], 0, 1),
        ([ANSWER.replace(b'"ok"', b'"no"')], 0, 1),
        ([ANSWER[:-1]], 0, 0),
    ],
    ids=["whole", "in pieces", "wrong status", "wrong content", "unfinished"],
)
async def test_the_load_generator_judges_whole_answers(pieces: list[bytes], good: int, bad: int) -> None:
    recorder = Recorder()
    recorder.deadline = float("inf")
    client = Client(Repeats([(b"GET / HTTP/1.1\r\n\r\n", b'"ok"')], b"200"), recorder)
    server = _Server()
    client.connection_made(server)  # type: ignore[arg-type]
    client.send_next()

    for piece in pieces:
        client.data_received(piece)

    assert len(recorder.samples) == 2 * good
    assert recorder.errors.total() == bad
    assert len(server.sent) == 1 + good + bad  # the next request follows every answer


async def test_a_connection_that_the_server_ends_is_an_error() -> None:
    recorder = Recorder()
    client = Client(Repeats([(b"", b"")], b"200"), recorder)
    client.connection_lost(None)

    assert recorder.errors.total() == 1
    assert client.done.done()
