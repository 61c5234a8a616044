"""The command line of `python -m benchmarks`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.works import Work

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for; see `--help`."""

    orders: int
    connections: int
    rounds: int
    seconds: float
    api_processes: int
    pool_size: int | None
    one_port: bool
    database_url: str | None
    against: str | None
    works: Sequence[Work]
    results: Path

    @property
    def ramp(self) -> float:
        """Seconds of each run that do not count: a tenth of those that do, at most one."""
        return min(self.seconds / 10, 1.0)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; ends the process with code 2 when they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pgbench, the API and an older build of it side by side on one PostgreSQL."
        " See benchmarks/README.md.",
    )
    parser.add_argument("--orders", type=_positive, default=20_000, help="sample orders in the table (default 20000)")
    parser.add_argument("--connections", type=_positive, default=32, help="requests in flight (default 32)")
    parser.add_argument("--rounds", type=_positive, default=5, help="counted rounds, after one warm-up (default 5)")
    parser.add_argument("--seconds", type=_duration, default=5.0, help="of each side in each round (default 5)")
    parser.add_argument(
        "--api-processes", type=_positive, default=os.cpu_count() or 1, help="default: the number of cores"
    )
    parser.add_argument("--pool-size", type=_positive, help="database connections per process (default: the API's own)")
    parser.add_argument(
        "--one-port",
        action="store_true",
        help="let the API's processes share a port, instead of dealing connections out evenly over one port each",
    )
    parser.add_argument(
        "--database-url",
        default=os.environ.get("DATABASE_URL"),
        help="server to make the database on (default DATABASE_URL, or else an embedded, durable PostgreSQL)",
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="commit of another build to measure beside this one, in a checkout and an environment of its own",
    )
    parser.add_argument(
        "--works", type=Work, nargs="+", choices=list(Work), default=list(Work), help="what to measure (default all)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the table, as Markdown and JSON")
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _duration(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 600:
        raise argparse.ArgumentTypeError("must be between 0.1 and 600")
    return number
