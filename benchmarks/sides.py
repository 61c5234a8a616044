"""One run of one side: pgbench or the API of a build, measured the same way."""

import resource
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import orjson

from app.config import ROOT
from benchmarks import cpu, scripts
from benchmarks.load import PATIENCE_SECONDS, Plan
from benchmarks.options import Options
from benchmarks.pgbench import Pgbench
from benchmarks.samples import Measurement, Sample, measure
from benchmarks.servers import Api, Target
from benchmarks.works import BenchmarkError, Pool, Work

CONNECT_SECONDS = 30.0


@dataclass
class Spent:
    """CPU seconds of a run, per process, and the share of the machine that others took."""

    seconds: dict[str, float] = field(default_factory=dict)
    others: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What a run found.

    Attributes:
        split: connections that each process of the API served, most first; empty where it is not known.
    """

    measurement: Measurement
    split: list[int]


@contextmanager
def spending(roots: Mapping[str, Sequence[int]]) -> Iterator[Spent]:
    """Account for the CPU time of these process trees, and of children of ours, while the context lasts."""
    spent = Spent()
    known = {name: pids for name, pids in roots.items() if pids}
    if not cpu.available():
        yield spent
        return
    before = {name: sum(map(cpu.seconds_of, pids)) for name, pids in known.items()}
    busy, total = cpu.machine_seconds()
    own = _own_seconds()
    yield spent
    spent.seconds = {name: sum(map(cpu.seconds_of, pids)) - before[name] for name, pids in known.items()}
    busy_after, total_after = cpu.machine_seconds()
    ours = sum(spent.seconds.values()) + _own_seconds() - own
    if len(known) == len(roots) and total_after > total:
        spent.others = max(busy_after - busy - ours, 0.0) / (total_after - total)


def _own_seconds() -> float:
    """Return the CPU seconds of this process and of the generators it ran to their end."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Contestant(Protocol):
    """A side that can be run."""

    @property
    def target(self) -> Target:
        """The database that it works on."""

    @property
    def pool(self) -> Pool:
        """Whose orders it walks."""

    def run(self, work: Work, start: int) -> Run:
        """Measure a piece of work; `start` is the number of the first order of its pool to walk.

        Raises:
            BenchmarkError: nothing succeeded.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PgbenchSide:
    """The plain prepared statements."""

    options: Options
    target: Target
    pgbench: Pgbench
    actor_id: str
    readable: int
    pool: Pool = Pool.PGBENCH

    def calibrate(self, start: int, transactions: int) -> float:
        """Return transitions per second, roughly, from a fixed number of them a connection."""
        samples = self.pgbench.run(
            scripts.script(Work.TRANSITION, self.actor_id), self._variables(start), transactions=transactions
        )
        began = min(ended - took for ended, took in samples)
        return len(samples) / (max(ended for ended, _ in samples) - began)

    def run(self, work: Work, start: int) -> Run:
        """Measure a piece of work."""
        with spending(_postgres(self.target)) as spent:
            samples = self.pgbench.run(
                scripts.script(work, self.actor_id),
                self._variables(start),
                seconds=self.options.ramp + self.options.seconds,
            )
        return Run(_measure(self.options, samples, {}, spent), [])

    def _variables(self, start: int) -> dict[str, int]:
        return {
            "counter": -1,
            "start": start,
            "connections": self.options.connections,
            "readable": self.readable,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSide:
    """The API of a build, on its database."""

    options: Options
    target: Target
    api: Api
    api_key: str
    readable: int
    pool: Pool = Pool.API

    def run(self, work: Work, start: int) -> Run:
        """Measure a piece of work."""
        with TemporaryDirectory(dir=self.target.folder) as folder:
            plan = Plan(
                work=work,
                ports=self.api.ports,
                api_key=self.api_key,
                connections=self.options.connections,
                seconds=self.options.ramp + self.options.seconds,
                start=start,
                readable=self.readable,
                samples=f"{folder}/samples",
                ready=f"{folder}/ready",
                go=f"{folder}/go",
            )
            Path(folder, "plan.json").write_bytes(plan.to_json())
            with spending({**_postgres(self.target), "api": self.api.pids}) as spent:
                errors, load_seconds, split = self._generate(plan, Path(folder, "plan.json"))
            spent.seconds["load"] = load_seconds
            samples = _samples_in(Path(plan.samples))
        try:
            return Run(_measure(self.options, samples, errors, spent), split)
        except BenchmarkError as fault:
            raise BenchmarkError(f"{fault}\n{self.target.last_fault()}") from fault

    def _generate(self, plan: Plan, file: Path) -> tuple[dict[str, int], float, list[int]]:
        generator = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.load", str(file)],
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        try:
            deadline = time.monotonic() + CONNECT_SECONDS
            while not Path(plan.ready).exists():
                if generator.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError("the load generator could not connect to the API")
                time.sleep(0.01)
            split = self.api.connections_per_process() if cpu.available() else []
            Path(plan.go).touch()
            said, _ = generator.communicate(timeout=plan.seconds + 2 * PATIENCE_SECONDS)
        finally:
            generator.kill()
            generator.wait()
        if generator.returncode:
            raise BenchmarkError(f"the load generator ended with code {generator.returncode}")
        summary = orjson.loads(said)
        return summary["errors"], summary["cpu_seconds"], split


def _postgres(target: Target) -> dict[str, list[int]]:
    return {"postgres": [] if target.postmaster is None else [target.postmaster]}


def _measure(options: Options, samples: list[Sample], errors: Mapping[str, int], spent: Spent) -> Measurement:
    return measure(
        samples,
        ramp=options.ramp,
        seconds=options.seconds,
        errors=errors,
        cpu_seconds=spent.seconds,
        others_cpu=spent.others,
    )


def _samples_in(file: Path) -> list[Sample]:
    flat = array("d", file.read_bytes())
    return list(zip(flat[::2], flat[1::2], strict=True))
