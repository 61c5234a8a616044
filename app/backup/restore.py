"""Restoring a system to a moment: the newest state, a named restore point, or a time (NFR-003).

The result is a new data folder; nothing that is there is overwritten. PostgreSQL itself replays its log up to the target,
so that triggers, constraints and grants are as they were, and its own checks apply.
"""

import asyncio
import hashlib
import io
import os
import shlex
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from app.backup import programs
from app.backup.create import DOCUMENTS, Progress
from app.backup.errors import BackupError
from app.backup.repository import Manifest, Point, Repository, parse_lsn, segment_name
from app.config import Settings
from app.database import Database
from app.embedded.binaries import postgres_install
from app.embedded.data_folder import make_data_dir
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import EmbeddedError, Process, stop, tail, write_private
from app.services.audit_service import AuditService
from app.utils.media_types import content_disposition, sniff
from app.utils.storage import StorageKeyExists, storage_for

START_SECONDS = 3600
_POLL_SECONDS = 0.05
_PORT = 5432
"""Part of the name of the socket; nothing listens on it."""
_ZEROS = bytes(8192)


@dataclass(frozen=True)
class Target:
    """How far to restore: `time`, `point`, or everything that is kept when both are None."""

    time: datetime | None = None
    point: Point | None = None

    @classmethod
    def parse(cls, text: str, repository: Repository) -> "Target":
        """Return the target that a person names: `latest`, a restore point, or a time as in RFC 3339 with its zone.

        Raises:
            BackupError: it is none of them.
        """
        if text == "latest":
            return cls()
        points = repository.points()
        if text in points:
            return cls(point=points[text])
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            known = ", ".join(points) or "none"
            raise BackupError(f"{text} is neither `latest` nor a time nor a restore point; known: {known}") from None
        if moment.tzinfo is None:
            raise BackupError(f"{text} needs its time zone, as in 2026-11-23T14:00:00+01:00")
        return cls(time=moment)

    def options(self) -> dict[str, str]:
        """Return the settings of PostgreSQL that recover up to it.

        The log is followed on the timeline of the base backup: a database that was restored goes on on another one, and
        its log is kept from its own first base backup on.
        """
        common = {"recovery_target_timeline": "current", "recovery_target_action": "promote"}
        if self.point is not None:
            return {**common, "recovery_target_name": self.point.name}
        if self.time is not None:
            return {**common, "recovery_target_time": self.time.isoformat(" ")}
        return common


@dataclass(frozen=True)
class Report:
    """What was restored.

    Attributes:
        backup: id of the base backup.
        data_dir: the new data folder.
        log_segments: how many segments of the log were at hand.
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
        with _Recovery(repository, backup, data_dir, progress) as recovery:
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


def base_for(repository: Repository, target: Target) -> Manifest:
    """Return the newest base backup that was whole before the target.

    Raises:
        BackupError: there is none.
    """
    for backup in reversed(repository.backups()):
        if target.point is not None:
            point = target.point
            reached = parse_lsn(backup.stop_lsn) <= parse_lsn(point.lsn) and backup.timeline == point.timeline
            if reached and backup.finished_at <= point.at:
                return backup
        elif target.time is None or datetime.fromisoformat(backup.finished_at) <= target.time:
            return backup
    raise BackupError("there is no base backup from before this target")


class _Recovery:
    """A cluster that is unpacked, replayed by a server of its own that only we can reach, and put in its place.

    As a context it removes what was only needed meanwhile, and gives the cluster its name if all went well.
    """

    def __init__(self, repository: Repository, backup: Manifest, data_dir: Path, progress: Progress) -> None:
        self._repository = repository
        self._backup = backup
        self._progress = progress
        # For the identity that servers run as, and for how a closed folder is reached.
        self._postgres = EmbeddedPostgres(data_dir)
        self._home = self._postgres.home
        self._cluster = self._home / "restoring"
        self._log_folder = self._home / "restoring-log"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self._meeting = Path(tempfile.mkdtemp(prefix="articurated-restore-"))
        self._identity = self._postgres.prepare_home()
        for folder in (self._meeting, self._cluster, self._log_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process is not None:
            stop(self._process, signal.SIGINT, 120)
        shutil.rmtree(self._log_folder, ignore_errors=True)
        shutil.rmtree(self._meeting, ignore_errors=True)
        if kind is None:
            self._cluster.rename(self._postgres.cluster)

    def url(self, database: str) -> str:
        """Return the connection of the superuser to a database of the restored server."""
        return f"postgresql://{quote(self._backup.superuser, safe='')}@/{database}?host={self._meeting}&port={_PORT}"

    def unpack(self, target: Target) -> int:
        """Write the base backup, and the log that follows it; return how many segments that are."""
        self._progress("unpacking the database")
        folder = f"backups/{self._backup.id}"
        with tarfile.open(fileobj=_Stream(self._repository.read(f"{folder}/base.tar.gz")), mode="r|") as archive:
            for member in archive:
                archive.extract(member, self._cluster, filter="data")
        for file in self._backup.files:
            name = Path(file.path).name.removesuffix(".aes").removesuffix(".gz")
            if name != "base.tar":
                write_private(self._home / name, b"".join(self._repository.read(f"{folder}/{name}.gz")).decode())
        self._verify()
        self._progress("unpacking the log")
        names = self._needed_segments(target)
        for name in names:
            _write_sparse(self._log_folder / name, self._repository.read(f"wal/{name}.gz"))
        (self._cluster / "recovery.signal").touch(mode=0o600)
        for path in (*self._cluster.rglob("*"), *self._log_folder.iterdir()):
            self._give(path)
        return sum("." not in name for name in names)

    def replay(self, target: Target) -> str | None:
        """Have PostgreSQL recover up to the target; return when the last transaction committed that it replayed."""
        self._progress("replaying the log")
        access = self._meeting / "hba"
        write_private(access, "local all all trust\n")  # The folder of its socket is closed to others.
        source = shlex.quote(str(self._log_folder).replace("%", "%%"))
        options = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(self._meeting),
            "hba_file": str(access),
            "restore_command": f'cp {source}/"%f" "%p"',
            "hot_standby": "off",
            "archive_mode": "off",
            "recovery_target": "",
            **target.options(),
        }
        if not (self._cluster / "postgresql.conf").exists():
            write_private(self._meeting / "postgresql.conf", "")
            self._give(self._meeting / "postgresql.conf")
            options["config_file"] = str(self._meeting / "postgresql.conf")
        self._give(access)
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = self._postgres.run_program("postgres", "-D", self._cluster, *words, install=self._install())
        self._await_promotion()
        with psycopg.connect(self.url(self._backup.database), autocommit=True) as connection:
            self._progress("gathering statistics")
            connection.execute("ANALYZE")
        return _last_commit(self._postgres.log)

    def _await_promotion(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise BackupError(f"PostgreSQL could not recover up to the target:\n{tail(self._postgres.log)}")
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(self.url("postgres"), connect_timeout=5) as database,
            ):
                row = database.execute("SELECT pg_is_in_recovery()").fetchone()
                if row == (False,):
                    return
            time.sleep(_POLL_SECONDS)
        raise BackupError(f"PostgreSQL did not end its recovery within {START_SECONDS} s")

    def _verify(self) -> None:
        """Have pg_verifybackup compare what was unpacked with the manifest that pg_basebackup made."""
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        program = programs.installation(self._major) / "bin" / "pg_verifybackup"
        programs.run(program, ["--no-parse-wal", "--quiet", str(self._cluster)], environment, START_SECONDS)

    def _needed_segments(self, target: Target) -> list[str]:
        first = self._backup.first_segment
        last = f"{self._backup.timeline:08X}{'F' * 16}"
        if target.point is not None:
            last = segment_name(target.point.timeline, parse_lsn(target.point.lsn))
        return [name for name in sorted(self._repository.segments()) if "." in name or first <= name <= last]

    @property
    def _major(self) -> int:
        return int(self._backup.postgres.split(".")[0])

    def _install(self) -> Path | None:
        """Return the installation to run, or None for the wheel's, which is copied to where its user can reach it."""
        found = programs.installation(self._major)
        with suppress(EmbeddedError):
            if found == postgres_install().resolve():
                return None
        return found

    def _give(self, path: Path) -> None:
        if self._identity is not None:
            os.chown(path, self._identity.uid, self._identity.gid)


class _Stream(io.RawIOBase):
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


def _write_sparse(path: Path, pieces: Iterator[bytes]) -> None:
    """Write a file without the blocks that are zero: a segment that was switched early is mostly such."""
    size = 0
    with path.open("wb") as file:
        stream = io.BufferedReader(_Stream(pieces), buffer_size=len(_ZEROS))
        while block := stream.read(len(_ZEROS)):
            if block == _ZEROS[: len(block)]:
                file.seek(len(block), os.SEEK_CUR)
            else:
                file.write(block)
            size += len(block)
        file.truncate(size)


def _last_commit(log: Path) -> str | None:
    """Return what the server's log says of the last transaction that it replayed."""
    marker = "last completed transaction was at log time "
    found = [
        line.partition(marker)[2].strip() for line in log.read_text(errors="replace").splitlines() if marker in line
    ]
    return found[-1] if found else None


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
