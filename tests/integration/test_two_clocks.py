"""Sweeps go by the earlier of two clocks, the worker's and the database's: what they do cannot be taken back."""

from datetime import timedelta
from uuid import UUID

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate
from app.services.documents.links import FileLinks
from app.services.jobs.sweeps import SweepService
from app.services.orders.service import OrderService
from app.services.returns.attachments import PARTS, AttachmentService
from app.services.returns.service import ReturnService
from app.utils.clock import utc_now
from app.utils.shop_time import ReturnWindow
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.jobs_support import order_in, rows, unpaid_orders

pytestmark = pytest.mark.req("REQ-001.5", "REQ-002.9", "REQ-002.10", "REQ-004.8", "INT-004")


@pytest.fixture
def ahead() -> MovableClock:
    """The clock of a worker that is a month ahead."""
    clock = MovableClock()
    clock.advance(days=31)
    return clock


async def requested(orders: OrderService, returns: ReturnService, admin: Actor) -> UUID:
    order = await order_in(orders, admin, OrderStatus.DELIVERED)
    request = await returns.create(ReturnCreate(order_id=order["id"], reason="Too small"), admin)
    return UUID(str(request["id"]))


async def test_a_worker_that_is_ahead_cancels_no_order_made_just_now(
    database: Database, orders: OrderService, admin: Actor, ahead: MovableClock
) -> None:
    order = await orders.create(order_create(), admin)
    assert await unpaid_orders(database, ahead).cancel_overdue(timedelta(hours=24)) == 0
    assert (await orders.get(order["id"], admin))["status"] == OrderStatus.PENDING_PAYMENT


async def test_nor_does_it_reject_a_return_or_remind_anyone_of_it(
    database: Database,
    settings: Settings,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    ahead: MovableClock,
) -> None:
    await requested(orders, returns, admin)
    assert await SweepService(database, settings, ahead).remind_reviewers(10) == 0
    assert (
        await ReturnService(database, ReturnWindow.from_settings(settings), ahead).expire_unreviewed(timedelta(days=7))
        == 0
    )


async def test_nor_does_it_sum_up_a_day_that_is_not_over(
    database: Database, settings: Settings, orders: OrderService, admin: Actor, ahead: MovableClock
) -> None:
    await orders.create(order_create(), admin)
    ahead.now = ahead.now.replace(hour=12)
    await SweepService(database, settings, ahead).summarise_yesterday()
    made = await rows(database, "SELECT payload ->> 'day' AS day FROM jobs WHERE kind = 'notify.daily_summary'")
    assert [row.day for row in made if row.day >= utc_now().date().isoformat()] == []


async def test_nor_does_it_remove_the_bytes_of_an_upload_under_way(
    database: Database,
    settings: Settings,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    ahead: MovableClock,
) -> None:
    return_id = await requested(orders, returns, admin)
    storage = storage_for(settings)
    key = f"attachments/{return_id}/{return_id}.pdf"
    await storage.put_new(key, b"stored, and not yet recorded", "application/pdf")
    attachments = AttachmentService(database, storage, FileLinks.from_settings(settings, ahead), settings, ahead)
    assert await attachments.remove_orphans(return_id.bytes[-1] % PARTS) == 0
    assert await storage.get(key)


async def test_a_worker_that_is_behind_is_only_late(
    database: Database, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    clock.advance(days=-2)
    await orders.create(order_create(), admin)
    assert await unpaid_orders(database, clock).cancel_overdue(timedelta(hours=24)) == 0
    assert await unpaid_orders(database).cancel_overdue(timedelta(hours=24)) == 1
