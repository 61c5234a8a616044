"""The service about itself: metrics, figures, machines, documents, and when it refuses to start."""

from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest
from fastapi import FastAPI

from app.composition import Services
from app.config import Settings
from app.core.enums import EntityType, Role
from app.database import Database
from app.main import create_app
from app.services.operations import schema_check
from app.services.operations.schema_check import SchemaMismatchError, newest_revision, verify_schema
from app.services.operations.stats import StatsService
from app.services.workflow.state_machine import StateMachine
from tests import databases
from tests.conftest import MovableClock, actor
from tests.databases import TestServers
from tests.integration.away import unreachable
from tests.integration.conftest import TO_DELIVERED, Connect, error_of, new_order, new_return
from tests.integration.dead import bury_job

pytestmark = pytest.mark.req("NFR-003", "NFR-006")

HEALTH = "/api/v1/health"


@pytest.mark.req("NFR-003.2")
async def test_without_the_database_it_is_down(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://nobody:x@{unreachable()}/none"})
    application = create_app(away)
    transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        health = await client.get(HEALTH)
        assert (health.status_code, health.json()) == (503, {"status": "down"})
        health = await client.get(HEALTH, headers={"X-API-Key": "dev-api-key"})
        assert health.status_code == 503
        assert health.json()["checks"]["database"]["status"] == "down"
        # A key that only the database knows.
        health = await client.get(HEALTH, headers={"X-API-Key": f"ack_{'0' * 8}_{'0' * 43}"})
        assert (health.status_code, health.json()) == (503, {"status": "down"})
        assert (await client.get(f"{HEALTH}/live")).status_code == 200
        refused = await client.get("/api/v1/orders", headers={"X-API-Key": "dev-api-key"})
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
        assert int(refused.headers["retry-after"]) > 0
        assert "127.0.0.1" not in refused.text
        metrics = await client.get("/api/v1/metrics")
        assert metrics.status_code == 200
        assert "articurated_database_up 0.0" in metrics.text
    await application.state.services.close()


@pytest.mark.req("NFR-006.2")
async def test_metrics_count_requests_by_route_and_jobs_by_state(api: httpx2.AsyncClient, services: Services) -> None:
    order = await new_order(api, "PAID")
    await api.get(f"/api/v1/orders/{order['id']}")
    await api.get("/nowhere/at/all")
    await api.request("BREW", "/api/v1/orders")
    await bury_job(services.database)
    response = await api.get("/api/v1/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = response.text
    assert 'articurated_http_requests_total{method="GET",route="/api/v1/orders/{order_id}",status="200"}' in text
    assert 'route="(none)",status="404"' in text
    assert 'method="(other)"' in text
    assert "nowhere" not in text
    assert "BREW" not in text
    assert order["id"] not in text
    assert 'articurated_jobs_waiting{queue="notifications",state="PENDING"} 3.0' in text
    assert 'articurated_jobs_oldest_due_seconds{queue="notifications"}' in text
    assert "articurated_dead_letters 1.0" in text
    assert "articurated_database_up 1.0" in text


@pytest.mark.req("NFR-006.3")
async def test_figures_add_up(api: httpx2.AsyncClient) -> None:
    await new_order(api)
    paid = await new_order(api, "PAID")
    await new_order(api, "PAID", currency="EUR")
    delivered = await new_order(api, *TO_DELIVERED)
    await new_return(api, delivered["id"])
    figures = (await api.get("/api/v1/stats")).json()
    assert figures["orders"] == {
        "PENDING_PAYMENT": 1,
        "PAID": 2,
        "PROCESSING_IN_WAREHOUSE": 0,
        "SHIPPED": 0,
        "DELIVERED": 1,
        "CANCELLED": 0,
    }
    assert figures["returns"]["REQUESTED"] == 1
    assert figures["revenue"] == {
        "EUR": {"captured": paid["total_amount"], "refunded": 0.0},
        "USD": {"captured": 2 * paid["total_amount"], "refunded": 0.0},
    }
    assert figures["jobs"]["PENDING"] > 0
    assert figures["jobs"]["SUCCEEDED"] == 0


async def test_money_paid_back_is_counted_once_it_has_moved(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api, "PAID", "CANCELLED")
    assert (await api.get("/api/v1/stats")).json()["revenue"]["USD"]["refunded"] == 0
    owner_connection.execute(
        "UPDATE refunds SET state = 'SUCCEEDED', succeeded_at = now(), gateway_refund_id = 're_1' WHERE order_id = %s",
        [order["id"]],
    )
    services.stats = StatsService(services.database)
    assert (await api.get("/api/v1/stats")).json()["revenue"]["USD"]["refunded"] == order["total_amount"]


@pytest.mark.req("NFR-002.2")
async def test_figures_are_kept_for_as_long_as_they_were_dear(
    database: Database, api: httpx2.AsyncClient, clock: MovableClock
) -> None:
    # Read at the start, then at the end of each collection; the last one finds them kept.
    moments = iter([0.0, 2.0, 41.9, 42.0, 43.0])
    stats = StatsService(database, clock, lambda: next(moments))
    admin = actor(Role.ADMIN)
    first = await stats.collect(admin)
    await new_order(api)
    assert await stats.collect(admin) == first
    assert (await stats.collect(admin))["orders"]["PENDING_PAYMENT"] == 1


def jobs_about(connection: psycopg.Connection, seen: set[UUID]) -> set[str]:
    """Return the kinds of the jobs that have come since the last call."""
    found = connection.execute("SELECT id, kind FROM jobs").fetchall()
    fresh = {kind for job_id, kind in found if job_id not in seen}
    seen |= {job_id for job_id, _ in found}
    return fresh


@pytest.mark.req("REQ-001.1", "REQ-002.1")
async def test_the_machines_as_data_say_what_really_happens(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    """Drive every transition there is; the jobs that follow are those that the data name."""
    machines = (await api.get("/api/v1/state-machines")).json()
    for entity, name in ((EntityType.ORDER, "order"), (EntityType.RETURN, "return")):
        listed = [(edge["from"], edge["to"]) for edge in machines[name]["transitions"]]
        assert listed == StateMachine.edges(entity)
        assert set(machines[name]["final"]) == set(machines[name]["states"]) - {source for source, _ in listed}
    seen: set[UUID] = set()

    async def check(machine: dict[str, Any], path: str, steps: tuple[str, ...], driven: set[tuple[str, str]]) -> None:
        current = machine["initial"]
        for step in steps:
            jobs_about(owner_connection, seen)
            body: dict[str, Any] = {"new_state": step}
            url = f"{path}/state"
            if step in {"APPROVED", "REJECTED"}:
                url = f"{path}/{'approve' if step == 'APPROVED' else 'reject'}"
                body = {"notes": "x"} | ({"rejection_reason": "OTHER"} if step == "REJECTED" else {})
            moved = await api.patch(url, json=body)
            assert moved.status_code == 200, moved.text
            edge = next(e for e in machine["transitions"] if (e["from"], e["to"]) == (current, step))
            assert jobs_about(owner_connection, seen) == set(edge["jobs"]), edge
            driven.add((current, step))
            current = step

    driven: set[tuple[str, str]] = set()
    for steps in (TO_DELIVERED, ("CANCELLED",), ("PAID", "CANCELLED")):
        order = await new_order(api)
        await check(machines["order"], f"/api/v1/orders/{order['id']}", steps, driven)
    assert driven == set(StateMachine.edges(EntityType.ORDER))
    driven = set()
    for steps in (("APPROVED", "IN_TRANSIT", "RECEIVED", "COMPLETED"), ("REJECTED",)):
        delivered = await new_order(api, *TO_DELIVERED)
        requested = await new_return(api, delivered["id"])
        await check(machines["return"], f"/api/v1/returns/{requested['id']}", steps, driven)
    assert driven == set(StateMachine.edges(EntityType.RETURN))


@pytest.mark.req("REQ-005.2")
@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_documents_are_there_in_development(path: str, anonymous: httpx2.AsyncClient) -> None:
    assert (await anonymous.get(path)).status_code == 200
    alias = await anonymous.get(f"/api/v1{path}")
    assert (alias.status_code, alias.headers["location"]) == (307, path)


def production(settings: Settings) -> Settings:
    """Return the settings as they would be in production."""
    return settings.model_copy(update={"environment": "production", "api_key": None})


@pytest.mark.req("NFR-004.7")
async def test_production_hides_its_documents_and_asks_for_tls(settings: Settings, services: Services) -> None:
    application = create_app(production(settings), services)
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="https://test") as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/api/v1/docs", "/api/v1/openapi.json"):
            response = await client.get(path)
            assert response.status_code == 404
            assert error_of(response)["code"] == "NOT_FOUND"
        assert "max-age=" in response.headers["strict-transport-security"]


async def started(application: FastAPI) -> None:
    """Start and end an application."""
    async with application.router.lifespan_context(application):
        pass


async def test_it_starts_on_the_database_it_was_written_for(settings: Settings, database: Database) -> None:
    await started(create_app(settings))


async def test_it_refuses_a_database_that_cannot_be_reached(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://nobody:x@{unreachable()}/none"})
    with pytest.raises(SchemaMismatchError, match="cannot be used"):
        await started(create_app(away))


@pytest.mark.req("REQ-001")
async def test_it_refuses_a_database_with_other_transitions(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    with owner_connection.transaction(force_rollback=False):
        owner_connection.execute("INSERT INTO state_transitions VALUES ('ORDER', 'SHIPPED', 'CANCELLED')")
    try:
        with pytest.raises(SchemaMismatchError, match="ORDER SHIPPED → CANCELLED"):
            await started(create_app(settings))
    finally:
        owner_connection.execute(
            "DELETE FROM state_transitions WHERE from_state = 'SHIPPED' AND to_state = 'CANCELLED'"
        )
    await verify_schema(database)


@pytest.mark.parametrize("revision", ["0001", "9999", None])
async def test_it_refuses_a_database_at_another_migration(
    revision: str | None, database: Database, owner_connection: psycopg.Connection
) -> None:
    before = owner_connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert before == (newest_revision(),)
    owner_connection.execute("DELETE FROM alembic_version")
    if revision is not None:
        owner_connection.execute("INSERT INTO alembic_version VALUES (%s)", [revision])
    try:
        with pytest.raises(SchemaMismatchError, match="articurated migrate"):
            await verify_schema(database)
    finally:
        owner_connection.execute("DELETE FROM alembic_version")
        owner_connection.execute("INSERT INTO alembic_version VALUES (%s)", before)


async def test_it_refuses_an_empty_database(settings: Settings, owner_connection: psycopg.Connection) -> None:
    owner_connection.execute("ALTER TABLE alembic_version RENAME TO elsewhere")
    try:
        with pytest.raises(SchemaMismatchError, match="at migration none"):
            await started(create_app(settings))
    finally:
        owner_connection.execute("ALTER TABLE elsewhere RENAME TO alembic_version")


def test_two_newest_migrations_are_an_error_of_ours(tmp_path: Any) -> None:
    for name in ("0001", "0002"):
        (tmp_path / f"{name}.py").write_text(f'revision: str = "{name}"\ndown_revision: str | None = None\n')
    with pytest.raises(SchemaMismatchError, match="2 newest"):
        schema_check.newest_revision(tmp_path)


async def test_the_server_gets_one_sentence_when_the_start_is_refused(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://nobody:x@{unreachable()}/none"})
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(SchemaMismatchError):
        await create_app(away)({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent[-1]["type"] == "lifespan.startup.failed"
    assert sent[-1]["message"].startswith("Not starting. The database cannot be used")
    assert "Traceback" not in sent[-1]["message"]


async def test_every_answer_has_safe_headers_and_an_id(anonymous: httpx2.AsyncClient) -> None:
    for path in (HEALTH, "/nowhere", "/api/v1/orders"):
        response = await anonymous.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert len(response.headers["x-request-id"]) == 32
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers


async def test_a_decent_request_id_is_kept_and_any_other_replaced(connect: Connect) -> None:
    kept = await connect(**{"X-Request-ID": "checkout-7f3a.12"}).get(f"{HEALTH}/live")
    assert kept.headers["x-request-id"] == "checkout-7f3a.12"
    for bad in ("short", "x" * 65, "with blank", 'quo"te12'):
        replaced = await connect(**{"X-Request-ID": bad}).get(f"{HEALTH}/live")
        assert replaced.headers["x-request-id"] != bad


@pytest.mark.req("REQ-003", "NFR-004")
async def test_production_refuses_a_login_that_could_lift_the_guards(
    settings: Settings, database: Database, servers: TestServers, database_name: str
) -> None:
    if not servers.given:
        await verify_schema(database, restricted=True)
    for url in (servers.owner_url, servers.superuser_url):
        powerful = Database(settings.model_copy(update={"database_url": databases.url_of(url, database_name)}))
        try:
            await verify_schema(powerful)
            with pytest.raises(SchemaMismatchError, match="could rewrite history"):
                await verify_schema(powerful, restricted=True)
        finally:
            await powerful.close()
