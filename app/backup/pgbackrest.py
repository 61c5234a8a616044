"""pgBackRest in place of our own base backups and log, where it is set up (NFR-003).

It keeps database and log in a repository of its own. Ours keeps the documents, the restore points, and a manifest for each
of its backups, so that a restore finds both. The server's archive_command is `pgbackrest archive-push`.
"""

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.backup import programs
from app.backup.errors import BackupError
from app.backup.target import Target
from app.config import Settings

PROGRAM = "pgbackrest"
_LONGEST_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Kept:
    """A backup in the repository of pgBackRest.

    Attributes:
        label: its name there.
        is_full: whether it holds everything.
        size: bytes that it takes there.
    """

    label: str
    is_full: bool
    started: int
    size: int
    timeline: int
    start_lsn: str
    stop_lsn: str


@dataclass(frozen=True)
class PgBackRest:
    """The program, and the stanza that names the database."""

    program: Path
    stanza: str

    def backup(self, *, is_full: bool) -> Kept:
        """Make a backup: of what changed, where there is a full one to go back to.

        Raises:
            BackupError: it could not be made.
        """
        self._run(f"--type={'full' if is_full else 'incr'}", "backup")
        return self.backups()[-1]

    def backups(self) -> list[Kept]:
        """Return the backups that can be restored, oldest first.

        Raises:
            BackupError: they cannot be listed.
        """
        stanza = self._info()
        if not stanza["backup"] and stanza["status"]["code"] not in {0, 2}:  # 2: no backup was made so far.
            raise BackupError(f"pgBackRest, stanza {self.stanza}: {stanza['status']['message']}")
        return [_kept(entry) for entry in stanza["backup"] if not entry.get("error")]

    def has_log(self, segment: str) -> bool:
        """Whether the log is kept up to a segment of its timeline.

        Raises:
            BackupError: it cannot be said.
        """
        newest = (str(entry["max"]) for entry in self._info()["archive"] if entry["max"])
        return any(name[:8] == segment[:8] and name >= segment for name in newest)

    def restore(self, label: str, cluster: Path, target: Target) -> None:
        """Write a backup into an empty folder, ready to recover up to a target.

        Raises:
            BackupError: it could not be restored.
        """
        how = ["--type=default"]
        if target.point is not None:
            how = ["--type=name", f"--target={target.point.name}", "--target-action=promote"]
        elif target.time is not None:
            how = ["--type=time", f"--target={target.time.isoformat(' ')}", "--target-action=promote"]
        self._run(f"--pg1-path={cluster}", f"--set={label}", *how, "restore")

    def restore_command(self) -> str:
        """Return the setting with which a server gets its log from the repository.

        The folder of the cluster is named as the working folder, for the server may run as a user who cannot pass through
        the folders above it.
        """
        words = [str(self.program), *self._options(), "--pg1-path=/proc/self/cwd", "archive-get"]
        return f'{shlex.join(words).replace("%", "%%")} %f "%p"'

    def expire(self) -> None:
        """Remove what its own retention (`repo1-retention-full`) does not keep."""
        self._run("expire")

    def verify(self) -> list[str]:
        """Have it compare its files with their checksums; return what is wrong."""
        try:
            self._run("verify")
        except BackupError as fault:
            return [str(fault)]
        return []

    def _info(self) -> dict[str, Any]:
        [stanza] = json.loads(self._run("--output=json", "info"))
        return dict(stanza)

    def _options(self) -> list[str]:
        config = os.environ.get("PGBACKREST_CONFIG")
        return [f"--stanza={self.stanza}", *([f"--config={config}"] if config else [])]

    def _run(self, *words: str) -> str:
        # It connects as its own configuration says, or as libpq's variables do.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in {"PATH", "HOME"} or name.startswith(("PG", "AWS_"))
        }
        arguments = [*self._options(), "--log-level-console=off", "--log-level-stderr=error", *words]
        return programs.output_of(self.program, arguments, environment, _LONGEST_SECONDS)


def chosen(settings: Settings) -> PgBackRest | None:
    """Return pgBackRest where it makes the backups, and None where we do.

    Raises:
        BackupError: it is chosen, and not here or without a stanza.
    """
    if settings.backup_engine != PROGRAM:
        return None
    if not settings.backup_pgbackrest_stanza:
        raise BackupError("BACKUP_ENGINE is pgbackrest: name its stanza in BACKUP_PGBACKREST_STANZA")
    program = shutil.which(PROGRAM)
    if program is None:
        raise BackupError("BACKUP_ENGINE is pgbackrest, and the program pgbackrest is not on PATH")
    return PgBackRest(Path(program), settings.backup_pgbackrest_stanza)


def _kept(entry: dict[str, Any]) -> Kept:
    return Kept(
        label=entry["label"],
        is_full=entry["type"] == "full",
        started=entry["timestamp"]["start"],
        size=entry["info"]["repository"]["delta"],
        timeline=int(entry["archive"]["start"][:8], 16),
        start_lsn=entry["lsn"]["start"],
        stop_lsn=entry["lsn"]["stop"],
    )
