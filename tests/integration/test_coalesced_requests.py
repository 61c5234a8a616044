"""Requests that leave as one statement: each gets its own answer, and what is promised of one holds for each."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.core.actor import Actor
from app.database import Database
from app.prepared import RECORD, Prepared
from app.services.orders import reading, writing
from app.services.orders.service import STATEMENT
from tests.factories import order_payload
from tests.integration.conftest import Login, error_of, new_order
from tests.integration.jobs_support import rows
from tests.integration.test_tampered_records import forge

pytestmark = [pytest.mark.req("REQ-001"), pytest.mark.req("NFR-001")]


@pytest.fixture
def sent(database: Database, monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each statement was sent, by its text."""
    counted: Counter[bytes] = Counter()
    send = database.rows

    async def counting(statement: Prepared, /, **parameters: Any) -> list[RECORD]:
        counted[statement.text] += 1
        return await send(statement, **parameters)

    monkeypatch.setattr(database, "rows", counting)
    return counted


async def paid(api: httpx2.AsyncClient, order_id: Any, **headers: str) -> httpx2.Response:
    return await api.patch(f"/api/v1/orders/{order_id}/state", json={"new_state": "PAID"}, headers=headers)


async def assert_sound(services: Services, admin: Actor) -> None:
    """Assert that all chains hold, and that the events of each order are numbered without a gap."""
    _, found = await services.verifications.verify(admin)
    assert found.get("ok") is True, found
    numbers = await rows(
        services.database, "SELECT entity_id, seq FROM events WHERE entity_type = 'ORDER' ORDER BY 1, 2"
    )
    for (entity, seq), (next_entity, next_seq) in pairwise(numbers):
        assert next_seq == (seq + 1 if entity == next_entity else 1)


async def test_forty_transitions_at_once_each_get_their_own_answer(
    api: httpx2.AsyncClient,
    services: Services,
    admin: Actor,
    owner_connection: psycopg.Connection,
    sent: Counter[bytes],
) -> None:
    new = [(await new_order(api))["id"] for _ in range(34)]
    delivered = (await new_order(api, "PAID"))["id"]
    stale = (await new_order(api))["id"]
    tampered = (await new_order(api))["id"]
    forge(owner_connection, "state_history", "ORDER", tampered, 1)
    unknown = str(uuid4())
    sent.clear()
    asked = [paid(api, order_id) for order_id in new]
    asked[5:5] = [paid(api, delivered), paid(api, unknown)]
    asked[20:20] = [paid(api, stale, **{"If-Match": '"7"'}), paid(api, tampered)]
    answers = await asyncio.gather(*asked)

    assert sent[STATEMENT.passing.text] < len(asked), "some left together"
    by_status = Counter(answer.status_code for answer in answers)
    assert by_status == {200: len(new), 409: 2, 404: 1, 412: 1}
    for answer in answers:
        if answer.status_code == 200:
            shown = answer.json()
            assert answer.request.url.path.endswith(f"/orders/{shown['id']}/state")
            assert (shown["status"], shown["version"]) == ("PAID", 2)
            assert answer.headers["ETag"] == '"2"'
            assert len(shown["line_items"]) == len(order_payload()["line_items"])
    codes = {answer.request.url.path.split("/")[4]: error_of(answer)["code"] for answer in answers if answer.is_error}
    assert codes == {
        delivered: "INVALID_STATE_TRANSITION",
        unknown: "ORDER_NOT_FOUND",
        stale: "VERSION_CONFLICT",
        tampered: "RECORD_TAMPERED",
    }
    refusals = await rows(services.database, "SELECT entity_id::text, requested_state FROM transition_rejections")
    assert [tuple(row) for row in refusals] == [(delivered, "PAID")]
    with_history = await rows(services.database, "SELECT count(*) FROM state_history WHERE new_state = 'PAID'")
    assert with_history[0][0] == len(new) + 1


async def test_of_twelve_that_cancel_one_order_one_does(
    api: httpx2.AsyncClient, services: Services, admin: Actor
) -> None:
    order = await new_order(api, "PAID")
    path = f"/api/v1/orders/{order['id']}/cancel"
    answers = await asyncio.gather(*(api.post(path, json={"reason": "changed my mind"}) for _ in range(12)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 11}
    [refunds] = await rows(services.database, "SELECT count(*), sum(amount) FROM refunds")
    assert (refunds[0], float(refunds[1])) == (1, order["total_amount"])
    await assert_sound(services, admin)


async def test_an_order_that_is_locked_keeps_no_other_waiting(
    api: httpx2.AsyncClient, services: Services, admin: Actor, login: Login
) -> None:
    held, *others = [(await new_order(api))["id"] for _ in range(30)]
    other_session = login("superuser")
    with other_session.transaction():
        other_session.execute("SELECT FROM orders WHERE id = %s FOR UPDATE", [held])
        waiting = [asyncio.create_task(paid(api, held)) for _ in range(4)]
        answers = await asyncio.gather(*(paid(api, order_id) for order_id in others))
        assert {answer.status_code for answer in answers} == {200}
        assert not any(task.done() for task in waiting)
    assert Counter(answer.status_code for answer in await asyncio.gather(*waiting)) == {200: 1, 409: 3}
    await assert_sound(services, admin)


async def test_readers_get_the_order_that_they_asked_for_and_may_see(
    api: httpx2.AsyncClient, callers: dict[Any, httpx2.AsyncClient], customer_id: UUID, sent: Counter[bytes]
) -> None:
    own = [(await new_order(api, customer_id=str(customer_id)))["id"] for _ in range(6)]
    foreign = [(await new_order(api))["id"] for _ in range(6)]
    sent.clear()
    asked = [(client, order_id) for order_id in own + foreign for client in (api, callers["customer"])]
    answers = await asyncio.gather(*(client.get(f"/api/v1/orders/{order_id}") for client, order_id in asked))
    assert sent[reading.READ_SET.text] > 0
    for (client, order_id), answer in zip(asked, answers, strict=True):
        if client is api or order_id in own:
            assert (answer.status_code, answer.json()["id"]) == (200, order_id)
        else:
            assert error_of(answer)["code"] == "ORDER_NOT_FOUND"


async def test_an_order_that_many_read_is_read_for_all_of_them_at_once(
    api: httpx2.AsyncClient, sent: Counter[bytes]
) -> None:
    order = await new_order(api)
    sent.clear()
    answers = await asyncio.gather(*(api.get(f"/api/v1/orders/{order['id']}") for _ in range(24)))
    assert all(answer.json() == order for answer in answers)
    assert sum(sent.values()) < 12


async def test_an_order_that_is_not_there_is_looked_for_once(api: httpx2.AsyncClient, sent: Counter[bytes]) -> None:
    assert error_of(await api.get(f"/api/v1/orders/{uuid4()}"))["code"] == "ORDER_NOT_FOUND"
    assert sum(sent.values()) == 1


async def test_orders_that_are_created_together_are_each_complete(
    api: httpx2.AsyncClient, services: Services, admin: Actor, monkeypatch: pytest.MonkeyPatch, sent: Counter[bytes]
) -> None:
    known = await new_order(api)
    sent.clear()
    ids = iter([uuid4() for _ in range(9)] + [UUID(known["id"])] + [uuid4() for _ in range(40)])
    monkeypatch.setattr("app.services.orders.service.uuid7", lambda _: next(ids))
    line = order_payload()["line_items"][0]
    lines = [{**line, "product_name": f"Bowl {n}", "unit_price": f"{n}.05"} for n in range(1, 12)]
    bodies = [order_payload(customer_email=f"person{n}@example.com", line_items=lines) for n in range(30)]
    answers = await asyncio.gather(*(api.post("/api/v1/orders", json=body) for body in bodies))

    assert 0 < sent[writing.CREATE.text] < len(bodies) + 12
    assert Counter(answer.status_code for answer in answers) == {201: 29, 500: 1}, "the id of one is taken"
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert [order["customer_email"] for order in made] == [
        body["customer_email"] for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 201
    ]
    assert len({order["order_number"] for order in made}) == 29
    for order in made:
        read = (await api.get(f"/api/v1/orders/{order['id']}")).json()
        assert read == order
        assert [line["product_name"] for line in read["line_items"]] == [line["product_name"] for line in lines]
        found = (await api.get("/api/v1/orders", params={"q": order["order_number"]})).json()["data"]
        assert [summary["id"] for summary in found] == [order["id"]]
    assert (await rows(services.database, "SELECT count(*) FROM payments"))[0][0] == 30
    await assert_sound(services, admin)


async def test_keys_hold_among_requests_that_leave_together(
    api: httpx2.AsyncClient, services: Services, admin: Actor
) -> None:
    keyed = [{"Idempotency-Key": f"key-{n % 5}"} for n in range(15)]
    body = order_payload()
    answers = await asyncio.gather(
        *(api.post("/api/v1/orders", json=body, headers=headers) for headers in keyed),
        *(api.post("/api/v1/orders", json=body) for _ in range(10)),
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    stored = [await api.post("/api/v1/orders", json=body, headers=headers) for headers in keyed[:5]]
    assert all(answer.headers["Idempotency-Replayed"] == "true" for answer in stored)
    assert (await rows(services.database, "SELECT count(*) FROM orders"))[0][0] == 5 + 10
    await assert_sound(services, admin)


async def test_a_caller_that_goes_away_takes_nobody_along(
    api: httpx2.AsyncClient, services: Services, admin: Actor
) -> None:
    ids = [(await new_order(api))["id"] for _ in range(24)]
    tasks = [asyncio.create_task(paid(api, order_id)) for order_id in ids]
    await asyncio.sleep(0.01)
    for task in tasks[::4]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [answer for n, answer in enumerate(answers) if n % 4]
    assert {answer.status_code for answer in kept if isinstance(answer, httpx2.Response)} == {200}
    assert not any(isinstance(answer, Exception) for answer in kept)
    later = await asyncio.gather(*(paid(api, order_id) for order_id in ids[::4]))
    assert {answer.status_code for answer in later} <= {200, 409}
    await assert_sound(services, admin)
