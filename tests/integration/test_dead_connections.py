"""Reads and writes on connections that PostgreSQL has closed, as after its restart (NFR-003)."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import event

from app.database import Database
from app.prepared import Prepared
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


@pytest.fixture
def close_next(database: Database, servers: TestServers, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Return a function that has the session of the next statement ended just before it is sent.

    The list that it returns gets the process id of that session.
    """
    waiting: list[list[int]] = []

    def close(driver: Any) -> None:
        if waiting:
            closed = waiting.pop()
            closed.append(driver.info.backend_pid)
            with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", closed)

    def before_execute(connection: Any, *_details: object) -> None:
        close(connection.connection.dbapi_connection.driver_connection)

    run_on = Prepared.run_on

    async def before_run(statement: Prepared, connection: Any, parameters: Any) -> Any:
        close(connection)
        return await run_on(statement, connection, parameters)

    event.listen(database.engine.sync_engine, "before_cursor_execute", before_execute)
    monkeypatch.setattr(Prepared, "run_on", before_run)

    def arm() -> list[int]:
        waiting.append([])
        return waiting[-1]

    return arm


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
    # Reads of single orders leave together, on one connection; lists have one each.
    urls = [f"/api/v1/orders/{order['id']}", "/api/v1/orders"]
    await asyncio.gather(*(api.get(url) for url in urls * 5))
    assert close_all(owner_connection) > 1
    answers = await asyncio.gather(*(api.get(url) for url in urls * 15))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_read_whose_connection_is_lost_is_retried_once(
    api: httpx2.AsyncClient, close_next: Callable[[], list[int]]
) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}"
    for path in (url, f"{url}/history", f"{url}/transitions", "/api/v1/orders"):
        closed = close_next()
        assert (await api.get(path)).status_code == 200, path
        assert len(closed) == 1


async def test_a_write_whose_connection_is_lost_under_it_is_not_repeated(
    api: httpx2.AsyncClient, close_next: Callable[[], list[int]]
) -> None:
    order = await new_order(api)
    closed = close_next()
    refused = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    assert len(closed) == 1
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json()["status"] == "PENDING_PAYMENT"
