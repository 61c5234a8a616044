"""Serving the API: as several processes on one socket, or as one of those that `articurated up` supervises."""

import os
import resource
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

GO = signal.SIGUSR1
"""Has a spare process serve."""
HEALTHCHECK_SECONDS = 30
"""How long a process may be too busy to answer its parent before it counts as hung."""

OTHER_FILES = 200
"""Files that a process has open beside its connections, at most: database, Redis, uploads, documents, logs."""


class _MarkingServer(uvicorn.Server):
    """A server that makes a file once it serves."""

    def __init__(self, config: uvicorn.Config, mark: Path | None) -> None:
        super().__init__(config)
        self._mark = mark

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self._mark is not None and self.started:
            self._mark.touch()


class _Parent(Multiprocess):
    """A parent that learns at once that a process has ended.

    It waits for the answer of each process at one end of a pipe. While it holds the other end too, the end of the
    process does not end the wait, which then takes `HEALTHCHECK_SECONDS`.
    """

    def keep_subprocess_alive(self) -> None:
        """Replace a process that has ended, or stop where it could not begin."""
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def room_for_connections(wanted: int) -> int:
    """Return how many connections a process can hold, at most `wanted`.

    Each takes an open file. Systems give a process 1,024 of them and let it ask for more, which this does.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if limit != resource.RLIM_INFINITY and limit < needed:
        limit = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, max(limit - OTHER_FILES, 1))


def serve(options: dict[str, Any], workers: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        options: of `uvicorn.Config`; the application's name is among them.
        workers: processes; one that ends is replaced.

    Raises:
        SystemExit: it could not begin.
    """
    config = uvicorn.Config(**options, workers=workers, timeout_worker_healthcheck=HEALTHCHECK_SECONDS)
    if workers == 1:
        server = uvicorn.Server(config)
        server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)
        return
    with ExitStack() as cleanup:
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="articurated-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        parent = _Parent(config, sockets=[config.bind_socket()])
        parent.run()
        if any(process.exitcode == STARTUP_FAILURE for process in parent.processes):
            sys.exit(STARTUP_FAILURE)


def serve_inherited(options: dict[str, Any], descriptor: int, *, spare: bool) -> None:
    """Serve as one process on a listening socket that is open already, until SIGTERM or SIGINT.

    The file that READY_FILE names is made when the code is loaded, and beside it one with the suffix `.serving` when
    the process serves.

    Args:
        options: of `uvicorn.Config`.
        descriptor: of the listening socket.
        spare: wait, loaded, for `GO` before serving.

    Raises:
        SystemExit: it could not begin.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {GO})
    config = uvicorn.Config(**options)
    config.load()
    name = os.environ.get("READY_FILE")
    if name:
        Path(name).touch()
    if spare:
        signal.sigwait({GO})
    server = _MarkingServer(config, Path(name).with_suffix(".serving") if name else None)
    server.run(sockets=[socket.socket(fileno=descriptor)])
    if not server.started:
        sys.exit(STARTUP_FAILURE)
