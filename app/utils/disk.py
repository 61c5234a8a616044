"""Free space of a disk: how much there is, and the errors that say it is used up (NFR-003)."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FULL_BYTES = 2**20
"""Less than this is as good as nothing: the next file or the next page of a table does not fit."""
LOW_BYTES = 512 * 2**20
LOW_SHARE = 0.05
"""A disk is low below this share of it, or below LOW_BYTES where that is less."""
_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_SQLSTATE = "53100"


def is_disk_full(fault: BaseException) -> bool:
    """Return whether an error, or what caused it, says that a disk is full: ENOSPC, EDQUOT or PostgreSQL's 53100."""
    seen: set[int] = set()
    cause: BaseException | None = fault
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in _FULL_ERRORS:
            return True
        if getattr(getattr(cause, "orig", cause), "sqlstate", None) == _FULL_SQLSTATE:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space on the disk of a folder.

    Attributes:
        mount: where the disk is mounted.
        free_bytes: what unprivileged processes can still use.
        total_bytes: size of the disk.
        has_files_left: whether it can hold another file.
    """

    mount: Path
    free_bytes: int
    total_bytes: int
    has_files_left: bool

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be written."""
        return self.free_bytes < FULL_BYTES or not self.has_files_left

    @property
    def is_low(self) -> bool:
        """Whether it will be full soon."""
        return self.is_full or self.free_bytes < min(LOW_BYTES, int(self.total_bytes * LOW_SHARE))


def disk_space(folder: Path) -> DiskSpace:
    """Return the space on the disk of a folder, or of the first folder above it that exists.

    Raises:
        OSError: the disk cannot be asked.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    facts = os.statvfs(existing)
    mount = next(path for path in (existing, *existing.parents) if path.is_mount())
    return DiskSpace(
        mount=mount,
        free_bytes=facts.f_bavail * facts.f_frsize,
        total_bytes=facts.f_blocks * facts.f_frsize,
        has_files_left=facts.f_files == 0 or facts.f_favail > 0,
    )


class LastSeen:
    """When something last happened in this process, for a report soon afterwards."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at = float("-inf")

    def note(self) -> None:
        """It happened now."""
        self._at = self._monotonic()

    def within(self, seconds: float) -> bool:
        """Return whether it happened within the last `seconds`."""
        return self._monotonic() - self._at < seconds


database_full = LastSeen()
"""When PostgreSQL last refused a write of this process because its disk is full."""
