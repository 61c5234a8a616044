"""What each read costs with few orders and with many: `python -m benchmarks.growth`."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx2
import psycopg
from rich.console import Console

from app.composition import Services
from app.config import Settings
from app.database import Database
from app.main import create_app
from app.services.operations.stats import StatsService
from benchmarks import growth_data, servers
from benchmarks.works import BenchmarkError

KEY = "growth-of-the-benchmark"
BOUND = 1.2
"""What the ratio of the medians of CPU time should not exceed."""
NOISE_MS = 0.5
"""A difference of less is not counted: tables of different size differ in what the caches of the CPU hold."""
READS = {
    "an order": "orders/{order}",
    "its history": "orders/{order}/history",
    "its possible transitions": "orders/{order}/transitions",
    "its refunds": "orders/{order}/refunds",
    "its notes": "orders/{order}/notes",
    "its corrections": "orders/{order}/corrections",
    "a return": "returns/{return}",
    "its history ": "returns/{return}/history",
    "orders": "orders",
    "orders, after a cursor": "orders?cursor={cursor}",
    "orders, offset 9000": "orders?offset=9000",
    "orders, with total": "orders?include_total=true",
    "orders of a frequent status": "orders?status=DELIVERED",
    "orders of three statuses": "orders?status=PAID&status=PENDING_PAYMENT&status=PROCESSING_IN_WAREHOUSE",
    "orders of a frequent status, with total": "orders?status=DELIVERED&include_total=true",
    "orders of a frequent status, offset 4000": "orders?status=DELIVERED&offset=4000",
    "orders of a customer": "orders?customer_id={customer}",
    "orders by number": "orders?order_number={number}",
    "orders of a month": "orders?created_from={from}&created_to={to}",
    "search: a whole number": "orders?q={number}",
    "search: the end of a number": "orders?q={end}",
    "search: a half-typed number, `ord-2`": "orders?q=ord-2",
    "search: a half-typed number, `ord-2026-0`": "orders?q=ord-2026-0",
    "search: a frequent name": "orders?q=elif",
    "search: two beginnings": "orders?q=elif+ber",
    "search: a rare name": "orders?q={rare}",
    "search: nothing": "orders?q=qqqq",
    "search: a frequent name, with total": "orders?q=elif&include_total=true",
    "returns": "returns",
    "returns of two statuses": "returns?status=REQUESTED&status=IN_TRANSIT",
    "returns, with total": "returns?include_total=true",
    "audit": "audit",
    "audit of orders": "audit?entity=ORDER",
    "audit of returns": "audit?entity=RETURN",
    "audit of an entity": "audit?entity_id={order}",
    "audit of an actor": "audit?actor={actor}",
    "audit of an actor's returns": "audit?actor={actor}&entity=RETURN",
    "audit of an actor's cancellations": "audit?actor={actor}&state=CANCELLED",
    "audit of a state": "audit?state=COMPLETED",
    "audit of a month": "audit?from={from}&to={to}",
    "audit, with total": "audit?include_total=true",
    "refused transitions": "audit?rejected=true&entity=RETURN",
    "refunds": "refunds",
    "refunds of a rare state": "refunds?state=FAILED",
    "notifications": "notifications",
    "notifications of a rare state": "notifications?state=FAILED",
    "notifications of a template": "notifications?template=order_shipped&state=FAILED",
    "notifications of an order": "notifications?order_id={order}",
    "dead jobs": "jobs/dead",
    "cases": "cases",
    "figures, first call": "stats",
}


@dataclass(slots=True)
class Side:
    """The API in this process, on one database.

    Attributes:
        database_url: of a login that sees the server's processes.
        taken: per read, the seconds of each request on the clock, and of CPU in PostgreSQL.
    """

    client: httpx2.AsyncClient
    services: Services
    database_url: str
    names: dict[str, str]
    taken: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    async def read(self, name: str, path: str) -> None:
        """Send one request and note what it took.

        Raises:
            BenchmarkError: it was not answered with 200.
        """
        if path == "stats":
            # As in a process that has just begun.
            self.services.stats = StatsService(self.services.database)
        before, started = self._cpu(), time.perf_counter()
        answer = await self.client.get(f"/api/v1/{path.format(**self.names)}")
        seconds = time.perf_counter() - started
        if answer.status_code != 200:
            raise BenchmarkError(f"{name}: {answer.status_code} {answer.text[:300]}")
        spent = {pid: used - before.get(pid, 0) for pid, used in self._cpu().items()}
        self.taken.setdefault(name, []).append((seconds, sum(spent.values()) / 1e9))

    def _cpu(self) -> dict[int, int]:
        """Return the CPU time of each server process of the API, in nanoseconds."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            ).fetchall()
        return {pid: int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for (pid,) in found}

    def median(self, name: str) -> tuple[float, float]:
        """Return the medians of a read: milliseconds on the clock, and of CPU in PostgreSQL."""
        taken = self.taken[name]
        return median(one for one, _ in taken) * 1000, median(cpu for _, cpu in taken) * 1000


@asynccontextmanager
async def side(database_url: str) -> AsyncIterator[Side]:
    """Yield the API on a database, and what to ask it for."""
    settings = Settings(
        _env_file=None,
        environment="testing",
        database_url=database_url,
        api_key=KEY,
        rate_limit_per_minute=0,
        log_level="ERROR",
    )
    database = Database(settings)
    services = Services(settings, database)
    transport = httpx2.ASGITransport(app=create_app(settings, services))
    async with httpx2.AsyncClient(transport=transport, base_url="http://growth", headers={"X-API-Key": KEY}) as client:
        found = Side(client, services, database_url, _names(database_url))
        page = await client.get("/api/v1/orders", params={"limit": 100})
        found.names["cursor"] = page.json()["pagination"]["next_cursor"]
        # As beat does each minute.
        await services.stats.refresh()
        yield found
    await services.health.close()
    await database.close()


def _names(database_url: str) -> dict[str, str]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        [row] = connection.execute("""
            SELECT r.order_id, r.id, o.customer_id, o.order_number, right(o.order_number, 6),
                (SELECT actor_id FROM state_history WHERE actor_id IS NOT NULL LIMIT 1),
                (SELECT split_part(lower(customer_name), ' ', 2) FROM orders WHERE customer_name ~ ' [A-Z][a-z]{9,}$' LIMIT 1)
            FROM return_requests r JOIN orders o ON o.id = r.order_id WHERE r.status = 'COMPLETED' LIMIT 1
        """).fetchall()
    names = ("order", "return", "customer", "number", "end", "actor", "rare")
    month = {"from": "2026-08-01T00:00:00Z", "to": "2026-09-01T00:00:00Z"}
    return {**dict(zip(names, map(str, row), strict=True)), **month}


async def compare(small: str, large: str, rounds: int) -> tuple[Side, Side]:
    """Send each read to both sides in turns; the first two of each do not count."""
    async with side(small) as few, side(large) as many:
        for name, path in READS.items():
            for number in range(rounds + 2):
                for each in (few, many):
                    await each.read(name, path)
                    if number < 2:
                        each.taken[name].clear()
    return few, many


def report(few: Side, many: Side) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| read | PostgreSQL, CPU | ratio | answer | ratio |"
    yield "|---|---|---|---|---|"
    for name in READS:
        (clock, cpu), (clock_many, cpu_many) = few.median(name), many.median(name)
        yield (
            f"| {name.strip()} | {cpu:.2f} / {cpu_many:.2f} ms | {cpu_many / cpu:.2f} |"
            f" {clock:.1f} / {clock_many:.1f} ms | {clock_many / clock:.2f} |"
        )


@contextmanager
def filled(server: str | None, given: str | None, orders: int, console: Console) -> Iterator[str]:
    """Yield a database with that many orders: the one given, or one that is made and taken away again.

    Raises:
        BenchmarkError: the login is no superuser, without whom the guards cannot be switched off.
    """
    if given is not None:
        yield given
        return
    with servers.target(server) as target:
        if target.superuser_url is None:
            raise BenchmarkError("the login is no superuser: name a database that is filled, with --few and --many")
        with psycopg.connect(target.superuser_url, autocommit=True) as connection:
            growth_data.fill(connection, orders, lambda done: console.print(f"{done:,} of {orders:,} orders", end="\r"))
        target.settle()
        yield target.superuser_url


def main() -> int:
    """Measure and print; 1 when a read costs more with many orders than `BOUND` times what it costs with few."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--orders", type=int, nargs=2, default=(10_000, 1_000_000), help="of the two databases")
    parser.add_argument("--database-url", help="server to make the databases on; embedded ones without")
    parser.add_argument("--few", help="URL of a database that is filled")
    parser.add_argument("--many", help="URL of a database that is filled")
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            few_url, many_url = (
                stack.enter_context(filled(chosen.database_url, given, orders, console))
                for given, orders in zip((chosen.few, chosen.many), chosen.orders, strict=True)
            )
            few, many = asyncio.run(compare(few_url, many_url, chosen.rounds))
    except BenchmarkError as fault:
        console.print(f"✗ {fault}", markup=False)
        return 1
    for line in report(few, many):
        console.print(line, markup=False)
    costs = {name: (few.median(name)[1], many.median(name)[1]) for name in READS}
    growing = [name for name, (less, more) in costs.items() if more > max(BOUND * less, less + NOISE_MS)]
    if growing:
        console.print(f"✗ more than {BOUND} times: {', '.join(growing)}", markup=False)
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
