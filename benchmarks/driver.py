"""psycopg 3 beside asyncpg, under the same SQLAlchemy statements: `python -m benchmarks.driver`.

In this process, without HTTP: what differs between the two columns is the driver alone. The project uses psycopg
everywhere (docs/adr); asyncpg comes with the development tools, for this comparison.
"""

import argparse
import asyncio
import importlib.util
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from uuid import UUID, uuid4

import uvloop
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import ActorType, OrderStatus, Role, Trigger
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.services.orders.service import OrderService
from benchmarks import environment, pgbench, servers
from benchmarks.pools import Pools
from benchmarks.works import SHIPMENT, STEPS, BenchmarkError, Pool, order_id

ORDERS = 400
"""Orders walked in a round; a round reads as many times as it walks steps."""
ACTOR = Actor(id=uuid4(), type=ActorType.USER, trigger=Trigger.API_CALL, role=Role.ADMIN, ip_address="127.0.0.1")


class AsyncpgDatabase(Database):
    """The application's database with the other driver below it, its sessions set up in the same way."""

    def __init__(self, settings: Settings, pool_size: int) -> None:
        super().__init__(settings, pool_size=pool_size)  # its engine connects when it is first used: never
        self.engine = create_async_engine(
            make_url(settings.database_url).set(drivername="postgresql+asyncpg"),
            pool_size=pool_size,
            max_overflow=0,
            connect_args={"server_settings": {"role": settings.database_role, "timezone": "UTC"}},
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")


@dataclass(frozen=True, slots=True)
class Pass:
    """One driver in one round: operations a second, and microseconds of this process's CPU for each."""

    transitions: float
    transition_cpu: float
    reads: float
    read_cpu: float


async def _timed(count: int, operations: list[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    """Carry out operations all at once (the pool bounds them); return (count a second, CPU µs for each)."""
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(operation() for operation in operations))
    return count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6


async def _measure(database: Database, orders: list[UUID]) -> Pass:
    service = OrderService(database)
    updates = [
        OrderStateUpdate(new_state=OrderStatus(state), **(SHIPMENT if state == "SHIPPED" else {})) for state in STEPS
    ]

    def walk(wanted: UUID) -> Callable[[], Awaitable[object]]:
        async def steps() -> None:
            for update in updates:
                await service.transition(wanted, update, ACTOR)

        return steps

    def read(wanted: UUID) -> Callable[[], Awaitable[object]]:
        return lambda: service.get(wanted, ACTOR)

    count = len(orders) * len(STEPS)
    transitions = await _timed(count, [walk(wanted) for wanted in orders])
    reads = await _timed(count, [read(wanted) for wanted in random.choices(orders, k=count)])
    return Pass(*transitions, *reads)


async def compare(
    target: servers.Target, rounds: int, connections: int, orders: int, say: Callable[[str], None]
) -> dict[str, list[Pass]]:
    """Return what each installed driver did in each round, the warm-up left out."""
    settings = target.settings()
    databases: dict[str, Database] = {"psycopg": Database(settings, "benchmark", connections)}
    if importlib.util.find_spec("asyncpg"):
        databases["asyncpg"] = AsyncpgDatabase(settings, connections)
    pools = Pools(target.app_url, settings.database_role)
    starts = {name: pools.extend(Pool.API, orders * (rounds + 1)) for name in databases}
    target.settle()
    found: dict[str, list[Pass]] = {name: [] for name in databases}
    for number in range(rounds + 1):
        for name, database in databases.items():
            first = starts[name] + number * orders
            done = await _measure(database, [UUID(order_id(Pool.API, index)) for index in range(first, first + orders)])
            title = f"round {number}/{rounds}" if number else "warm-up"
            say(
                f"{title:10} {name:8} transitions {done.transitions:6,.0f}/s {done.transition_cpu:5,.0f} µs"
                f"  reads {done.reads:6,.0f}/s {done.read_cpu:5,.0f} µs"
            )
            if number:
                found[name].append(done)
    for database in databases.values():
        await database.close()
    return found


def table(found: dict[str, list[Pass]]) -> str:
    """Return the medians as Markdown; the last line is the median of the rounds' ratios, asyncpg to psycopg."""
    columns = ("transitions", "transition_cpu", "reads", "read_cpu")
    lines = [
        "| driver | transitions /s | client CPU of one | reads /s | client CPU of one |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in found.items():
        a, b, c, d = (median(getattr(done, column) for done in rounds) for column in columns)
        lines.append(f"| {name} | {a:,.0f} | {b:,.0f} µs | {c:,.0f} | {d:,.0f} µs |")
    if len(found) == 2:
        pairs = list(zip(found["psycopg"], found["asyncpg"], strict=True))
        ratios = [median(getattr(b, column) / getattr(a, column) for a, b in pairs) for column in columns]
        lines.append("| asyncpg ÷ psycopg | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    else:
        lines.append("\nasyncpg is not installed: psycopg was measured alone.")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--database-url", help="server to make the database on; an embedded one without")
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with servers.target(chosen.database_url) as target:
            facts = environment.describe(target, pgbench.find())
            found = uvloop.run(compare(target, chosen.rounds, chosen.connections, chosen.orders, console.print))
    except BenchmarkError as fault:
        console.print(f"✗ {fault}", markup=False)
        return 1
    console.print(f"\nCommit {facts['commit']}, PostgreSQL {facts['postgresql']}, {chosen.connections} connections\n")
    console.print(table(found), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
