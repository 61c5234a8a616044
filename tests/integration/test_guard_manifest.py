"""A guard that is off, missing or changed is found: at start, by health and by the doctor."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from typer.testing import CliRunner

from app.cli.main import cli
from app.config import Settings, get_settings
from app.database import Database, driver_url
from app.local.binaries import postgres_install
from app.services.operations import guard_manifest
from app.services.operations.health import HealthService
from app.services.operations.schema_check import SchemaMismatchError, guard_differences, verify_schema
from tests import databases
from tests.databases import ROLE, TestServers, unguarded

# Roles belong to the server: changes of them must not meet.
pytestmark = [pytest.mark.req("NFR-003"), pytest.mark.req("NFR-004"), pytest.mark.xdist_group("guard_manifest")]

CAP = "ALTER TABLE payments DROP CONSTRAINT ck_payments_refund_cap"
ADD_CAP = "ALTER TABLE payments ADD CONSTRAINT ck_payments_refund_cap CHECK"

# What a superuser did → what is said of it.
SABOTAGE = {
    "ALTER TABLE orders DISABLE TRIGGER guard_state_change": "trigger orders.guard_state_change is off",
    "ALTER TABLE orders ENABLE TRIGGER guard_state_change": "trigger orders.guard_state_change fires only as origin",
    "ALTER TABLE events ENABLE REPLICA TRIGGER guard_event": "trigger events.guard_event fires only as replica",
    "DROP TRIGGER guard_append_only ON events": "trigger events.guard_append_only is missing",
    (
        "CREATE OR REPLACE FUNCTION guard_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    ): "function guard_append_only() is changed",
    "ALTER FUNCTION guard_event() SECURITY DEFINER": "function guard_event() is changed",
    "ALTER FUNCTION guard_event() SET search_path = x": "function guard_event() is changed",
    (
        "DROP TRIGGER guard_event ON events\n"
        "CREATE TRIGGER guard_event AFTER INSERT ON events FOR EACH ROW WHEN (false) EXECUTE FUNCTION guard_event()\n"
        "ALTER TABLE events ENABLE ALWAYS TRIGGER guard_event"
    ): "trigger events.guard_event is changed",
    (
        "CREATE TRIGGER gift BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only()"
    ): "trigger orders.gift is unknown",
    "CREATE RULE silence AS ON INSERT TO events DO INSTEAD NOTHING": "rule events.silence is unknown",
    CAP: "constraint payments.ck_payments_refund_cap is missing",
    f"{CAP}\n{ADD_CAP} (true)": "constraint payments.ck_payments_refund_cap is changed",
    (
        "ALTER TABLE payments DROP CONSTRAINT ck_payments_amount\n"
        "ALTER TABLE payments ADD CONSTRAINT ck_payments_amount CHECK (amount >= 0) NOT VALID"
    ): "constraint payments.ck_payments_amount is not valid",
    "ALTER TABLE refunds DISABLE TRIGGER ALL": "constraint refunds.fk_refunds_order_id_orders is off",
    "ALTER TABLE orders ALTER customer_email DROP NOT NULL": "not null orders.customer_email is missing",
    "DROP INDEX uq_refunds_whole_order": "unique index uq_refunds_whole_order is missing",
    "ALTER TABLE idempotency_keys SET UNLOGGED": "table idempotency_keys is changed",
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY": "table orders is changed",
    f"GRANT DELETE ON state_history TO {ROLE}": f"role {ROLE} may DELETE on state_history",
    f"GRANT UPDATE (total_amount) ON orders TO {ROLE}": f"role {ROLE} may UPDATE (total_amount) on orders",
    "GRANT TRUNCATE ON events TO PUBLIC": f"role {ROLE} may TRUNCATE on events",
    f"GRANT INSERT ON api_keys TO {ROLE}": f"role {ROLE} may INSERT on api_keys",
    f"GRANT UPDATE ON SEQUENCE order_number_seq TO {ROLE}": f"role {ROLE} may UPDATE on order_number_seq",
    f"GRANT CREATE ON SCHEMA public TO {ROLE}": f"role {ROLE} may CREATE on schema public",
    f"REVOKE INSERT ON events FROM {ROLE}": f"role {ROLE} may not INSERT on events",
    f"REVOKE UPDATE (status) ON orders FROM {ROLE}": f"role {ROLE} may not UPDATE (status) on orders",
    f"ALTER TABLE orders OWNER TO {ROLE}": f"role {ROLE} may DELETE on orders",
    f"GRANT pg_write_all_data TO {ROLE}": f"role {ROLE} is a member of pg_write_all_data",
    f"ALTER ROLE {ROLE} BYPASSRLS": f"role {ROLE} has BYPASSRLS",
    f"ALTER ROLE {ROLE} SUPERUSER": f"role {ROLE} has SUPERUSER",
    (f"GRANT SET ON PARAMETER session_replication_role TO {ROLE}"): f"role {ROLE} may SET on session_replication_role",
}


@pytest.fixture
async def superuser(servers: TestServers, database_name: str) -> AsyncIterator[AsyncConnection]:
    """A transaction of a superuser, undone at the end."""
    engine = create_async_engine(driver_url(databases.url_of(servers.superuser_url, database_name)))
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def seen_by_the_application(connection: AsyncConnection) -> list[str]:
    """Return the differences as the application would find them."""
    await connection.exec_driver_sql(f"SET LOCAL ROLE {ROLE}")
    return await guard_manifest.differences(connection)


async def test_the_manifest_is_what_the_migrations_make(database: Database) -> None:
    async with database.transaction() as session:
        made = guard_manifest.as_json(
            await guard_manifest.read_guards(session), await guard_manifest.read_rights(session, ROLE)
        )
    stale = "alembic/guards.json is stale: run `.venv/bin/python -m tools.guard_manifest`"
    assert made == guard_manifest.PATH.read_text(encoding="utf-8"), stale


async def test_a_database_as_the_migrations_make_it_has_no_differences(superuser: AsyncConnection) -> None:
    assert await seen_by_the_application(superuser) == []


@pytest.mark.parametrize("statements", SABOTAGE)
async def test_each_change_of_a_guard_is_found(superuser: AsyncConnection, statements: str) -> None:
    for statement in statements.splitlines():
        await superuser.exec_driver_sql(statement)
    assert SABOTAGE[statements] in await seen_by_the_application(superuser)


async def test_another_search_path_and_other_tables_make_no_difference(superuser: AsyncConnection) -> None:
    await superuser.exec_driver_sql("SET LOCAL search_path = pg_catalog")
    await superuser.exec_driver_sql("CREATE TABLE public.notes_of_an_operator (id int PRIMARY KEY)")
    await superuser.exec_driver_sql("CREATE INDEX of_an_operator ON public.orders (carrier)")
    assert await seen_by_the_application(superuser) == []


async def test_a_restored_dump_has_no_differences(
    settings: Settings, servers: TestServers, database_name: str, tmp_path: Path
) -> None:
    """What a dump brings is printed otherwise than what the migrations made."""
    if servers.given:
        pytest.skip("a given server may be of a version that our pg_dump does not know")
    name = f"{database_name}_restored"
    programs, dump = postgres_install() / "bin", tmp_path / "dump"
    source, target = (databases.url_of(servers.owner_url, each) for each in (database_name, name))
    databases.create_database(servers, name, None)
    restored = Database(
        settings.model_copy(update={"database_url": databases.url_of(servers.app_url, name)}), pool_size=1
    )
    try:
        for words in (
            ("pg_dump", "--format=custom", f"--file={dump}", source),
            ("pg_restore", "--exit-on-error", f"--dbname={target}", str(dump)),
        ):
            await asyncio.to_thread(subprocess.check_call, [programs / words[0], *words[1:]])
        await verify_schema(restored, restricted=True)
    finally:
        await restored.close()
        databases.drop_database(servers, name)


@pytest.fixture
def unguarded_orders(owner_connection: psycopg.Connection, database: Database) -> Iterator[None]:
    """Every trigger of `orders` is switched off."""
    with unguarded(owner_connection, "orders"):
        yield


async def test_production_does_not_start_without_its_guards(
    database: Database, servers: TestServers, unguarded_orders: None
) -> None:
    if servers.given:
        pytest.skip("a login that owns the tables is refused before")
    with pytest.raises(SchemaMismatchError, match=r"trigger orders\.guard_state_change is off"):
        await verify_schema(database, restricted=True)
    await verify_schema(database)


async def test_a_login_with_rights_of_its_own_is_found(
    database: Database, owner_connection: psycopg.Connection, servers: TestServers, settings: Settings
) -> None:
    """What the login may do is there again once it has laid down the role."""
    if servers.given:
        pytest.skip("the given login may do everything")
    assert await guard_differences(database, restricted=True) == []
    owner_connection.execute(f"GRANT DELETE ON jobs TO {ROLE}".encode())
    try:
        assert await guard_differences(database, restricted=True) == [f"role {ROLE} may DELETE on jobs"]
    finally:
        owner_connection.execute(f"REVOKE DELETE ON jobs FROM {ROLE}".encode())


@pytest.mark.req("NFR-003.2")
async def test_health_says_which_guard_is_off(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    health = HealthService(database, settings)
    try:
        assert (await health.check())["checks"]["guards"] == {"status": "ok"}
    finally:
        await health.close()
    with unguarded(owner_connection, "orders"):
        health = HealthService(database, settings)
        try:
            answer = await health.check()
        finally:
            await health.close()
    assert answer["status"] == "degraded"
    assert answer["checks"]["guards"]["status"] == "degraded"
    assert "trigger orders.guard_initial_state is off" in answer["checks"]["guards"]["hint"]


@pytest.mark.req("NFR-003.2")
async def test_health_says_which_transition_is_let_through(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    owner_connection.execute("INSERT INTO state_transitions VALUES ('ORDER', 'PENDING_PAYMENT', 'SHIPPED')")
    health = HealthService(database, settings)
    try:
        check = (await health.check())["checks"]["guards"]
    finally:
        await health.close()
        owner_connection.execute(
            "DELETE FROM state_transitions WHERE from_state = 'PENDING_PAYMENT' AND to_state = 'SHIPPED'"
        )
    assert check["status"] == "degraded"
    assert "transition ORDER PENDING_PAYMENT → SHIPPED" in check["hint"]


@pytest.mark.req("NFR-003.2")
def test_the_doctor_says_which_guard_is_off(
    settings: Settings, clean_database: None, owner_connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    get_settings.cache_clear()
    with unguarded(owner_connection, "orders"):
        result = CliRunner().invoke(cli, ["doctor", "--json"])
    get_settings.cache_clear()
    assert result.exit_code == 1
    said = [finding["says"] for finding in json.loads(result.stdout) if finding["part"] == "guards"]
    assert "trigger orders.guard_state_change is off" in said
