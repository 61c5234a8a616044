"""How old the last backup is, as the repository itself notes it (NFR-003)."""

import json
import os
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


def require_current(folder: Path, settings: Settings, moment: datetime | None = None) -> None:
    """Make sure that backups go on as they should.

    Raises:
        BackupTooOldError, BackupLogTooOldError: they do not.
        OSError: the folder cannot be read.
    """
    status = json.loads((folder / "status.json").read_bytes())
    moment = moment or datetime.now(UTC)
    due = timedelta(hours=settings.backup_every_hours) + BACKUP_SLACK
    if moment - datetime.fromisoformat(status["last_backup_at"]) > due:
        raise BackupTooOldError
    if moment - datetime.fromisoformat(status.get("last_log_at", status["last_backup_at"])) > LOG_LIMIT:
        raise BackupLogTooOldError
