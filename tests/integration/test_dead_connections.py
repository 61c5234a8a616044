"""Reads and writes on connections that PostgreSQL has closed, as after its restart (NFR-003)."""

import asyncio
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import event

from app.database import Database
from tests.databases import TestServers
from tests.integration.conftest import error_of, new_order

pytestmark = pytest.mark.req("NFR-003")


def close_all(owner: psycopg.Connection) -> int:
    """End every other session of this database, and wait for their ends; return how many there were."""
    ended = owner.execute(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert ended is not None
    return int(ended[0])


def close_next(database: Database, superuser_url: str) -> list[int]:
    """End the session of the next statement just before it is sent; return a list that gets its process id."""
    closed: list[int] = []

    def close(connection: Any, *_details: object) -> None:
        if not closed:
            closed.append(connection.connection.dbapi_connection.driver_connection.info.backend_pid)
            with psycopg.connect(superuser_url, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", closed)

    event.listen(database.engine.sync_engine, "before_cursor_execute", close)
    return closed


async def test_a_connection_closed_while_idle_is_replaced_before_a_write_uses_it(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    assert close_all(owner_connection) > 0
    moved = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    assert moved.status_code == 200
    assert close_all(owner_connection) > 0
    await new_order(api)


async def test_many_requests_at_once_find_their_idle_connections_closed(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}"
    await asyncio.gather(*(api.get(url) for _ in range(10)))
    assert close_all(owner_connection) > 1
    answers = await asyncio.gather(*(api.get(url) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_read_whose_connection_is_lost_is_retried_once(
    api: httpx2.AsyncClient, database: Database, servers: TestServers
) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}"
    for path in (url, f"{url}/history", f"{url}/transitions", "/api/v1/orders"):
        closed = close_next(database, servers.superuser_url)
        assert (await api.get(path)).status_code == 200, path
        assert len(closed) == 1


async def test_a_write_whose_connection_is_lost_under_it_is_not_repeated(
    api: httpx2.AsyncClient, database: Database, servers: TestServers
) -> None:
    order = await new_order(api)
    closed = close_next(database, servers.superuser_url)
    refused = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    assert len(closed) == 1
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json()["status"] == "PENDING_PAYMENT"
