"""The gateway's database: one SQLite file, every movement one committed transaction.

WAL with synchronous=FULL means that COMMIT returns after the log is on disk: what a caller was answered
survives a SIGKILL and a power cut. All access happens on the event loop's thread, one transaction at a
time; a lock on the folder keeps a second process from opening the same ledger. The SQL keeps to SQLite
3.24, because long-lived distributions give their Python 3.11 an old library.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (
    id TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    captured INTEGER NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND amount),
    refunded INTEGER NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND captured),
    status TEXT NOT NULL CHECK (status IN ('authorized', 'captured', 'voided', 'failed')),
    source TEXT NOT NULL CHECK (source IN ('token', 'reported')),
    method TEXT,
    refuses_refunds INTEGER NOT NULL DEFAULT 0,
    failure_code TEXT,
    metadata TEXT NOT NULL,
    created TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS payments_reference_live ON payments (reference) WHERE status <> 'failed';
CREATE INDEX IF NOT EXISTS payments_reference ON payments (reference);
CREATE TABLE IF NOT EXISTS refunds (
    id TEXT PRIMARY KEY,
    payment TEXT NOT NULL REFERENCES payments (id),
    reference TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed')),
    reason TEXT,
    failure_code TEXT,
    created TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS refunds_reference ON refunds (reference);
CREATE TABLE IF NOT EXISTS transactions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL CHECK (type IN ('authorization', 'capture', 'void', 'refund')),
    payment TEXT NOT NULL REFERENCES payments (id),
    refund TEXT REFERENCES refunds (id),
    reference TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dropped')),
    due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    copies INTEGER NOT NULL DEFAULT 1,
    bad_signature INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_due ON events (due) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL REFERENCES events (id),
    at TEXT NOT NULL,
    status INTEGER,
    error TEXT
);
CREATE TABLE IF NOT EXISTS faults (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    operation TEXT NOT NULL,
    mode TEXT NOT NULL,
    remaining INTEGER,
    delay_seconds REAL NOT NULL,
    reference TEXT,
    hits INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS profile (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    idempotency TEXT NOT NULL,
    lookup INTEGER NOT NULL
);
INSERT OR IGNORE INTO profile VALUES (1, 'stripe', 1);
"""

_WIPE = """
DELETE FROM deliveries; DELETE FROM events; DELETE FROM transactions; DELETE FROM refunds;
DELETE FROM payments; DELETE FROM idempotency_keys; DELETE FROM faults;
UPDATE profile SET idempotency = 'stripe', lookup = 1;
"""


class StoreInUseError(Exception):
    """Another process has its ledger in this folder."""


def _make_private(file: Path) -> None:
    """Make a file that its owner alone can read, or make one so that is there."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


class Store:
    """The open database file of one gateway."""

    def __init__(self, folder: Path) -> None:
        """Open or create the ledger in `folder`.

        Raises:
            StoreInUseError: another gateway runs on this folder.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(folder / "gateway.lock")
        self._lock = (folder / "gateway.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StoreInUseError(f"another gateway already has its ledger in {folder}") from None
        # SQLite gives its log and index the mode of the database.
        _make_private(folder / "ledger.sqlite3")
        self._connection = sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside one movement: durable at the end, undone when it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back on some errors, e.g. a full disk
                self._connection.execute("ROLLBACK")
            raise

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Return every row of a statement."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def write(self, sql: str, *values: Any) -> int:
        """Execute a statement and return the number of rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def wipe(self) -> None:
        """Delete everything: ledger, keys, events, faults, profile."""
        with self.transaction():
            for statement in _WIPE.split(";"):
                self._connection.execute(statement)

    def close(self) -> None:
        """Close the file and release the folder."""
        self._connection.close()
        self._lock.close()
