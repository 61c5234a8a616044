"""Is a connection set as it was opened: with the role, the time-outs and the time zone of the application?

Nor may it be in replica mode, in which PostgreSQL holds no foreign key; a superuser can put a role or database into it.

They are sent with the connection's start. PgBouncer with `ignore_startup_parameters = options` drops them and says
nothing, so the application would work with all rights of its login and without a time limit (NFR-003, NFR-004).
"""

from sqlalchemy import text

from app.database import Database

POOLER = (
    "A connection pooler between here and PostgreSQL drops what a connection is opened with, as PgBouncer does with"
    " ignore_startup_parameters: see docs/how-to/use-a-connection-pooler.md"
)

_SETTINGS = text(
    "SELECT name, setting FROM pg_settings"
    " WHERE name IN ('TimeZone', 'statement_timeout', 'idle_in_transaction_session_timeout', 'session_replication_role')"
    " UNION ALL SELECT 'role', current_user::text"
)
_SAME_ZONE = {"UTC", "Etc/UTC"}


async def session_differences(database: Database) -> dict[str, str]:
    """Return what a connection of the pool is set to otherwise than wanted: parameter → a sentence."""
    async with database.autocommit() as connection:
        found = {name.lower(): setting for name, setting in await connection.execute(_SETTINGS)}
    differing = {
        name: wanted
        for name, wanted in {**database.wanted_session, "session_replication_role": "origin"}.items()
        if found[name] != wanted and not {found[name], wanted} <= _SAME_ZONE
    }
    return {name: f"{name} is {found[name]}, not {wanted}" for name, wanted in differing.items()}
