"""Base backups: full ones, and on PostgreSQL 17 and later what has changed since the one before (NFR-003).

An incremental one needs the summaries of the log that the server writes with `summarize_wal`. It is restored together with
all up to the full one that it goes back to: its chain.
"""

import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import structlog

from app.backup import programs
from app.backup.errors import BackupError
from app.backup.pgbackrest import Kept, PgBackRest
from app.backup.repository import Manifest, Repository
from app.backup.sealed import Stored
from app.backup.source import Connection, Source, major_of, one, timeline_of
from app.backup.streams import Stream

INCREMENTAL_SINCE = 17
"""The first major version of PostgreSQL that can."""

_START = re.compile(r"start point: ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)")
_STOP = re.compile(r"end point: ([0-9A-F]+/[0-9A-F]+)")

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """What kind of base backup is made.

    Attributes:
        parent: the backup that an incremental one follows; None for a full one.
        because: why it is a full one, in a few words.
    """

    parent: Manifest | None = None
    because: str = ""


@dataclass(frozen=True)
class Base:
    """What a base backup has stored, and from where to where it needs the log; `parent` as in `Plan`.

    Where pgBackRest made it, `kept` is what it keeps.
    """

    files: list[Stored]
    timeline: int
    start_lsn: str
    stop_lsn: str
    parent: Manifest | None = None
    kept: Kept | None = None


def made_by(engine: PgBackRest, full_every: timedelta, *, is_full: bool) -> Base:
    """Have pgBackRest make a base backup.

    Raises:
        BackupError: it could not be made.
    """
    full = [backup for backup in engine.backups() if backup.is_full]
    limit = (datetime.now(UTC) - full_every).timestamp()
    kept = engine.backup(is_full=is_full or not full or full[-1].started <= limit)
    return Base([], kept.timeline, kept.start_lsn, kept.stop_lsn, kept=kept)


def plan(connection: Connection, repository: Repository, full_every: timedelta) -> Plan:
    """Decide whether the next base backup is incremental."""
    backups = repository.backups()
    if major_of(connection) < INCREMENTAL_SINCE:
        return Plan(because=f"PostgreSQL before {INCREMENTAL_SINCE} has no incremental ones")
    if one(connection, "SHOW summarize_wal") != "on":
        return Plan(because="summarize_wal is off on this server")
    if not backups:
        return Plan(because="it is the first one")
    return _plan_after(backups[-1], connection, repository, full_every)


def _plan_after(parent: Manifest, connection: Connection, repository: Repository, full_every: timedelta) -> Plan:
    if parent.label is not None:
        return Plan(because="pgBackRest made the last one")
    if _major(parent) != major_of(connection) or parent.timeline != timeline_of(connection):
        return Plan(because="the database was restored or upgraded since the last one")
    try:
        first = repository.chain(parent)[0]
    except BackupError as fault:
        return Plan(because=str(fault))
    if datetime.now(UTC) - datetime.fromisoformat(first.started_at) >= full_every:
        return Plan(because="the last full one is old enough")
    return Plan(parent)


def copy(source: Source, repository: Repository, backup_id: str, major: int, parent: Manifest | None) -> Base:
    """Store a base backup as pg_basebackup streams it: what changed since `parent`, or everything.

    Where an incremental one cannot be made, for example because the server no longer has its summaries of the log, a
    full one is.

    Raises:
        BackupError: it could not be made.
    """
    if parent is not None:
        try:
            with tempfile.NamedTemporaryFile(prefix="articurated-manifest-") as manifest:
                for piece in _manifest_of(repository, parent):
                    manifest.write(piece)
                manifest.flush()
                return _copy(source, repository, backup_id, major, parent, ["--incremental", manifest.name])
        except BackupError as fault:
            logger.warning("backup.incremental_failed", error=str(fault))
    return _copy(source, repository, backup_id, major, None, [])


def combine(major: int, parts: list[Path], whole: Path) -> None:
    """Make a full cluster of a full base backup and the incremental ones that follow it, oldest first.

    Raises:
        BackupError: they do not fit together.
    """
    program = programs.installation(major) / "bin" / "pg_combinebackup"
    arguments = ["--output", str(whole), "--manifest-checksums", "SHA256", *map(str, parts)]
    programs.run(program, arguments, programs.local_environment(), 3600)


def _copy(
    source: Source, repository: Repository, backup_id: str, major: int, parent: Manifest | None, how: list[str]
) -> Base:
    arguments = [
        *("--pgdata", "-", "--format", "tar", "--wal-method", "fetch", "--checkpoint", "fast", "--no-password"),
        *("--manifest-checksums", "SHA256", "--label", backup_id, "--verbose", *how),
    ]
    with tempfile.TemporaryFile() as errors:
        program = programs.installation(major) / "bin" / "pg_basebackup"
        with programs.streaming(program, arguments, programs.client_environment(source.url), errors) as output:
            stored = repository.store(f"backups/{backup_id}/base.tar.gz", _chunks(output))
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    start, stop = _START.search(said), _STOP.search(said)
    if start is None or stop is None:
        raise BackupError("pg_basebackup did not say from where to where the log is needed")
    return Base([stored], int(start[2]), start[1], stop[1], parent)


def _manifest_of(repository: Repository, backup: Manifest) -> Iterator[bytes]:
    """Yield the list of files that PostgreSQL keeps with a base backup, the last one in the archive."""
    content = repository.read(f"backups/{backup.id}/base.tar.gz")
    with tarfile.open(fileobj=Stream(content), mode="r|") as archive:
        for member in archive:
            if member.name == "backup_manifest" and (file := archive.extractfile(member)) is not None:
                yield from _chunks(file)
                return
    raise BackupError(f"backup {backup.id} holds no list of its files")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while data := stream.read(2**16):
        yield data


def _major(backup: Manifest) -> int:
    return int(backup.postgres.split(".")[0])
