"""What is backed up, and the connection to it (NFR-003)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import TupleRow

from app.backup.errors import BackupError
from app.backup.repository import SEGMENT_BYTES
from app.config import Settings

APPLICATION = "articurated-backup"

Progress = Callable[[str], None]
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


@contextmanager
def connected(source: Source) -> Iterator[Connection]:
    """Connect as the login for backups.

    Raises:
        BackupError: the server cannot be reached, is no primary with 16 MB segments, or refuses a statement.
    """
    try:
        connection = psycopg.connect(source.url, autocommit=True, connect_timeout=10, application_name=APPLICATION)
    except psycopg.Error as fault:
        raise BackupError(f"the database cannot be reached for a backup: {_reason(fault)}") from None
    try:
        with connection:
            if one(connection, "SELECT pg_is_in_recovery()"):
                raise BackupError("this server is a standby: back the primary up")
            if one(connection, "SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size'") != SEGMENT_BYTES:
                raise BackupError("the server's segments of the write-ahead log are not of 16 MB")
            yield connection
    except psycopg.Error as fault:
        raise BackupError(f"the database does not do what a backup needs: {_reason(fault)}") from fault


def timeline_of(connection: Connection) -> int:
    """Return the timeline that the server writes."""
    return int(str(one(connection, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")), 16)


def major_of(connection: Connection) -> int:
    """Return the server's major version."""
    return connection.info.server_version // 10_000


def is_archiving(connection: Connection) -> bool:
    """Whether the server brings its log by archive_command; else it is fetched."""
    return str(one(connection, "SHOW archive_mode")) != "off"


def one(connection: Connection, question: LiteralString) -> Any:
    """Return the first value of the first row, if there is one."""
    row = connection.execute(question).fetchone()
    return row[0] if row else None


def _reason(fault: psycopg.Error) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
