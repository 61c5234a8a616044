"""What the tests of the API share: an application in this process, and callers of every role; and logins past it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from fastapi import FastAPI

from app.composition import Services
from app.config import Settings, get_settings
from app.core.enums import Role
from app.database import Database
from app.main import create_app
from app.services.workflow.verification import VerificationService
from tests import databases
from tests.conftest import MovableClock, new_key
from tests.databases import ROLE, TestServers
from tests.factories import order_payload
from tests.fakes import FakeGateway

API_KEY = "dev-api-key"
Steps = tuple[str, ...]
Login = Callable[[str], psycopg.Connection]
LOGINS = ("application", "owner", "superuser", "superuser in replica mode")
TO_DELIVERED: Steps = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")


@pytest.fixture
async def services(settings: Settings, database: Database, clock: MovableClock) -> AsyncIterator[Services]:
    services = Services(settings, database, clock)
    services.gateway = FakeGateway()
    # The process that verifies may start late on a busy machine.
    services.verifications = VerificationService(database, settings, wait_seconds=120)
    yield services
    await services.health.close()


@pytest.fixture
def application(settings: Settings, services: Services) -> FastAPI:
    return create_app(settings, services)


Connect = Callable[..., httpx2.AsyncClient]


@pytest.fixture
async def connect(application: FastAPI) -> AsyncIterator[Connect]:
    """Return a function that gives a client with the headers named."""
    clients: list[httpx2.AsyncClient] = []

    def connected(**headers: str) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False, client=("192.0.2.9", 4711))
        client = httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        clients.append(client)
        return client

    yield connected
    for client in clients:
        await client.aclose()


@pytest.fixture
def api(connect: Connect) -> httpx2.AsyncClient:
    """A client that may do everything."""
    return connect(**{"X-API-Key": API_KEY})


@pytest.fixture
def anonymous(connect: Connect) -> httpx2.AsyncClient:
    return connect()


@pytest.fixture
def customer_id() -> UUID:
    return uuid4()


@pytest.fixture
async def callers(services: Services, connect: Connect, customer_id: UUID) -> dict[Role, httpx2.AsyncClient]:
    """A client for every role, each with a database key; the customer is `customer_id`."""
    clients = {}
    for role in Role:
        belongs_to = customer_id if role is Role.CUSTOMER else None
        made = await new_key(services.settings, role, f"{role} of the tests", belongs_to)
        clients[role] = connect(**{"X-API-Key": made["key"]})
    return clients


@pytest.fixture
def command_line(settings: Settings, clean_database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the commands that a test runs use its own database."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("DATABASE_ADMIN_URL", str(settings.database_admin_url))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("STORAGE_PATH", str(settings.storage_path))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def login(servers: TestServers, database_name: str) -> Iterator[Login]:
    """Return a function that connects as one of LOGINS."""
    with ExitStack() as stack:

        def connected(name: str) -> psycopg.Connection:
            url = {"application": servers.app_url, "owner": servers.owner_url}.get(name, servers.superuser_url)
            connection = stack.enter_context(psycopg.connect(databases.url_of(url, database_name), autocommit=True))
            if name == "application":
                connection.execute(f"SET ROLE {ROLE}".encode())
            if name == "superuser in replica mode":
                connection.execute("SET session_replication_role = replica")
            return connection

        yield connected


async def new_order(api: httpx2.AsyncClient, *steps: str, **fields: Any) -> dict[str, Any]:
    """Create an order and take it through `steps`; return it."""
    created = await api.post("/api/v1/orders", json=order_payload(**fields))
    assert created.status_code == 201, created.text
    order: dict[str, Any] = created.json()
    for step in steps:
        moved = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": step})
        assert moved.status_code == 200, moved.text
        order = moved.json()
    return order


async def new_return(api: httpx2.AsyncClient, order_id: str) -> dict[str, Any]:
    """Request a return of a delivered order; return it."""
    requested = await api.post("/api/v1/returns", json={"order_id": order_id, "reason": "Glaze is cracked"})
    assert requested.status_code == 201, requested.text
    found: dict[str, Any] = requested.json()
    return found


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the error in a response, which must have exactly the one shape."""
    body = response.json()
    assert list(body) == ["error"], body
    assert sorted(body["error"]) == ["code", "details", "message", "request_id"], body
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error
