"""The write-ahead log: how a repository gets each segment of it (NFR-003).

It is fetched with pg_receivewal through a replication slot, so that the server keeps each segment until the repository
has it; nothing has to be installed on the server's machine. Where archive_mode is on, archive_command brings it instead.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from app.backup import programs
from app.backup.errors import BackupError
from app.backup.pgbackrest import PgBackRest, chosen
from app.backup.repository import SEGMENT_BYTES, Repository, parse_lsn, segment_name
from app.backup.source import Connection, Source, connected, is_archiving, major_of, one, timeline_of

TURN_SECONDS = 30.0
"""Time between two turns, in which the log is fetched. With the server, at most this and what a turn takes are lost."""
RECEIVE_SECONDS = 600
ARCHIVE_SECONDS = 120

logger = structlog.get_logger(__name__)


def make_slot(connection: Connection, slot: str) -> bool:
    """Have the server keep its log for us from now on; return whether we fetch it, or archive_command brings it."""
    if is_archiving(connection):
        return False
    if not slot_is_whole(connection, slot):
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [slot])
    return True


def hold_log(connection: Connection, name: str) -> None:
    """Have the server keep its log from now on while this connection lasts, also the part that is fetched in that time."""
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", [name])


def slot_is_whole(connection: Connection, slot: str) -> bool:
    """Whether the server has kept all of the log since we last fetched, or whether archive_command brings it."""
    if is_archiving(connection):
        return True
    state = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
    row = connection.execute(state, [slot]).fetchone()
    return row is not None and row[0] != "lost"


def collect_log(source: Source, repository: Repository, connection: Connection) -> int:
    """Bring the log up to this moment; return how many segments were new.

    Raises:
        BackupError: it could not be fetched, or was not archived in time.
    """
    moment = datetime.now(UTC)
    switched = parse_lsn(str(one(connection, "SELECT pg_switch_wal()::text")))
    if (engine := chosen(source.settings)) is not None:
        _await_pushed(engine, connection, switched)
        added = 0
    elif is_archiving(connection):
        _await_archived(repository, connection, switched)
        added = 0
    else:
        with repository.writing_log():
            added = _fetch(source, repository, connection, switched)
    _note(repository, moment)
    return added


@contextmanager
def log_kept_current(source: Source, repository: Repository) -> Iterator[None]:
    """Collect the log in time while the block lasts: copying a large database takes hours.

    A turn that fails is logged and tried again at the next; what follows the block collects the log in any case.
    """
    ended = threading.Event()

    def turns() -> None:
        while not ended.wait(TURN_SECONDS):
            try:
                with connected(source) as connection:
                    collect_log(source, repository, connection)
            except (BackupError, OSError) as fault:
                logger.warning("backup.log_not_collected", error=str(fault))

    thread = threading.Thread(target=turns, name="backup-log")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def archive(repository: Repository, path: Path) -> bool:
    """Keep one segment: what PostgreSQL's archive_command calls. Return whether it was new.

    Raises:
        BackupError: another content is kept under this name.
    """
    repository.require()
    # PostgreSQL wrote to it until it was full or switched: what committed before is in it or in one before it.
    moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    with repository.writing_log():
        is_new = repository.keep_segment(path.name, path)
    if is_new and "." not in path.name:
        _note(repository, moment)
    return is_new


def _note(repository: Repository, moment: datetime) -> None:
    """Remember that all that committed up to a moment is kept, and how much could have been lost until now.

    This is the recovery point objective as it was measured: from the moment up to which the log was kept before, until
    now, when it is kept further. What is committed in between is lost with the server and its disk.
    """
    before = repository.status().get("last_log_at")
    facts = {"last_log_at": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if before is not None:
        if before > facts["last_log_at"]:
            return
        facts["rpo_seconds"] = f"{(datetime.now(UTC) - datetime.fromisoformat(before)).total_seconds():.0f}"
    repository.note(**facts)


def _fetch(source: Source, repository: Repository, connection: Connection, switched: int) -> int:
    # The last byte of the segment before: it is reached when that segment is whole.
    end = (switched - 1) // SEGMENT_BYTES * SEGMENT_BYTES + SEGMENT_BYTES - 1
    spool = repository.root / "spool"
    spool.mkdir(exist_ok=True, mode=0o700)
    arguments = ["--directory", str(spool), "--slot", repository.slot, "--synchronous", "--no-password", "--no-loop"]
    program = programs.installation(major_of(connection)) / "bin" / "pg_receivewal"
    arguments += ["--endpos", f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"]
    programs.run(program, arguments, programs.client_environment(source.url), RECEIVE_SECONDS)
    known, added = repository.segments(), 0
    for path in sorted(spool.iterdir()):
        if path.suffix != ".partial":
            added += repository.keep_segment(path.name, path, known)
        path.unlink()
    return added


def _await_pushed(engine: PgBackRest, connection: Connection, switched: int) -> None:
    """Make sure that archive_command has brought the log to pgBackRest's repository up to a position."""
    if not is_archiving(connection):
        raise BackupError("pgBackRest needs archive_mode = on and its archive-push as archive_command")
    wanted = segment_name(timeline_of(connection), switched - 1)
    deadline = time.monotonic() + ARCHIVE_SECONDS
    while not engine.has_log(wanted):
        if time.monotonic() > deadline:
            raise BackupError(f"{wanted} was not archived within {ARCHIVE_SECONDS} s: see the server's log")
        time.sleep(0.5)


def _await_archived(repository: Repository, connection: Connection, switched: int) -> None:
    """Make sure that archive_command has brought the log up to a position."""
    wanted = segment_name(timeline_of(connection), switched - 1)
    deadline = time.monotonic() + ARCHIVE_SECONDS
    while wanted not in repository.segments():
        if time.monotonic() > deadline:
            how = "does archive_command run `articurated backup archive-wal`?"
            raise BackupError(f"{wanted} was not archived within {ARCHIVE_SECONDS} s: {how}")
        time.sleep(0.2)
