"""Rows of the audit trail verified a second: `python -m benchmarks.audit`."""

import argparse
import asyncio
import sys
import time
from statistics import median

from rich.console import Console

from app.database import Database
from app.services.workflow.audit import AuditService
from benchmarks import cpu, environment, pgbench, servers
from benchmarks.works import BenchmarkError
from devtools.seed import seed


async def verify(target: servers.Target, rounds: int) -> tuple[int, list[tuple[float, float, float]]]:
    """Return the rows of the trail and, per round, seconds on the clock, CPU seconds here and in PostgreSQL.

    Raises:
        BenchmarkError: the trail does not hold.
    """
    database = Database(target.settings(), "benchmark", pool_size=1)
    found = []
    rows = 0
    for number in range(rounds + 1):
        server = cpu.seconds_of(target.postmaster) if target.postmaster else 0.0
        own, wall = time.process_time(), time.perf_counter()
        report = await AuditService(database).verify()
        taken = time.perf_counter() - wall, time.process_time() - own
        if not report["ok"]:
            raise BenchmarkError(f"the audit trail does not hold: {report['fault']}")
        rows = report["rows"]
        if number:
            spent = cpu.seconds_of(target.postmaster) - server if target.postmaster else 0.0
            found.append((*taken, spent))
    await database.close()
    return rows, found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--orders", type=int, default=20_000, help="sample orders whose trail is verified")
    parser.add_argument("--database-url", help="server to make the database on; an embedded one without")
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with servers.target(chosen.database_url) as target:
            facts = environment.describe(target, pgbench.find())
            seed(target.settings(), chosen.orders, seed_value=1, on_progress=lambda _: None)
            target.settle()
            rows, found = asyncio.run(verify(target, chosen.rounds))
    except BenchmarkError as fault:
        console.print(f"✗ {fault}", markup=False)
        return 1
    wall, own, server = (median(taken[index] for taken in found) for index in range(3))
    console.print(
        f"Commit {facts['commit']}, PostgreSQL {facts['postgresql']}: {rows:,} rows, {rows / wall:,.0f} rows/s on the clock,"
        f" {rows / (own + server):,.0f} rows/s a core (CPU: {own / rows * 1e6:.1f} µs here, {server / rows * 1e6:.1f} µs in"
        " PostgreSQL, each row)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
