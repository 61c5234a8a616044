"""The API on a database of its own, as two processes that a test kills."""

import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from app.local.process import choose_port, session_pids, spawn, stop, tail
from devtools.embedded.stack import answers
from tests import databases
from tests.databases import TestServers
from tests.e2e.conftest import eventually

API_KEY = "dev-api-key"


@dataclass(frozen=True)
class Api:
    """The API on a database of its own: one process that starts two others, which answer, and heals them."""

    url: str
    database_url: str
    leader: int

    def workers(self) -> list[int]:
        """Return the processes that answer."""
        found = []
        for pid in session_pids(self.leader):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in command:
                found.append(pid)
        return found

    def kill(self, count: int) -> None:
        """Kill that many of them."""
        for pid in random.sample(pids := self.workers(), min(count, len(pids))):
            os.kill(pid, signal.SIGKILL)

    def await_moment(self, moment: str, asked: Sequence[Future[Any]]) -> None:
        """Wait until the database says that the moment has come, or all requests are answered."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            while not all(future.done() for future in asked):
                if connection.execute(f"SELECT {moment}".encode()).fetchall() == [(True,)]:
                    break

    def rows(self, sql: str) -> list[Any]:
        """Ask its database."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(sql.encode()).fetchall()


@contextmanager
def killed_api(servers: TestServers, folder: Path, slow_commits: str) -> Iterator[Api]:
    """Run the API while the block lasts.

    Args:
        slow_commits: SQL that makes commits slow, so that a kill hits one often.
    """
    # Tests that kill may run at the same time.
    name = f"{servers.template}_kills_{os.getpid()}"
    databases.create_database(servers, name, servers.template)
    with psycopg.connect(databases.url_of(servers.owner_url, name)) as owner:
        owner.execute(slow_commits.encode())
    port = choose_port()
    database_url = databases.url_of(servers.app_url, name)
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "REDIS_URL": servers.redis_url.rsplit("/", 1)[0] + "/14",
        "STORAGE_PATH": str(folder / "storage"),
        "RATE_LIMIT_PER_MINUTE": "0",
        "API_KEY": API_KEY,
    }
    log = folder / "api.log"
    command = ["-m", "app", "api", "--port", str(port), "--workers", "2"]
    process = spawn([sys.executable, *command], log=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        assert eventually("the API", lambda: answers(f"{url}/api/v1/health/live")), tail(log)
        yield Api(url, database_url, process.pid)
    finally:
        stop(process, signal.SIGTERM, 20)
        databases.drop_database(servers, name)
