"""The data folder of one system: its lock, its marks, what it remembers between runs."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import ROOT
from app.local.process import EmbeddedError, choose_port, read_state, write_state

DEFAULT_DATA_DIR = ROOT / ".articurated"
STATE_FILE = "stack.json"
"""Where a running system writes its addresses and process ids."""
LEAVING_SECONDS = 20.0
"""How long a start waits for the rest of a system that was killed."""


class DataFolderInUseError(EmbeddedError):
    """Another system works over the data folder."""


def default_data_dir() -> Path:
    """The data folder when none is named: ARTICURATED_DATA_DIR, else `.articurated` in the checkout."""
    return Path(os.environ.get("ARTICURATED_DATA_DIR") or DEFAULT_DATA_DIR)


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder, closed to others, unless it is there.

    Root's PostgreSQL runs as another user, who has to pass through: other users cannot list it, and what is in
    it is closed.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        data_dir.mkdir(mode=0o700)
        if os.geteuid() == 0:
            data_dir.chmod(0o711)  # The umask does not matter.


def free_data_dir(base: Path) -> Path:
    """`base`, or the first of `base-2`, `base-3`, … over which no system works.

    It is reserved until this process ends: of two that ask at the same moment, each gets its own.
    """
    number, candidate = 1, base
    while not _reserve(candidate):
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def _reserve(data_dir: Path) -> bool:
    make_data_dir(data_dir)
    mark = os.open(data_dir / "reserved", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(mark)
        return False
    if is_in_use(data_dir):
        os.close(mark)
        return False
    return True  # The file stays open: the reservation lasts as long as this process.


def is_in_use(data_dir: Path) -> bool:
    """Whether a running system works over this data folder."""
    try:
        with (data_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def running_connection(data_dir: Path) -> dict[str, str]:
    """Variables that lead to the services of the system running over `data_dir`; none when none runs.

    The owner's address of its own PostgreSQL is among them, which the processes of the system do not have: commands
    make and end keys with it.
    """
    if not is_in_use(data_dir):
        return {}
    state = read_state(data_dir / STATE_FILE)
    connection: dict[str, str] = dict(state.get("connection", {}))
    if "DATABASE_URL" in connection and state.get("owner_database_url"):
        connection["DATABASE_ADMIN_URL"] = str(state["owner_database_url"])
    return connection


@contextmanager
def locked(data_dir: Path) -> Iterator[int]:
    """Hold the data folder for one system; gives the lock's open file, which a helper process may inherit.

    Raises:
        DataFolderInUseError: another system works over it.
        EmbeddedError: it cannot be made or written.
    """
    try:
        make_data_dir(data_dir)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise EmbeddedError(f"the data folder {data_dir} cannot be used: {fault.strerror}") from fault
    try:
        _take(lock, data_dir)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, data_dir: Path) -> None:
    """Take the lock; wait while its holder is dead and only the rest of its children is being ended."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode()
            if time.monotonic() > deadline or _is_alive(holder):
                raise DataFolderInUseError(
                    f"{data_dir} is in use by process {holder or 'unknown'}: stop it, or name another folder"
                ) from None
            time.sleep(0.1)
        else:
            return


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class Ports:
    """Loopback ports of the parts of one system, the same from run to run as long as they are free."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / "ports.json"
        self._known: dict[str, int] = read_state(self._file)

    def pick(self, name: str, wanted: int = 0) -> int:
        """A free port for the part called `name`: `wanted` unless 0, else the one it had, else any.

        Raises:
            EmbeddedError: the port wanted is taken.
        """
        port = choose_port(wanted, self._known.get(name))
        if self._known.get(name) != port:
            self._known[name] = port
            write_state(self._file, self._known)
        return port
