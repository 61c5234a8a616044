"""Starting and watching child processes, ports, and the small files they leave in the data folder."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess  # nosec B404
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from app.local import guard

Process: TypeAlias = subprocess.Popen[bytes]
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.02
LOWEST_PORT = 15_000
LOG_LIMIT_BYTES = 10 * 1024 * 1024


class EmbeddedError(Exception):
    """A part of the embedded default could not be started or stopped; the message is for a person."""


@dataclass(frozen=True)
class Identity:
    """A system user that a child runs as."""

    uid: int
    gid: int
    name: str


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    identity: Identity | None = None,
    pass_fds: Sequence[int] = (),
    pipe_output: bool = False,
) -> Process:
    """Start a child in a session of its own that ends with this process.

    Call it from the main thread: the death signal fires when the thread that called ends.

    Args:
        argv: the command; its first word is looked up on PATH.
        log: file that gets standard output and error, appended to.
        env: whole environment; this process's own when absent.
        cwd: working folder; this process's own when absent.
        death_signal: what the kernel sends to the child when this process ends in any way.
        identity: user to run as; only root can.
        pass_fds: open files the child keeps.
        pipe_output: standard output comes back through a pipe; the log gets errors alone.
    """
    uid, gid = (identity.uid, identity.gid) if identity else (-1, -1)
    wrapped = [
        sys.executable,
        "-I",
        guard.__file__,
        str(os.getpid()),
        str(int(death_signal)),
        str(uid),
        str(gid),
    ]
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 # nosec B603
            [*wrapped, *(str(word) for word in argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe_output else output,
            stderr=output,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
            umask=0o077,
        )


def stop(process: Process, signum: signal.Signals, grace_seconds: float) -> int:
    """End a child and its whole group: `signum`, a grace time, then SIGKILL. Gives its exit status."""
    if process.poll() is None:
        process.send_signal(signum)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    status = process.wait()
    kill_group(process.pid)
    return status


def kill_group(group: int, signum: signal.Signals = signal.SIGKILL) -> bool:
    """Signal what is left of a process group; says whether anything was."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def session_pids(leader: int) -> list[int]:
    """Process ids in the session of `leader`, the leader first (Linux; elsewhere the leader alone)."""
    members = [leader]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold anything: the fields are counted from its last bracket.
            state, _parent, _group, session = entry.read_text().rpartition(")")[2].split()[:4]
            pid = int(entry.parent.name)
            if int(session) == leader and pid != leader and state != "Z":
                members.append(pid)
    return members


def wait_until(condition: Callable[[], bool], *, seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
    """Poll until `condition` holds; false when `seconds` have passed or `alive` no longer holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not alive() or time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether something listens on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def choose_port(wanted: int = 0, remembered: int | None = None) -> int:
    """Pick a loopback port: the one asked for, else the one used last time if free, else any.

    Free ones come from below the range the kernel takes client ports from. Otherwise a client that
    retries while its server restarts could be given that very port, connect to itself, and keep it.

    Raises:
        EmbeddedError: the port asked for is taken.
    """
    if wanted:
        if not port_is_free(wanted):
            raise EmbeddedError(f"port {wanted} is in use on {LOOPBACK}; choose another, or 0 for any free one")
        return wanted
    if remembered and port_is_free(remembered):
        return remembered
    for _ in range(200):
        port = LOWEST_PORT + secrets.randbelow(max(_first_client_port() - LOWEST_PORT, 1000))
        if port_is_free(port):
            return port
    raise EmbeddedError(f"no free port on {LOOPBACK}")


def _first_client_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def read_state(path: Path) -> dict[str, Any]:
    """Read a small JSON object kept in the data folder; empty when there is none."""
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return state


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Keep a small JSON object in the data folder."""
    write_private(path, json.dumps(state))


def write_private(path: Path, content: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def tail(path: Path, lines: int = 12) -> str:
    """Last lines of a log, for an error message."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def bound_log(path: Path, limit: int = LOG_LIMIT_BYTES) -> None:
    """Keep a log that is being appended to below `limit`: its content moves to `<name>.1`, replacing that."""
    try:
        if path.stat().st_size <= limit:
            return
        path.with_name(f"{path.name}.1").write_bytes(path.read_bytes())
        os.truncate(path, 0)
    except FileNotFoundError:
        return
