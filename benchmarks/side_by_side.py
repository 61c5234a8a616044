"""pgbench, an older build and this one on one PostgreSQL, in one run, in turns: `python -m benchmarks`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console

from benchmarks import builds, checks, environment, options, pgbench, servers
from benchmarks.builds import Build
from benchmarks.options import Options
from benchmarks.pools import Pools
from benchmarks.report import LABELS, TIMES, Report
from benchmarks.samples import Comparison, Measurement
from benchmarks.servers import Target
from benchmarks.sides import ApiSide, Contestant, PgbenchSide
from benchmarks.works import STEPS, BenchmarkError, Pool, Side, Work

CALIBRATION_ORDERS = 5
"""Orders a connection walks to find out how many a round may need."""
SPARE = 4
"""How many times as many orders are kept ready as the fastest run so far would have walked."""
READABLE = 5000
SAMPLE_SEED = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; return the exit code: 1 when an answer or a check was wrong."""
    chosen = options.parse(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        with older_build(chosen, console) as old:
            report = measure(chosen, console, old)
    except BenchmarkError as fault:
        console.print(f"[bold red]✗[/] {fault}", markup=True)
        return 1
    console.print()
    console.print(report.markdown(), markup=False)
    for path in report.write(chosen.results):
        console.print(f"written: {path}")
    return 1 if report.errors() else 0


@contextmanager
def older_build(chosen: Options, console: Console) -> Iterator[Build | None]:
    """Have the build that `--against` names, if it names one."""
    if chosen.against is None:
        yield None
        return
    console.print(f"making a checkout of {chosen.against} and its environment")
    with builds.checked_out(chosen.against) as old:
        yield old


def measure(chosen: Options, console: Console, old: Build | None) -> Report:
    """Prepare, measure and check.

    Raises:
        BenchmarkError: it could not be done, or the sides did not do the same work.
    """
    binary = pgbench.find()
    with servers.server(chosen.database_url) as server:
        prepared = _prepared(chosen, console, server, old)
        facts = environment.describe(prepared[Side.NEW].target, binary)
        durable = "durable" if facts["durable"] else "not durable"
        console.print(f"PostgreSQL {facts['postgresql']}, {durable}; {facts['pgbench']}")
        with ExitStack() as stack:
            contestants = {
                side: _contestant(chosen, side, database, stack, binary) for side, database in prepared.items()
            }
            run = _Run(chosen, console, contestants, {side: database.pools for side, database in prepared.items()})
            orders = run.measure()
        console.print("checking that all sides did the same work")
        return Report(
            options=chosen,
            environment=facts,
            old=None if old is None else old.label,
            orders=orders,
            split=run.split,
            comparisons={work: Comparison(sides) for work, sides in run.tallies.items()},
            findings=checks.verify(run.walked()),
        )


@dataclass(frozen=True, slots=True)
class _Database:
    """A side's database with its sample orders, the pools in it, and an API key."""

    target: Target
    pools: Pools
    key: Mapping[str, str]


def _prepared(chosen: Options, console: Console, server: servers.Server, old: Build | None) -> dict[Side, _Database]:
    """Make a database for each side, in the order in which they take turns."""
    new = _seeded(chosen, console, server.database(Side.NEW))
    # pgbench works on the tables of this build: a copy has the same rows.
    copy = server.database(Side.PGBENCH, copy_of=new.target)
    prepared = {Side.PGBENCH: _Database(copy, _pools_of(copy, new.pools.sizes), new.key)}
    if old is not None:
        prepared[Side.OLD] = _seeded(chosen, console, server.database(Side.OLD, old))
    return {**prepared, Side.NEW: new}


def _seeded(chosen: Options, console: Console, target: Target) -> _Database:
    console.print(f"making {chosen.orders:,} sample orders with {target.build.label}")
    # An older build may not have this option; then it issues no documents.
    knows = target.build is builds.THIS or "documents" in target.run("seed", "--help")
    without = ["--no-documents"] if knows else []
    target.run("seed", "--orders", str(chosen.orders), "--seed", str(SAMPLE_SEED), *without)
    pools = _pools_of(target)
    pools.extend(Pool.READ, min(READABLE, chosen.orders))
    key = orjson.loads(target.run("keys", "create", "--role", "manager", "--name", "benchmark", "--json"))
    return _Database(target, pools, key)


def _pools_of(target: Target, sizes: Mapping[Pool, int] | None = None) -> Pools:
    return Pools(target.app_url, target.settings().database_role, sizes)


def _contestant(chosen: Options, side: Side, database: _Database, stack: ExitStack, binary: Path) -> Contestant:
    target, readable = database.target, min(READABLE, chosen.orders)
    if side is Side.PGBENCH:
        program = pgbench.Pgbench(
            binary=binary,
            url=target.app_url,
            role=target.settings().database_role,
            folder=target.folder,
            connections=chosen.connections,
        )
        return PgbenchSide(
            options=chosen, target=target, pgbench=program, actor_id=database.key["id"], readable=readable
        )
    api = stack.enter_context(
        servers.api(target, chosen.api_processes, chosen.pool_size, one_port=chosen.one_port),
    )
    return ApiSide(options=chosen, target=target, api=api, api_key=database.key["key"], readable=readable)


class _Run:
    """The rounds of a measurement.

    Attributes:
        tallies: what the counted rounds brought.
        split: connections per process of an API, the least even round.
    """

    def __init__(
        self, chosen: Options, console: Console, contestants: Mapping[Side, Contestant], pools: Mapping[Side, Pools]
    ) -> None:
        self._options = chosen
        self._console = console
        self._contestants = contestants
        self._pools = pools
        self._fastest = 0.0
        self._made = dict.fromkeys(contestants, 0)
        self.split: list[int] = []
        self.tallies: dict[Work, dict[Side, list[Measurement]]] = {
            work: {side: [] for side in contestants} for work in chosen.works
        }

    def walked(self) -> dict[Side, checks.Walked]:
        """Return what each side says it did."""
        return {
            side: checks.Walked(contestant.target, contestant.pool, self._made[side])
            for side, contestant in self._contestants.items()
        }

    def measure(self) -> int:
        """Run the warm-up and the counted rounds; return how many orders this build had when these began."""
        plain = self._contestants[Side.PGBENCH]
        if Work.TRANSITION in self._options.works and isinstance(plain, PgbenchSide):
            start = self._pools[Side.PGBENCH].extend(plain.pool, CALIBRATION_ORDERS * self._options.connections)
            transactions = CALIBRATION_ORDERS * len(STEPS)
            # Everything is still cold: what follows may be several times as fast.
            self._fastest = 2 * plain.calibrate(start, transactions)
            self._made[Side.PGBENCH] += transactions * self._options.connections
        [warm_up] = self._prepare(rounds=1)
        self._round(0, warm_up)
        starts = self._prepare(rounds=self._options.rounds)
        orders = self._options.orders + self._pools[Side.NEW].total
        for number, firsts in enumerate(starts, start=1):
            self._round(number, firsts)
        return orders

    def _prepare(self, rounds: int) -> list[dict[Side, int]]:
        """Make the orders that the next rounds walk; return, per round and side, the number of the first."""
        each = 0
        if Work.TRANSITION in self._options.works:
            running = math.ceil(self._options.ramp + self._options.seconds)
            each = math.ceil(self._fastest * running * SPARE / len(STEPS)) + self._options.connections
            self._console.print(f"preparing {len(self._contestants) * rounds * each:,} orders to walk")
        first = {side: self._pools[side].extend(one.pool, rounds * each) for side, one in self._contestants.items()}
        for contestant in self._contestants.values():
            contestant.target.settle()
        return [{side: start + number * each for side, start in first.items()} for number in range(rounds)]

    def _round(self, number: int, starts: Mapping[Side, int]) -> None:
        """Run each work on every side; the builds change places from round to round."""
        order = [Side.PGBENCH, *sorted(self._contestants.keys() - {Side.PGBENCH}, reverse=number % 2 == 1)]
        for work in self._options.works:
            found: dict[Side, Measurement] = {}
            for side in order:
                run = self._contestants[side].run(work, starts[side])
                found[side] = run.measurement
                if run.split:
                    self.split = min(self.split or run.split, run.split, key=min)
                if work is Work.TRANSITION:
                    self._made[side] += run.measurement.answered
            if work is Work.TRANSITION:
                self._fastest = max(
                    self._fastest if number else 0.0, *(measurement.throughput for measurement in found.values())
                )
            self._say(number, work, found)
            if number:
                for side, measurement in found.items():
                    self.tallies[work][side].append(measurement)

    def _say(self, number: int, work: Work, found: Mapping[Side, Measurement]) -> None:
        title = f"round {number}/{self._options.rounds}" if number else "warm-up"
        new = found[Side.NEW]
        sides = "  ".join(
            f"{side} {found[side].throughput:7,.0f}/s p95 {found[side].p95_ms:5.1f} ms" for side in self._contestants
        )
        ratios = ", ".join(
            f"{new.throughput / found[side].throughput:.2f} {TIMES} {side}"
            for side in self._contestants
            if side is not Side.NEW
        )
        self._console.print(f"{title:10} {LABELS[work]:30} {sides}  {ratios}")
