"""What goes into a repository: base backups, the write-ahead log, documents, restore points (NFR-003)."""

import asyncio
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from app.backup import pgbackrest
from app.backup.base import Base, Plan, copy, made_by, plan
from app.backup.errors import BackupError, LogLostError
from app.backup.log import collect_log, hold_log, log_kept_current, make_slot, slot_is_whole
from app.backup.pgbackrest import PgBackRest
from app.backup.repository import Manifest, Point, Repository, now
from app.backup.sealed import blocks
from app.backup.source import Connection, Progress, Source, connected, major_of, one, timeline_of
from app.config import Settings
from app.utils.storage import StorageKeyMissing, storage_for

KEPT_BACKUPS = 2
"""So many are kept at any age."""

_BOOTSTRAP_SUPERUSER = "SELECT rolname FROM pg_roles WHERE oid = 10"
"""The role that initdb makes: it is in every cluster, and always a superuser."""
_POINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DOCUMENTS = """
    SELECT storage_key, encode(sha256, 'hex') FROM invoices WHERE state = 'ISSUED'
    UNION ALL
    SELECT storage_key, encode(sha256, 'hex') FROM attachments
"""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Collected:
    """What one turn has added to a repository."""

    segments: int
    documents: int
    missing_documents: tuple[str, ...]


def back_up(
    source: Source, repository: Repository, progress: Progress = lambda _line: None, *, is_full: bool = False
) -> Manifest:
    """Make a base backup, and bring log and documents up to it.

    It is incremental where PostgreSQL can make one, but for one every `BACKUP_FULL_EVERY_DAYS`.

    Args:
        is_full: make a full one in any case.

    Raises:
        BackupError: it could not be made; the repository is as before.
    """
    engine = pgbackrest.chosen(source.settings)
    with connected(source) as connection:
        repository.create(str(one(connection, "SELECT system_identifier FROM pg_control_system()")))
        with repository.writing():
            started = datetime.now(UTC)
            backup_id = f"{started:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(3)}"
            if engine is None and make_slot(connection, repository.slot):
                hold_log(connection, f"{repository.slot}_{backup_id[-6:]}")
            with log_kept_current(source, repository):
                base = _make_base(source, repository, connection, backup_id, progress, is_full=is_full)
                extra = [
                    repository.store(f"backups/{backup_id}/{name}.gz", blocks(path))
                    for name, path in source.extra.items()
                ]
                progress("copying documents")
                collected = _collect_documents(source, repository, connection)
            progress("copying the log")
            collect_log(source, repository, connection)
            manifest = Manifest(
                id=backup_id,
                started_at=f"{started:%Y-%m-%dT%H:%M:%SZ}",
                finished_at=now(),
                postgres=str(one(connection, "SHOW server_version")).split()[0],
                timeline=base.timeline,
                start_lsn=base.start_lsn,
                stop_lsn=base.stop_lsn,
                database=str(one(connection, "SELECT current_database()")),
                superuser=str(one(connection, _BOOTSTRAP_SUPERUSER)),
                documents=len(repository.documents()),
                missing_documents=collected.missing_documents,
                files=[*base.files, *extra],
                parent=base.parent.id if base.parent else None,
                label=base.kept.label if base.kept else None,
                label_bytes=base.kept.size if base.kept else 0,
            )
            repository.finish(manifest)
            return manifest


def _make_base(
    source: Source, repository: Repository, connection: Connection, backup_id: str, progress: Progress, *, is_full: bool
) -> Base:
    every = timedelta(days=source.settings.backup_full_every_days)
    if (engine := pgbackrest.chosen(source.settings)) is not None:
        progress("copying the database with pgBackRest")
        return made_by(engine, every, is_full=is_full)
    kind = Plan(because="asked for") if is_full else plan(connection, repository, every)
    progress("copying what changed" if kind.parent else f"copying the whole database ({kind.because})")
    return copy(source, repository, backup_id, major_of(connection), kind.parent)


def collect(source: Source, repository: Repository) -> Collected:
    """Bring the log and the documents of a repository up to this moment.

    Raises:
        BackupError: they could not be fetched, or there is no base backup that they could follow.
    """
    repository.require()
    with connected(source) as connection, repository.writing():
        repository.create(str(one(connection, "SELECT system_identifier FROM pg_control_system()")))
        if not slot_is_whole(connection, repository.slot):
            raise LogLostError("the server no longer keeps the log for this repository: make a base backup")
        # Documents first: each that the collected log knows of is there then, unless it was made in between.
        documents = _collect_documents(source, repository, connection)
        segments = collect_log(source, repository, connection)
        later = _collect_documents(source, repository, connection)
        return Collected(segments, documents.documents + later.documents, later.missing_documents)


def mark(source: Source, repository: Repository, name: str) -> Point:
    """Make a named restore point, and bring the repository up to it.

    Raises:
        BackupError: the name is taken or not acceptable, or there is no base backup.
    """
    repository.require()
    if _POINT_NAME.fullmatch(name) is None or name == "latest":
        raise BackupError("a restore point's name is 1 to 63 letters, digits, '.', '_' and '-', and not `latest`")
    if name in repository.points():
        raise BackupError(f"there is a restore point {name} already")
    with connected(source) as connection:
        row = connection.execute("SELECT pg_create_restore_point(%s)::text", [name]).fetchone()
        point = Point(name, str(row[0]) if row else "", timeline_of(connection), now())
    collect(source, repository)
    with repository.writing():
        repository.keep_point(point)
    return point


def prune(repository: Repository, keep: timedelta, engine: PgBackRest | None = None) -> list[str]:
    """Remove base backups older than `keep`, and the log that only they need.

    The newest two stay, and each that an incremental one which stays goes back to. Documents are kept: they are few, never
    change, and have to be kept for years anyway. Of pgBackRest's, those go that its own retention has removed.

    Returns:
        The ids of the backups that were removed.
    """
    repository.require()
    with repository.writing():
        gone = _expired(repository, engine) if engine is not None else []
        backups = [backup for backup in repository.backups() if backup.label is None]
        limit = f"{datetime.now(UTC) - keep:%Y-%m-%dT%H:%M:%SZ}"
        parents = {backup.id: backup.parent for backup in backups}
        needed: set[str] = set()
        for number, backup in enumerate(reversed(backups)):
            if number < KEPT_BACKUPS or backup.finished_at >= limit:
                step: str | None = backup.id
                while step is not None and step not in needed:
                    needed.add(step)
                    step = parents.get(step)
        # The newest first: what an interruption leaves can be restored.
        old = [backup for backup in reversed(backups) if backup.id not in needed]
        for backup in old:
            repository.discard(backup)
        kept = [backup for backup in backups if backup.id in needed]
        if old and kept:
            with repository.writing_log():
                repository.discard_segments(_before(repository, kept[0]))
        _remove_unfinished(repository)
        return gone + [backup.id for backup in reversed(old)]


def _expired(repository: Repository, engine: PgBackRest) -> list[str]:
    """Forget the backups that pgBackRest no longer keeps; return their ids."""
    engine.expire()
    labels = {kept.label for kept in engine.backups()}
    gone = [each for each in repository.backups() if each.label is not None and each.label not in labels]
    for backup in gone:
        repository.discard(backup)
    return [backup.id for backup in gone]


def _before(repository: Repository, first: Manifest) -> set[str]:
    """Return the segments of the log that no backup from `first` on needs."""
    return {
        name
        for name, entry in repository.segments().items()
        if "." not in name
        and (name < first.first_segment if int(name[:8], 16) == first.timeline else entry["at"] < first.started_at)
    }


def _remove_unfinished(repository: Repository) -> None:
    """Remove what backups that were interrupted have left; the caller is the only one who writes."""
    for folder in (repository.root / "backups").iterdir():
        if not (folder / "manifest.json").exists():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


# --- documents ---------------------------------------------------------------------------------------------------


def _collect_documents(source: Source, repository: Repository, connection: Connection) -> Collected:
    """Copy each document that the database knows and the repository does not have."""
    known = repository.documents()
    with connection.transaction(), connection.cursor("documents") as cursor:
        cursor.execute(DOCUMENTS)
        wanted = [(str(key), str(sha256)) for key, sha256 in cursor if key not in known]
    return asyncio.run(_copy_documents(source.settings, repository, wanted)) if wanted else Collected(0, 0, ())


async def _copy_documents(settings: Settings, repository: Repository, wanted: list[tuple[str, str]]) -> Collected:
    storage = storage_for(settings)
    copied, missing = 0, []
    for key, sha256 in wanted:
        try:
            content = await storage.get(key)
        except StorageKeyMissing:
            missing.append(key)
            continue
        repository.keep_document(key, sha256, content)
        copied += 1
    if missing:
        logger.error("backup.documents_not_found", keys=missing[:20], count=len(missing))
    return Collected(0, copied, tuple(missing))
