"""Processes that begin as a copy of the supervisor, which has loaded the code already (Linux).

Loading the application takes a process about a second of CPU and 90 MiB. A copy made by `fork` shares the memory with
the supervisor until one of the two writes to it, and begins to work at once. Nothing may be open or running in the
supervisor that two processes cannot share: it has one thread at the moment of the copy, no connection and no event loop.
"""

import atexit
import ctypes
import gc
import importlib
import os
import runpy
import signal
import subprocess  # nosec B404
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from app.config import get_settings
from app.local.guard import die_with_parent

PRELOADED = (
    "app.main",
    "app.api_server",
    "app.api.http.protocol",
    "app.tasks.worker_process",
    "app.tasks.job_tasks",
    "app.tasks.scheduled_tasks",
    "app.tasks.relay",
    "app.tasks.beat",
    "app.tasks.processes",
    "app.cli.main",
    "app.core.exposition",
    "app.backup.schedule",
    "app.utils.invoice_generator",
    "app.services.notifications.rendering",
    "devtools.mock_gateway.main",
    "devtools.embedded.mailbox_app",
    "aiosmtpd.smtp",
    "alembic.command",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.components",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "redis.asyncio",
    "psycopg_pool",
    "sqlalchemy.dialects.postgresql.psycopg",
    "uvicorn.lifespan.on",
    "uvloop",
)
"""What most parts need, and what the largest of them do."""
_PR_SET_NAME = 15


class ForkedProcess:
    """A copy of this process that runs a module, with the methods of `subprocess.Popen` that a supervisor needs.

    Attributes:
        pid: its process id, and that of its session and group.
        returncode: how it ended, as `Popen` has it; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        if self.returncode is None:
            self._take(os.WNOHANG)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return how it ended.

        Raises:
            TimeoutExpired: it did not end within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is None:
                self._take(0)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            else:
                time.sleep(0.01)
        return self.returncode or 0

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _take(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:  # Somebody else has waited for it: how it ended is lost, as in Popen.
            pid, status = self.pid, 0
        if pid == self.pid:
            self.returncode = os.waitstatus_to_exitcode(status)


def is_available() -> bool:
    """Whether processes can begin as copies: on Linux, where libraries allow for it."""
    return sys.platform == "linux"


class Preload:
    """Loads what the parts need, in a thread that ends before the first copy.

    Args:
        counts: folder in which processes add up their counts. Whether they do is decided when the library is loaded.
    """

    def __init__(self, counts: Path) -> None:
        self._fault: Exception | None = None
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(counts)
        # Read by Celery when it is loaded; see `app.tasks.processes.run_worker`.
        os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when everything is loaded.

        Raises:
            Exception: what a module raised.
        """
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _load(self) -> None:
        gc.disable()
        try:
            for name in PRELOADED:
                importlib.import_module(name)
        except Exception as fault:  # noqa: BLE001 - the one who waits gets it
            self._fault = fault
        finally:
            gc.enable()


def fork(
    words: Sequence[str],
    *,
    title: str,
    log: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    forget: Callable[[], None] = lambda: None,
) -> ForkedProcess:
    """Run a module in a copy of this process, in a session of its own that ends with this process.

    Call it from the main thread, while there is no other.

    Args:
        words: the module, as after `python -m`, and its arguments.
        title: what `ps` shows, as far as there is room.
        log: file that gets standard output and error, appended to.
        environment: the whole environment.
        pass_fds: open files that the copy keeps.
        forget: called in the copy first; it drops what the part is not to know.

    Raises:
        OSError: the system has no process to spare, or the log cannot be opened.
    """
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # A collection moves objects between generations, which would copy every page.
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A signal between here and the copy's own handlers must not run those of the supervisor.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _run(words, title, output, environment, pass_fds, parent, forget)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        os.close(output)
    return ForkedProcess(pid)


def _run(
    words: Sequence[str],
    title: str,
    output: int,
    environment: Mapping[str, str],
    pass_fds: Sequence[int],
    parent: int,
    forget: Callable[[], None],
) -> NoReturn:
    """Become the part; what is on the stack belongs to the supervisor, so this never returns."""
    status = 1
    try:
        atexit._clear()  # noqa: SLF001 - the functions are the supervisor's
        forget()
        os.setsid()
        die_with_parent(parent, signal.SIGTERM)
        os.umask(0o077)
        _keep_files(output, pass_fds)
        _reset_signals()
        os.environ.clear()
        os.environ.update(environment)
        get_settings.cache_clear()
        _show_as(title)
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
    _end(status)


def _keep_files(output: int, pass_fds: Sequence[int]) -> None:
    """Take standard input from nowhere, write to the log, and close all files but those to keep."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in pass_fds:
            with suppress(OSError):
                os.close(number)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(line_buffering=True, write_through=True)


def _reset_signals() -> None:
    """Handle signals as a new interpreter does."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _show_as(title: str) -> None:
    """Have `ps` show what this process does: its arguments lie in memory that a process may write to."""
    with suppress(OSError, ValueError, IndexError):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NAME, title.split()[1].encode()[:15], 0, 0, 0)
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.encode()[: end - start - 1].ljust(end - start, b"\0"))


def _status_of(end: SystemExit) -> int:
    """Return the exit status that the interpreter would give."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def _end(status: int) -> NoReturn:
    """Do what the interpreter does at its end, and end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for threads that are no daemons
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing may return from here
        traceback.print_exc()
    finally:
        os._exit(status)
