"""Is this the database that this code was written for? Asked by API and workers before they serve.

Three things are compared: the migrations that were run with those of this checkout; the transitions that the
database's guard lets through with `app.services.workflow.state_machine`, the only place where one is made legal; and triggers,
functions, constraints and rights with what the migrations make (`app.services.operations.guard_manifest`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.config import ROOT
from app.database import Database
from app.models.state_history import StateTransition
from app.services.operations import guard_manifest
from app.services.operations.session_check import POOLER, session_differences
from app.services.workflow.state_machine import TRANSITIONS, StateMachine

logger = structlog.get_logger(__name__)

MIGRATIONS = ROOT / "alembic" / "versions"
_UNDEFINED_TABLE = "42P01"
_REVISION = re.compile(r'^(revision|down_revision)\b[^=\n]*= *(?:"(\w+)"|None)', re.MULTILINE)


class SchemaMismatchError(Exception):
    """The database must not be used by this version of the code; the message says why and what to do."""


def newest_revision(folder: Path = MIGRATIONS) -> str:
    """Return the migration that no other one builds upon.

    Read from the files' own lines: Alembic, which knows them too, costs memory and time in every process.

    Raises:
        SchemaMismatchError: there is not exactly one.
    """
    revisions: set[str] = set()
    built_upon: set[str] = set()
    for file in folder.glob("*.py"):
        found = dict(_REVISION.findall(file.read_text(encoding="utf-8")))
        revisions.add(found["revision"])
        built_upon.add(found["down_revision"])
    newest = revisions - built_upon
    if len(newest) != 1:
        raise SchemaMismatchError(f"{folder} has {len(newest)} newest migrations, not one: {sorted(newest)}")
    return newest.pop()


async def verify_schema(database: Database, *, restricted: bool = False) -> None:
    """Compare the database with this code.

    Args:
        restricted: refuse a login that could lift the guards under any role it takes on (an owner, a superuser), a
            connection that has not taken on the role, and a database whose guards are off, missing or changed. Without,
            both are logged.

    Raises:
        SchemaMismatchError: as `verify_version`; if `restricted`, also when the login may do too much, or a guard is
            not as the migrations make it.
    """
    await verify_version(database)
    with _unusable_database():
        if restricted:
            async with database.autocommit() as connection:
                if await has_powerful_login(connection):
                    raise SchemaMismatchError(
                        "DATABASE_URL names a login that owns the tables or is a superuser, so it could rewrite"
                        " history. In production give it a login of its own that is only a member of DATABASE_ROLE, and"
                        " the owner's as DATABASE_ADMIN_URL."
                    )
        unset = await session_differences(database)
        if unset:
            logger.critical("session.mismatched", settings=unset)
        if restricted and "role" in unset:
            raise SchemaMismatchError(
                f"The database's connections have not taken on DATABASE_ROLE: {unset['role']}. {POOLER}"
            )
        differing = await guard_differences(database, restricted=restricted)
    if differing:
        logger.critical("guards.mismatched", guards=differing)
    if differing and restricted:
        raise SchemaMismatchError(
            "The guards of the database are not those that the migrations make:"
            f" {guard_manifest.summary(differing)}. Find out who changed them, then put them back as the owner."
        )


async def verify_version(database: Database) -> None:
    """Compare the migrations that were run, and the transitions that the database allows, with this code.

    Raises:
        SchemaMismatchError: migrations are missing or too new, the transitions differ, or it cannot be reached.
    """
    expected = newest_revision()
    with _unusable_database():
        async with database.autocommit() as connection:
            await _compare_revision(connection, expected)
            await _compare_transitions(connection)


@contextmanager
def _unusable_database() -> Iterator[None]:
    """Turn what a database says that cannot be used into a SchemaMismatchError."""
    try:
        yield
    except (DBAPIError, TimeoutError, OSError) as fault:
        reason = str(getattr(fault, "orig", fault)).strip().splitlines()
        raise SchemaMismatchError(f"The database cannot be used: {reason[0] if reason else fault}") from fault


async def guard_differences(database: Database, *, restricted: bool = False) -> list[str]:
    """Return what of the guards is off, missing or changed, and what the application may do beyond its due.

    Args:
        restricted: as for `verify_schema`.
    """
    async with database.transaction() as session:
        return await guard_manifest.differences(session, restricted=restricted)


async def _compare_revision(connection: AsyncConnection, expected: str) -> None:
    try:
        present = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all()
    except DBAPIError as fault:
        if getattr(fault.orig, "sqlstate", None) != _UNDEFINED_TABLE:
            raise
        present = []
    if list(present) != [expected]:
        found = ", ".join(present) or "none"
        raise SchemaMismatchError(
            f"The database is at migration {found}, this code needs {expected}: run `articurated migrate`."
        )


async def _compare_transitions(connection: AsyncConnection) -> None:
    if differing := await transition_differences(connection):
        raise SchemaMismatchError(
            "The transitions that the database allows are not those of app.services.workflow.state_machine: "
            f"{'; '.join(differing)}. A migration has to bring them together."
        )


async def transition_differences(executor: AsyncConnection | AsyncSession) -> list[str]:
    """Return the transitions that either the database or the code allows, and not both: `ORDER PAID → SHIPPED`."""
    rows = await executor.execute(
        select(StateTransition.entity_type, StateTransition.from_state, StateTransition.to_state)
    )
    stored = {(entity, source, target) for entity, source, target in rows}
    coded = {(str(entity), *edge) for entity in TRANSITIONS for edge in StateMachine.edges(entity)}
    return [f"{entity} {source} → {target}" for entity, source, target in sorted(stored ^ coded)]


async def has_powerful_login(connection: AsyncConnection) -> bool:
    """Return whether the login could lift the guards: the connection's role does not prevent it, since the login can reset the role."""
    powerful = text(
        "SELECT rolsuper OR EXISTS (SELECT FROM pg_class c WHERE c.relname = 'state_history'"
        " AND pg_has_role(session_user, c.relowner, 'USAGE')) FROM pg_roles WHERE rolname = session_user"
    )
    return bool((await connection.execute(powerful)).scalar_one())
