"""Running the whole system: in this process (`articurated up`), or beside it (the demo, the tests)."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import ROOT, get_settings
from app.local.data_folder import STATE_FILE, locked, make_data_dir
from app.local.process import EmbeddedError, Process, bound_log, read_state, spawn, stop, tail, write_state
from devtools.embedded.console import ConsoleReporter
from devtools.embedded.given import require_given_servers
from devtools.embedded.stack import STOP_ORDER, Stack, StackInfo, StackOptions
from devtools.embedded.supervisor import Supervisor

STOP_SECONDS = 120.0


def run_stack(options: StackOptions, on_ready: Callable[[StackInfo], None] = lambda _info: None) -> None:
    """Run the system until Ctrl-C or SIGTERM. Call it from the main thread.

    While it runs, `stack.json` in the data folder holds its addresses and current process ids.

    Args:
        options: what was chosen.
        on_ready: called once when every part works.

    Raises:
        EmbeddedError: the data folder or the port is in use, or a part could not be started.
        SettingsError: the configuration cannot be used.
    """
    settings = get_settings()
    with locked(options.data_dir) as lock:
        reporter = ConsoleReporter(options.data_dir / "logs" / "supervisor.log", quiet=options.json)
        for log in (options.data_dir / "logs").glob("*.log"):
            bound_log(log)
        require_given_servers(settings)
        stack = Stack(options, settings)
        stack.load()
        state_file = stack.data_dir / STATE_FILE

        def publish() -> None:
            write_state(state_file, {**stack.info().to_json(), "connection": stack.connection()})

        def ready() -> None:
            publish()
            reporter.ready(stack.info())
            on_ready(stack.info())

        supervisor = Supervisor(stack.children, reporter=reporter, stop_order=STOP_ORDER, lock=lock, on_change=publish)
        reporter.starting(stack.data_dir)
        try:
            supervisor.run(ready)
        except EmbeddedError as fault:
            reporter.fail(str(fault))
            raise
        finally:
            state_file.unlink(missing_ok=True)
        if supervisor.asked_at is not None:
            reporter.stopped(time.monotonic() - supervisor.asked_at)


class RunningStack:
    """A system that runs beside this process.

    Attributes:
        process: its supervisor.
    """

    def __init__(self, process: Process, first: StackInfo) -> None:
        self.process = process
        self._first = first

    @property
    def info(self) -> StackInfo:
        """Its addresses and process ids as of now: a healed part has new ones."""
        facts = read_state(Path(self._first.data_dir) / STATE_FILE)
        return StackInfo.from_json(facts) if facts else self._first

    def stop(self) -> int:
        """End it in order; gives its exit code."""
        return stop(self.process, signal.SIGTERM, STOP_SECONDS)


@contextmanager
def running_stack(options: StackOptions) -> Iterator[RunningStack]:
    """Run `articurated up --json` beside this process while the context lasts.

    It ends with this process, however that ends. Call it from the main thread.

    Raises:
        EmbeddedError: it did not become ready; the message holds what it said.
    """
    make_data_dir(options.data_dir)
    words = [
        "--data-dir",
        options.data_dir,
        "--workers",
        options.workers,
    ]
    if options.api_workers is not None:
        words += ["--api-workers", options.api_workers]
    if options.port is not None:
        words += ["--port", options.port]
    environment = {**os.environ, **options.environment}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "errors")
        process = spawn(
            [sys.executable, "-P", "-m", "app", "up", "--json", *map(str, words)],
            log=said,
            env=environment,
            pipe_output=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                raise EmbeddedError(f"the system did not start (exit code {process.wait()}):\n{tail(said, 30)}")
            yield RunningStack(process, StackInfo.from_json(json.loads(line)))
        finally:
            stop(process, signal.SIGTERM, STOP_SECONDS)
            if process.stdout:
                process.stdout.close()
