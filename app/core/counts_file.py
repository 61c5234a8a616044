"""The file in which one process shares its counts with the others, safe on a full disk (NFR-003, NFR-006).

prometheus_client maps these files into memory. When the disk has no block left for a page that was never written, the
kernel ends the process with SIGBUS at its next count. Here the counts are kept in memory and copied to the file with
`pwrite`, which fails with an error instead; what could not be copied is copied as soon as the disk has room again.
The format is the library's own, so its collector reads the files.
"""

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

import prometheus_client.values
from prometheus_client.mmap_dict import MmapedDict

HEADER_BYTES = 8
"""The number of bytes used, as a native int, and padding."""
RETRY_SECONDS = 1.0
"""Least time between two tries to write to a file that could not be written."""

_NUMBERS = struct.Struct("dd")


class CountsFile:
    """Key → (value, timestamp), in memory and in a file; it has the methods that prometheus_client calls.

    Not safe for threads: the library holds a lock around every call.

    Args:
        filename: file to make; the counts of an earlier process of the same id are taken over from it.
        monotonic: clock, for tests.
    """

    def __init__(self, filename: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(filename)
        self._monotonic = monotonic
        self._content = bytearray(struct.pack("ixxxx", HEADER_BYTES))
        self._positions: dict[str, int] = {}
        self._descriptor = -1
        self._next_try = float("-inf")
        for key, value, timestamp in _counts_in(filename):
            self.write_value(key, value, timestamp)
        self._copy_all()
        _files.add(self)

    @property
    def is_current(self) -> bool:
        """Whether the file holds all that was counted."""
        return self._descriptor >= 0

    def read_value(self, key: str) -> tuple[float, float]:
        """Return the value and the timestamp of a key, which is made with zeros when it is new."""
        value, timestamp = _NUMBERS.unpack_from(self._content, self._position_of(key))
        return value, timestamp

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set the value and the timestamp of a key; a disk that is full costs the copy, never the count."""
        position = self._position_of(key)
        _NUMBERS.pack_into(self._content, position, value, timestamp)
        self._copy(position, position + _NUMBERS.size)

    def close(self) -> None:
        """Close the file."""
        self._detach()

    def leave_to_parent(self) -> None:
        """Close the file and never write to it again: this process is a copy of the one whose counts it holds."""
        self._detach()
        self._next_try = float("inf")

    def _position_of(self, key: str) -> int:
        position = self._positions.get(key)
        return self._add(key) if position is None else position

    def _add(self, key: str) -> int:
        encoded = key.encode()
        # The numbers start at a multiple of eight bytes.
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        start = len(self._content)
        self._content += struct.pack(f"i{len(padded)}sdd", len(encoded), padded, 0.0, 0.0)
        position = self._positions[key] = len(self._content) - _NUMBERS.size
        struct.pack_into("i", self._content, 0, len(self._content))
        self._copy(start, len(self._content))
        self._copy(0, HEADER_BYTES)  # Last, so that a reader never looks behind what is written.
        return position

    def _copy(self, start: int, end: int) -> None:
        if self._descriptor < 0:
            self._copy_all()
            return
        try:
            _write(self._descriptor, self._content[start:end], start)
        except OSError:
            self._detach()

    def _copy_all(self) -> None:
        """Replace the file by one that holds everything, unless the last try was a moment ago."""
        now = self._monotonic()
        if self._descriptor >= 0 or now < self._next_try:
            return
        self._next_try = now + RETRY_SECONDS
        temporary = self._path.with_name(f".{self._path.name}")
        try:
            self._descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            _write(self._descriptor, self._content, 0)
            temporary.replace(self._path)
        except OSError:
            self._detach()
            with suppress(OSError):
                temporary.unlink()

    def _detach(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


_files: WeakSet[CountsFile] = WeakSet()


def _leave_to_parent() -> None:
    # At once, while the number of the descriptor still means this file: the library closes it at the next count only.
    for file in list(_files):
        file.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


def _counts_in(filename: str) -> list[tuple[str, float, float]]:
    try:
        found = MmapedDict.read_all_values_from_file(filename)  # type: ignore[no-untyped-call]
        return [(key, value, timestamp) for key, value, timestamp, _ in found]
    except (OSError, RuntimeError, struct.error):  # There is none, or a crash left it half written.
        return []


def _write(descriptor: int, data: bytes | bytearray, position: int) -> None:
    """Write all of `data` at a position; a full disk may take a part of it first."""
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def install() -> None:
    """Have prometheus_client use it; to be called before the first metric is made.

    The library has no hook for this: its value class looks the name up in its own module.
    """
    prometheus_client.values.MmapedDict = CountsFile  # type: ignore[attr-defined, assignment]
