"""What is kept under an `Idempotency-Key`, how long, and what it costs."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from app.composition import Services
from app.config import Settings
from app.core.enums import Role
from app.database import Database
from app.main import create_app
from app.prepared import Prepared
from app.services.jobs.sweeps import SweepService
from tests.databases import TestServers
from tests.factories import order_payload
from tests.integration.conftest import API_KEY, TO_DELIVERED, Connect, new_order, new_return
from tests.integration.idempotency_support import KEY, ORDERS, REPLAYED, count, outcome, state_of

pytestmark = pytest.mark.req("REQ-005")


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Give the list of what is sent to the database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    run_on = Prepared.run_on

    async def noting(statement: Prepared, *given: Any) -> Any:
        sent.append(statement.text.decode())
        return await run_on(statement, *given)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    with patch.object(Prepared, "run_on", noting):
        yield sent
    event.remove(engine, "before_cursor_execute", note)


# --- what is kept -------------------------------------------------------------------------------------------------


async def test_what_was_answered_stays_answered(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient]
) -> None:
    order = await new_order(api)
    nowhere = f"{ORDERS}/{uuid4()}/state"
    cases: list[tuple[httpx2.AsyncClient, str, dict[str, str], tuple[int, str]]] = [
        (api, nowhere, {}, (404, "ORDER_NOT_FOUND")),
        (api, state_of(order), {"If-Match": '"9"'}, (412, "VERSION_CONFLICT")),
        (callers[Role.WAREHOUSE], state_of(order), {}, (403, "FORBIDDEN")),
    ]
    for client, path, headers, expected in cases:
        wanted: dict[str, Any] = {"json": {"new_state": "PAID"}, "headers": {KEY: "k " + path, **headers}}
        first, again = await client.patch(path, **wanted), await client.patch(path, **wanted)
        assert outcome(first) == expected
        assert (again.content, again.headers[REPLAYED]) == (first.content, "true")


async def test_a_request_that_was_not_understood_may_be_mended_under_its_key(
    api: httpx2.AsyncClient, connect: Connect, owner_connection: psycopg.Connection
) -> None:
    good = order_payload()
    attempts = [
        (connect(), {"json": good}, 401),
        (api, {"json": {**good, "line_items": []}}, 422),
        (api, {"content": b"{"}, 415),
        (api, {"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        (api, {"json": {**good, "metadata": {"x": "y" * 2_000_000}}}, 413),
        (api, {"json": {**good, "line_items": [{**good["line_items"][0], "quantity": 1e6, "unit_price": 1e9}]}}, 422),
    ]
    for client, options, status in attempts:
        headers = {KEY: "k", **options.pop("headers", {})}  # type: ignore[attr-defined]
        response = await client.post(ORDERS, headers=headers, **options)  # type: ignore[arg-type]
        assert response.status_code == status, response.text
    assert count(owner_connection, "idempotency_keys") == 0
    assert (await api.post(ORDERS, json=good, headers={KEY: "k"})).status_code == 201


@pytest.mark.req("NFR-003")
async def test_a_fault_of_ours_undoes_what_was_done_and_keeps_nothing(
    api: httpx2.AsyncClient,
    services: Services,
    owner_connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = services.orders.create

    async def half(*values: Any) -> dict[str, Any]:
        await create(*values)
        raise RuntimeError("died on the way to the answer")

    body = order_payload()
    with monkeypatch.context() as patched, capture_logs():
        patched.setattr(services.orders, "create", half)
        assert outcome(await api.post(ORDERS, json=body, headers={KEY: "k"})) == (500, "INTERNAL_ERROR")
    assert count(owner_connection, "orders") == count(owner_connection, "idempotency_keys") == 0
    retried = await api.post(ORDERS, json=body, headers={KEY: "k"})
    assert retried.status_code == 201
    assert REPLAYED not in retried.headers
    assert count(owner_connection, "orders") == 1


@pytest.mark.req("NFR-003")
async def test_a_connection_lost_at_commit_leaves_neither_effect_nor_answer(
    api: httpx2.AsyncClient, database: Database, servers: TestServers, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    broken: list[int] = []

    def cut(connection: Any) -> None:
        if not broken:
            broken.append(connection.connection.dbapi_connection.driver_connection.info.backend_pid)
            with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", broken)

    event.listen(database.engine.sync_engine, "commit", cut)
    wanted: dict[str, Any] = {"json": {"new_state": "PAID"}, "headers": {KEY: "k"}}
    assert outcome(await api.patch(state_of(order), **wanted)) == (503, "SERVICE_UNAVAILABLE")
    assert count(owner_connection, "state_history") == count(owner_connection, "idempotency_keys") == 0
    retried = await api.patch(state_of(order), **wanted)
    assert (retried.status_code, retried.json()["status"]) == (200, "PAID")
    assert count(owner_connection, "state_history") == count(owner_connection, "idempotency_keys") == 1


async def test_two_keys_for_one_return_make_one(api: httpx2.AsyncClient, owner_connection: psycopg.Connection) -> None:
    order = await new_order(api, *TO_DELIVERED)
    body = {"order_id": order["id"], "reason": "Glaze is cracked"}
    answers = await asyncio.gather(*(api.post("/api/v1/returns", json=body, headers={KEY: f"k{n}"}) for n in range(10)))
    assert Counter(map(outcome, answers)) == {(201, None): 1, (409, "RETURN_ALREADY_EXISTS"): 9}
    for number, first in enumerate(answers):
        again = await api.post("/api/v1/returns", json=body, headers={KEY: f"k{number}"})
        assert again.content == first.content
    assert count(owner_connection, "return_requests") == 1


async def test_after_a_day_the_key_is_free(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection, database: Database, settings: Settings
) -> None:
    body = order_payload()

    async def sent(key: str) -> str:
        response = await api.post(ORDERS, json=body, headers={KEY: key})
        assert response.status_code == 201
        return str(response.json()["id"])

    ids = {key: await sent(key) for key in ("young", "old", "older")}
    for key, age in (("young", "23:59:30"), ("old", "24:00:01"), ("older", "48:00:00")):
        owner_connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - %s::interval WHERE key = %s", (age, key)
        )
    assert await sent("young") == ids["young"]
    anew = await sent("old")
    assert anew != ids["old"]
    assert await sent("old") == anew
    sweeps = SweepService(database, settings)
    assert [await sweeps.forget_idempotency_keys(10) for _ in range(2)] == [1, 0]
    assert owner_connection.execute("SELECT key FROM idempotency_keys ORDER BY 1").fetchall() == [("old",), ("young",)]


async def test_the_sweep_takes_no_more_than_its_limit(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection, database: Database, settings: Settings
) -> None:
    for number in range(5):
        await api.patch(f"{ORDERS}/{UUID(int=1)}/state", json={"new_state": "PAID"}, headers={KEY: str(number)})
    owner_connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    sweeps = SweepService(database, settings)
    assert [await sweeps.forget_idempotency_keys(2) for _ in range(4)] == [2, 2, 1, 0]


# --- what it costs ------------------------------------------------------------------------------------------------


@pytest.mark.req("NFR-001")
async def test_without_a_key_there_is_not_one_statement_more(api: httpx2.AsyncClient, database: Database) -> None:
    order = await new_order(api)
    with statements(database) as sent:
        await api.patch(state_of(order), json={"new_state": "PAID"})
    assert len(sent) == 1, sent
    with statements(database) as sent:
        await api.patch(state_of(order), json={"new_state": "PROCESSING_IN_WAREHOUSE"}, headers={KEY: "k"})
    # The lock, the look-up, the transition, the answer.
    assert len(sent) == 4, sent


@pytest.mark.req("NFR-003")
async def test_a_request_with_a_key_takes_one_connection(settings: Settings, clean_database: None) -> None:
    database = Database(settings, pool_size=1)
    application = create_app(settings, Services(settings, database))
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"X-API-Key": API_KEY}) as api:
        order = await new_order(api, *TO_DELIVERED)
        request = await new_return(api, order["id"])
        approval: dict[str, Any] = {"json": {"notes": "seen"}, "headers": {KEY: "k"}}
        answers = await asyncio.gather(
            *(api.patch(f"/api/v1/returns/{request['id']}/approve", **approval) for _ in range(5))
        )
    assert {answer.content for answer in answers if answer.status_code == 200} == {answers[0].content}
    await database.close()
