"""Real servers for the suite: one PostgreSQL and one Valkey for all workers, one database a worker.

With DATABASE_URL and REDIS_URL set, those servers are used; otherwise embedded ones, made for this run. The
real migrations run once, on a template that each worker's database is cloned from.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import orjson
import psycopg
from alembic.config import Config
from sqlalchemy import make_url

from alembic import command
from app.config import ROOT
from devtools.embedded.servers import ensure_servers

ENVIRONMENT_KEY = "ARTICURATED_TEST_SERVERS"
ROLE = "articurated_app"
KEPT = ("alembic_version", "state_transitions")
LARGEST_DELETE_BYTES = 1024 * 1024
"""A table above this is truncated: deleting leaves its pages in place, and the next test would read them."""


@dataclass(frozen=True)
class TestServers:
    """Where the suite's servers are.

    Attributes:
        owner_url: login that owns the test databases and may create them.
        app_url: login that the application uses.
        superuser_url: for attacks on the audit trail that only a superuser can try.
        redis_url: of database 0; workers count up from 1.
        template: name of the migrated database.
        given: whether these are servers that the environment named, not embedded ones.
    """

    __test__ = False

    owner_url: str
    app_url: str
    superuser_url: str
    redis_url: str
    template: str
    given: bool


def start(stack: ExitStack) -> TestServers:
    """Start or find the servers, migrate the template, and pass both to the workers through the environment."""
    given = os.environ.pop("DATABASE_URL", None), os.environ.pop("REDIS_URL", None)
    template = f"articurated_test_{os.getpid()}"
    if all(given):
        database_url, redis_url = str(given[0]), str(given[1])
        servers = TestServers(database_url, database_url, database_url, redis_url, template, given=True)
    else:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="articurated-test-"))
        embedded = stack.enter_context(ensure_servers(Path(folder), durable=False))
        servers = TestServers(
            embedded.owner_url, embedded.app_url, embedded.superuser_url, embedded.redis_url, template, given=False
        )
    create_database(servers, template, None)
    stack.callback(drop_database, servers, template)
    migrate(url_of(servers.owner_url, template), servers.app_url)
    os.environ[ENVIRONMENT_KEY] = orjson.dumps(asdict(servers)).decode()
    stack.callback(os.environ.pop, ENVIRONMENT_KEY, None)
    return servers


def running() -> TestServers:
    """Return the servers that `start` left word of."""
    return TestServers(**orjson.loads(os.environ[ENVIRONMENT_KEY]))


def url_of(url: str, database: str) -> str:
    """Return `url` with another database in it."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def create_database(servers: TestServers, name: str, template: str | None) -> None:
    """Create a database, empty or as a clone."""
    with psycopg.connect(servers.owner_url, autocommit=True) as connection:
        source = f' TEMPLATE "{template}"' if template else ""
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        connection.execute(f'CREATE DATABASE "{name}"{source}'.encode())


def drop_database(servers: TestServers, name: str) -> None:
    """Drop a database, and end the sessions in it."""
    with psycopg.connect(servers.owner_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def past_guard(owner: psycopg.Connection, table: str, guard: str, statement: str) -> None:
    """Carry out what a guard refuses, as a person could who has the owner's login: with the guard taken off."""
    with owner.transaction():
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER {guard}".encode())
        owner.execute(statement.encode())
        owner.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {guard}".encode())


@contextmanager
def unguarded(owner: psycopg.Connection, *tables: str) -> Iterator[None]:
    """Take all guards off some tables while the block lasts, as a person could who has the owner's login."""
    guards = owner.execute(
        "SELECT tgrelid::regclass::text, tgname, CASE tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END"
        " FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text = ANY (%s)",
        (list(tables),),
    ).fetchall()
    for table, guard, _ in guards:
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER {guard}".encode())
    try:
        yield
    finally:
        for table, guard, enable in guards:
            owner.execute(f"ALTER TABLE {table} {enable} TRIGGER {guard}".encode())


class Reset:
    """Empties the tables that have rows, and starts the order numbers again.

    TRUNCATE gives each of some 130 tables and indexes a new file, for 25 ms of CPU time; most tests write a few rows
    to a few tables. Deleting these rows takes about 2 ms.

    Args:
        owner: login that owns the tables of a migrated database.

    Attributes:
        times: how often it has emptied them; rows that a fixture keeps for the next test are there while this stays.
    """

    def __init__(self, owner: psycopg.Connection) -> None:
        self.times = 0
        self._owner = owner
        tables = {
            name
            for (name,) in owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            if name not in KEPT
        }
        references = owner.execute(
            "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint"
            " WHERE contype = 'f' AND conrelid <> confrelid"
        ).fetchall()
        order = TopologicalSorter({name: set[str]() for name in tables})
        for referring, referred in references:
            if {referring, referred} <= tables:
                order.add(referred, referring)
        self._tables = list(order.static_order())
        self._guards: dict[str, list[tuple[str, str]]] = {name: [] for name in tables}
        for table, guard, enable in owner.execute(
            "SELECT tgrelid::regclass::text, tgname, CASE tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END"
            " FROM pg_trigger WHERE NOT tgisinternal AND tgtype & 40 <> 0"  # of DELETE (8) or TRUNCATE (32)
        ):
            if table in tables:
                self._guards[table].append((guard, enable))
        self._look = " UNION ALL ".join(
            f"SELECT '{name}', EXISTS (SELECT FROM {name}), pg_relation_size('{name}')" for name in self._tables
        )

    def __call__(self) -> None:
        """Empty the tables; guards against DELETE and TRUNCATE are off meanwhile."""
        self.times += 1
        found = self._owner.execute(self._look.encode()).fetchall()
        if any(size > LARGEST_DELETE_BYTES for _, _, size in found):
            emptied = self._tables
            statements = [f"TRUNCATE {', '.join(self._tables)}"]
        else:
            emptied = [name for name, has_rows, _ in found if has_rows]
            statements = [f"DELETE FROM {name}" for name in emptied]
        guards = [(table, guard, enable) for table in emptied for guard, enable in self._guards[table]]
        script = [
            "BEGIN",
            *(f"ALTER TABLE {table} DISABLE TRIGGER {guard}" for table, guard, _ in guards),
            *statements,
            # Foreign keys that are checked at the end would otherwise refuse the ALTER TABLE that follows.
            "SET CONSTRAINTS ALL IMMEDIATE",
            *(f"ALTER TABLE {table} {enable} TRIGGER {guard}" for table, guard, enable in guards),
            "SELECT setval('order_number_seq', 1, false)",
            "COMMIT",
        ]
        self._owner.execute("; ".join(script).encode())


def alembic_config(owner_url: str, app_url: str) -> Config:
    """Return the configuration for a migration of the database in `owner_url`."""
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes.update(url=owner_url, application_login=make_url(app_url).username, database_role=ROLE)
    return config


def migrate(owner_url: str, app_url: str, revision: str = "head") -> None:
    """Run the real migrations."""
    command.upgrade(alembic_config(owner_url, app_url), revision)
