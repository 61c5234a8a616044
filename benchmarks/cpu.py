"""CPU time of whole process trees, from /proc (Linux); elsewhere nothing is known and nothing is claimed."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PROC = Path("/proc")


def available() -> bool:
    """Whether this system reports it."""
    return (_PROC / "self" / "stat").exists()


def _stats() -> dict[int, tuple[int, float, float]]:
    """Return pid → (parent, own seconds, seconds of children that ended)."""
    found = {}
    for entry in _PROC.glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended while we were looking.
        user, system, children_user, children_system = (int(field) / _TICKS for field in fields[11:15])
        found[int(entry.parent.name)] = (int(fields[1]), user + system, children_user + children_system)
    return found


def tree(root: int) -> list[int]:
    """Return the process ids of `root` and all its living descendants."""
    parents = {pid: facts[0] for pid, facts in _stats().items()}
    members = [root]
    for member in members:
        members.extend(pid for pid, parent in parents.items() if parent == member)
    return members


def seconds_of(root: int) -> float:
    """Return the CPU seconds of `root`, of its living descendants, and of those that ended and were waited for."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            total += stats[pid][1] + stats[pid][2]
            waiting.extend(children.get(pid, []))
    return total


def machine_seconds() -> tuple[float, float]:
    """Return (busy, all) CPU seconds of the machine since it started, over all cores."""
    numbers = [int(word) / _TICKS for word in (_PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def name_of(pid: int) -> str:
    """Return the name of a process, or an empty text when there is none."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except FileNotFoundError:
        return ""


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return _stats()[pid][0]


def connections_of(pid: int, port: int) -> int:
    """Return how many established TCP connections to the local `port` a process holds (IPv4)."""
    lines = [line.split() for line in (_PROC / "net" / "tcp").read_text().splitlines()[1:]]
    inodes = {line[9] for line in lines if line[3] == "01" and int(line[1].partition(":")[2], 16) == port}
    held = 0
    for handle in (_PROC / str(pid) / "fd").iterdir():
        try:
            target = str(handle.readlink())
        except FileNotFoundError:
            continue
        held += target.startswith("socket:[") and target[8:-1] in inodes
    return held
