"""A record that a superuser tampered with: a clear answer and one case, and no one else has to wait."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, RefundState
from app.database import Database
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.databases import unguarded
from tests.files_support import JPEG
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.jobs_support import order_in, rows
from tests.integration.money_support import Shop

pytestmark = [pytest.mark.req("REQ-003"), pytest.mark.req("REQ-001")]

HISTORY = (
    "INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_type, trigger, prev_hash,"
    " hash) VALUES (%s, %s, %s, 'PAID', 'CANCELLED', 'SYSTEM', 'CLI', sha256('x'), sha256('y'))"
)
EVENT = "INSERT INTO events (entity_type, entity_id, seq, type) VALUES (%s, %s, %s, 'order.forged')"
FORGED = {"state_history": HISTORY, "events": EVENT}


def forge(owner: psycopg.Connection, table: str, entity_type: str, entity_id: Any, number: int) -> None:
    """Write the row of a number that is not reached, past the guards."""
    with unguarded(owner, table):
        owner.execute(FORGED[table].encode(), (entity_type, entity_id, number))


async def cases(database: Database) -> list[tuple[Any, ...]]:
    """Return kind, entity and order of every case, and how many mails about them are due."""
    sql = (
        "SELECT kind, entity_type, entity_id, order_id,"
        " (SELECT count(*) FROM jobs j WHERE j.kind = 'notify.case' AND j.entity_id = c.id) AS mails FROM cases c"
    )
    return [tuple(row) for row in await rows(database, sql)]


@pytest.mark.parametrize(("table", "number"), [("state_history", 2), ("events", 3)])
async def test_the_next_step_is_refused_by_name_and_opens_one_case(
    api: httpx2.AsyncClient, database: Database, owner_connection: psycopg.Connection, table: str, number: int
) -> None:
    order = await new_order(api, "PAID")
    forge(owner_connection, table, "ORDER", order["id"], number)
    path, body = f"/api/v1/orders/{order['id']}", {"new_state": "PROCESSING_IN_WAREHOUSE"}
    answers = [
        await api.patch(f"{path}/state", json=body),
        await api.patch(f"{path}/state", json=body),
        await api.post(f"{path}/cancel", json={}),
        await api.post(f"{path}/cancel", json={}, headers={"Idempotency-Key": "once"}),
    ]
    for answer in answers:
        assert answer.status_code == 409
        error = error_of(answer)
        assert error["code"] == "RECORD_TAMPERED"
        assert error["details"] == {"entity_type": "ORDER", "entity_id": order["id"]}
    order_id = UUID(order["id"])
    assert await cases(database) == [("TAMPERED_RECORD", "ORDER", order_id, order_id, 1)]
    assert (await api.get(path)).json()["status"] == "PAID"


async def test_once_it_is_put_right_the_same_request_succeeds(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    """The refusal is not what an Idempotency-Key replays."""
    order = await new_order(api, "PAID")
    forge(owner_connection, "events", "ORDER", order["id"], 3)
    path, headers = f"/api/v1/orders/{order['id']}/cancel", {"Idempotency-Key": "mended"}
    assert (await api.post(path, json={}, headers=headers)).status_code == 409
    with unguarded(owner_connection, "events"):
        owner_connection.execute("DELETE FROM events WHERE type = 'order.forged'")
    assert (await api.post(path, json={}, headers=headers)).status_code == 200


async def test_an_attachment_is_refused_in_the_same_way(
    api: httpx2.AsyncClient, database: Database, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api, *TO_DELIVERED)
    request = await new_return(api, order["id"])
    forge(owner_connection, "events", "RETURN", request["id"], 2)
    files = {"file": ("photo.jpg", JPEG, "image/jpeg")}
    answer = await api.post(f"/api/v1/returns/{request['id']}/attachments", files=files)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "RECORD_TAMPERED")
    assert await cases(database) == [("TAMPERED_RECORD", "RETURN", UUID(request["id"]), UUID(order["id"]), 1)]


async def test_sweeps_go_on_without_it(
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    clock: MovableClock,
    database: Database,
    owner_connection: psycopg.Connection,
    api: httpx2.AsyncClient,
) -> None:
    clock.advance(days=-30)
    forged, sound = [await order_in(orders, admin, OrderStatus.PENDING_PAYMENT) for _ in range(2)]
    delivered = [await new_order(api, *TO_DELIVERED) for _ in range(2)]
    bad, good = [await new_return(api, order["id"]) for order in delivered]
    forge(owner_connection, "state_history", "ORDER", forged["id"], 1)
    forge(owner_connection, "events", "RETURN", bad["id"], 2)
    clock.advance(days=30)
    assert await orders.cancel_unpaid([forged["id"], sound["id"]], timedelta(hours=24)) == 1
    assert await returns.expire_unreviewed(timedelta(days=7)) == 1
    assert (await orders.get(sound["id"], admin))["status"] == "CANCELLED"
    assert (await returns.get(UUID(good["id"]), admin))["status"] == "REJECTED"
    found = {(kind, entity, entity_id) for kind, entity, entity_id, *_ in await cases(database)}
    assert found == {("TAMPERED_RECORD", "ORDER", forged["id"]), ("TAMPERED_RECORD", "RETURN", UUID(bad["id"]))}


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def test_a_webhook_is_kept_with_its_case(shop: Shop, owner_connection: psycopg.Connection) -> None:
    order = await shop.ordered()
    forge(owner_connection, "state_history", "ORDER", order["id"], 1)
    charged = shop.charged(order)
    assert await shop.tell("payment.captured", charged, "evt_1") == "RECORD_TAMPERED"
    assert await shop.tell("payment.captured", charged, "evt_1") == "DUPLICATE"
    [kept] = await rows(shop.database, "SELECT outcome FROM gateway_events")
    assert kept.outcome == "RECORD_TAMPERED"
    assert ("TAMPERED_RECORD", "ORDER", order["id"]) in {case[:3] for case in await cases(shop.database)}


async def test_a_refunds_job_gives_up_with_its_case(shop: Shop, owner_connection: psycopg.Connection) -> None:
    """Before any money moves: the event of PROCESSING comes first."""
    refund = await shop.cancelled()
    forge(owner_connection, "events", "REFUND", refund.id, 2)
    assert await shop.work(refund.id) is Verdict.DEAD_LETTERED
    assert shop.gateway.moved("refund", refund.id) == []
    assert (await shop.refund(refund.id)).state == RefundState.PENDING
    assert ("TAMPERED_RECORD", "REFUND", refund.id) in {case[:3] for case in await cases(shop.database)}
