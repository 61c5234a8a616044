"""What time makes due: reminders, the daily summary, and the search for missing work. All of it safe to do twice."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate
from app.services.jobs.service import JobKind
from app.services.jobs.sweeps import SweepService
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.tasks.schedule import BATCH, ROUNDS, in_batches
from tests.conftest import MovableClock
from tests.factories import TOTAL
from tests.integration.jobs_support import completed_return, execute, order_in, refund_of, rows, unpaid_orders


@pytest.fixture
def sweeps(database: Database, settings: Settings, clock: MovableClock) -> SweepService:
    return SweepService(database, settings, clock)


async def requested(orders: OrderService, returns: ReturnService, admin: Actor) -> UUID:
    order = await order_in(orders, admin, OrderStatus.DELIVERED)
    request = await returns.create(ReturnCreate(order_id=order["id"], reason="Too small"), admin)
    return UUID(str(request["id"]))


@pytest.mark.req("REQ-002.9")
async def test_reviewers_are_reminded_once(
    database: Database,
    sweeps: SweepService,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    clock: MovableClock,
) -> None:
    clock.advance(days=-2)
    overdue = {await requested(orders, returns, admin) for _ in range(3)}
    clock.advance(hours=2)
    await requested(orders, returns, admin)
    clock.advance(hours=22, seconds=1)
    counts = await asyncio.gather(*(sweeps.remind_reviewers(10) for _ in range(8)))
    assert sum(counts) == 3
    assert await sweeps.remind_reviewers(10) == 0
    reminders = await rows(database, "SELECT entity_id FROM jobs WHERE kind = 'notify.return_review_overdue'")
    assert {row.entity_id for row in reminders} == overdue
    assert len(reminders) == 3


@pytest.mark.req("REQ-004.8")
async def test_the_daily_summary_is_due_once_a_day_from_its_hour_on(
    database: Database, sweeps: SweepService, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    clock.now = datetime(2026, 1, 21, 12, tzinfo=UTC)
    assert not await sweeps.summarise_yesterday()
    await order_in(orders, admin, OrderStatus.PENDING_PAYMENT)
    assert not await sweeps.summarise_yesterday()
    clock.now = datetime(2026, 1, 22, 5, 59, tzinfo=UTC)
    assert not await sweeps.summarise_yesterday()
    clock.now = datetime(2026, 1, 22, 6, 0, tzinfo=UTC)
    made = await asyncio.gather(*(sweeps.summarise_yesterday() for _ in range(8)))
    assert sorted(made) == [False] * 7 + [True]
    clock.now = datetime(2026, 1, 22, 23, 59, tzinfo=UTC)
    assert not await sweeps.summarise_yesterday()
    # An outage at the hour itself only delays it.
    clock.now = datetime(2026, 1, 23, 15, 0, tzinfo=UTC)
    assert await sweeps.summarise_yesterday()
    summaries = await rows(database, "SELECT payload FROM jobs WHERE kind = 'notify.daily_summary' ORDER BY id")
    assert [row.payload for row in summaries] == [{"day": "2026-01-21"}, {"day": "2026-01-22"}]


@pytest.mark.req("REQ-004")
async def test_nothing_is_missing_after_ordinary_work(
    database: Database, sweeps: SweepService, orders: OrderService, returns: ReturnService, admin: Actor
) -> None:
    await completed_return(orders, returns, admin)
    await order_in(orders, admin, OrderStatus.CANCELLED)
    await order_in(orders, admin, OrderStatus.SHIPPED)
    before = await rows(database, "SELECT id FROM jobs ORDER BY id")
    assert await sweeps.reconcile(100) == 0
    assert await rows(database, "SELECT id FROM jobs ORDER BY id") == before


@pytest.mark.req("REQ-004.10")
async def test_missing_work_is_made_due_once_and_reported(
    database: Database,
    sweeps: SweepService,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    shipped = await order_in(orders, admin, OrderStatus.SHIPPED)
    cancelled = await order_in(orders, admin, OrderStatus.CANCELLED)
    returned, request = await completed_return(orders, returns, admin)
    # What the application cannot do, a slip in a migration or a restore can.
    owner_connection.execute("DELETE FROM jobs; DELETE FROM refunds; UPDATE payments SET refund_reserved_amount = 0")
    with capture_logs() as logs:
        found = await asyncio.gather(*(sweeps.reconcile(100) for _ in range(4)))
    assert sum(found) == 4
    reported = [(entry["case"], entry["log_level"]) for entry in logs if entry["event"] == "missing_work.made_due"]
    assert sorted(reported) == [
        ("cancelled paid order without refund", "error"),
        ("completed return without refund", "error"),
        ("shipped order without invoice", "error"),
        ("shipped order without invoice", "error"),
    ]
    assert await sweeps.reconcile(100) == 0
    invoices = await rows(database, "SELECT entity_id FROM jobs WHERE kind = 'invoice.issue'")
    assert {row.entity_id for row in invoices} == {shipped["id"], returned["id"]}
    of_order, of_return = await refund_of(database, cancelled["id"]), await refund_of(database, returned["id"])
    assert (of_order.amount, of_order.reason, of_order.return_id) == (TOTAL, "ORDER_CANCELLED", None)
    assert (of_return.reason, of_return.return_id) == ("RETURN_COMPLETED", request["id"])
    refunds = await rows(database, "SELECT entity_id FROM jobs WHERE kind = 'refund.process'")
    assert {row.entity_id for row in refunds} == {of_order.id, of_return.id}
    reserved = await rows(database, "SELECT sum(refund_reserved_amount) AS total FROM payments")
    assert reserved[0].total == of_order.amount + of_return.amount
    created = await rows(database, "SELECT 1 FROM events WHERE type = 'refund.created'")
    assert len(created) == 4


@pytest.mark.req("REQ-004")
async def test_refunds_without_job_or_credit_note_are_found(
    database: Database, sweeps: SweepService, orders: OrderService, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    due = await order_in(orders, admin, OrderStatus.CANCELLED)
    paid = await order_in(orders, admin, OrderStatus.CANCELLED)
    # What the application cannot do, a slip in a migration or a restore can.
    owner_connection.execute("DELETE FROM jobs")
    await execute(
        database,
        "UPDATE refunds SET state = 'SUCCEEDED', succeeded_at = now(), gateway_refund_id = 're_1' WHERE order_id = :id",
        id=paid["id"],
    )
    assert await sweeps.reconcile(100) == 2
    made = {(row.kind, row.entity_id) for row in await rows(database, "SELECT kind, entity_id FROM jobs")}
    assert made == {
        (JobKind.PROCESS_REFUND.value, (await refund_of(database, due["id"])).id),
        (JobKind.ISSUE_CREDIT_NOTE.value, (await refund_of(database, paid["id"])).id),
    }


@pytest.mark.req("REQ-004")
async def test_reconciling_never_steps_over_the_cap(
    database: Database,
    sweeps: SweepService,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    """Someone deleted the refund and left its reservation: there is no room for a second one, so nothing is paid."""
    await completed_return(orders, returns, admin)
    # What the application cannot do, a slip in a migration or a restore can.
    owner_connection.execute("DELETE FROM refunds")
    with capture_logs() as logs:
        assert await sweeps.reconcile(100) == 1
    [refused] = [entry for entry in logs if entry["log_level"] == "critical"]
    assert refused["case"] == "completed return without refund"
    assert refused["exc_info"].orig.diag.constraint_name == "ck_payments_refund_cap"
    assert await rows(database, "SELECT 1 FROM refunds") == []


@pytest.mark.req("REQ-004.10")
async def test_one_case_that_is_refused_holds_up_no_other(
    database: Database, sweeps: SweepService, orders: OrderService, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    refused = await order_in(orders, admin, OrderStatus.CANCELLED)
    # What the application cannot do, a slip in a migration or a restore can.
    owner_connection.execute("DELETE FROM jobs; DELETE FROM refunds")
    healthy = [await order_in(orders, admin, OrderStatus.CANCELLED) for _ in range(2)]
    lost = await order_in(orders, admin, OrderStatus.CANCELLED)
    owner_connection.execute("DELETE FROM jobs")
    owner_connection.execute("DELETE FROM refunds WHERE order_id = %s", [lost["id"]])
    owner_connection.execute("UPDATE payments SET refund_reserved_amount = 0 WHERE order_id = %s", [lost["id"]])
    with capture_logs() as logs:
        assert await sweeps.reconcile(100) == 4
    assert [entry["entity_id"] for entry in logs if entry["log_level"] == "critical"] == [str(refused["id"])]
    refunds = {(await refund_of(database, order["id"])).id for order in (*healthy, lost)}
    due = await rows(database, "SELECT entity_id FROM jobs WHERE kind = 'refund.process'")
    assert {row.entity_id for row in due} == refunds
    # It is reported for as long as it is looked at.
    assert await sweeps.reconcile(100) == 1


@pytest.mark.req("REQ-001", "REQ-002")
async def test_sweeps_take_batch_after_batch(
    database: Database, orders: OrderService, returns: ReturnService, admin: Actor, clock: MovableClock
) -> None:
    clock.advance(days=-9)
    unpaid = [await order_in(orders, admin, OrderStatus.PENDING_PAYMENT) for _ in range(3)]
    await requested(orders, returns, admin)
    clock.advance(days=8)
    ttl, expiry = timedelta(hours=24), timedelta(days=7)
    assert await in_batches(lambda limit: unpaid_orders(database, clock).cancel_overdue(ttl, limit)) == 3
    assert await in_batches(lambda limit: unpaid_orders(database, clock).cancel_overdue(ttl, limit)) == 0
    assert await in_batches(lambda limit: returns.expire_unreviewed(expiry, limit)) == 1
    assert (await orders.get(unpaid[0]["id"], admin))["status"] == "CANCELLED"


async def test_a_sweep_that_never_ends_is_cut_off() -> None:
    async def endless(limit: int) -> int:
        return limit

    assert await in_batches(endless) == BATCH * ROUNDS
