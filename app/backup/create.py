"""What goes into a repository: base backups, the write-ahead log, documents, restore points (NFR-003).

The log is fetched with pg_receivewal through a replication slot, so that the server keeps each segment until the
repository has it; nothing has to be installed on the server's machine. Where that is not wanted, `archive_command` may
call `articurated backup archive-wal` instead.
"""

import asyncio
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import psycopg
import structlog
from psycopg.rows import TupleRow

from app.backup import programs
from app.backup.errors import BackupError, LogLostError
from app.backup.repository import SEGMENT_BYTES, Manifest, Point, Repository, now, parse_lsn, segment_name
from app.backup.sealed import Stored, blocks
from app.config import Settings
from app.utils.storage import StorageKeyMissing, storage_for

APPLICATION = "articurated-backup"
RECEIVE_SECONDS = 600
ARCHIVE_SECONDS = 120
KEPT_BACKUPS = 2
"""So many are kept at any age."""

_BOOTSTRAP_SUPERUSER = "SELECT rolname FROM pg_roles WHERE oid = 10"
"""The role that initdb makes: it is in every cluster, and always a superuser."""
_START = re.compile(r"start point: ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)")
_STOP = re.compile(r"end point: ([0-9A-F]+/[0-9A-F]+)")
_POINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DOCUMENTS = """
    SELECT storage_key, encode(sha256, 'hex') FROM invoices WHERE state = 'ISSUED'
    UNION ALL
    SELECT storage_key, encode(sha256, 'hex') FROM attachments
"""

Progress = Callable[[str], None]
logger = structlog.get_logger(__name__)

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Source:
    """What is backed up.

    Attributes:
        url: connection to the application's database with the right to replicate, as a superuser has it.
        settings: where the documents are.
        extra: name → file that belongs to an installation and is kept with each base backup.
    """

    url: str
    settings: Settings
    extra: dict[str, Path]


@dataclass(frozen=True)
class Collected:
    """What one turn has added to a repository."""

    segments: int
    documents: int
    missing_documents: tuple[str, ...]


@contextmanager
def connected(source: Source) -> Iterator[Connection]:
    """Connect as the login for backups.

    Raises:
        BackupError: the server cannot be reached, or is no primary with 16 MB segments.
    """
    try:
        connection = psycopg.connect(source.url, autocommit=True, connect_timeout=10, application_name=APPLICATION)
    except psycopg.Error as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise BackupError(f"the database cannot be reached for a backup: {reason}") from None
    with connection:
        if _one(connection, "SELECT pg_is_in_recovery()"):
            raise BackupError("this server is a standby: back the primary up")
        if _one(connection, "SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size'") != SEGMENT_BYTES:
            raise BackupError("the server's segments of the write-ahead log are not of 16 MB")
        yield connection


def back_up(source: Source, repository: Repository, progress: Progress = lambda _line: None) -> Manifest:
    """Make a base backup, and bring log and documents up to it.

    Raises:
        BackupError: it could not be made; the repository is as before.
    """
    with connected(source) as connection:
        repository.create(str(_one(connection, "SELECT system_identifier FROM pg_control_system()")))
        with repository.writing():
            started = datetime.now(UTC)
            backup_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
            has_slot = _make_slot(connection, repository.slot)
            progress("copying the database")
            files, said = _base_backup(source, repository, backup_id, _major(connection))
            start, stop = _START.search(said), _STOP.search(said)
            if start is None or stop is None:
                raise BackupError("pg_basebackup did not say from where to where the log is needed")
            files += [
                repository.store(f"backups/{backup_id}/{name}.gz", blocks(path)) for name, path in source.extra.items()
            ]
            progress("copying the log")
            if has_slot:
                _collect_log(source, repository, connection)
            progress("copying documents")
            collected = _collect_documents(source, repository, connection)
            manifest = Manifest(
                id=backup_id,
                started_at=f"{started:%Y-%m-%dT%H:%M:%SZ}",
                finished_at=now(),
                postgres=str(_one(connection, "SHOW server_version")).split()[0],
                timeline=int(start[2]),
                start_lsn=start[1],
                stop_lsn=stop[1],
                database=str(_one(connection, "SELECT current_database()")),
                superuser=str(_one(connection, _BOOTSTRAP_SUPERUSER)),
                documents=len(repository.documents()),
                missing_documents=collected.missing_documents,
                files=files,
            )
            repository.finish(manifest)
            if has_slot:
                repository.note(last_log_at=manifest.finished_at)
            return manifest


def collect(source: Source, repository: Repository) -> Collected:
    """Bring the log and the documents of a repository up to this moment.

    Raises:
        BackupError: they could not be fetched, or there is no base backup that they could follow.
    """
    repository.require()
    with connected(source) as connection, repository.writing():
        repository.create(str(_one(connection, "SELECT system_identifier FROM pg_control_system()")))
        if not _slot_is_whole(connection, repository.slot):
            raise LogLostError("the server no longer keeps the log for this repository: make a base backup")
        # Documents first: each that the collected log knows of is there then, unless it was made in between.
        documents = _collect_documents(source, repository, connection)
        segments = _collect_log(source, repository, connection)
        later = _collect_documents(source, repository, connection)
        repository.note(last_log_at=now())
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
        point = Point(name, str(row[0]) if row else "", _timeline(connection), now())
    collect(source, repository)
    with repository.writing():
        repository.keep_point(point)
    return point


def prune(repository: Repository, keep: timedelta) -> list[str]:
    """Remove base backups older than `keep`, but for the newest two, and the log that only they need.

    Documents are kept: they are few, never change, and have to be kept for years anyway.

    Returns:
        The ids of the backups that were removed.
    """
    repository.require()
    with repository.writing():
        backups = repository.backups()
        limit = f"{datetime.now(UTC) - keep:%Y-%m-%dT%H:%M:%SZ}"
        old = [backup for backup in backups[:-KEPT_BACKUPS] if backup.finished_at < limit]
        for backup in old:
            repository.discard(backup)
        kept = [backup for backup in backups if backup not in old]
        if old and kept:
            first = kept[0]
            repository.discard_segments(
                {
                    name
                    for name, entry in repository.segments().items()
                    if "." not in name
                    and (
                        name < first.first_segment
                        if int(name[:8], 16) == first.timeline
                        else entry["at"] < first.started_at
                    )
                }
            )
        _remove_unfinished(repository)
        return [backup.id for backup in old]


def archive(repository: Repository, path: Path) -> bool:
    """Keep one segment: what PostgreSQL's archive_command calls. Return whether it was new.

    Raises:
        BackupError: another content is kept under this name.
    """
    repository.require()
    with repository.writing():
        is_new = repository.keep_segment(path.name, path)
        repository.note(last_log_at=now())
    return is_new


# --- the database ------------------------------------------------------------------------------------------------


def _base_backup(source: Source, repository: Repository, backup_id: str, major: int) -> tuple[list[Stored], str]:
    """Store a base backup as pg_basebackup streams it; return its file, and what the program said."""
    arguments = [
        *("--pgdata", "-", "--format", "tar", "--wal-method", "fetch", "--checkpoint", "fast", "--no-password"),
        *("--manifest-checksums", "SHA256", "--label", backup_id, "--verbose"),
    ]
    with tempfile.TemporaryFile() as errors:
        program = programs.installation(major) / "bin" / "pg_basebackup"
        with programs.streaming(program, arguments, programs.client_environment(source.url), errors) as output:
            stored = repository.store(f"backups/{backup_id}/base.tar.gz", _chunks(output))
        errors.seek(0)
        return [stored], errors.read().decode(errors="replace")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while data := stream.read(2**16):
        yield data


def _remove_unfinished(repository: Repository) -> None:
    """Remove what backups that were interrupted have left; the caller is the only one who writes."""
    for folder in (repository.root / "backups").iterdir():
        if not (folder / "manifest.json").exists():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


# --- the log -----------------------------------------------------------------------------------------------------


def _make_slot(connection: Connection, slot: str) -> bool:
    """Have the server keep its log for us from now on; return whether we fetch it, or archive_command brings it."""
    if _one(connection, "SHOW archive_mode") != "off":
        return False
    if not _slot_is_whole(connection, slot):
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [slot])
    return True


def _slot_is_whole(connection: Connection, slot: str) -> bool:
    """Whether the server has kept all of the log since we last fetched, or whether archive_command brings it."""
    if _one(connection, "SHOW archive_mode") != "off":
        return True
    state = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
    row = connection.execute(state, [slot]).fetchone()
    return row is not None and row[0] != "lost"


def _collect_log(source: Source, repository: Repository, connection: Connection) -> int:
    """Fetch every segment up to this moment; return how many were new."""
    switched = parse_lsn(str(_one(connection, "SELECT pg_switch_wal()::text")))
    if _one(connection, "SHOW archive_mode") != "off":
        return _await_archived(repository, connection, switched)
    # The last byte of the segment before: it is reached when that segment is whole.
    end = (switched - 1) // SEGMENT_BYTES * SEGMENT_BYTES + SEGMENT_BYTES - 1
    spool = repository.root / "spool"
    spool.mkdir(exist_ok=True, mode=0o700)
    arguments = ["--directory", str(spool), "--slot", repository.slot, "--synchronous", "--no-password", "--no-loop"]
    program = programs.installation(_major(connection)) / "bin" / "pg_receivewal"
    arguments += ["--endpos", f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"]
    programs.run(program, arguments, programs.client_environment(source.url), RECEIVE_SECONDS)
    known, added = repository.segments(), 0
    for path in sorted(spool.iterdir()):
        if path.suffix != ".partial":
            added += repository.keep_segment(path.name, path, known)
        path.unlink()
    return added


def _await_archived(repository: Repository, connection: Connection, switched: int) -> int:
    """Make sure that archive_command has brought the log up to a position."""
    wanted = segment_name(_timeline(connection), switched - 1)
    deadline = time.monotonic() + ARCHIVE_SECONDS
    while wanted not in repository.segments():
        if time.monotonic() > deadline:
            how = "does archive_command run `articurated backup archive-wal`?"
            raise BackupError(f"{wanted} was not archived within {ARCHIVE_SECONDS} s: {how}")
        time.sleep(0.2)
    return 0


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
        logger.error("backup.documents_missing", keys=missing[:20], count=len(missing))
    return Collected(0, copied, tuple(missing))


def _timeline(connection: Connection) -> int:
    return int(str(_one(connection, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")), 16)


def _major(connection: Connection) -> int:
    return connection.info.server_version // 10_000


def _one(connection: Connection, question: str) -> Any:
    row = connection.execute(question.encode()).fetchone()
    return row[0] if row else None
