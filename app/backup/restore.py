"""Restoring a system to a moment: the newest state, a named restore point, or a time (NFR-003).

The result is a new data folder; nothing that is there is overwritten. PostgreSQL itself replays its log up to the target,
so that triggers, constraints and grants are as they were, and its own checks apply.
"""

import asyncio
import hashlib
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from app.backup.create import DOCUMENTS
from app.backup.errors import BackupError
from app.backup.pgbackrest import chosen
from app.backup.recovery import Recovery
from app.backup.repository import Repository
from app.backup.source import Progress
from app.backup.target import Target, base_for
from app.config import Settings
from app.database import Database
from app.local.data_folder import make_data_dir
from app.services.workflow.audit import AuditService
from app.utils.media_types import content_disposition, sniff
from app.utils.storage import StorageKeyExists, storage_for


@dataclass(frozen=True)
class Report:
    """What was restored.

    Attributes:
        backup: id of the base backup.
        data_dir: the new data folder.
        log_segments: how many segments of the log the backup has; 0 where PostgreSQL got them from pgBackRest.
        last_commit_at: of the last transaction that was replayed; None when there was none after the base backup.
        audit_rows: rows of the audit trail, which holds.
        documents: how many the restored database knows and are in the storage.
        missing_documents: keys of those that are in neither storage nor backup.
        seconds: from the call to the end.
    """

    backup: str
    data_dir: str
    log_segments: int
    last_commit_at: str | None
    audit_rows: int
    documents: int
    missing_documents: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def restore(
    repository: Repository, target: Target, data_dir: Path, settings: Settings, progress: Progress = lambda _line: None
) -> Report:
    """Restore into a new data folder.

    Args:
        settings: where the documents go; a local storage that is not chosen goes into the data folder.

    Raises:
        BackupError: it cannot be done; the data folder is as before.
    """
    started = time.monotonic()
    repository.require()
    data_dir = data_dir.absolute()
    if data_dir.exists() and any(data_dir.iterdir()):
        raise BackupError(f"{data_dir} is not empty: restore into a new folder, nothing is overwritten")
    backup = base_for(repository, target)
    if "storage_path" not in settings.model_fields_set:
        settings = settings.model_copy(update={"storage_path": data_dir / "storage"})
    try:
        make_data_dir(data_dir)
        with Recovery(repository, backup, data_dir, progress, chosen(settings)) as recovery:
            segments = recovery.unpack(target)
            last_commit_at = recovery.replay(target)
            progress("checking what was restored")
            documents, missing, rows = asyncio.run(
                _documents_and_audit(recovery.url(backup.database), repository, settings)
            )
        return Report(
            backup=backup.id,
            data_dir=str(data_dir),
            log_segments=segments,
            last_commit_at=last_commit_at,
            audit_rows=rows,
            documents=documents,
            missing_documents=missing,
            seconds=round(time.monotonic() - started, 1),
        )
    except BaseException:
        for path in data_dir.iterdir() if data_dir.exists() else ():
            shutil.rmtree(path, ignore_errors=True)
        raise


async def _documents_and_audit(url: str, repository: Repository, settings: Settings) -> tuple[int, list[str], int]:
    """Bring the storage up to the restored database, and verify the audit trail.

    Documents that the storage has and the restored database does not know stay where they are.

    Raises:
        BackupError: the trail does not hold, or a document is not what the database says.
    """
    known, storage = repository.documents(), storage_for(settings)
    present, missing = 0, []
    with psycopg.connect(url) as connection, connection.cursor("documents") as cursor:
        cursor.execute(DOCUMENTS)
        for key, sha256 in cursor:
            if await storage.exists(key):
                present += 1
            elif key in known:
                content = b"".join(repository.read(f"documents/{key}"))
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise BackupError(f"the kept {key} is not what the database says")
                kind = sniff(content)
                name = content_disposition(Path(key).name, is_shown=kind is not None and kind.is_shown)
                with suppress(StorageKeyExists):
                    await storage.put_new(key, content, kind.name if kind else "application/octet-stream", name)
                present += 1
            else:
                missing.append(str(key))
    database = Database(settings.model_copy(update={"database_url": url, "database_replica_url": None}), "restore")
    try:
        report = await AuditService(database).verify()
    except SQLAlchemyError as fault:
        reason = str(getattr(fault, "orig", None) or fault).strip().splitlines()[0]
        raise BackupError(f"the audit trail of the restored database cannot be read: {reason}") from fault
    finally:
        await database.close()
    if not report["ok"]:
        raise BackupError(f"the audit trail of the restored database does not hold: {report['fault']}")
    return present, missing, int(report["rows"])
