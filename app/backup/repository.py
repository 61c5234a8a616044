"""The folder that holds the backups of one database.

    repository.json         format, database system, whether files are encrypted
    backups/ID/base.tar.gz  a base backup, as pg_basebackup writes it
    backups/ID/manifest.json  what belongs to it, with SHA-256; it is written last, so a backup without one is not whole
    wal/SEGMENT.gz          the write-ahead log, a segment a file; wal.jsonl has their SHA-256
    documents/KEY           the documents, which never change; documents.jsonl has their SHA-256
    points.jsonl            named restore points
    status.json             when a backup was last made, up to when the log is kept, and how much could have been lost

With a key, files end in `.aes`; the JSON files, which are not encrypted, say hashes, keys and sizes, and nothing of any content.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.backup.errors import BackupError
from app.backup.sealed import Stored, read_file, sha256_of, sync_folder, write_file

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """A whole backup.

    Attributes:
        id: begins with the moment at which it was begun, so ids sort by age.
        started_at, finished_at: RFC 3339, UTC.
        postgres: version of the server, e.g. `18.6`.
        timeline: of its write-ahead log.
        start_lsn, stop_lsn: from where to where the log is needed to make the base backup consistent.
        database: name of the application's database.
        superuser: name of a role that may do everything in the restored server.
        files: what belongs to it.
        documents: how many documents the repository held at its end.
        missing_documents: keys that the database knows and the storage did not have.
        parent: id of the backup that an incremental one follows; None for a full one.
        label: of a backup that pgBackRest keeps, its name there.
        label_bytes: its size there.
    """

    id: str
    started_at: str
    finished_at: str
    postgres: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    database: str
    superuser: str
    documents: int
    missing_documents: tuple[str, ...] = ()
    files: list[Stored] = field(default_factory=list)
    parent: str | None = None
    label: str | None = None
    label_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.size for file in self.files) + self.label_bytes

    @property
    def first_segment(self) -> str:
        """Name of the first segment of the log that it needs."""
        return segment_name(self.timeline, parse_lsn(self.start_lsn))


@dataclass(frozen=True)
class Point:
    """A named restore point."""

    name: str
    lsn: str
    timeline: int
    at: str


class Repository:
    """See the module.

    Args:
        root: the folder.
        key: for files that are encrypted; with a new repository, whether they are to be.

    Attributes:
        slot: name of the replication slot through which its log is fetched.
    """

    def __init__(self, root: Path, key: bytes | None = None) -> None:
        self.root = root.absolute()
        self._key = key
        facts = _read_json(self.root / "repository.json")
        if facts and facts["format"] != FORMAT:
            raise BackupError(f"{self.root} has format {facts['format']}; this version reads {FORMAT}")
        self.exists = bool(facts)
        self.system = str(facts.get("system", ""))
        self.slot = f"articurated_backup_{facts['id']}" if facts else ""
        self.is_encrypted = bool(facts["encrypted"]) if facts else key is not None

    def create(self, system: str) -> None:
        """Begin a repository for a database system, or make sure that this is its repository.

        Raises:
            BackupError: it is another system's, or its files are in clear text although a key is set.
        """
        if not self.exists:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if any(self.root.iterdir()):
                raise BackupError(f"{self.root} is no backup repository, and not empty")
            name = secrets.token_hex(4)
            facts = {"format": FORMAT, "id": name, "system": system, "encrypted": self.is_encrypted}
            write_json(self.root / "repository.json", facts)
            self.exists, self.system, self.slot = True, system, f"articurated_backup_{name}"
        if self.system != system:
            raise BackupError(f"{self.root} holds the backups of another database (system {self.system})")
        if not self.is_encrypted and self._key is not None:
            raise BackupError(f"{self.root} is not encrypted; for BACKUP_ENCRYPTION_KEY begin one in another folder")
        if self.is_encrypted and self._key is None:
            raise BackupError("this repository is encrypted: set BACKUP_ENCRYPTION_KEY")

    def require(self) -> None:
        """Make sure that there is one.

        Raises:
            BackupError: there is none.
        """
        if not self.exists:
            raise BackupError(f"{self.root} holds no backups")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who makes or removes backups; wait for another one to end."""
        with self._locked("lock"):
            yield

    @contextmanager
    def writing_log(self) -> Iterator[None]:
        """Be the only one who writes the log, also while another one makes a backup: that takes long."""
        with self._locked("lock-log"):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.root / name).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- files ------------------------------------------------------------------------------------------

    def store(self, path: str, content: Iterator[bytes]) -> Stored:
        """Write a file; a path that ends in `.gz` is compressed."""
        return write_file(self.root, self._sealed(path), self._key, content)

    def read(self, path: str) -> Iterator[bytes]:
        """Yield what a file holds; `path` as given to `store`."""
        sealed = self._sealed(path)
        if not (self.root / sealed).exists():
            raise BackupError(f"{self.root / sealed} is missing")
        return read_file(self.root, sealed, self._key)

    def _sealed(self, path: str) -> str:
        return f"{path}.aes" if self.is_encrypted else path

    # --- backups ----------------------------------------------------------------------------------------

    def backups(self) -> list[Manifest]:
        """Return the whole backups, oldest first."""
        found = []
        for path in sorted((self.root / "backups").glob("*/manifest.json")):
            facts = _read_json(path)
            facts["files"] = [Stored(**file) for file in facts["files"]]
            found.append(Manifest(**facts))
        return found

    def chain(self, backup: Manifest) -> list[Manifest]:
        """Return what a backup is restored from: the full one, the incremental ones that follow it, itself.

        Raises:
            BackupError: one of them is missing.
        """
        known = {each.id: each for each in self.backups()}
        found = [backup]
        while (parent := found[0].parent) is not None:
            if parent not in known:
                raise BackupError(f"backup {found[0].id} is incremental, and {parent}, which it follows, is missing")
            found.insert(0, known[parent])
        return found

    def finish(self, manifest: Manifest) -> None:
        """Make a backup whole."""
        folder = self.root / "backups" / manifest.id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(folder / "manifest.json", asdict(manifest))
        self.note(last_backup_at=manifest.finished_at)

    # --- the write-ahead log ----------------------------------------------------------------------------

    def segments(self) -> dict[str, dict[str, Any]]:
        """Return segment or history file → what is known of it."""
        return {entry["name"]: entry for entry in read_lines(self.root / "wal.jsonl")}

    def keep_segment(self, name: str, content: Path, known: Mapping[str, Mapping[str, Any]] | None = None) -> bool:
        """Keep a segment of the log; return whether it was new.

        Raises:
            BackupError: another content is kept under this name.
        """
        plain = sha256_of(content)
        kept = (self.segments() if known is None else known).get(name)
        if kept is not None:
            if kept["plain_sha256"] == plain:
                return False
            raise BackupError(f"{name} is in {self.root} with another content: is another server archiving there?")
        with content.open("rb") as file:
            stored = self.store(f"wal/{name}.gz", iter(lambda: file.read(2**16), b""))
        entry = {"name": name, **asdict(stored), "plain_sha256": plain, "at": now()}
        append_line(self.root / "wal.jsonl", entry)
        return True

    # --- documents, points, status ----------------------------------------------------------------------

    def documents(self) -> dict[str, dict[str, Any]]:
        """Return key → the document's hash and where it is stored."""
        return {entry["key"]: entry for entry in read_lines(self.root / "documents.jsonl")}

    def keep_document(self, key: str, sha256: str, content: bytes) -> dict[str, Any]:
        """Keep a document under a key; return what is known of it."""
        stored = self.store(f"documents/{key}", iter((content,)))
        entry = {"key": key, "content_sha256": sha256, **asdict(stored)}
        append_line(self.root / "documents.jsonl", entry)
        return entry

    def points(self) -> dict[str, Point]:
        """Return the named restore points."""
        return {entry["name"]: Point(**entry) for entry in read_lines(self.root / "points.jsonl")}

    def keep_point(self, point: Point) -> None:
        """Remember where a named restore point is."""
        append_line(self.root / "points.jsonl", asdict(point))

    def status(self) -> dict[str, str]:
        """Return when what was last done, RFC 3339."""
        return _read_json(self.root / "status.json")

    def note(self, **facts: str) -> None:
        """Remember when something was done."""
        with self._locked("lock-status"):
            write_json(self.root / "status.json", {**self.status(), **facts})

    def discard(self, backup: Manifest) -> None:
        """Remove a backup, its manifest first."""
        folder = self.root / "backups" / backup.id
        (folder / "manifest.json").unlink()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    def discard_segments(self, names: set[str]) -> None:
        """Remove segments of the log."""
        left = []
        for entry in read_lines(self.root / "wal.jsonl"):
            if entry["name"] in names:
                (self.root / entry["path"]).unlink(missing_ok=True)
            else:
                left.append(entry)
        _replace(self.root / "wal.jsonl", b"".join(json.dumps(entry).encode() + b"\n" for entry in left))


def now() -> str:
    """Return this moment as RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


SEGMENT_BYTES = 16 * 2**20


def parse_lsn(text: str) -> int:
    """Return a position in the log, such as `0/3000028`, as a number of bytes."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment_name(timeline: int, position: int) -> str:
    """Return the name of the segment that holds a position."""
    number = position // SEGMENT_BYTES
    in_one = 2**32 // SEGMENT_BYTES
    return f"{timeline:08X}{number // in_one:08X}{number % in_one:08X}"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; a last line that a crash cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def append_line(path: Path, entry: Mapping[str, object]) -> None:
    """Add an object to a JSON Lines file and flush it to disk; an incomplete last line, left by a crash, is removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        while whole and os.pread(descriptor, 1, whole - 1) != b"\n":
            whole -= 1
        file.truncate(whole)
        file.seek(whole)
        file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(descriptor)


def write_json(path: Path, facts: Mapping[str, object]) -> None:
    """Replace a JSON file, whole or not at all."""
    _replace(path, json.dumps(facts, indent=1).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return facts
