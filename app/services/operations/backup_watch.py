"""How old the last backup is, as the repository itself notes it (NFR-003)."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.config import Settings

LOG_LIMIT = timedelta(minutes=5)
"""The log is fetched twice a minute; older than this, more would be lost with the server than is promised."""
BACKUP_SLACK = timedelta(hours=1)


class BackupTooOldError(Exception):
    """No base backup was made when one was due."""


class BackupLogTooOldError(Exception):
    """The log of the database was not fetched lately."""


def repository_of(settings: Settings) -> Path | None:
    """Return the folder of the backups, if one is known here and holds any."""
    folder = settings.backup_path
    if folder is None and (data_dir := os.environ.get("ARTICURATED_DATA_DIR")):
        folder = Path(data_dir) / "backups"
    return folder if folder is not None and (folder / "status.json").exists() else None


@dataclass(frozen=True)
class BackupTimes:
    """When the newest base backup was finished, and up to when the log is kept."""

    backup: datetime
    log: datetime


def times_of(folder: Path) -> BackupTimes:
    """Return what a repository notes.

    Raises:
        OSError: the folder cannot be read.
    """
    status = json.loads((folder / "status.json").read_bytes())
    backup, log = status["last_backup_at"], status.get("last_log_at", status["last_backup_at"])
    return BackupTimes(datetime.fromisoformat(backup), datetime.fromisoformat(log))


def require_current(times: BackupTimes, settings: Settings, moment: datetime | None = None) -> None:
    """Make sure that backups go on as they should.

    Raises:
        BackupTooOldError, BackupLogTooOldError: they do not.
    """
    moment = moment or datetime.now(UTC)
    due = timedelta(hours=settings.backup_every_hours) + BACKUP_SLACK
    if moment - times.backup > due:
        raise BackupTooOldError
    if moment - times.log > LOG_LIMIT:
        raise BackupLogTooOldError
