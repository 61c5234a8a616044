"""`payments reconcile` and `refunds reconcile`: the exit code says whether the records agree (INT-001, REQ-004)."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli
from app.config import Settings, get_settings
from app.core.actor import Actor
from app.database import Database
from app.schemas.order import OrderCancel
from app.services.orders.service import OrderService
from app.services.orders.views import OrderView
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.jobs_support import refund_of
from tests.integration.money_support import Shop
from tests.unit.gateway_support import API_KEY, LiveGateway, adapter, live_gateway

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-004")]


@pytest.fixture
def live(
    tmp_path: Path, settings: Settings, clean_database: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveGateway]:
    """A gateway behind a real socket, which the configuration names."""
    with live_gateway(tmp_path / "gateway") as live:
        monkeypatch.setenv("DATABASE_URL", settings.database_url)
        monkeypatch.setenv("PAYMENT_GATEWAY_URL", live.url)
        monkeypatch.setenv("PAYMENT_GATEWAY_API_KEY", API_KEY)
        get_settings.cache_clear()
        yield live
    get_settings.cache_clear()


def reconcile(books: str, *options: str, expect: int) -> Result:
    result = CliRunner().invoke(cli, [books, "reconcile", *options])
    assert result.exit_code == expect, (result.output, result.exception)
    return result


def on_database(settings: Settings, work: Callable[[Database], Awaitable[Any]]) -> Any:
    """Do something with a database on a loop of its own, as the command does."""

    async def run() -> Any:
        database = Database(settings, pool_size=2)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def new_order(settings: Settings, admin: Actor) -> OrderView:
    order: OrderView = on_database(settings, lambda database: OrderService(database).create(order_create(), admin))
    return order


def charged(live: LiveGateway, order: OrderView) -> str:
    """Let the storefront charge what an order costs; return the gateway's id. No webhook reports it."""
    return str(live.charge(order["id"], f"{order['total_amount']:.2f}", order["currency"], "tok_visa")["id"])


def test_payments(live: LiveGateway, settings: Settings, admin: Actor) -> None:
    order = new_order(settings, admin)
    assert "1 payments here, 0 at the gateway, 0 differences" in reconcile("payments", expect=0).stdout
    payment_id = charged(live, order)
    found = reconcile("payments", expect=1).stdout
    for named in ("CAPTURED_BUT_NOT_RECORDED", order["order_number"], payment_id):
        assert named in found
    report = json.loads(reconcile("payments", "--json", expect=1).stdout)
    assert [difference["order_number"] for difference in report["differences"]] == [order["order_number"]]
    assert "1 repaired, 0 cases" in reconcile("payments", "--repair", expect=0).stdout
    reconcile("payments", expect=0)


def test_what_a_repair_cannot_settle_ends_with_1(live: LiveGateway, settings: Settings, admin: Actor) -> None:
    order = new_order(settings, admin)
    live.charge(order["id"], "1.00", order["currency"], "tok_visa")
    for _ in range(2):
        assert "0 repaired, 1 cases" in reconcile("payments", "--repair", expect=1).stdout


def test_refunds(live: LiveGateway, settings: Settings, admin: Actor, clock: MovableClock) -> None:
    async def refunded(database: Database) -> dict[str, Any]:
        """Pay a refund whose answer is lost."""
        async with adapter(live.url, 2.0) as gateway:
            shop = Shop(settings, database, clock, admin)
            order = await shop.ordered()
            payment_id = charged(live, order)
            [payment] = [await gateway.find_payment(order["id"])]
            assert payment is not None
            assert payment.id == payment_id
            assert await shop.tell("payment.captured", payment) == "PAID"
            await shop.orders.cancel(order["id"], OrderCancel(), admin)
            refund = await refund_of(database, order["id"])
            live.fault("refund", "error_after")
            assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED
        return {**order, "payment_id": payment_id, "refund_id": refund.id}

    assert "0 refunds here, 0 at the gateway, 0 differences" in reconcile("refunds", expect=0).stdout
    order = on_database(settings, refunded)
    found = reconcile("refunds", expect=1).stdout
    for named in ("PAID_BUT_NOT_RECORDED", order["order_number"], order["payment_id"], str(order["refund_id"])):
        assert named in found
    [difference] = json.loads(reconcile("refunds", "--json", expect=1).stdout)["differences"]
    assert (difference["order_number"], difference["gateway_payment_id"]) == (
        order["order_number"],
        order["payment_id"],
    )
    assert "1 recorded as paid" in reconcile("refunds", "--repair", expect=0).stdout
    reconcile("refunds", expect=0)


@pytest.mark.parametrize("books", ["payments", "refunds"])
def test_a_gateway_that_cannot_be_asked_is_no_agreement(live: LiveGateway, books: str) -> None:
    for _ in range(10):
        live.fault("any", "unavailable")
    result = CliRunner().invoke(cli, [books, "reconcile"])
    assert result.exit_code != 0
    assert "differences" not in result.output


def test_money_without_an_order_ends_with_1(live: LiveGateway, settings: Settings) -> None:
    live.charge(uuid4(), "20.00", "USD", "tok_visa")
    assert "UNKNOWN_REFERENCE" in reconcile("payments", expect=1).stdout
