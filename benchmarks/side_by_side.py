"""pgbench and the API on one database, in one run, A B A B: `python -m benchmarks`."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress

from app.core.enums import Role
from app.database import Database
from app.services.access.keys import KeyService
from app.services.access.views import NewKeyView
from benchmarks import checks, environment, options, pgbench, servers
from benchmarks.options import Options
from benchmarks.pools import Pools
from benchmarks.report import LABELS, TIMES, Report
from benchmarks.samples import Comparison, Measurement
from benchmarks.sides import Sides
from benchmarks.works import STEPS, BenchmarkError, Pool, Work
from devtools.seed import seed

CALIBRATION_ORDERS = 5
"""Orders a connection walks to find out how many a round may need."""
SPARE = 2.5
"""How many times as many orders are kept ready as the fastest run so far would have walked."""
READABLE = 5000
SAMPLE_SEED = 20


@dataclass
class Tally:
    """What the rounds brought so far."""

    pgbench: list[Measurement] = field(default_factory=list)
    api: list[Measurement] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; return the exit code: 1 when an answer or a check was wrong."""
    chosen = options.parse(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        with servers.target(chosen.database_url) as target:
            report = _Run(chosen, console, target).report()
    except BenchmarkError as fault:
        console.print(f"[bold red]✗[/] {fault}", markup=True)
        return 1
    console.print()
    console.print(report.markdown(), markup=False)
    for path in report.write(chosen.results):
        console.print(f"written: {path}")
    return 1 if report.errors() else 0


class _Run:
    def __init__(self, chosen: Options, console: Console, target: servers.Target) -> None:
        self._options = chosen
        self._console = console
        self._target = target
        self._pools = Pools(target.app_url, target.settings().database_role)
        self._fastest = 0.0
        self._made = {Pool.PGBENCH: 0, Pool.API: 0}
        self._split: list[int] = []
        self._tallies = {work: Tally() for work in chosen.works}

    def report(self) -> Report:
        """Prepare, measure, check."""
        binary = pgbench.find()
        facts = environment.describe(self._target, binary)
        durable = "durable" if facts["durable"] else "not durable"
        self._console.print(f"PostgreSQL {facts['postgresql']}, {durable}; {facts['pgbench']}")
        self._seed()
        key = asyncio.run(self._make_key())
        with servers.api(
            self._target, self._options.api_processes, self._options.pool_size, one_port=self._options.one_port
        ) as api:
            sides = Sides(
                options=self._options,
                target=self._target,
                api=api,
                api_key=key["key"],
                actor_id=str(key["id"]),
                pgbench=pgbench.Pgbench(
                    binary=binary,
                    url=self._target.app_url,
                    role=self._target.settings().database_role,
                    folder=self._target.folder,
                    connections=self._options.connections,
                ),
                readable=min(READABLE, self._options.orders),
            )
            orders = self._measure(sides)
        self._console.print("checking that both sides did the same work")
        findings = checks.verify(self._target, self._made)
        return Report(
            options=self._options,
            environment=facts,
            orders=orders,
            split=self._split,
            comparisons={work: Comparison(tally.pgbench, tally.api) for work, tally in self._tallies.items()},
            findings=findings,
        )

    def _seed(self) -> None:
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task("sample orders", total=self._options.orders)
            seed(
                self._target.settings(),
                self._options.orders,
                seed_value=SAMPLE_SEED,
                on_progress=lambda done: progress.advance(task, done),
            )
        self._pools.extend(Pool.READ, min(READABLE, self._options.orders))

    async def _make_key(self) -> NewKeyView:
        # The application's role may not make keys.
        settings = self._target.settings().model_copy(update={"database_admin_url": self._target.owner_url})
        database = Database(settings, "articurated-benchmark", pool_size=1, as_owner=True)
        try:
            return await KeyService(database).create(Role.MANAGER, "benchmark")
        finally:
            await database.close()

    def _measure(self, sides: Sides) -> int:
        """Run the warm-up and the counted rounds; return how many orders there were when these began."""
        if Work.TRANSITION in self._options.works:
            start = self._pools.extend(Pool.PGBENCH, CALIBRATION_ORDERS * self._options.connections)
            transactions = CALIBRATION_ORDERS * len(STEPS)
            # Everything is still cold: what follows may be several times as fast.
            self._fastest = 2 * sides.calibrate(start, transactions)
            self._made[Pool.PGBENCH] += transactions * self._options.connections
        [warm_up] = self._prepare(rounds=1)
        self._round("warm-up", sides, warm_up, counts=False)
        starts = self._prepare(rounds=self._options.rounds)
        orders = self._options.orders + self._pools.total
        for number, firsts in enumerate(starts, start=1):
            self._round(f"round {number}/{self._options.rounds}", sides, firsts, counts=True)
        return orders

    def _prepare(self, rounds: int) -> list[dict[Pool, int]]:
        """Make the orders that the next rounds walk; return, per round and side, the number of the first."""
        running = math.ceil(self._options.ramp + self._options.seconds)
        each = math.ceil(self._fastest * running * SPARE / len(STEPS)) + self._options.connections
        if Work.TRANSITION not in self._options.works:
            each = 0
        else:
            self._console.print(f"preparing {2 * rounds * each:,} orders to walk")
        first = {pool: self._pools.extend(pool, rounds * each) for pool in self._made} if each else {}
        self._target.settle()
        return [{pool: start + number * each for pool, start in first.items()} for number in range(rounds)]

    def _round(self, title: str, sides: Sides, starts: dict[Pool, int], *, counts: bool) -> None:
        for work in self._options.works:
            plain = sides.run_pgbench(work, starts.get(Pool.PGBENCH, 0))
            served, split = sides.run_api(work, starts.get(Pool.API, 0))
            self._split = min(self._split or split, split, key=lambda held: min(held, default=0))
            if work is Work.TRANSITION:
                self._made[Pool.PGBENCH] += plain.answered
                self._made[Pool.API] += served.answered
                self._fastest = max(self._fastest if counts else 0.0, plain.throughput, served.throughput)
            self._console.print(
                f"{title:10} {LABELS[work]:30} pgbench {plain.throughput:7,.0f}/s  API {served.throughput:7,.0f}/s"
                f"  {served.throughput / plain.throughput:.2f} {TIMES}  p95 {plain.p95_ms:.1f} / {served.p95_ms:.1f} ms"
            )
            if counts:
                self._tallies[work].pgbench.append(plain)
                self._tallies[work].api.append(served)
