"""The guards of the database as the migrations make them, and how a database differs from them.

`alembic/guards.json` lists every trigger, function, constraint, unique index, NOT NULL and the rights of the
application's role. It is generated (`python -m tools.guard_manifest`) and a test compares it with a database that was
just migrated. Definitions are the server's own text; where PostgreSQL 15 to 18 print them differently, or a restored
dump does, they are brought to one form.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.config import ROOT
from app.services.operations.guard_text import one_form

PATH = ROOT / "alembic" / "guards.json"

Guards = dict[str, dict[str, str]]
"""Kind of guard → name → definition."""
Rights = dict[str, list[str]]
"""Object → what the role may do with it, as `SELECT` or `UPDATE (column)`."""

_KINDS = ("trigger", "function", "constraint", "not null", "unique index", "table", "rule")

# Names that are looked up in another schema are printed with it, so the path is set first.
_PATH = text("SELECT set_config('search_path', 'public', true)")

_GUARDS = text("""
WITH ours AS (
    SELECT c.* FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
)
SELECT 'trigger' AS kind, c.relname || '.' || t.tgname AS name,
    CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin' WHEN 'R' THEN 'replica' ELSE 'off' END
    || ': ' || pg_get_triggerdef(t.oid) AS definition
FROM pg_trigger t JOIN ours c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function', p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
    l.lanname || CASE WHEN p.prosecdef THEN ' as its owner' ELSE '' END
    || coalesce(' with ' || array_to_string(p.proconfig, ', '), '') || ': ' || p.prosrc
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
-- A foreign key is held by internal triggers, which can be switched off too.
SELECT 'constraint', c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
    || CASE WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgisinternal
        AND t.tgenabled NOT IN ('O', 'A')) THEN ' OFF' ELSE '' END
FROM pg_constraint k JOIN ours c ON c.oid = k.conrelid WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
-- Constraints of their own from PostgreSQL 18 on, which may be NOT VALID.
SELECT 'not null', c.relname || '.' || a.attname, ''
FROM pg_attribute a JOIN ours c ON c.oid = a.attrelid WHERE a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'
        AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated)
UNION ALL
SELECT 'unique index', x.relname, pg_get_indexdef(i.indexrelid)
    || CASE WHEN i.indisvalid AND i.indisready AND i.indislive THEN '' ELSE ' INVALID' END
FROM pg_index i JOIN ours c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indisunique
UNION ALL
SELECT 'table', c.relname, CASE c.relpersistence WHEN 'p' THEN 'logged' ELSE 'unlogged' END
    || CASE WHEN c.relrowsecurity THEN ', row security' ELSE '' END FROM ours c
UNION ALL
SELECT 'rule', c.relname || '.' || r.rulename, pg_get_ruledef(r.oid)
FROM pg_rewrite r JOIN ours c ON c.oid = r.ev_class
""")

_RIGHTS = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i'))
)
SELECT c.relname AS name, p.privilege AS allowed FROM ours c, unnest(CAST(:privileges AS text[])) AS p(privilege)
WHERE c.relkind <> 'S' AND has_table_privilege(:role, c.oid, p.privilege)
UNION ALL
SELECT c.relname, p.privilege || ' (' || a.attname || ')'
FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS p(privilege)
WHERE c.relkind <> 'S' AND has_column_privilege(:role, c.oid, a.attnum, p.privilege)
    AND NOT has_table_privilege(:role, c.oid, p.privilege)
UNION ALL
SELECT c.relname, p.privilege FROM ours c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS p(privilege)
WHERE c.relkind = 'S' AND has_sequence_privilege(:role, c.oid, p.privilege)
UNION ALL
SELECT 'schema public', p.privilege FROM unnest(ARRAY['USAGE', 'CREATE']) AS p(privilege)
WHERE has_schema_privilege(:role, 'public', p.privilege)
UNION ALL
SELECT 'database', 'CREATE' WHERE has_database_privilege(:role, current_database(), 'CREATE')
UNION ALL
SELECT 'session_replication_role', 'SET' WHERE has_parameter_privilege(:role, 'session_replication_role', 'SET')
UNION ALL
SELECT 'server', a.attribute FROM pg_roles r, LATERAL (VALUES ('SUPERUSER', r.rolsuper), ('BYPASSRLS', r.rolbypassrls),
    ('CREATEROLE', r.rolcreaterole), ('REPLICATION', r.rolreplication)) AS a(attribute, has)
WHERE r.rolname = :role AND a.has
UNION ALL
-- What its members may do is counted above; these give more than rights on tables, and an owner can be become.
SELECT 'server', 'MEMBER OF ' || m.rolname FROM pg_roles r JOIN pg_roles m ON m.oid <> r.oid
    AND pg_has_role(r.oid, m.oid, 'MEMBER')
WHERE r.rolname = :role AND NOT r.rolsuper AND (m.rolsuper OR m.rolname IN ('pg_execute_server_program',
    'pg_read_server_files', 'pg_write_server_files', 'pg_write_all_data', 'pg_maintain', 'pg_database_owner')
    OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relowner = m.oid))
"""

_PRIVILEGES = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
_MAINTAIN_SINCE = 170000

# PostgreSQL 18 has the function built in; before that migration 0001 composes it.
_UUID7 = ("SELECT uuidv7()", "lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')")


SUBSCRIBER = "articurated: subscriber of a logical replication since "
"""Begins the comment on `alembic_version` while the guards let a subscription pass."""

_SUBSCRIBER_SINCE = text(
    "SELECT substr(d, :begins) FROM obj_description(to_regclass('public.alembic_version'), 'pg_class') AS d"
    " WHERE starts_with(d, :mark)"
)


def always_triggers() -> list[tuple[str, str]]:
    """Return (table, trigger) of every trigger that fires in replica mode too."""
    triggers = expected()[0]["trigger"]
    names = sorted(name for name, definition in triggers.items() if definition.startswith("always: "))
    return [(table, trigger) for table, _, trigger in (name.partition(".") for name in names)]


async def subscriber_since(executor: AsyncConnection | AsyncSession) -> str | None:
    """Return since when the database has been prepared as a subscriber; None when it is not."""
    since = await executor.scalar(_SUBSCRIBER_SINCE, {"mark": SUBSCRIBER, "begins": len(SUBSCRIBER) + 1})
    return None if since is None else str(since)


async def read_guards(executor: AsyncConnection | AsyncSession) -> Guards:
    """Return the guards that the database has.

    Args:
        executor: in a transaction: the search path is set for the rest of it.
    """
    await executor.execute(_PATH)
    found: Guards = {kind: {} for kind in _KINDS}
    for kind, name, definition in await executor.execute(_GUARDS):
        found[kind][name] = _function(name, definition) if kind == "function" else one_form(definition)
    return found


def _function(name: str, definition: str) -> str:
    """Return a function's kind and the hash of its body."""
    attributes, _, body = definition.partition(": ")
    if name == "uuid7()" and any(part in body for part in _UUID7):
        body = _UUID7[0]
    return f"{attributes}: sha256 {hashlib.sha256(body.encode()).hexdigest()}"


async def read_rights(executor: AsyncConnection | AsyncSession, role: str) -> Rights:
    """Return what a role may do, by any way to the right: a grant, PUBLIC, another role, ownership."""
    version = await executor.scalar(text("SELECT current_setting('server_version_num')::int"))
    privileges = [*_PRIVILEGES, *(["MAINTAIN"] if (version or 0) >= _MAINTAIN_SINCE else [])]
    found: Rights = {}
    for name, allowed in await executor.execute(text(_RIGHTS), {"role": role, "privileges": privileges}):
        found.setdefault(name, []).append(allowed)
    return {name: sorted(found[name]) for name in sorted(found)}


@lru_cache(maxsize=1)
def expected(path: Path = PATH) -> tuple[Guards, Rights]:
    """Return the guards and rights that this version of the code was made for."""
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest["guards"], manifest["rights"]


def as_json(guards: Guards, rights: Rights) -> str:
    """Return the text of the manifest."""
    ordered = {kind: dict(sorted(guards[kind].items())) for kind in _KINDS}
    return json.dumps({"guards": ordered, "rights": rights}, indent=1, ensure_ascii=False) + "\n"


async def differences(executor: AsyncConnection | AsyncSession, *, restricted: bool = False) -> list[str]:
    """Return what of the guards is missing, off or changed, and what the role may do beyond its due; empty when all is well.

    Args:
        executor: in a transaction, connected as the application: its role is the one that is looked at.
        restricted: look at the login's own rights as well, which are there again once the role is laid down.
    """
    guards, rights = expected()
    role, login = (await executor.execute(text("SELECT current_user::text, session_user::text"))).one()
    found = list(_guard_differences(await read_guards(executor), guards))
    if (since := await subscriber_since(executor)) is not None:
        found = _as_subscriber(found, since)
    found += _right_differences(await read_rights(executor, role), rights, role, may_lack=False)
    if restricted and login != role:
        found += _right_differences(await read_rights(executor, login), rights, login, may_lack=True)
    return found


def _as_subscriber(found: list[str], since: str) -> list[str]:
    """Say in one sentence what was prepared for a logical replication; the other differences stay."""
    prepared = {f"trigger {table}.{trigger} fires only as origin" for table, trigger in always_triggers()}
    others = [difference for difference in found if difference not in prepared]
    count = len(found) - len(others)
    prepared_as = (
        f"prepared as a subscriber of a logical replication since {since}: {count} triggers fire only as origin"
    )
    return [f"{prepared_as}, until `articurated replication finish`", *others]


def _guard_differences(found: Guards, wanted: Guards) -> Iterable[str]:
    tables = wanted["table"]
    for kind in _KINDS:
        for name, definition in wanted[kind].items():
            present = found[kind].get(name)
            if present is None:
                yield f"{kind} {name} is missing"
            elif present != definition:
                yield f"{kind} {name} {_changed(kind, present, definition)}"
        if kind in {"trigger", "rule"}:
            added = found[kind].keys() - wanted[kind].keys()
            yield from (f"{kind} {name} is unknown" for name in sorted(added) if name.split(".")[0] in tables)


def _changed(kind: str, present: str, definition: str) -> str:
    if kind == "trigger" and present.partition(": ")[2] == definition.partition(": ")[2]:
        mode = present.partition(": ")[0]
        return "is off" if mode == "off" else f"fires only as {mode}"
    for suffix, state in ((" OFF", "is off"), (" NOT VALID", "is not valid"), (" INVALID", "is not valid")):
        if present == definition + suffix:
            return state
    return "is changed"


def _right_differences(found: Rights, wanted: Rights, role: str, *, may_lack: bool) -> Iterable[str]:
    """Yield the rights that a role has too many, or too few; objects that are none of ours do not count."""
    for name in sorted(wanted.keys() | (found.keys() & _ALWAYS_LOOKED_AT)):
        has, due = set(found.get(name, ())), set(wanted.get(name, ()))
        # The right on a table is the right on each of its columns.
        extra = {right for right in has - due if right.partition(" (")[0] not in due}
        lacking = set() if may_lack else {right for right in due - has if right.partition(" (")[0] not in has}
        yield from (_sentence(role, right, name) for right in sorted(extra))
        yield from (f"role {role} may not {right} on {name}" for right in sorted(lacking))


def _sentence(role: str, right: str, name: str) -> str:
    """Say that a role has a right too many."""
    if name != "server":
        return f"role {role} may {right} on {name}"
    group = right.removeprefix("MEMBER OF ")
    return f"role {role} has {right}" if group == right else f"role {role} is a member of {group}"


_ALWAYS_LOOKED_AT = frozenset({"schema public", "database", "session_replication_role", "server"})


def summary(found: list[str], limit: int = 5) -> str:
    """Return the first of the differences in one line."""
    more = f", and {len(found) - limit} more" if len(found) > limit else ""
    return "; ".join(found[:limit]) + more
