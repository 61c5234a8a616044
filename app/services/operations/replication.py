"""What this database needs around a logical replication, for an upgrade of PostgreSQL with little downtime (NFR-003).

A subscriber applies changes in replica mode, in which triggers that are ENABLE ALWAYS fire. Ours look for rows of other
tables, and tables arrive one after another while they are copied: the apply worker would stop. So the subscriber's
guards become ordinary triggers, which replica mode skips and every other session meets, and a comment on
`alembic_version` records it. A database in this state is reported, and production refuses to start on it.

Sequences are not replicated. `finish` sets them and makes the guards ALWAYS again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.database import Database
from app.services.operations import guard_manifest
from app.services.operations.schema_check import verify_version
from app.utils.clock import utc_now

PUBLICATION = "articurated"
FILLED_BY_MIGRATIONS = frozenset({"alembic_version", "state_transitions"})
"""Tables that both sides have rows of before anything is replicated."""

NUMBERED = {"order_number_seq": ("orders", "order_number"), "return_number_seq": ("return_requests", "return_number")}
"""Sequence → table and column that its numbers are the last part of."""

# A row as text looks the same on every version of PostgreSQL under these.
_PLAIN_TEXT = text(
    "SELECT set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),"
    " set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true)"
)


class ReplicationError(Exception):
    """It cannot be prepared or finished; the message says why, and what to do."""


@dataclass(frozen=True)
class Content:
    """What a database holds, as of one moment.

    Attributes:
        rows: table → number of rows and the sum of their hashes.
        sequences: sequence → last number that it gave, 0 for none.
    """

    rows: Mapping[str, tuple[int, int]]
    sequences: Mapping[str, int]


@dataclass(frozen=True)
class Finished:
    """What `finish` did.

    Attributes:
        guards: number of triggers that are ALWAYS again.
        sequences: sequence → last number that counts as given.
        rows: table → number of rows.
        differing: what of it is not as on the publisher; empty without one to compare with.
    """

    guards: int
    sequences: Mapping[str, int]
    rows: Mapping[str, int]
    differing: list[str]


def replicated_tables() -> list[str]:
    """Return the tables that the publisher sends."""
    guards, _ = guard_manifest.expected()
    return sorted(guards["table"].keys() - FILLED_BY_MIGRATIONS)


async def prepare_publisher(owner: Database) -> list[str]:
    """Make the publication, or bring it up to date; return the tables in it.

    Args:
        owner: connected as the owner of the tables, to the server that is left.

    Raises:
        ReplicationError: the server writes no log that can be sent.
        SchemaMismatchError: the database is at another migration than this code.
    """
    await verify_version(owner)
    tables = replicated_tables()
    async with owner.transaction() as session:
        level = await session.scalar(text("SELECT current_setting('wal_level')"))
        if level != "logical":
            raise ReplicationError(
                f"wal_level of the server is {level}. As a superuser: ALTER SYSTEM SET wal_level = logical,"
                " then restart the server."
            )
        known = await session.scalar(
            text("SELECT count(*) FROM pg_publication WHERE pubname = :name"), {"name": PUBLICATION}
        )
        verb = "ALTER PUBLICATION {} SET TABLE {}" if known else "CREATE PUBLICATION {} FOR TABLE {}"
        await session.execute(text(verb.format(PUBLICATION, ", ".join(f"public.{table}" for table in tables))))
    return tables


async def prepare_subscriber(owner: Database) -> int:
    """Make the guards ordinary triggers and record it; return how many.

    Args:
        owner: connected as the owner of the tables, to a database that was just migrated.

    Raises:
        ReplicationError: the database holds data, so it is in use.
        SchemaMismatchError: the database is at another migration than this code.
    """
    await verify_version(owner)
    triggers = guard_manifest.always_triggers()
    async with owner.transaction() as session:
        if await guard_manifest.subscriber_since(session) is not None:
            return len(triggers)
        full = [table for table in replicated_tables() if await _has_rows(session, table)]
        if full:
            raise ReplicationError(
                f"The database holds data ({', '.join(full)}), so it is no subscriber to prepare. Is DATABASE_ADMIN_URL"
                " that of the new server? Give it an empty database and run `articurated migrate` first."
            )
        for table, trigger in triggers:
            await session.execute(text(f"ALTER TABLE public.{table} ENABLE TRIGGER {trigger}"))
        mark = f"{guard_manifest.SUBSCRIBER}{utc_now():%Y-%m-%dT%H:%M:%SZ}"
        await session.execute(text(f"COMMENT ON TABLE public.alembic_version IS '{mark}'"))
    return len(triggers)


async def content(owner: Database) -> Content:
    """Return what a database holds."""
    async with owner.transaction() as session:
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        await session.execute(text("SET LOCAL statement_timeout = 0"))
        await session.execute(_PLAIN_TEXT)
        rows = {table: await _content_of(session, table) for table in replicated_tables()}
        sequences = {name: await _last_number(session, name) for name in NUMBERED}
    return Content(rows, sequences)


async def finish(owner: Database, publisher: Database | None) -> Finished:
    """Set the sequences, make the guards ALWAYS again, collect statistics, and compare with the publisher.

    Args:
        owner: connected as the owner of the tables, to the subscriber.
        publisher: likewise to the publisher, on which nothing writes any more; None when it is gone.

    Raises:
        ReplicationError: the database was not prepared, or is still being written to by a subscription.
        SchemaMismatchError: the database is at another migration than this code.
    """
    await verify_version(owner)
    async with owner.transaction() as session:
        if await guard_manifest.subscriber_since(session) is None:
            raise ReplicationError(
                "The database was not prepared as a subscriber: is DATABASE_ADMIN_URL that of the new server?"
            )
        await _require_quiet(session)
    there = await content(publisher) if publisher is not None else None
    triggers = guard_manifest.always_triggers()
    async with owner.transaction() as session:
        await session.execute(text("SET LOCAL statement_timeout = 0"))
        sequences = {name: await _advance(session, name, there.sequences[name] if there else 0) for name in NUMBERED}
        for table, trigger in triggers:
            await session.execute(text(f"ALTER TABLE public.{table} ENABLE ALWAYS TRIGGER {trigger}"))
        await session.execute(text("COMMENT ON TABLE public.alembic_version IS NULL"))
    async with owner.autocommit() as connection:
        await _analyze(connection)
    here = await content(owner)
    return Finished(
        guards=len(triggers),
        sequences=sequences,
        rows={table: count for table, (count, _) in here.rows.items()},
        differing=[] if there is None else differences(here, there),
    )


def differences(here: Content, there: Content) -> list[str]:
    """Say in what a database does not hold what the one it was copied from holds."""
    found = []
    for table, (count, hashes) in here.rows.items():
        count_there, hashes_there = there.rows[table]
        if count != count_there:
            found.append(f"{table} has {count} rows, in the other database {count_there}")
        elif hashes != hashes_there:
            found.append(f"{table} has the same number of rows as in the other database, with other content")
    for name, last in here.sequences.items():
        if last < there.sequences[name]:
            found.append(f"{name} is at {last}, in the other database at {there.sequences[name]}")
    return found


async def _has_rows(session: AsyncSession, table: str) -> bool:
    return bool(await session.scalar(text(f"SELECT EXISTS (SELECT FROM public.{table})")))  # noqa: S608 - our own names


async def _content_of(session: AsyncSession, table: str) -> tuple[int, int]:
    # No colons that SQLAlchemy would read a parameter into: a row is cast to text by being put into one.
    as_number = "CAST(CAST('x' || left(encode(sha256(convert_to(concat(t), 'UTF8')), 'hex'), 15) AS bit(60)) AS bigint)"
    statement = f"SELECT count(*), coalesce(sum({as_number}), 0) FROM public.{table} AS t"  # noqa: S608 - our own names
    count, hashes = (await session.execute(text(statement))).one()
    return count, int(hashes)


async def _last_number(session: AsyncSession, sequence: str) -> int:
    statement = f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM public.{sequence}"  # noqa: S608 - our own names
    return int(await session.scalar(text(statement)) or 0)


async def _advance(session: AsyncSession, sequence: str, given_there: int) -> int:
    """Set a sequence past every number that was given: here, on the publisher, or in a row; return the last of them."""
    table, column = NUMBERED[sequence]
    in_rows = await session.scalar(
        text(f"SELECT max(substring({column} FROM '^[A-Z]+-[0-9]{{4}}-([0-9]+)$')\\:\\:bigint) FROM public.{table}")  # noqa: S608 - our own names
    )
    last = max(given_there, int(in_rows or 0), await _last_number(session, sequence))
    if last:
        await session.execute(
            text("SELECT setval(CAST(:name AS regclass), :last)"), {"name": f"public.{sequence}", "last": last}
        )
    return last


async def _require_quiet(session: AsyncSession) -> None:
    """Refuse while a subscription writes to this database, or has not copied a table whole."""
    own = "FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()"
    writing = await session.scalars(
        text(
            f"SELECT DISTINCT s.subname {own} LEFT JOIN pg_stat_subscription w ON w.subid = s.oid"
            " WHERE s.subenabled OR w.pid IS NOT NULL"
        )
    )
    if names := sorted(writing):
        raise ReplicationError(
            f"Subscription {', '.join(names)} still writes to this database. Once it has everything:"
            " ALTER SUBSCRIPTION … DISABLE, as a superuser."
        )
    unfinished = await session.scalars(
        text(
            f"SELECT DISTINCT r.srrelid\\:\\:regclass\\:\\:text {own} JOIN pg_subscription_rel r ON r.srsubid = s.oid"
            " WHERE r.srsubstate <> 'r'"
        )
    )
    if tables := sorted(unfinished):
        raise ReplicationError(
            f"These tables have not been copied whole: {', '.join(tables)}. Let it go on until they are."
        )


async def _analyze(connection: AsyncConnection) -> None:
    await connection.execute(text("SET statement_timeout = 0"))
    for table in replicated_tables():
        await connection.execute(text(f"ANALYZE public.{table}"))
