"""A disk that can be full: a small tmpfs, so that no test fills the machine's own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_CHUNK = b"\0" * 65536


class SmallDisk:
    """A mounted tmpfs.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Use up all of its room."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (len(_CHUNK), 1):
                with suppress(OSError):
                    while file.write(_CHUNK[:size]) == size:
                        pass

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size at `folder`, which is made; skip the test where mounting is not permitted."""
    folder.mkdir()
    options = f"size={megabytes}m,mode=711"
    command = ["mount", "-t", "tmpfs", "-o", options, "articurated-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk to fill")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
