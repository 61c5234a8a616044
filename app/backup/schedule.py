"""The process that backs up in time: log and documents twice a minute, a base backup every six hours (NFR-003)."""

import os
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from app.backup.create import back_up, collect, prune
from app.backup.errors import BackupError, LogLostError
from app.backup.log import TURN_SECONDS
from app.backup.pgbackrest import chosen
from app.backup.repository import Repository
from app.backup.source import Source

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

logger = structlog.get_logger(__name__)


class Schedule:
    """Does what is due, turn by turn.

    Args:
        every: time between two base backups.
        keep: age at which base backups are removed.
        first_after: how long after its own start the very first base backup is made.
        began: moment of that start; now when absent.
    """

    def __init__(
        self,
        source: Source,
        root: Path,
        key: bytes | None,
        *,
        every: timedelta,
        keep: timedelta,
        first_after: timedelta = timedelta(),
        began: datetime | None = None,
    ) -> None:
        self._source = source
        self._root = root
        self._key = key
        self._every = every
        self._keep = keep
        self._first_at = (began or datetime.now(UTC)) + first_after

    def run(self) -> None:
        """Take turns until SIGTERM or SIGINT."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        _show_ready()
        while True:
            began = time.monotonic()
            self.turn()
            _show_ready()
            rest = max(TURN_SECONDS - (time.monotonic() - began), 0.0)
            if signal.sigtimedwait(STOP_SIGNALS, rest) is not None:
                return

    def turn(self, moment: datetime | None = None) -> None:
        """Do what is due at a moment; what fails is logged, and due again."""
        moment = moment or datetime.now(UTC)
        try:
            repository = Repository(self._root, self._key)
            if self._is_due(repository, moment):
                self._back_up(repository)
            elif repository.exists and repository.backups():
                self._collect(repository)
        except (BackupError, OSError) as fault:
            logger.error("backup.failed", error=str(fault))  # noqa: TRY400 - the sentence says it all

    def _is_due(self, repository: Repository, moment: datetime) -> bool:
        last = repository.status().get("last_backup_at")
        if last is None:
            return moment >= self._first_at
        return moment - datetime.fromisoformat(last) >= self._every

    def _collect(self, repository: Repository) -> None:
        try:
            collect(self._source, repository)
        except LogLostError as fault:
            logger.warning("backup.log_lost", error=str(fault))
            self._back_up(repository)

    def _back_up(self, repository: Repository) -> None:
        backup = back_up(self._source, repository)
        logger.info("backup.made", id=backup.id, bytes=backup.bytes, parent=backup.parent, documents=backup.documents)
        for old in prune(repository, self._keep, chosen(self._source.settings)):
            logger.info("backup.removed", id=old)


def _show_ready() -> None:
    """Make the file that READY_FILE names, or make it young again."""
    if name := os.environ.get("READY_FILE"):
        with suppress(OSError):
            Path(name).touch()
