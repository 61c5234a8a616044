"""How many API processes fit into the memory of this machine or container, and how little each one needs."""

import ctypes
from contextlib import suppress
from pathlib import Path

API_PROCESSES = 2
"""By default, so that one answers while the other is replaced."""
API_PROCESS_BYTES = 200 * 2**20
_M_ARENA_MAX = -8
"""The option's number in glibc's malloc.h."""
_ARENAS = 2
_MEMINFO = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def api_processes(*, others: int = 0) -> int:
    """Return how many API processes to run by default: 2, or 1 where memory is short.

    Args:
        others: how many processes of the same size have to fit beside them.
    """
    available = available_bytes()
    needed = (API_PROCESSES + others) * API_PROCESS_BYTES
    return API_PROCESSES if available is None or available >= needed else 1


def available_bytes(meminfo: Path = _MEMINFO, container_limit: Path = _CONTAINER_LIMIT) -> int | None:
    """Return the memory that processes can still have, or None where that is unknown."""
    found = []
    with suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit.
        found.append(int(container_limit.read_text()))
    return min(found, default=None)


def limit_arenas() -> bool:
    """Have malloc of this process use two arenas instead of eight for each core; return whether it does.

    What one thread frees then serves the others: an API process under load takes about 25 MiB less. Only glibc has
    this option.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS))
    except (AttributeError, OSError):
        return False
