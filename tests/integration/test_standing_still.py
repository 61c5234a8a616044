"""A process that stops, or whose network is gone, in the middle of a transaction: others wait for it only briefly."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.composition import Ports
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.services.workflow.audit import AuditService
from app.services.workflow.views import RecordView
from app.tasks.runner import Verdict
from app.tasks.worker_services import WorkerServices
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.jobs_support import FakeMailSender, FakeRenderer, job_of, order_in, unpaid_orders

pytestmark = pytest.mark.req("REQ-004", "NFR-003")

Sweep = Callable[[], Awaitable[int]]


@pytest.fixture
async def hasty(settings: Settings, clean_database: None) -> AsyncIterator[Database]:
    """A database that undoes a transaction in which nothing happens for a second."""
    database = Database(settings.model_copy(update={"database_idle_transaction_timeout_seconds": 1}))
    yield database
    await database.close()


async def test_the_locks_of_an_idle_transaction_are_freed_before_waiting_statements_time_out(
    hasty: Database, database: Database, settings: Settings, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    bench = WorkerServices(
        settings,
        database=database,
        clock=clock,
        ports=Ports(renderer=FakeRenderer(), storage=storage_for(settings), mail_sender=FakeMailSender()),
    )
    async with hasty.engine.connect() as stopped:
        taking = "INSERT INTO invoice_series (kind, year, last_number) VALUES ('INVOICE', :year, 1)"
        await stopped.execute(text(taking), {"year": clock.now.year})
        job_id = await job_of(database, order["id"], JobKind.ISSUE_INVOICE)
        assert await bench.runner("another").run(job_id) is Verdict.SUCCEEDED
        with pytest.raises(DBAPIError) as fault:
            await stopped.commit()
        assert fault.value.connection_invalidated, "the API answers 503, a worker's job is tried again"


async def test_the_default_session_ends_an_idle_holder_of_a_lock_before_those_who_wait(settings: Settings) -> None:
    names = ("database_idle_transaction_timeout_seconds", "database_statement_timeout_seconds")
    defaults = {name: Settings.model_fields[name].default for name in names}
    database = Database(settings.model_copy(update=defaults))
    async with database.autocommit() as connection:
        idle, statement = [
            (await connection.execute(text(f"SELECT CAST(current_setting('{limit}') AS interval)"))).scalar_one()
            for limit in ("idle_in_transaction_session_timeout", "statement_timeout")
        ]
    await database.close()
    assert timedelta(0) < idle < statement


async def test_both_ends_notice_soon_that_the_other_is_out_of_reach(database: Database) -> None:
    async with database.autocommit() as connection:
        if (await connection.execute(text("SELECT inet_client_addr()"))).scalar_one() is None:
            pytest.skip("a Unix socket has no network that could fail")
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        theirs = [
            int((await connection.execute(text(f"SELECT current_setting('{name}')"))).scalar_one().rstrip("ms"))
            for name in names
        ]
        driver: Any = (await connection.get_raw_connection()).driver_connection
        ours = driver.info.get_parameters()
    idle, interval, count, unheard_ms = theirs
    assert idle + interval * count <= unheard_ms / 1000 <= 30
    assert theirs == [int(ours[name.removeprefix("tcp_") if "alive" in name else name]) for name in names]


async def test_an_export_may_be_read_slowly(
    hasty: Database, orders: OrderService, admin: Actor, database: Database
) -> None:
    """It locks no other session out, and its reader may pause."""
    await order_in(orders, admin, OrderStatus.DELIVERED)
    seen: list[RecordView] = []
    async for record in AuditService(hasty).export():
        if not seen:
            async with database.autocommit() as connection:
                await connection.execute(text("SELECT pg_sleep(1.5)"))
        seen.append(record)
    assert len(seen) == 4


# --- sweeps ----------------------------------------------------------------------------------------------------------


async def passes_over(database: Database, table: str, locked: Any, sweep: Sweep, others: int) -> None:
    """Sweep while one row is locked by someone who stands still, and again when it is free."""
    async with database.engine.connect() as stopped:
        await _lock(stopped, table, locked)
        assert await sweep() == others
        assert await sweep() == 0
    assert await sweep() == 1


async def _lock(connection: AsyncConnection, table: str, row_id: Any) -> None:
    await connection.execute(text(f"SELECT 1 FROM {table} WHERE id = :id FOR NO KEY UPDATE"), {"id": row_id})


@pytest.mark.req("REQ-001.5")
async def test_an_order_that_somebody_holds_does_not_keep_the_others_from_being_cancelled(
    database: Database, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    clock.advance(days=-2)
    made = [await orders.create(order_create(), admin) for _ in range(3)]
    clock.advance(hours=25)
    await passes_over(
        database,
        "orders",
        made[0]["id"],
        lambda: unpaid_orders(database, clock).cancel_overdue(timedelta(hours=24), 2),
        2,
    )


@pytest.mark.req("REQ-002.10")
async def test_a_return_that_somebody_holds_does_not_keep_the_others_from_expiring(
    database: Database, orders: OrderService, returns: ReturnService, admin: Actor, clock: MovableClock
) -> None:
    clock.advance(days=-9)
    made = []
    for _ in range(2):
        order = await order_in(orders, admin, OrderStatus.DELIVERED)
        made.append(await returns.create(ReturnCreate(order_id=order["id"], reason="Too small"), admin))
    clock.advance(days=8)
    week = timedelta(days=7)
    await passes_over(database, "return_requests", made[0]["id"], lambda: returns.expire_unreviewed(week), 1)
