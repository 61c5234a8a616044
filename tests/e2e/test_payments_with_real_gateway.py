"""Lost webhooks and open reservations against the mock gateway behind a real socket; its own ledger is the evidence."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.orders.views import OrderView
from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.reconciliation import PaymentReconciler
from app.services.payments.unpaid import UnpaidOrders
from tests.conftest import MovableClock
from tests.integration.money_support import Shop
from tests.unit.gateway_support import LiveGateway, adapter, live_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.req("REQ-001"), pytest.mark.req("INT-001")]

DAY = timedelta(hours=24)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveGateway]:
    """A gateway that delivers no webhook at all."""
    with live_gateway(tmp_path / "gateway") as live:
        yield live


@pytest.fixture
async def gateway(live: LiveGateway) -> AsyncIterator[HttpPaymentGateway]:
    async with adapter(live.url, 20.0, breaker=CircuitBreaker(threshold=100)) as gateway:
        yield gateway


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def overdue(shop: Shop, number: int) -> list[OrderView]:
    """Return orders that have been unpaid for 25 hours."""
    shop.clock.advance(days=-2)
    orders = [await shop.ordered() for _ in range(number)]
    shop.clock.advance(hours=25)
    return orders


async def status_of(shop: Shop, order: OrderView) -> str:
    return str((await shop.orders.get(order["id"], shop.admin))["status"])


def reserve(live: LiveGateway, order: OrderView) -> str:
    """Reserve what an order costs, as a storefront does; return the gateway's id."""
    body = {
        "reference": str(order["id"]),
        "amount": f"{order['total_amount']:.2f}",
        "currency": order["currency"],
        "payment_token": "tok_visa",
        "capture": False,
    }
    return str(live.send("POST", "/v1/payments", body)["id"])


async def test_a_lost_webhook_and_a_reservation(shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway) -> None:
    paid, reserved, nothing = await overdue(shop, 3)
    charged = live.charge(paid["id"], f"{paid['total_amount']:.2f}", paid["currency"], "tok_visa")
    reservation = reserve(live, reserved)
    unpaid = UnpaidOrders(shop.database, shop.orders, gateway, shop.clock)
    reconciler = PaymentReconciler(shop.database, gateway, unpaid)
    [difference] = (await reconciler.reconcile(shop.admin)).differences
    assert (difference.kind, difference.order_number, difference.gateway_payment_id) == (
        "CAPTURED_BUT_NOT_RECORDED", paid["order_number"], charged["id"],
    )  # fmt: skip
    assert await unpaid.cancel_overdue(DAY) == 2
    assert [await status_of(shop, order) for order in (paid, reserved, nothing)] == ["PAID", "CANCELLED", "CANCELLED"]
    assert (live.moved(reserved["id"], "void"), live.moved(paid["id"], "capture")) == (1, 1)
    assert live.send("GET", f"/v1/payments/{reservation}")["status"] == "voided"
    assert (await shop.payment(paid["id"])).gateway_payment_id == charged["id"]
    assert (await reconciler.reconcile(shop.admin)).differences == []


@pytest.mark.parametrize("mode", ["unavailable", "timeout_before"])
async def test_no_answer_cancels_nothing(shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway, mode: str) -> None:
    [order] = await overdue(shop, 1)
    live.fault("lookup", mode)
    async with adapter(live.url, 1.0, breaker=CircuitBreaker(threshold=100)) as hasty:
        assert await UnpaidOrders(shop.database, shop.orders, hasty, shop.clock).cancel_overdue(DAY) == 0
    assert await status_of(shop, order) == "PENDING_PAYMENT"
    assert await UnpaidOrders(shop.database, shop.orders, gateway, shop.clock).cancel_overdue(DAY) == 1
