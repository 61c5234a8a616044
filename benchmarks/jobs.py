"""Jobs from the row to the end, by relay, broker and worker processes: `python -m benchmarks.jobs`.

Everything is as in production, each part a process of its own: durable PostgreSQL, Valkey, relay, one worker with child
processes, and a mail server that takes every mail and does nothing with it. Three things are measured:

    pickup    a job alone: from its commit until a worker begins it, by the clock of the database
    mails     so many jobs at once, each a mail of its own order
    invoices  so many jobs at once, each numbered, drawn, stored and recorded
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

import psycopg
from rich.console import Console

from app.database import Database
from app.local.process import Process, choose_port, spawn, stop, tail, wait_until
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from benchmarks import cpu, servers
from benchmarks.pools import Pools
from benchmarks.works import BenchmarkError, Pool, id_prefix
from devtools.embedded.broker import EmbeddedValkey
from devtools.seed import seed

START_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
IDLE_SECONDS = 10.0

_MAILS = """
INSERT INTO jobs (kind, queue, entity_id, dedupe_key)
SELECT 'notify.order_shipped', 'notifications', (%(prefix)s || lpad(to_hex(n), 12, '0'))::uuid, 'benchmark:' || n
FROM generate_series(%(start)s::bigint, %(stop)s::bigint - 1) AS n RETURNING id
"""
_INVOICES = """
INSERT INTO jobs (kind, queue, entity_id, dedupe_key, payload)
SELECT 'invoice.issue', 'invoices', o.id, 'benchmark:' || o.id, '{"mail": false}' FROM orders o
WHERE o.status IN ('SHIPPED', 'DELIVERED') AND NOT EXISTS (SELECT FROM jobs j WHERE j.dedupe_key = 'benchmark:' || o.id)
ORDER BY o.id LIMIT %(count)s RETURNING id
"""
_OPEN = "SELECT count(*) FROM jobs WHERE id = ANY(%(ids)s) AND state NOT IN ('SUCCEEDED', 'DEAD')"
_WAITED = "SELECT extract(epoch FROM started_at - created_at)::float8 FROM jobs WHERE dedupe_key = %s"
_OUTCOME = """
SELECT count(*) FILTER (WHERE state = 'SUCCEEDED' AND failures = 0), extract(epoch FROM max(finished_at) - %(since)s)
FROM jobs WHERE id = ANY(%(ids)s)
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that became due together: how many a second, and the CPU seconds of each job by part."""

    rate: float
    spent: Mapping[str, float]


class Parts:
    """The processes under measurement, by name: the worker's children apart from their parent."""

    def __init__(self, postmaster: int | None, valkey: int | None, relay: int, worker: int) -> None:
        self._roots = {"PostgreSQL": postmaster, "broker": valkey, "relay": relay}
        self._worker = worker

    def seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each part so far."""
        spent = {name: cpu.seconds_of(pid) for name, pid in self._roots.items() if pid is not None}
        whole = cpu.seconds_of(self._worker)
        children = sum(cpu.seconds_of(pid) for pid in cpu.tree(self._worker)[1:])
        return {**spent, "children": children, "worker's parent": whole - children}


class Run:
    """One database with its jobs, and the processes that do them."""

    def __init__(self, target: servers.Target, parts: Parts, pools: Pools) -> None:
        self._target = target
        self._parts = parts
        self._pools = pools
        role = target.settings().database_role
        self._connection = psycopg.connect(target.app_url, autocommit=True, options=f"-c role={role}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def idle_relay(self) -> float:
        """Return the share of a core that the relay takes while there is nothing to do."""
        time.sleep(2)
        before = self._parts.seconds()["relay"]
        time.sleep(IDLE_SECONDS)
        return (self._parts.seconds()["relay"] - before) / IDLE_SECONDS

    def pickups(self, count: int) -> list[float]:
        """Return how many seconds each of `count` lone jobs waited for a worker."""
        waited = []
        with asyncio.Runner() as loop:
            database = Database(self._target.settings(), "articurated-benchmark", pool_size=2, hints=True)
            for _ in range(count):
                waited.append(self._picked_up(loop, database))
                # At no fixed distance, which could keep step with what asks at fixed intervals.
                time.sleep(random.uniform(0.05, 0.15))
            loop.run(database.close())
        return waited

    def _picked_up(self, loop: asyncio.Runner, database: Database) -> float:
        start = self._pools.extend(Pool.READ, 1)
        order_id = UUID(f"{id_prefix(Pool.READ)}{start:012x}")
        key = f"benchmark:{start}"
        time.sleep(0.05)

        async def due() -> None:
            async with database.transaction() as session:
                await job_service.add(session, JobKind.NOTIFY_ORDER_SHIPPED, order_id, key)
            if database.job_hint is not None:
                await database.job_hint.sent()

        loop.run(due())
        row = self._connection.execute("SELECT id FROM jobs WHERE dedupe_key = %s", [key]).fetchone()
        self._await([row[0] if row else None], 0.02)
        row = self._connection.execute(_WAITED.encode(), [key]).fetchone()
        return float(row[0]) if row else 0.0

    def mails(self, count: int) -> Batch:
        """Return how fast `count` mails are sent that become due at once."""
        return self._batch(lambda: self._mails(count))

    def invoices(self, count: int) -> Batch:
        """Return how fast `count` invoices are issued that become due at once."""
        return self._batch(lambda: self._ids(_INVOICES, {"count": count}))

    def _mails(self, count: int) -> list[Any]:
        start = self._pools.extend(Pool.READ, count)
        return self._ids(_MAILS, {"prefix": id_prefix(Pool.READ), "start": start, "stop": start + count})

    def _ids(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        return [row[0] for row in self._connection.execute(statement.encode(), values).fetchall()]

    def _batch(self, make_due: Any) -> Batch:
        before = self._parts.seconds()
        job_ids = make_due()
        since = self._now()
        self._await(job_ids, 0.1)
        after = self._parts.seconds()
        row = self._connection.execute(_OUTCOME.encode(), {"ids": job_ids, "since": since}).fetchone()
        if row is None or row[0] != len(job_ids) or not job_ids:
            raise BenchmarkError(f"of {len(job_ids)} jobs only {row[0] if row else 0} succeeded at once")
        spent = {name: (after[name] - before[name]) / len(job_ids) for name in after}
        return Batch(len(job_ids) / float(row[1]), spent)

    def _now(self) -> Any:
        row = self._connection.execute("SELECT now()").fetchone()
        return row[0] if row else None

    def _await(self, job_ids: Sequence[Any], pause: float) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (row := self._connection.execute(_OPEN.encode(), {"ids": list(job_ids)}).fetchone()) and row[0]:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{row[0]} jobs were not done in time")
            time.sleep(pause)


@contextmanager
def running(target: servers.Target, children: int, orders: int) -> Iterator[Run]:
    """Run broker, mail server, relay and a worker over a database with sample orders.

    Raises:
        BenchmarkError: one did not start.
    """
    with ExitStack() as stack:
        seed(target.settings(), orders, seed_value=7, on_progress=lambda _done: None)
        target.settle()
        valkey = EmbeddedValkey(target.folder)
        stack.callback(valkey.stop)
        valkey.start()
        port = choose_port()
        sink = _spawn(stack, target, "sink", ["-m", "benchmarks.mail_sink", str(port)], {})
        more = {
            "REDIS_URL": valkey.url,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(port),
            "OPERATIONS_EMAIL": "operations@example.com",
            "LOG_LEVEL": "INFO",
        }
        relay = _spawn(stack, target, "relay", ["-m", "app", "relay"], more)
        worker = _spawn(stack, target, "worker", ["-m", "app", "worker", "--concurrency", str(children)], more)
        for name, process in (("relay", relay), ("worker", worker)):
            _await_ready(target, name, process)
        if sink.poll() is not None:
            raise BenchmarkError("the mail server ended")
        parts = Parts(target.postmaster, valkey.pid, relay.pid, worker.pid)
        run = Run(target, parts, Pools(target.app_url, target.settings().database_role))
        stack.callback(run.close)
        yield run


def _spawn(
    stack: ExitStack, target: servers.Target, name: str, words: Sequence[str], more: Mapping[str, str]
) -> Process:
    process = spawn(
        [sys.executable, "-P", *words],
        log=target.folder / f"{name}.log",
        env=servers.environment_of(target, {**more, "READY_FILE": str(target.folder / f"{name}.ready")}),
        cwd=target.folder,
    )
    stack.callback(stop, process, signal.SIGTERM, 30)
    return process


def _await_ready(target: servers.Target, name: str, process: Process) -> None:
    ready = Path(target.folder, f"{name}.ready")
    if not wait_until(ready.exists, seconds=START_SECONDS, alive=lambda: process.poll() is None):
        raise BenchmarkError(f"the {name} did not start:\n{tail(target.folder / f'{name}.log')}")


def _row(name: str, unit: str, batches: Sequence[Batch]) -> str:
    rate = median(batch.rate for batch in batches)
    spent = {part: median(batch.spent[part] for batch in batches) * 1000 for part in batches[0].spent}
    shown = " | ".join(f"{spent.get(part, 0.0):.1f}" for part in _SHOWN)
    return f"| {name} | {rate:.0f} {unit} | {shown} | {sum(spent.values()):.1f} |"


_SHOWN = ("children", "worker's parent", "relay", "PostgreSQL", "broker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of mails and invoices, after one warm-up")
    parser.add_argument("--mails", type=int, default=400, help="jobs of a round that send a mail")
    parser.add_argument("--invoices", type=int, default=100, help="jobs of a round that issue an invoice")
    parser.add_argument("--pickups", type=int, default=60, help="lone jobs")
    parser.add_argument("--children", type=int, default=2, help="worker processes")
    parser.add_argument("--database-url", help="server to make the database on (default: an embedded PostgreSQL)")
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    orders = max(200, 4 * chosen.invoices * (chosen.rounds + 1))
    with servers.target(chosen.database_url) as target, running(target, chosen.children, orders) as run:
        mails, invoices = [], []
        for _ in range(chosen.rounds + 1):
            mails.append(run.mails(chosen.mails))
            invoices.append(run.invoices(chosen.invoices))
        idle = run.idle_relay()
        waited = sorted(run.pickups(chosen.pickups))
    percentiles = quantiles(waited, n=100)
    console.print(f"| work | rate | {' | '.join(f'{part}, ms' for part in _SHOWN)} | CPU of one, ms |", markup=False)
    console.print("|---" * (len(_SHOWN) + 3) + "|", markup=False)
    console.print(_row("mails", "a second", mails[1:]), markup=False)
    console.print(_row("invoices", "a second", invoices[1:]), markup=False)
    console.print(
        f"\npickup of a lone job: p50 {percentiles[49] * 1000:.0f} ms, p95 {percentiles[94] * 1000:.0f} ms;"
        f" idle relay {idle:.2%} of a core"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
