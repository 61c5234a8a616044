"""Memory of the Python processes of a whole system, after equal loads: how much each takes, and whether it grows.

`python -m benchmarks.memory` starts `articurated up` over a folder of its own, sends orders through their lives, waits
for their jobs, and reads the proportional set size (PSS) of each process from Linux. With `--beside CHECKOUT` the same
is done with another checkout, and the sums are compared.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psycopg

from app.config import ROOT
from app.local.process import spawn, stop, tail
from benchmarks import cpu

STEPS = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
REQUESTS_AN_ORDER = 10
CONNECTIONS = 16
DRAIN_SECONDS = 1800.0
SETTLE_SECONDS = 6.0
"""After the last job: heartbeats and sweeps have had their turn."""


@dataclass
class System:
    """A running system: its supervisor, and the line that it printed."""

    pid: int
    info: dict[str, Any]
    samples: list[dict[str, float]] = field(default_factory=list)

    def pss(self) -> dict[str, float]:
        """Return part → PSS of its Python processes in MiB; see `part_of`."""
        found: dict[str, float] = defaultdict(float)
        for pid in cpu.tree(self.pid):
            if (part := part_of(pid)) is not None:
                found[part] += pss_of(pid)
        return dict(sorted(found.items()))


def part_of(pid: int) -> str | None:
    """Return what a Python process of a system does; None for other processes."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
        program = Path(f"/proc/{pid}/exe").resolve().name
    except OSError:
        return None
    if not program.startswith("python"):
        return None
    text = " ".join(words)
    for marker, part in (("_tracker", "helpers"), ("janitor", "helpers"), (" up ", "supervisor"), ("mail_", "mail")):
        if marker in text:
            return part
    # A program of its own (`python -m app relay`), or a copy of the supervisor (`articurated relay of FOLDER`).
    part = words[words.index("app") + 1] if "app" in words else words[1]
    if part == "worker" and part_of(cpu.parent_of(pid)) == "worker":
        return "worker children"
    return part


def pss_of(pid: int) -> float:
    """Return the proportional set size of a process in MiB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


@contextmanager
def system(checkout: Path, words: list[str]) -> Iterator[System]:
    """Run `articurated up` of a checkout over an empty folder while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        log = Path(folder, "up.log")
        environment = {**os.environ, "PYTHONPATH": str(checkout), "RATE_LIMIT_PER_MINUTE": "0"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [checkout / ".venv/bin/python", "-P", "-m", "app", "up", "--json", "--port", "0"]
        process = spawn(
            [*map(str, command), "--data-dir", f"{folder}/data", *words],
            log=log,
            env=environment,
            cwd=Path(folder),
            pipe_output=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                sys.exit(f"{checkout} did not start:\n{tail(log)}")
            yield System(process.pid, orjson.loads(line))
        finally:
            stop(process, signal.SIGTERM, 120)
            if process.stdout:
                process.stdout.close()


class _Client:
    """One keep-alive connection to the API."""

    def __init__(self, info: dict[str, Any]) -> None:
        self._port = urlsplit(info["api"]).port
        self._key = info["api_key"]

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        data = b"" if body is None else orjson.dumps(body)
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {self._key}\r\n"
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + data)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        text = await self._reader.readexactly(length)
        if not answer.startswith((b"http/1.1 200", b"http/1.1 201")):
            sys.exit(f"{method} {path}: {answer[:20]!r} {text[:500]!r}")
        return orjson.loads(text)

    async def life(self) -> None:
        """Place an order, bring it to its end, look at it in between: `REQUESTS_AN_ORDER` requests, two jobs or more."""
        path = f"/orders/{(await self.ask('POST', '/orders', _cart()))['id']}"
        for state in STEPS:
            await self.ask("PATCH", f"{path}/state", {"new_state": state})
            await self.ask("GET", path)
        await self.ask("GET", "/orders?status=DELIVERED&limit=20")


def _cart() -> dict[str, Any]:
    customer = uuid4()
    line = {"product_id": "cer-cel-032", "product_name": "Celadon vase, 32 cm", "unit_price": 480, "tax_rate": 0.2}
    address = {"street": "4 Quai des Orfèvres", "city": "Paris", "postal_code": "75001", "country": "FR"}
    return {
        "customer_id": str(customer),
        "customer_email": f"load+{customer.hex[-8:]}@example.com",
        "currency": "EUR",
        "payment_method": "credit_card",
        "payment_token": "tok_visa",
        "shipping_amount": 14.5,
        "shipping_address": address,
        "line_items": [{**line, "quantity": 1}],
    }


async def load(info: dict[str, Any], orders: int) -> None:
    """Send `orders` orders through their lives, on `CONNECTIONS` connections."""
    left = iter(range(orders))

    async def work() -> None:
        client = _Client(info)
        await client.open()
        for _ in left:
            await client.life()

    await asyncio.gather(*(work() for _ in range(min(CONNECTIONS, orders))))


def drain(info: dict[str, Any]) -> int:
    """Wait until no job is left to do; return how many are done."""
    with psycopg.connect(info["database_url"], autocommit=True) as connection:
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT count(*) FILTER (WHERE state IN ('PENDING', 'PUBLISHED', 'RUNNING') AND run_at <= now()),"
                " count(*) FILTER (WHERE state = 'SUCCEEDED') FROM jobs"
            ).fetchone()
            if row is not None and not row[0]:
                time.sleep(SETTLE_SECONDS)
                return int(row[1])
            time.sleep(1)
    sys.exit("jobs are left after the longest wait")


def measure(checkout: Path, words: list[str], orders: int, rounds: int) -> System:
    """Run a system through `rounds` equal loads; return it with a sample of its memory after each."""
    with system(checkout, words) as running:
        print(f"{checkout.name}: at start {_line(running.pss())}", flush=True)
        for number in range(1, rounds + 1):
            asyncio.run(load(running.info, orders))
            done = drain(running.info)
            running.samples.append(running.pss())
            requests = number * orders * REQUESTS_AN_ORDER
            print(f"{checkout.name}: {requests:,} requests, {done:,} jobs: {_line(running.samples[-1])}", flush=True)
        return running


def _line(sample: dict[str, float]) -> str:
    return f"{sum(sample.values()):.0f} MiB = " + ", ".join(f"{part} {size:.0f}" for part, size in sample.items())


def slope(samples: list[dict[str, float]], orders: int) -> float:
    """Return by how many MiB the sum grows in 100,000 requests: least squares over the second half of the samples."""
    points = [
        (number * orders * REQUESTS_AN_ORDER / 100_000, sum(each.values())) for number, each in enumerate(samples)
    ]
    points = points[len(points) // 2 :]
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    over = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / over if over else 0.0


def main() -> None:
    """Measure what the options say, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout, with an environment of its own")
    parser.add_argument("--orders", type=int, default=300, help="orders in a round; each is ten requests")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of the same load, with a sample after each")
    parser.add_argument("--api-workers", type=int, help="API processes on both sides; by default as `up` chooses")
    options = parser.parse_args()
    words = ["--api-workers", str(options.api_workers)] if options.api_workers else []
    found = [
        measure(checkout.resolve(), words, options.orders, options.rounds)
        for checkout in filter(None, (options.beside, ROOT))
    ]
    for each in found:
        if len(each.samples) > 3:
            print(f"growth in 100,000 requests: {slope(each.samples, options.orders):+.1f} MiB")
    if options.beside:
        ends = [sum(each.samples[-1].values()) for each in found]
        print(f"ratio: {ends[1] / ends[0]:.2f}")


if __name__ == "__main__":
    main()
