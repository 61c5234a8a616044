"""Does the read replica answer, and does it keep up with the primary (NFR-002)?"""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database

BEHIND_SECONDS = 30.0

# A position in the log, as a count of bytes since its beginning. A promoted replica replays no more: it writes.
_POSITION = text("""
SELECT pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')
""")


class ReplicaBehindError(Exception):
    """The replica has not replayed what the primary had written `BEHIND_SECONDS` ago."""


class ReplicaWatch:
    """Compares positions in the log, not times: a primary at rest writes nothing that gives a time.

    Args:
        database: with a replica.
        monotonic: seconds.
    """

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._mark: tuple[Decimal, float] | None = None
        """How far the primary was, and when; the replica was still behind that when it was last read."""

    async def look(self) -> None:
        """Look at the replica once; it is found to be behind from the second look on.

        Raises:
            DBAPIError: it does not answer, or the primary does not.
            ReplicaBehindError: it does not keep up.
        """
        replayed = await _replayed(self._database)
        async with self._database.autocommit() as connection:
            written = await _position(connection)
        now = self._monotonic()
        mark, marked_at = self._mark or (written, now)
        # After a failover the primary may be behind where the one before it was.
        if replayed >= min(mark, written):
            mark, marked_at = written, now
        self._mark = mark, marked_at
        if now - marked_at > BEHIND_SECONDS:
            raise ReplicaBehindError(f"what was written {now - marked_at:.0f} s ago has not arrived")


async def catches_up(database: Database, seconds: float) -> bool:
    """Return whether the replica comes, within that time, to where the primary is now."""
    async with database.autocommit() as connection:
        written = await _position(connection)
    try:
        async with asyncio.timeout(seconds):
            while True:
                if await _replayed(database) >= written:
                    return True
                await asyncio.sleep(0.1)
    except TimeoutError:
        return False


async def _replayed(database: Database) -> Decimal:
    """Return how far the replica is."""
    if database.replica is None:
        raise LookupError("there is no replica")
    async with database.replica.engine.connect() as connection:
        return await _position(connection)


async def _position(connection: AsyncConnection) -> Decimal:
    return Decimal((await connection.execute(_POSITION)).scalar_one())
