"""PostgreSQL: is it the right one, may we do too much there, what does it say of the work?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter, time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings
from app.database import Database
from app.doctor.findings import Finding, broken, doubtful, fine
from app.services.jobs.figures import PICKUP_SECONDS, job_figures
from app.services.operations.replica_watch import catches_up
from app.services.operations.schema_check import guard_differences, has_powerful_login, newest_revision, verify_version
from app.services.operations.session_check import POOLER, session_differences

OLDEST_VERSION = 150000
SKEW_DOUBTFUL_SECONDS = 2.0
SKEW_BROKEN_SECONDS = 60.0
STUCK_SECONDS = 300.0
REPLICA_SECONDS = 5.0

_MUST_BE_ON = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum")


@asynccontextmanager
async def _asked(settings: Settings) -> AsyncIterator[AsyncConnection]:
    database = Database(settings, "articurated-doctor", pool_size=1)
    try:
        async with database.autocommit() as connection:
            yield connection
    finally:
        await database.close()


async def schema(settings: Settings) -> list[Finding]:
    """Version, migrations, the transitions, the guards, and what our login may do."""
    database = Database(settings, "articurated-doctor", pool_size=1)
    try:
        await verify_version(database)
        async with database.autocommit() as connection:
            version, number = (
                await connection.execute(
                    text("SELECT current_setting('server_version'), current_setting('server_version_num')::int")
                )
            ).one()
            is_powerful = await has_powerful_login(connection)
        # What a powerful login may do is a finding of its own.
        differing = await guard_differences(
            database, restricted=settings.environment == "production" and not is_powerful
        )
    finally:
        await database.close()
    found = [fine("database", f"PostgreSQL {version}, migration {newest_revision()}, its transitions are this code's")]
    if number < OLDEST_VERSION:
        found = [broken("database", f"PostgreSQL {version} is too old", "15 or newer is needed")]
    advice = "find out who changed it and why, then put it back as the owner: docs/how-to/woken-at-night.md"
    if differing:
        found += [broken("guards", difference, advice) for difference in differing]
    else:
        found.append(fine("guards", "triggers, functions, constraints and rights are as the migrations make them"))
    if not is_powerful:
        return [*found, fine("login", f"can add history as {settings.database_role}, and neither change nor delete it")]
    verdict = broken if settings.environment == "production" else doubtful
    advice = "give DATABASE_URL a login of its own that is only a member of DATABASE_ROLE"
    return [*found, verdict("login", "owns the tables or is a superuser, so it could rewrite history", advice)]


async def session(settings: Settings) -> list[Finding]:
    """What a connection is set to, against what it is opened with: a pooler may drop that."""
    database = Database(settings, "articurated-doctor", pool_size=1)
    try:
        unset = await session_differences(database)
    finally:
        await database.close()
    if not unset:
        return [fine("session", "role, time-outs and time zone are those that connections are opened with")]
    verdict = broken if settings.environment == "production" else doubtful
    return [verdict("session", difference, POOLER) for difference in unset.values()]


async def clock(settings: Settings) -> list[Finding]:
    """This machine's clock against the database's, which all leases and retries go by."""
    async with _asked(settings) as connection:
        await connection.execute(text("SELECT 1"))
        begun, asked_at = perf_counter(), time()
        theirs = float((await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())
        took = perf_counter() - begun
    skew = abs(theirs - asked_at - took / 2)
    says = f"{skew:.3f} s apart from the database's"
    advice = "set both machines by NTP: tokens, webhooks and promised times go by the clock"
    if skew > SKEW_BROKEN_SECONDS:
        return [broken("clock", says, advice)]
    return [doubtful("clock", says, advice) if skew > SKEW_DOUBTFUL_SECONDS else fine("clock", says)]


async def server(settings: Settings) -> list[Finding]:
    """The settings without which data may be lost, or the tables only ever grow."""
    async with _asked(settings) as connection:
        off = [
            name
            for name in _MUST_BE_ON
            if (await connection.execute(text("SELECT current_setting(:name)"), {"name": name})).scalar_one() == "off"
        ]
    if not off:
        return [fine("server", f"{', '.join(_MUST_BE_ON)} are on")]
    advice = "turn it on in postgresql.conf: without, a crash loses what was answered, or dead rows pile up"
    verdict = broken if settings.environment == "production" else doubtful
    return [verdict("server", f"{', '.join(off)} is off", advice)]


async def replica(settings: Settings) -> list[Finding]:
    """The read replica, where there is one: of this very cluster, and not behind."""
    database = Database(settings, "articurated-doctor", pool_size=1)
    try:
        if database.replica is None:
            return []
        async with database.autocommit() as here, database.replica.engine.connect() as there:
            identity = text("SELECT system_identifier FROM pg_control_system()")
            is_ours = (await here.execute(identity)).scalar_one() == (await there.execute(identity)).scalar_one()
        if not is_ours:
            advice = "correct DATABASE_REPLICA_URL, or unset it: lists show another database's records"
            return [broken("replica", "is a copy of another server than DATABASE_URL's", advice)]
        if not await catches_up(database, REPLICA_SECONDS):
            advice = "look at its replication (pg_stat_replication on the primary): lists and figures are as old"
            return [doubtful("replica", f"is more than {REPLICA_SECONDS:.0f} s behind the primary", advice)]
    finally:
        await database.close()
    return [fine("replica", "answers lists and figures, and keeps up with the primary")]


async def work(settings: Settings) -> list[Finding]:
    """Jobs that are late, jobs that gave up, promises that are past."""
    async with _asked(settings) as connection:
        figures = await job_figures(connection, settings.return_review_sla_hours)
    oldest = max(figures.oldest_due_seconds.values(), default=0.0)
    says = f"{sum(figures.waiting.values())} wait, the oldest has been due for {oldest:.0f} s"
    advice = "look at workers and relay, and at their logs"
    if oldest > STUCK_SECONDS:
        found = [broken("jobs", says, advice)]
    else:
        found = [doubtful("jobs", says, advice) if oldest > PICKUP_SECONDS else fine("jobs", says)]
    if figures.dead_letters:
        says = f"{figures.dead_letters} jobs gave up and wait for a person"
        found.append(doubtful("dead letters", says, "`articurated jobs list`"))
    if figures.open_cases:
        found.append(doubtful("cases", f"{figures.open_cases} wait for a decision", "`articurated cases list`"))
    late = {name: count for name, count in figures.overdue.items() if count and name != "pickup"}
    if late:
        says = "past what is promised: " + ", ".join(f"{count} {name}" for name, count in late.items())
        found.append(doubtful("promises", says, "`GET /api/v1/stats`, then `articurated jobs list`"))
    return found
