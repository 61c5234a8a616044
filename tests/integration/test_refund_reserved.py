"""Every refund has a reservation, whichever login writes it: held by the database at commit."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from tests.conftest import MovableClock
from tests.integration.jobs_support import execute, rows
from tests.integration.money_support import Shop

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.fixture
def any_cause(owner_connection: psycopg.Connection) -> Iterator[None]:
    """Take off the guard that wants a cause for each refund, so that the reservation alone is left to refuse it."""
    owner_connection.execute("ALTER TABLE refunds DISABLE TRIGGER guard_refund_caused")
    yield
    owner_connection.execute("ALTER TABLE refunds ENABLE ALWAYS TRIGGER guard_refund_caused")


@pytest.mark.parametrize("amount", ["0.01", "1000000"])
async def test_a_refund_without_reservation_is_not_written(shop: Shop, any_cause: None, amount: str) -> None:
    await shop.paid()
    sql = (
        "INSERT INTO refunds (payment_id, order_id, reason, amount, currency)"
        f" SELECT id, order_id, 'ORDER_CANCELLED', {amount}, currency FROM payments"
    )
    with pytest.raises(IntegrityError, match="more than what is reserved"):
        await execute(shop.database, sql)
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []


async def test_a_reservation_is_not_taken_from_under_a_refund(shop: Shop) -> None:
    refund = await shop.cancelled()
    with pytest.raises(IntegrityError, match="more than what is reserved"):
        await execute(shop.database, "UPDATE payments SET refund_reserved_amount = refund_reserved_amount - 0.01")
    payment = await shop.payment(refund.order_id)
    assert payment.refund_reserved_amount == refund.amount


async def test_two_at_once_do_not_overlook_each_other(shop: Shop, any_cause: None) -> None:
    """Both check before either commits: the second has to wait for the first, and then sees it."""
    paid, other = await shop.paid(), await shop.paid()
    reserve = text("UPDATE payments SET refund_reserved_amount = captured_amount WHERE order_id = :order_id")
    refund = text(
        "INSERT INTO refunds (payment_id, order_id, reason, amount, currency)"
        " SELECT id, :order_id, 'ORDER_CANCELLED', captured_amount, currency FROM payments WHERE order_id = :paid_id"
    )
    check = text("SET CONSTRAINTS ALL IMMEDIATE")
    async with shop.database.transaction() as session:
        await session.execute(reserve, {"order_id": paid["id"]})

    async def second() -> None:
        async with shop.database.transaction() as session:
            await session.execute(refund, {"order_id": other["id"], "paid_id": paid["id"]})
            await session.execute(check)

    async with shop.database.transaction() as session:
        await session.execute(refund, {"order_id": paid["id"], "paid_id": paid["id"]})
        await session.execute(check)
        waiting = asyncio.create_task(second())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
    with pytest.raises(IntegrityError, match="more than what is reserved"):
        await waiting
