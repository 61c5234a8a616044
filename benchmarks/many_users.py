"""Many users at once, with the whole system beside them: `python -m benchmarks.many_users`.

It starts the system as `./dev run` does, in a data folder of its own, and lets Locust send what `locustfile.py`
describes. Locust, the system and its databases share the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from app.config import ROOT
from app.local.data_folder import default_data_dir, make_data_dir
from app.local.process import EmbeddedError
from benchmarks import environment
from benchmarks.works import BenchmarkError
from devtools.embedded.run import running_stack
from devtools.embedded.stack import StackOptions

SPAWNED_PER_SECOND = 50
HEADINGS = ("request", "requests", "failures", "p50", "p95", "p99", "largest")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request.

    Attributes:
        times: milliseconds, as Locust rounds them → how many requests took so long.
    """

    name: str
    failures: int
    times: Mapping[int, int]

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.times.values())

    def percentile(self, percent: float) -> int:
        """Return the milliseconds that `percent` of the requests did not exceed."""
        seen = 0
        for time in sorted(self.times):
            seen += self.times[time]
            if seen >= self.requests * percent / 100:
                return time
        return 0


@dataclass(frozen=True, slots=True)
class Load:
    """A run of Locust.

    Attributes:
        users: at once.
        pause: seconds that a user thinks before each request.
        seconds: that were measured, after all users had come.
        unexpected: lines of Locust's list of failures: method, name, answer, how often.
    """

    users: int
    pause: float
    seconds: int
    kinds: Sequence[Kind]
    unexpected: Sequence[str] = ()

    @property
    def failures(self) -> int:
        """How many requests were answered otherwise than expected."""
        return sum(kind.failures for kind in self.kinds)

    def markdown(self) -> str:
        """Return a line of text and a table, with a last row for all kinds together."""
        times: dict[int, int] = {}
        for kind in self.kinds:
            for time, count in kind.times.items():
                times[time] = times.get(time, 0) + count
        every = Kind("all", self.failures, times)
        rows = [_row(kind) for kind in (*self.kinds, every)]
        return "\n".join(
            [
                (
                    f"{self.users:,} users who think for {self.pause:g} s before each request, for {self.seconds} s:"
                    f" {every.requests / self.seconds:,.0f} requests a second, {self.failures:,} failures."
                ),
                "",
                f"| {' | '.join(HEADINGS)} |",
                "|---" * len(HEADINGS) + "|",
                *rows,
                *(["", *(f"    {line}" for line in self.unexpected)] if self.unexpected else []),
                "",
            ]
        )


def _row(kind: Kind) -> str:
    times = [f"{kind.percentile(percent):,} ms" for percent in (50, 95, 99, 100)]
    return f"| {' | '.join([kind.name, f'{kind.requests:,}', f'{kind.failures:,}', *times])} |"


def kinds_in(said: bytes) -> list[Kind]:
    """Return what `locust --json` wrote, reads first.

    Raises:
        BenchmarkError: it wrote nothing of the kind, or no request was made.
    """
    try:
        entries: list[dict[str, Any]] = orjson.loads(said)
    except orjson.JSONDecodeError as fault:
        raise BenchmarkError(f"Locust wrote no figures:\n{said[-2000:].decode(errors='replace')}") from fault
    if not entries:
        raise BenchmarkError("Locust made no request")
    return sorted(
        (
            Kind(
                f"{entry['method']} {entry['name']}",
                entry["num_failures"],
                {int(float(time)): count for time, count in entry["response_times"].items()},
            )
            for entry in entries
        ),
        key=lambda kind: (not kind.name.startswith("GET"), kind.name),
    )


def load(host: str, users: int, pause: float, seconds: int) -> Load:
    """Let users come, measure for some seconds from when all are there, and return what they saw.

    Raises:
        BenchmarkError: Locust could not be run.
    """
    coming = -(-users // SPAWNED_PER_SECOND)
    words = ["-f", "benchmarks/locustfile.py", "--host", host, "--headless", "-u", users, "-r", SPAWNED_PER_SECOND]
    words += ["-t", f"{coming + seconds}s", "--reset-stats", "--pause", pause, "--json", "--skip-log", "--only-summary"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "locust", *map(str, words), "--csv", f"{folder}/run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        if done.returncode not in (0, 1):
            raise BenchmarkError(f"Locust ended with code {done.returncode}:\n{done.stderr[-2000:].decode()}")
        failures = Path(folder, "run_failures.csv")
        lines = failures.read_text(encoding="utf-8").splitlines()[1:] if failures.exists() else []
    return Load(users, pause, seconds, kinds_in(done.stdout), lines)


def main() -> int:
    """Measure and print; return 1 when a request was answered otherwise than expected."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_users", description=__doc__)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--pauses", type=float, nargs="+", default=[5, 0.2], help="one run each; default 5 and 0.2 s")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--api-processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    base = default_data_dir()
    make_data_dir(base)
    failures = 0
    try:
        with tempfile.TemporaryDirectory(prefix="users-", dir=base) as folder:
            options = StackOptions(
                Path(folder),
                port=0,
                api_workers=chosen.api_processes,
                environment={"RATE_LIMIT_PER_MINUTE": "0"},
            )
            with running_stack(options) as stack:
                console.print(
                    f"Commit {environment.commit()}: {chosen.api_processes} API processes, 2 worker processes, relay and"
                    f" beat on {os.cpu_count()} cores, with Locust beside them.\n"
                )
                for pause in chosen.pauses:
                    found = load(stack.info.api, chosen.users, pause, chosen.seconds)
                    failures += found.failures
                    console.print(found.markdown(), markup=False)
    except (BenchmarkError, EmbeddedError) as fault:
        console.print(f"✗ {fault}", markup=False)
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
