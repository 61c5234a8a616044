"""Orders on a real database: creation, the racers, refusals, and what each transition leaves behind."""

import asyncio

import pytest

from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.schemas.order import OrderStateUpdate
from app.services.orders.service import OrderService
from app.utils.exceptions import InvalidStateTransitionError
from tests.factories import TOTAL, order_create


async def test_server_computes_totals(orders: OrderService, admin: Actor) -> None:
    order = await orders.create(order_create(), admin)
    assert order["status"] == "PENDING_PAYMENT"
    assert order["version"] == 1
    assert order["total_amount"] == TOTAL
    assert order["subtotal_amount"] + order["tax_amount"] + order["shipping_amount"] == TOTAL
    assert [line["subtotal"] for line in order["line_items"]] == [241.0, 35.0]
    assert order == await orders.get(order["id"], admin)


@pytest.mark.req("REQ-001.2")
async def test_of_forty_racers_one_wins(orders: OrderService, admin: Actor) -> None:
    order = await orders.create(order_create(), admin)
    update = OrderStateUpdate(new_state=OrderStatus.PAID)
    answers = await asyncio.gather(
        *(orders.transition(order["id"], update, admin) for _ in range(40)), return_exceptions=True
    )
    winners = [answer for answer in answers if not isinstance(answer, BaseException)]
    losers = [answer for answer in answers if isinstance(answer, InvalidStateTransitionError)]
    assert (len(winners), len(losers)) == (1, 39)
    assert winners[0]["version"] == 2
    assert {loser.current_state for loser in losers} == {OrderStatus.PAID}
