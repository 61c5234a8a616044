"""A cluster that PostgreSQL itself recovers up to a target, from a base backup and the log that follows it (NFR-003)."""

import os
import shlex
import shutil
import signal
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from app.backup import programs
from app.backup.base import combine
from app.backup.errors import BackupError
from app.backup.pgbackrest import PgBackRest
from app.backup.repository import Manifest, Repository, parse_lsn, segment_name
from app.backup.source import Progress
from app.backup.streams import Stream, write_sparse
from app.backup.target import Target
from app.local.binaries import postgres_install
from app.local.postgres import EmbeddedPostgres
from app.local.process import EmbeddedError, Process, stop, tail, write_private

START_SECONDS = 3600
_POLL_SECONDS = 0.05
_PORT = 5432
"""Part of the name of the socket; nothing listens on it."""


class Recovery:
    """A cluster that is unpacked, replayed by a server of its own that only we can reach, and put in its place.

    As a context it removes what was only needed meanwhile, and gives the cluster its name if all went well.
    """

    def __init__(
        self, repository: Repository, backup: Manifest, data_dir: Path, progress: Progress, engine: PgBackRest | None
    ) -> None:
        if backup.label is not None and engine is None:
            raise BackupError(f"pgBackRest made backup {backup.id}: set BACKUP_ENGINE and BACKUP_PGBACKREST_STANZA")
        self._engine = engine if backup.label is not None else None
        self._repository = repository
        self._backup = backup
        self._progress = progress
        # For the identity that servers run as, and for how a closed folder is reached.
        self._postgres = EmbeddedPostgres(data_dir)
        self._home = self._postgres.home
        self._chain = repository.chain(backup)
        self._cluster = self._home / "restoring"
        self._parts = [self._home / f"restoring-part-{number}" for number in range(len(self._chain))]
        self._log_folder = self._home / "restoring-log"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        """Make the folders that it works in."""
        self._meeting = Path(tempfile.mkdtemp(prefix="articurated-restore-"))
        self._identity = self._postgres.prepare_home()
        for folder in (self._meeting, self._cluster, self._log_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the server; keep the cluster when all went well."""
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
        """Write the base backup, and the log that follows it; return how many segments that are.

        From pgBackRest, PostgreSQL gets the log itself, as it needs it.
        """
        self._progress("unpacking the database")
        if self._engine is not None:
            self._engine.restore(str(self._backup.label), self._cluster, target)
        elif len(self._chain) == 1:
            self._extract(self._backup, self._cluster)
        else:
            for number, (backup, part) in enumerate(zip(self._chain, self._parts, strict=True)):
                self._progress(f"unpacking {number + 1} of {len(self._parts)} parts")
                part.mkdir(mode=0o700)
                self._extract(backup, part)
            self._progress("combining the parts")
            combine(self._major, self._parts, self._cluster)
            self._verify(self._cluster)
            for part in self._parts:
                shutil.rmtree(part)
        for file in self._backup.files:
            name = Path(file.path).name.removesuffix(".aes").removesuffix(".gz")
            if name != "base.tar":
                content = b"".join(self._repository.read(f"backups/{self._backup.id}/{name}.gz"))
                write_private(self._home / name, content.decode())
        self._progress("unpacking the log")
        names = self._needed_segments(target)
        for name in names:
            write_sparse(self._log_folder / name, self._repository.read(f"wal/{name}.gz"))
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
            "restore_command": self._engine.restore_command() if self._engine else f'cp {source}/"%f" "%p"',
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

    def _extract(self, backup: Manifest, folder: Path) -> None:
        content = self._repository.read(f"backups/{backup.id}/base.tar.gz")
        with tarfile.open(fileobj=Stream(content), mode="r|") as archive:
            for member in archive:
                archive.extract(member, folder, filter="data")
        self._verify(folder)

    def _verify(self, folder: Path) -> None:
        """Have pg_verifybackup compare what was unpacked with the list of files that PostgreSQL made with it."""
        program = programs.installation(self._major) / "bin" / "pg_verifybackup"
        arguments = ["--no-parse-wal", "--quiet", str(folder)]
        programs.run(program, arguments, programs.local_environment(), START_SECONDS)

    def _needed_segments(self, target: Target) -> list[str]:
        if self._engine is not None:
            return []
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


def _last_commit(log: Path) -> str | None:
    """Return what the server's log says of the last transaction that it replayed."""
    marker = "last completed transaction was at log time "
    found = [
        line.partition(marker)[2].strip() for line in log.read_text(errors="replace").splitlines() if marker in line
    ]
    return found[-1] if found else None
