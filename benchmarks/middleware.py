"""What everything around a route costs: `python -m benchmarks.middleware`.

The same route with and without the layers around it, called in this process, without sockets and without a
database; so what differs is the layers alone. The route does next to nothing, so the figures are microseconds and no ratio: divide
by the API's CPU in the big table to see what a real request pays. Logs go to a file that is thrown away, metrics are on.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import MutableMapping
from statistics import median
from typing import Any

import uvloop
from fastapi import FastAPI
from rich.console import Console
from starlette.types import ASGIApp

from app.api.http import errors
from app.api.http.middleware import HttpMiddleware
from app.api.v1 import health
from app.composition import Services
from app.config import Settings
from app.core.logging import configure_logging
from app.database import Database
from app.main import create_app

PATH = "/api/v1/health/live"


def _scope(app: ASGIApp) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
        "app": app,
    }


async def _receive() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def cost_of(app: ASGIApp, requests: int) -> float:
    """Return the CPU microseconds of one request.

    Raises:
        RuntimeError: an answer was not 200.
    """
    statuses: set[int] = set()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    began = time.process_time()
    for _ in range(requests):
        await app(_scope(app), _receive, send)
    spent = time.process_time() - began
    if statuses != {200}:
        raise RuntimeError(f"answers were {statuses}")
    return spent / requests * 1e6


async def compare(rounds: int, requests: int) -> dict[str, list[float]]:
    """Return, per stack of layers and round, the CPU microseconds of one request."""
    settings = Settings(_env_file=None, environment="testing")
    bare = FastAPI(routes=list(health.router.routes))
    bare.state.services = Services(settings, Database(settings, "benchmark"))
    floored = FastAPI(routes=list(health.router.routes))
    floored.state.services = bare.state.services
    floored.add_middleware(HttpMiddleware, production=False)
    errors.install(floored)
    stacks: dict[str, ASGIApp] = {
        "bare route": bare,
        "with the middleware": floored,
        "the whole application": create_app(settings, bare.state.services),
    }
    found: dict[str, list[float]] = {name: [] for name in stacks}
    for number in range(rounds + 1):
        for name, app in stacks.items():
            cost = await cost_of(app, requests)
            if number:
                found[name].append(cost)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.middleware", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=3000, help="of each stack in a round")
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryFile("w", encoding="utf-8") as log:
        # DEBUG: the probed route used here logs at that level, and every other one does log.
        configure_logging(Settings(_env_file=None, environment="testing", log_level="DEBUG"), log)
        found = uvloop.run(compare(chosen.rounds, chosen.requests))
    console.print("| layers | CPU of a request | added |\n|---|---|---|", markup=False)
    base = found["bare route"]
    for name, costs in found.items():
        added = median(cost - bare for cost, bare in zip(costs, base, strict=True))
        console.print(f"| {name} | {median(costs):.0f} µs | {added:.0f} µs |", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
