"""A transition that waited for another one is carried out on what that one left, in every column (REQ-001).

PostgreSQL checks the constraints of an UPDATE on the row as the statement's snapshot has it, before it finds out that
the row has changed since: a value that is carried over from there can break a CHECK that the real row keeps.
"""

import asyncio
from collections.abc import Awaitable

import pytest

from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.orders.service import STATEMENT, OrderService
from app.services.orders.views import OrderView
from app.services.workflow import transitions
from app.services.workflow.transitions import TransitionRequest
from tests.conftest import MovableClock
from tests.integration.jobs_support import order_in, refund_of

pytestmark = pytest.mark.req("REQ-001")


async def overtaken(database: Database, first: TransitionRequest, second: Awaitable[OrderView]) -> OrderView:
    """Let `second` begin while `first` is not yet committed; return what it answers."""
    async with database.transaction() as session:
        await transitions.apply(session, STATEMENT, [first])
        waiting = asyncio.ensure_future(second)
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
    return await waiting


async def test_delivered_right_after_shipped(
    database: Database, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    order = await order_in(orders, admin, OrderStatus.PROCESSING_IN_WAREHOUSE)
    shipped = TransitionRequest(
        entity_id=order["id"],
        new_state=OrderStatus.SHIPPED,
        actor=admin,
        at=clock(),
        changes={"carrier": "La Poste", "tracking_number": "6A1"},
    )
    update = OrderStateUpdate(new_state=OrderStatus.DELIVERED)
    answer = await overtaken(database, shipped, orders.transition(order["id"], update, admin))
    assert (answer["status"], answer["version"], answer["carrier"]) == ("DELIVERED", 5, "La Poste")
    assert answer["shipped_at"] == answer["delivered_at"] == clock.now
    assert await orders.get(order["id"], admin) == answer


@pytest.mark.req("REQ-001.6", "REQ-004")
async def test_cancelled_right_after_paid(
    database: Database, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    order = await order_in(orders, admin, OrderStatus.PENDING_PAYMENT)
    paid = TransitionRequest(entity_id=order["id"], new_state=OrderStatus.PAID, actor=admin, at=clock())
    answer = await overtaken(database, paid, orders.cancel(order["id"], OrderCancel(), admin))
    assert (answer["status"], answer["version"], answer["paid_at"]) == ("CANCELLED", 3, clock.now)
    assert (await refund_of(database, order["id"])).amount == order["total_amount"]
