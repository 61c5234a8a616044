"""One effect for a request, however often it is sent, and the first answer for all of them (`Idempotency-Key`)."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import psycopg
import pytest
from fastapi import FastAPI

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from tests.conftest import MovableClock
from tests.factories import order_payload
from tests.integration.conftest import API_KEY, TO_DELIVERED, Connect, error_of, new_order, new_return
from tests.integration.idempotency_support import KEY, ORDERS, REPLAYED, count, outcome, state_of
from tests.integration.operations import all_operations

pytestmark = pytest.mark.req("REQ-005")


# --- one effect ---------------------------------------------------------------------------------------------------

KEYS, TIMES = 200, 20


@pytest.mark.req("NFR-003", "REQ-005.7")
async def test_two_hundred_keys_twenty_times_at_once_have_two_hundred_effects(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection, settings: Settings
) -> None:
    # A request that waits 10 s for a connection gets 503, and on a busy machine 200 at once do. So no more are under
    # way than there are connections: none waits for one, however slow the machine is.
    connections = asyncio.Semaphore(settings.database_pool_size)
    # Every other key takes an order a step further instead of making one.
    moved = [await new_order(api) for _ in range(KEYS // 2)]
    requests = [("POST", ORDERS, order_payload()) for _ in range(KEYS // 2)]
    requests += [("PATCH", state_of(order), {"new_state": "PAID"}) for order in moved]

    async def send(number: int) -> httpx2.Response:
        method, path, body = requests[number]
        async with connections:
            return await api.request(method, path, json=body, headers={KEY: f"key {number}"})

    first: dict[int, bytes] = {}
    in_use = Counter[str]()
    for start in range(0, KEYS, 10):
        numbers = [start + offset for offset in range(10) for _ in range(TIMES)]
        for number, response in zip(numbers, await asyncio.gather(*map(send, numbers)), strict=True):
            if response.status_code < 300:
                assert first.setdefault(number, response.content) == response.content
            else:
                in_use[error_of(response)["code"]] += 1
                assert response.headers["retry-after"] == "1"
    assert set(in_use) == {"IDEMPOTENCY_KEY_IN_USE"}
    assert len(first) == KEYS
    for number, content in first.items():
        again = await send(number)
        assert (again.content, again.headers[REPLAYED]) == (content, "true")
    assert count(owner_connection, "orders") == KEYS
    assert count(owner_connection, "payments") == KEYS
    assert count(owner_connection, "state_history") == KEYS // 2
    assert count(owner_connection, "transition_rejections") == 0
    assert count(owner_connection, "idempotency_keys") == KEYS


@pytest.mark.req("REQ-005.7")
async def test_a_replay_is_the_answer_itself(api: httpx2.AsyncClient) -> None:
    body = order_payload()
    first = await api.post(ORDERS, json=body, headers={KEY: "k"})
    assert first.status_code == 201
    assert REPLAYED not in first.headers
    again = await api.post(ORDERS, json=body, headers={KEY: "k"})
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("location", "etag", "content-type", "cache-control", "content-length"):
        assert again.headers[name] == first.headers[name]
    assert again.headers[REPLAYED] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    # The replay shows what was then, not what is now.
    await api.patch(state_of(first.json()), json={"new_state": "PAID"})
    assert (await api.post(ORDERS, json=body, headers={KEY: "k"})).json()["status"] == "PENDING_PAYMENT"


async def test_without_a_key_every_request_is_a_new_one(api: httpx2.AsyncClient) -> None:
    body = order_payload()
    first, second = await api.post(ORDERS, json=body), await api.post(ORDERS, json=body)
    assert first.json()["id"] != second.json()["id"]
    assert REPLAYED not in second.headers


@pytest.mark.req("REQ-005.7")
async def test_a_caller_who_left_before_the_answer_finds_it(api: httpx2.AsyncClient, application: FastAPI) -> None:
    payload = order_payload()
    body = orjson.dumps(payload)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(_: object) -> None:
        """Lose the answer, as a server does when the client is gone."""

    headers = {"x-api-key": API_KEY, "content-type": "application/json", "idempotency-key": "k"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": ORDERS,
        "raw_path": ORDERS.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.9", 4711),
        "server": ("test", 80),
    }
    await application(scope, receive, send)
    again = await api.post(ORDERS, json=payload, headers={KEY: "k"})
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    assert [order["id"] for order in (await api.get(ORDERS)).json()["data"]] == [again.json()["id"]]


async def test_a_refused_transition_is_refused_once(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    wanted: dict[str, Any] = {"json": {"new_state": "SHIPPED"}, "headers": {KEY: "k"}}
    first = await api.patch(state_of(order), **wanted)
    assert outcome(first) == (409, "INVALID_STATE_TRANSITION")
    await api.patch(state_of(order), json={"new_state": "PAID"})
    await api.patch(state_of(order), json={"new_state": "PROCESSING_IN_WAREHOUSE"})
    for _ in range(3):
        again = await api.patch(state_of(order), **wanted)
        assert (again.status_code, again.content) == (409, first.content)
        assert again.headers[REPLAYED] == "true"
    assert count(owner_connection, "transition_rejections") == 1


async def test_every_operation_that_changes_something_takes_a_key(api: httpx2.AsyncClient) -> None:
    delivered = await new_order(api, *TO_DELIVERED)
    cancelled = await new_order(api, "PAID")
    answers = []

    async def twice(method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        key = {KEY: str(uuid4())}
        first = await api.request(method, f"/api/v1/{path}", json=body, headers=key)
        again = await api.request(method, f"/api/v1/{path}", json=body, headers=key)
        assert first.is_success, first.text
        assert again.content == first.content
        answers.append(again.headers[REPLAYED])
        found: dict[str, Any] = first.json()
        return found

    await twice("POST", f"orders/{cancelled['id']}/cancel", {"reason": "changed my mind"})
    requested = await twice("POST", "returns", {"order_id": delivered["id"], "reason": "Glaze is cracked"})
    path = f"returns/{requested['id']}"
    await twice("PATCH", f"{path}/approve", {"notes": "seen"})
    await twice("PATCH", f"{path}/state", {"new_state": "IN_TRANSIT"})
    await twice("POST", f"{path}/state", {"new_state": "RECEIVED"})
    other = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    await twice("PATCH", f"returns/{other['id']}/reject", {"notes": "worn", "rejection_reason": "POLICY_VIOLATION"})
    assert answers == ["true"] * 6


def test_the_document_offers_it_exactly_there() -> None:
    offered = {
        (o.method, o.path)
        for o in all_operations()
        if any(parameter["name"] == KEY for parameter in o.spec.get("parameters", ()))
    }
    changing = {
        (o.method, o.path) for o in all_operations() if o.method in {"POST", "PATCH"} and o.spec.get("security")
    }
    assert offered == changing
    assert len(changing) >= 9
    for operation in all_operations():
        if (operation.method, operation.path) in changing:
            responses = operation.spec["responses"]
            for status, code in (("409", "IDEMPOTENCY_KEY_IN_USE"), ("422", "IDEMPOTENCY_KEY_REUSED")):
                assert code in responses[status]["content"]["application/json"]["examples"], operation.id


# --- whose key, and for what --------------------------------------------------------------------------------------


async def test_the_same_request_may_be_written_differently(api: httpx2.AsyncClient) -> None:
    body = order_payload(metadata={"b": 1, "c": "x", "a": None})
    first = await api.post(ORDERS, json=body, headers={KEY: "k"})
    assert first.status_code == 201
    spread = orjson.dumps(dict(reversed(body.items())), option=orjson.OPT_INDENT_2)
    headers = {KEY: '"k"', "Content-Type": "application/json; charset=utf-8"}
    again = await api.post(ORDERS, content=spread, headers=headers)
    assert again.headers[REPLAYED] == "true"


@pytest.mark.req("REQ-005.7")
async def test_white_space_around_a_key_is_no_part_of_it(api: httpx2.AsyncClient) -> None:
    """RFC 9110, section 5.5. Within the quotes it is."""
    body = order_payload()
    first = await api.post(ORDERS, json=body, headers={KEY: "a key"})
    assert first.status_code == 201
    for written in ("a key ", "  a key", "\ta key\t ", '"a key" '):
        again = await api.post(ORDERS, json=body, headers={KEY: written})
        assert (again.status_code, again.headers.get(REPLAYED)) == (201, "true"), written
        assert again.json()["id"] == first.json()["id"]
    other = await api.post(ORDERS, json=body, headers={KEY: '" a key "'})
    assert other.json()["id"] != first.json()["id"]
    for nothing in ("", " ", "\t"):
        refused = await api.post(ORDERS, json=body, headers={KEY: nothing})
        assert refused.status_code == 422, repr(nothing)


@pytest.mark.req("REQ-005.7")
@pytest.mark.parametrize(
    ("method", "suffix", "body", "headers"),
    [
        ("POST", "/state", {"new_state": "PAID"}, {}),
        ("PATCH", "/state?fields=id", {"new_state": "PAID"}, {}),
        ("PATCH", "/state", {"new_state": "CANCELLED"}, {}),
        ("PATCH", "/state", {"new_state": "PAID", "reason": None}, {}),
        ("PATCH", "/state", {"new_state": "PAID"}, {"If-Match": '"2"'}),
        ("POST", "/cancel", {}, {}),
        ("POST", "/cancel", None, {}),
    ],
)
async def test_a_key_belongs_to_one_request(
    method: str,
    suffix: str,
    body: dict[str, Any] | None,
    headers: dict[str, str],
    api: httpx2.AsyncClient,
    owner_connection: psycopg.Connection,
) -> None:
    order = await new_order(api)
    first = await api.patch(state_of(order), json={"new_state": "PAID"}, headers={KEY: "k"})
    assert first.status_code == 200
    options = {} if body is None else {"json": body}
    other = await api.request(method, f"{ORDERS}/{order['id']}{suffix}", headers={KEY: "k", **headers}, **options)  # type: ignore[arg-type]
    elsewhere = await api.patch(state_of(await new_order(api)), json={"new_state": "PAID"}, headers={KEY: "k"})
    assert outcome(other) == outcome(elsewhere) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert count(owner_connection, "state_history") == 1
    assert count(owner_connection, "transition_rejections") == 0
    assert (await api.patch(state_of(order), json={"new_state": "PAID"}, headers={KEY: "k"})).content == first.content


@pytest.mark.req("NFR-004")
@pytest.mark.security
async def test_a_key_is_its_callers_own(
    callers: dict[Role, httpx2.AsyncClient], owner_connection: psycopg.Connection
) -> None:
    body = order_payload()
    ids = set()
    for role in (Role.MANAGER, Role.ADMIN, Role.SERVICE):
        response = await callers[role].post(ORDERS, json=body, headers={KEY: "k"})
        assert response.status_code == 201
        assert REPLAYED not in response.headers
        ids.add(response.json()["id"])
    assert len(ids) == count(owner_connection, "orders") == 3


@pytest.mark.req("NFR-004")
@pytest.mark.security
async def test_a_principal_who_speaks_for_another_customer_gets_no_answer_of_the_first(
    connect: Connect, settings: Settings, clock: MovableClock, api: httpx2.AsyncClient
) -> None:
    ids = [uuid4(), uuid4()]
    order = await new_order(api, customer_id=str(ids[0]))
    answers = []
    for customer_id in ids:
        token = issue_token(settings, Principal(UUID(int=7), Role.CUSTOMER, customer_id), timedelta(hours=1), clock())
        client = connect(Authorization=f"Bearer {token}")
        answers.append(await client.post(f"{ORDERS}/{order['id']}/cancel", headers={KEY: "k"}))
    assert answers[0].status_code == 200
    assert outcome(answers[1]) == (422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.req("NFR-004")
@pytest.mark.security
async def test_a_principal_in_another_role_gets_no_answer_of_the_first(
    connect: Connect, settings: Settings, clock: MovableClock, owner_connection: psycopg.Connection
) -> None:
    body = order_payload()
    answers = []
    for role in (Role.MANAGER, Role.WAREHOUSE, Role.MANAGER):
        token = issue_token(settings, Principal(UUID(int=7), role), timedelta(hours=1), clock())
        client = connect(Authorization=f"Bearer {token}")
        answers.append(await client.post(ORDERS, json=body, headers={KEY: "k"}))
    created, refused, again = answers
    assert created.status_code == 201
    assert outcome(refused) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (201, created.content, "true")
    assert count(owner_connection, "orders") == 1


@pytest.mark.req("NFR-004")
@pytest.mark.security
@pytest.mark.parametrize(
    "keys",
    [[b""], [b'""'], [b"x" * 256], ["clé".encode()], [b"\xff"], [b"a\tb"], [b"a\x00b"], [b"\x7f"], [b"k", b"k"]],
    ids=repr,
)
async def test_what_is_no_key_is_refused_by_name(
    keys: list[bytes], api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    response = await api.post(ORDERS, json=order_payload(), headers=[(KEY.encode(), key) for key in keys])
    assert response.status_code == 422
    error = error_of(response)
    assert error["code"] == "VALIDATION_ERROR"
    assert [fault["field"] for fault in error["details"]] == [KEY]
    assert count(owner_connection, "orders") == 0


async def test_any_printable_key_is_one(api: httpx2.AsyncClient) -> None:
    body = order_payload()
    for key in ("x" * 255, "~", '"', " a b ".strip(), "'; DROP TABLE orders; --", "%s{0}\\"):
        first = await api.post(ORDERS, json=body, headers={KEY: key})
        again = await api.post(ORDERS, json=body, headers={KEY: key})
        assert (first.status_code, again.headers[REPLAYED]) == (201, "true"), key
        assert again.content == first.content
