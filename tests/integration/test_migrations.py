"""Migrations: up, down and up again; models and schema agree; ids are version 7 on every server."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from alembic import command
from app.config import ROOT
from app.database import driver_url
from app.models import Base
from app.services.operations.schema_check import newest_revision
from tests import databases
from tests.databases import TestServers


@pytest.fixture
def empty_database(servers: TestServers) -> Iterator[str]:
    """URL, as owner, of an empty database."""
    name = f"{servers.template}_{uuid4().hex[:8]}"
    databases.create_database(servers, name, None)
    yield databases.url_of(servers.owner_url, name)
    databases.drop_database(servers, name)


@pytest.mark.req("DEV.4")
def test_up_down_up(servers: TestServers, empty_database: str) -> None:
    databases.migrate(empty_database, servers.app_url)
    command.downgrade(databases.alembic_config(empty_database, servers.app_url), "base")
    with psycopg.connect(empty_database) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'public' AND relkind IN ('r', 'S') AND relname <> 'alembic_version'"
            " UNION ALL SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname = 'public'"
        ).fetchall()
    assert left == []
    databases.migrate(empty_database, servers.app_url)
    with psycopg.connect(empty_database) as connection:
        # Replica mode skips ordinary triggers. Asked here: the cleaning between tests makes guards ALWAYS anyway.
        # A subscriber gets the rows that index_number and index_parcel wrote, so there it must not write them once more.
        ordinary = connection.execute(
            "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'A'"
            " AND tgname NOT IN ('index_number', 'index_parcel')"
        ).fetchall()
    assert ordinary == []


@pytest.mark.req("DEV.4")
def test_models_and_migrations_agree(servers: TestServers, database_name: str) -> None:
    engine = create_engine(driver_url(databases.url_of(servers.owner_url, database_name)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


@pytest.mark.req("DEV.4")
def test_a_new_migration_is_written_as_the_house_writes(
    servers: TestServers, database_name: str, tmp_path: Path
) -> None:
    """As CONTRIBUTING.md tells, in an environment that is not activated."""
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs = Path(sys.executable).parent
    url = databases.url_of(servers.owner_url, database_name)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DATABASE_ADMIN_URL": url}
    words = ["revision", "--autogenerate", "--rev-id", "9999", "--message", "What it does."]
    made = subprocess.run(
        [programs / "alembic", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    written = tmp_path / "alembic" / "versions" / "9999_what_it_does.py"
    assert newest_revision(written.parent) == "9999"
    for verb in (["format", "--check"], ["check"]):
        looked = subprocess.run([programs / "ruff", *verb, written], capture_output=True, text=True, check=False)
        assert looked.returncode == 0, looked.stdout


def test_database_makes_version_7_ids_in_order(owner_connection: psycopg.Connection) -> None:
    made = [
        owner_connection.execute("SELECT uuid7(), pg_sleep(0.002)").fetchone()[0]  # type: ignore[index]
        for _ in range(20)
    ]
    assert {UUID(str(value)).version for value in made} == {7}
    assert {UUID(str(value)).variant for value in made} == {"specified in RFC 4122"}
    assert made == sorted(made)


@pytest.mark.req("NFR-001.2", "NFR-002")
def test_every_foreign_key_has_an_index(owner_connection: psycopg.Connection) -> None:
    bare = owner_connection.execute(
        """
        SELECT c.conrelid::regclass, c.conname FROM pg_constraint c
        WHERE c.contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.conrelid
            AND (i.indkey::int2[])[0:array_length(c.conkey, 1) - 1] = c.conkey)
        """
    ).fetchall()
    assert bare == []
