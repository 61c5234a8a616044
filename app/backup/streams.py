"""Bytes that come in pieces, read as a file and written as one."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ZEROS = bytes(8192)


class Stream(io.RawIOBase):
    """Bytes that come in pieces, as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def write_sparse(path: Path, pieces: Iterator[bytes]) -> None:
    """Write a file without the blocks that are zero: a segment that was switched early is mostly such."""
    size = 0
    with path.open("wb") as file:
        stream = io.BufferedReader(Stream(pieces), buffer_size=len(_ZEROS))
        while block := stream.read(len(_ZEROS)):
            if block == _ZEROS[: len(block)]:
                file.seek(len(block), os.SEEK_CUR)
            else:
                file.write(block)
            size += len(block)
        file.truncate(size)
