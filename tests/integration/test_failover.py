"""The database moves to another server, and the processes go on there without a restart (NFR-003)."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.composition import Services
from app.config import Settings
from app.database import Database, driver_url, sync_engine
from app.doctor import databases as doctor
from app.doctor.findings import Level
from app.main import create_app
from app.prepared import Prepared
from app.services.operations.health import HealthService
from devtools.embedded.given import require_given_servers
from tests import databases
from tests.databases import TestServers
from tests.factories import order_payload
from tests.integration.away import unreachable
from tests.integration.conftest import API_KEY, TO_DELIVERED, error_of, new_order
from tests.replication import WAIT_SECONDS, pair

pytestmark = pytest.mark.req("NFR-003.6")

CALLERS = 4
FEW = 40
"""Acknowledged writes before the primary is killed, and again after it."""


def client(application: FastAPI) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"X-API-Key": API_KEY})


class Callers:
    """Callers who create orders and take them on, each write under its own key, sent until it is acknowledged."""

    def __init__(self, api: httpx2.AsyncClient, customer_id: UUID) -> None:
        self._api = api
        self._customer_id = str(customer_id)
        self.acknowledged: list[tuple[str, str]] = []
        self.refused = 0
        self.stopping = False

    async def run(self) -> None:
        """Write until stopped."""
        while not self.stopping:
            order = await self._until_acknowledged("POST", "/orders", order_payload(customer_id=self._customer_id))
            self.acknowledged.append((order["id"], order["status"]))
            for state in TO_DELIVERED:
                await self._until_acknowledged("PATCH", f"/orders/{order['id']}/state", {"new_state": state})
                self.acknowledged.append((order["id"], state))

    async def come_to(self, count: int) -> None:
        """Return once so many writes are acknowledged."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.acknowledged) < count:  # noqa: ASYNC110 - what it waits for are answers to others
                await asyncio.sleep(0.02)

    async def _until_acknowledged(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Idempotency-Key": str(uuid4())}
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                answer = await self._api.request(method, f"/api/v1{path}", json=body, headers=headers)
                if answer.is_success:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code == 503, answer.text
                assert error_of(answer)["code"] == "SERVICE_UNAVAILABLE"
                assert answer.headers["retry-after"]
                self.refused += 1
                await asyncio.sleep(0.02)


async def test_what_was_acknowledged_outlives_the_primary(settings: Settings, customer_id: UUID) -> None:
    with tempfile.TemporaryDirectory(prefix="articurated-failover-") as folder, pair(Path(folder)) as servers:
        servers.acknowledge_on_both()
        chosen = settings.model_copy(update={"database_url": servers.url_of_both, "database_pool_size": 5})
        services = Services(chosen, Database(chosen))
        services.health = HealthService(services.database, chosen, check_seconds=WAIT_SECONDS)
        async with client(create_app(chosen, services)) as api:
            callers = Callers(api, customer_id)
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(callers.run())
                await callers.come_to(FEW)
                await asyncio.to_thread(servers.kill_primary)
                await asyncio.to_thread(servers.promote)
                await callers.come_to(len(callers.acknowledged) + FEW)
                callers.stopping = True

            assert callers.refused
            for order_id in {order_id for order_id, _ in callers.acknowledged}:
                history = (await api.get(f"/api/v1/orders/{order_id}/history")).json()["data"]
                assert [row["new_state"] for row in history] == list(TO_DELIVERED)
            # None twice: each was sent again and again until it was answered.
            listed = await api.get("/api/v1/orders", params={"include_total": True, "customer_id": str(customer_id)})
            assert listed.json()["pagination"]["total"] == len({order_id for order_id, _ in callers.acknowledged})
            verified = await services.audit.verify()
            assert (verified["ok"], verified["rows"] > FEW) == (True, True)
            assert (await api.get("/api/v1/health")).json()["checks"]["database"]["status"] == "ok"
        await services.close()


@pytest.fixture
async def narrow(settings: Settings, clean_database: None) -> AsyncIterator[Database]:
    """A pool of one connection of each kind: the next request is sure to get the one that was spoilt."""
    database = Database(settings, pool_size=1)
    yield database
    await database.close()


@pytest.fixture
def application_on_one(settings: Settings, narrow: Database) -> FastAPI:
    return create_app(settings, Services(settings, narrow))


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
async def test_a_primary_that_became_read_only_is_left(
    application_on_one: FastAPI, narrow: Database, headers: dict[str, str]
) -> None:
    async with client(application_on_one) as api:
        order = await new_order(api)
        async with narrow.autocommit() as connection:
            await connection.execute(text("SET default_transaction_read_only = on"))
        await narrow.rows(Prepared(text("SELECT set_config('default_transaction_read_only', 'on', false)")))
        path, body = f"/api/v1/orders/{order['id']}/state", {"new_state": "PAID"}
        refused = await api.patch(path, json=body, headers=headers)
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
        assert refused.headers["retry-after"]
        moved = await api.patch(path, json=body, headers=headers)
        assert (moved.status_code, moved.json()["status"]) == (200, "PAID")


async def backend(database: Database) -> int:
    async with database.autocommit() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03"])
async def test_a_primary_that_says_goodbye_is_left(narrow: Database, code: str) -> None:
    before = await backend(narrow)
    async with narrow.autocommit() as connection:
        with pytest.raises(DBAPIError) as refused:
            await connection.execute(text(f"DO $$ BEGIN RAISE 'farewell' USING ERRCODE = '{code}'; END $$"))
    assert refused.value.connection_invalidated
    assert await backend(narrow) != before


def test_relay_and_commands_leave_it_too(settings: Settings) -> None:
    engine = sync_engine(settings, "test", pool_size=1)
    with engine.begin() as connection:
        before = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        connection.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(DBAPIError) as refused, engine.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    assert refused.value.connection_invalidated
    with engine.begin() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != before
    engine.dispose()


def several(url: str) -> str:
    """Return `url` with a host before its own at which no process listens."""
    server = make_url(url)
    address = f"@{server.host}" + (f":{server.port}" if server.port else "")
    named = url.replace(address, f"@{unreachable()},{address[1:]}", 1)
    return f"{named}{'&' if server.query else '?'}target_session_attrs=read-write"


@pytest.fixture
def on_several(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_url": several(settings.database_url)})


async def test_several_hosts_serve_the_application(on_several: Settings) -> None:
    assert Settings(_env_file=None, database_url=on_several.database_url)
    database = Database(on_several)
    health = HealthService(database, on_several, check_seconds=WAIT_SECONDS)
    assert (await health.check())["checks"]["database"]["status"] == "ok"
    await health.close()
    await database.close()
    engine = sync_engine(on_several, "test")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()


async def test_several_hosts_serve_the_doctor(on_several: Settings) -> None:
    assert Level.FAILURE not in {finding.level for finding in await doctor.schema(on_several)}


def test_several_hosts_serve_migrations(servers: TestServers, database_name: str, settings: Settings) -> None:
    databases.migrate(several(databases.url_of(servers.owner_url, database_name)), servers.app_url)
    # Of it a migration reads which login to let in.
    assert driver_url(several(settings.database_url)).username == make_url(settings.database_url).username


def test_several_hosts_serve_a_run_on_given_servers(on_several: Settings) -> None:
    require_given_servers(
        Settings(_env_file=None, database_url=on_several.database_url, redis_url=on_several.redis_url)
    )


@pytest.mark.parametrize(
    ("hosts", "read"),
    [
        ("u:p%40ss@a:5432,b:5433", {"user": "u", "password": "p@ss", "host": "a,b", "port": "5432,5433"}),
        ("u:pa,ss@a,b", {"user": "u", "password": "pa,ss", "host": "a,b", "port": ","}),
        ("a,b:5433,c", {"host": "a,b,c", "port": ",5433,"}),
        ("u:pa,ss@a:5432", {"user": "u", "password": "pa,ss", "host": "a", "port": 5432}),
        ("u:p[a,s#s@a", {"user": "u", "password": "p[a,s#s", "host": "a"}),
        ("u:p[a,s#s@a,b", {"user": "u", "password": "p[a,s#s", "host": "a,b", "port": ","}),
    ],
)
def test_an_address_is_passed_on_as_it_is(hosts: str, read: dict[str, Any]) -> None:
    url = driver_url(f"postgresql://{hosts}/shop?sslmode=require&target_session_attrs=read-write")
    _, passed = url.get_dialect()().create_connect_args(url)
    passed.pop("context", None)
    assert passed == {**read, "dbname": "shop", "sslmode": "require", "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("postgresql://shop:pa,ss@a:5432/shop", True),
        ("postgresql://shop:p[a,s#s?@a:5432/shop", True),
        ("postgresql://shop:p[a,s#s?@a,b/shop", False),
        ("postgresql://shop@a:5432,b:5432/shop?target_session_attrs=read-write", True),
        ("postgresql://shop@/shop?host=a,b&target_session_attrs=primary", True),
        ("postgresql://shop@a:5432,b:5432/shop", False),
        ("postgresql://shop@a,b/shop?target_session_attrs=any", False),
        ("postgresql://shop@/shop?host=a,b", False),
    ],
)
def test_several_hosts_say_that_one_of_them_is_the_primary(url: str, fits: bool) -> None:  # noqa: FBT001
    for name in ("database_url", "database_admin_url"):
        given: dict[str, Any] = {name: url}
        if fits:
            assert Settings(_env_file=None, **given)
        else:
            with pytest.raises(ValidationError, match="target_session_attrs=read-write"):
                Settings(_env_file=None, **given)
    # Of replicas, any will do.
    assert Settings(_env_file=None, database_url="postgresql://shop@a/shop", database_replica_url=url)
