"""A file that is being worked on: small in memory, larger in a temporary file that has no name (NFR-004)."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Self, cast

MEMORY_BYTES = 65_536
"""A file of more bytes is on disk. The kernel frees it when the process ends, however it ends."""

_PIECE_BYTES = 1_048_576


class HeldFile:
    """A file, its size and its SHA-256.

    Attributes:
        size: in bytes.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - closed by `close`
        self._digest = hashlib.sha256()
        self.size = 0

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return a file that holds `content`."""
        held = cls()
        held.write(content)
        return held

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of what was written so far."""
        return self._digest.digest()

    def write(self, data: bytes) -> None:
        """Add `data` at the end.

        Raises:
            OSError: the disk is full.
        """
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def start(self) -> IO[bytes]:
        """Return the file to be read from its first byte."""
        self._file.seek(0)
        return cast("IO[bytes]", self._file)

    def descriptor(self) -> int:
        """Return the file's descriptor, at its first byte, for a child process; the file is on disk from here on."""
        self._file.fileno()
        self._file.seek(0)
        return self._file.fileno()

    def take_over(self) -> None:
        """Count and hash what a child process wrote through `descriptor`."""
        digest = hashlib.sha256()
        descriptor, position = self._file.fileno(), 0
        while piece := os.pread(descriptor, _PIECE_BYTES, position):
            digest.update(piece)
            position += len(piece)
        self._digest, self.size = digest, position

    @contextmanager
    def view(self) -> Iterator[bytes | mmap.mmap]:
        """Give the bytes to be looked at: of a file on disk only the pages that are read come into memory."""
        if self.size <= MEMORY_BYTES:
            yield self.start().read()
            return
        self._file.seek(0)
        with mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ) as mapped:
            yield mapped

    def close(self) -> None:
        """Free it."""
        self._file.close()
