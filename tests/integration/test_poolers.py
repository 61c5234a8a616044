"""A connection that lost what it was opened with, as PgBouncer makes it, is found: at start, by health, by the doctor."""

import re
from collections.abc import AsyncIterator

import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url, text

from app import database as database_module
from app.config import ROOT, Settings
from app.database import Database, session_settings
from app.doctor import databases as doctor
from app.doctor.findings import Level
from app.services.operations.health import HealthService
from app.services.operations.schema_check import SchemaMismatchError, verify_schema
from app.services.operations.session_check import session_differences
from tests.databases import ROLE, TestServers
from tests.integration.conftest import Login

pytestmark = [pytest.mark.req("NFR-003"), pytest.mark.req("NFR-004")]

ANOTHER_ROLE = "articurated_of_another_login"


@pytest.fixture
def behind_pooler(settings: Settings, clean_database: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose connections reach the server without their options; the login is not the role."""
    whole = database_module.connect_args

    def without_options(*arguments: object, **named: object) -> dict[str, object]:
        return {name: value for name, value in whole(*arguments, **named).items() if name != "options"}  # type: ignore[arg-type]

    monkeypatch.setattr(database_module, "connect_args", without_options)
    return settings.model_copy(update={"database_role": ANOTHER_ROLE})


@pytest.fixture
async def pooled(behind_pooler: Settings) -> AsyncIterator[Database]:
    database = Database(behind_pooler, pool_size=2)
    yield database
    await database.close()


async def test_a_direct_connection_is_set_as_wanted(database: Database) -> None:
    assert await session_differences(database) == {}


async def test_each_setting_that_was_dropped_is_named(pooled: Database, servers: TestServers) -> None:
    found = await session_differences(pooled)
    assert set(found) == {"role", "statement_timeout", "idle_in_transaction_session_timeout"}
    if not servers.given:
        assert found["role"] == f"role is {ROLE}, not {ANOTHER_ROLE}"
    assert found["statement_timeout"] == "statement_timeout is 0, not 15000"


async def test_another_time_zone_is_named(settings: Settings, database: Database) -> None:
    async with database.engine.connect() as connection:
        await connection.execute(text("SET TimeZone = 'Asia/Tokyo'"))
        await connection.commit()
    assert await session_differences(database) == {"timezone": "timezone is Asia/Tokyo, not UTC"}


async def test_replica_mode_is_named(settings: Settings, login: Login) -> None:
    """A superuser can set it for the login; foreign keys are not held in it."""
    url = make_url(settings.database_url)
    superuser = login("superuser")
    whose = SQL("ALTER ROLE {} IN DATABASE {} ").format(Identifier(str(url.username)), Identifier(str(url.database)))
    superuser.execute(whose + SQL("SET session_replication_role = 'replica'"))
    database = Database(settings, pool_size=1)
    try:
        assert set(await session_differences(database)) == {"session_replication_role"}
    finally:
        await database.close()
        superuser.execute(whose + SQL("RESET session_replication_role"))


async def test_production_does_not_start_without_its_role(pooled: Database, servers: TestServers) -> None:
    if servers.given:
        pytest.skip("a login that owns the tables is refused before")
    with pytest.raises(SchemaMismatchError, match=r"not taken on DATABASE_ROLE: .*PgBouncer"):
        await verify_schema(pooled, restricted=True)
    await verify_schema(pooled)


@pytest.mark.req("DOC.5")
def test_the_page_sets_on_the_login_what_a_connection_is_opened_with(settings: Settings) -> None:
    page = (ROOT / "docs" / "how-to" / "use-a-connection-pooler.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^ALTER ROLE shop_app SET (\w+) = '(\w+)';$", page, re.MULTILINE))
    wanted = session_settings(settings.model_copy(update={"database_role": "shop_role"}))
    assert {name: value.replace("s", "000") if value[:1].isdigit() else value for name, value in told.items()} == wanted


@pytest.mark.req("NFR-003.2")
async def test_health_and_doctor_name_the_pooler(behind_pooler: Settings, pooled: Database) -> None:
    health = HealthService(pooled, behind_pooler)
    try:
        check = (await health.check())["checks"]["guards"]
    finally:
        await health.close()
    assert check["status"] == "degraded"
    assert "statement_timeout is 0, not 15000" in check["hint"]
    assert "pooler" in check["hint"]
    for environment, level in (("development", Level.WARNING), ("production", Level.FAILURE)):
        settings = behind_pooler.model_copy(update={"environment": environment})
        findings = await doctor.session(settings)
        assert {finding.level for finding in findings} == {level}
        assert all("PgBouncer" in str(finding.advice) for finding in findings)
