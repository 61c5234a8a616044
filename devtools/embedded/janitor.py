"""Ends the process groups a supervisor leaves behind when it is killed itself.

The kernel's death signal reaches the children of the supervisor, not theirs: the workers of the API, the
pool of Celery. This small process holds the other end of a pipe. Each child that starts or ends is written to
it; when the pipe closes with groups still noted, the supervisor was killed before its own shutdown, and the groups
are ended here.
The data folder's lock is inherited, so that the next start waits until everything is gone.
"""

import os
import signal
import subprocess  # nosec B404
import sys
import time

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05


class Janitor:
    """The supervisor's side: starts the process and names the groups to it.

    Args:
        lock: open file of the data folder's lock, kept open by the process; -1 for none.
    """

    def __init__(self, lock: int = -1) -> None:
        self._lock = lock
        self._groups: dict[int, signal.Signals] = {}
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Process id of the helper."""
        return self._process.pid

    def add(self, group: int, stop_signal: signal.Signals) -> None:
        """Note a child that leads a group, and the signal it ends on."""
        self._groups[group] = stop_signal
        self._tell(f"+{group} {int(stop_signal)}\n")

    def remove(self, group: int) -> None:
        """Forget a group that has ended."""
        if self._groups.pop(group, None) is not None:
            self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the process; it first ends the groups that are still noted."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 # nosec B603
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[self._lock] if self._lock >= 0 else [],
        )

    def _tell(self, line: str) -> None:
        if self._process.poll() is not None:  # Somebody killed it: another one learns what this one knew.
            self._process = self._start()
            line = "".join(f"+{group} {int(signum)}\n" for group, signum in self._groups.items())
        if self._process.stdin:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def end_groups(groups: dict[int, int], grace_seconds: float = GRACE_SECONDS) -> None:
    """Signal every group with its own signal, wait, and kill those that stay."""
    left = {group for group, signum in groups.items() if _signal_group(group, signum)}
    deadline = time.monotonic() + grace_seconds
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = {group for group in left if _signal_group(group, 0)}
    for group in left:
        _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, signum: int) -> bool:
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """Read notes from standard input until it closes, then end what is still noted."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin:
        if line.startswith("+"):
            group, stop_signal = line[1:].split()
            groups[int(group)] = int(stop_signal)
        else:
            groups.pop(int(line[1:]), None)
    end_groups(groups)


if __name__ == "__main__":
    main()
