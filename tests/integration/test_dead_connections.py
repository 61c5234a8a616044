"""Reads and writes on connections that PostgreSQL has closed, as after its restart (NFR-003)."""

import asyncio

import httpx2
import psycopg
import pytest

from tests.integration.conftest import error_of, new_order

pytestmark = pytest.mark.req("NFR-003")


def close_all(owner: psycopg.Connection) -> int:
    """End every other session of this database; return how many there were."""
    ended = owner.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert ended is not None
    return int(ended[0])


async def test_a_read_is_done_once_more_on_a_fresh_connection(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}"
    for path in (url, f"{url}/history", f"{url}/transitions", "/api/v1/orders"):
        assert close_all(owner_connection) > 0
        assert (await api.get(path)).status_code == 200, path


async def test_many_reads_at_once_are_each_done_once_more(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}"
    await asyncio.gather(*(api.get(url) for _ in range(10)))
    assert close_all(owner_connection) > 1
    answers = await asyncio.gather(*(api.get(url) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}


async def test_the_caller_of_a_write_is_looked_up_once_more_and_the_write_is_not_repeated(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    close_all(owner_connection)
    refused = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "SERVICE_UNAVAILABLE"
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json()["status"] == "PENDING_PAYMENT"
