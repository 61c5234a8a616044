"""Whether the backups in a repository are whole, and whether the log has a gap (NFR-003)."""

import hashlib
from collections.abc import Iterator

from app.backup.errors import BackupError
from app.backup.pgbackrest import PgBackRest
from app.backup.repository import SEGMENT_BYTES, Manifest, Repository, parse_lsn, read_lines, segment_name
from app.backup.sealed import sha256_of
from app.backup.source import Progress


def verify(
    repository: Repository,
    progress: Progress = lambda _line: None,
    *,
    deep: bool = True,
    engine: PgBackRest | None = None,
) -> list[str]:
    """Compare every file with its SHA-256 and look for gaps in the log.

    Args:
        deep: also decrypt and decompress every file, and compare documents with the hash of their content.
        engine: pgBackRest, where it keeps backups; with `deep` it verifies them itself.

    Returns:
        What is wrong, one sentence each; empty when all is whole.

    Raises:
        BackupError: there is no repository.
    """
    repository.require()
    backups = repository.backups()
    faults = [] if backups else ["there is no base backup"]
    for backup in backups:
        progress(f"backup {backup.id}")
        for file in backup.files:
            faults += _file(repository, file.path, file.size, file.sha256)
            if deep and not faults:
                faults += _content(repository, file.path, None)
        faults += _broken_chain(repository, backup)
        if backup.label is None:
            faults += _gap(repository, backup)
    faults += _of_engine(backups, engine, deep=deep)
    for index, title in (("wal.jsonl", "log"), ("documents.jsonl", "documents")):
        progress(title)
        for entry in read_lines(repository.root / index):
            found = _file(repository, entry["path"], entry["size"], entry["sha256"])
            content = entry.get("plain_sha256") or entry.get("content_sha256")
            faults += found or (_content(repository, entry["path"], content) if deep else [])
    return faults


def _file(repository: Repository, path: str, size: int, sha256: str) -> Iterator[str] | list[str]:
    file = repository.root / path
    if not file.is_file():
        return [f"{path} is missing"]
    if file.stat().st_size != size or sha256_of(file) != sha256:
        return [f"{path} is not what was written"]
    return []


def _content(repository: Repository, path: str, sha256: str | None) -> list[str]:
    digest = hashlib.sha256()
    try:
        for data in repository.read(path.removesuffix(".aes")):
            digest.update(data)
    except BackupError as fault:
        return [str(fault)]
    if sha256 is not None and digest.hexdigest() != sha256:
        return [f"{path} holds something else than what was kept"]
    return []


def _of_engine(backups: list[Manifest], engine: PgBackRest | None, *, deep: bool) -> list[str]:
    labelled = [backup for backup in backups if backup.label is not None]
    if not labelled:
        return []
    if engine is None:
        return ["pgBackRest keeps backups of this repository: set BACKUP_ENGINE and BACKUP_PGBACKREST_STANZA"]
    labels = {kept.label for kept in engine.backups()}
    lost = [f"backup {each.id}: pgBackRest no longer has {each.label}" for each in labelled if each.label not in labels]
    return lost + (engine.verify() if deep else [])


def _broken_chain(repository: Repository, backup: Manifest) -> list[str]:
    try:
        repository.chain(backup)
    except BackupError as fault:
        return [str(fault)]
    return []


def _gap(repository: Repository, backup: Manifest) -> list[str]:
    """Look for the first missing segment from a backup on, on its own timeline."""
    prefix = f"{backup.timeline:08X}"
    kept = {name for name in repository.segments() if "." not in name and name.startswith(prefix)}
    if not kept:
        return []
    position, last = parse_lsn(backup.start_lsn), max(kept)
    while (name := segment_name(backup.timeline, position)) <= last:
        if name not in kept:
            return [
                f"backup {backup.id}: {name} of the log is missing, so nothing later than that can be restored from it"
            ]
        position += SEGMENT_BYTES
    return []
