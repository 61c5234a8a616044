"""The one statement against the plain table: every pair, any set, and what each leaves behind."""

import asyncio
import re
from datetime import timedelta
from itertools import product
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.orders import service as order_service
from app.services.orders.service import OrderService
from app.services.returns import service as return_service
from app.services.workflow import transitions
from app.services.workflow.state_machine import StateMachine
from app.services.workflow.transitions import Outcome, TransitionRequest
from app.utils.exceptions import InvalidStateTransitionError, OrderNotFoundError
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.jobs_support import unpaid_orders

PATHS: dict[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.PENDING_PAYMENT: (),
    OrderStatus.PAID: (OrderStatus.PAID,),
    OrderStatus.PROCESSING_IN_WAREHOUSE: (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE),
    OrderStatus.SHIPPED: (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED),
    OrderStatus.DELIVERED: (
        OrderStatus.PAID,
        OrderStatus.PROCESSING_IN_WAREHOUSE,
        OrderStatus.SHIPPED,
        OrderStatus.DELIVERED,
    ),
    OrderStatus.CANCELLED: (OrderStatus.CANCELLED,),
}


JOBS: dict[tuple[str, str], list[str]] = {
    ("PENDING_PAYMENT", "PAID"): ["notify.order_confirmation", "notify.warehouse_order_ready"],
    ("PENDING_PAYMENT", "CANCELLED"): [],
    ("PAID", "PROCESSING_IN_WAREHOUSE"): [],
    ("PAID", "CANCELLED"): ["notify.order_cancelled"],
    ("PROCESSING_IN_WAREHOUSE", "SHIPPED"): ["invoice.issue", "notify.order_shipped"],
    ("SHIPPED", "DELIVERED"): ["notify.order_delivered"],
}
"""Every legal step, and the jobs about the order that it makes due. Written out: the code has a table of its own."""


async def order_in(state: OrderStatus, orders: OrderService, by: Actor) -> UUID:
    """Return a new order that was brought into `state` the legal way."""
    order = await orders.create(order_create(), by)
    for step in PATHS[state]:
        await orders.transition(order["id"], OrderStateUpdate(new_state=step), by)
    order_id: UUID = order["id"]
    return order_id


def jobs_about(connection: psycopg.Connection, entity_id: UUID) -> list[str]:
    """Return the kinds of the jobs about an entity, sorted."""
    rows = connection.execute("SELECT kind FROM jobs WHERE entity_id = %s ORDER BY kind", (entity_id,))
    return [kind for (kind,) in rows]


def traces(connection: psycopg.Connection, entity_id: UUID) -> dict[str, int]:
    """Return how many rows of each table are about an entity, and its version."""
    counts = {
        "history": "SELECT count(*) FROM state_history WHERE entity_id = %s",
        "events": "SELECT count(*) FROM events WHERE entity_id = %s",
        "rejections": "SELECT count(*) FROM transition_rejections WHERE entity_id = %s",
        "version": "SELECT version FROM orders WHERE id = %s",
    }
    return {name: connection.execute(sql.encode(), (entity_id,)).fetchone()[0] for name, sql in counts.items()}  # type: ignore[index]


@pytest.mark.req("REQ-001.2", "REQ-001.3", "REQ-003.1", "REQ-003.2")
@pytest.mark.parametrize(("current", "new"), list(product(OrderStatus, repeat=2)))
async def test_every_pair_of_states(
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
    current: OrderStatus,
    new: OrderStatus,
) -> None:
    order_id = await order_in(current, orders, admin)
    before, jobs_before = traces(owner_connection, order_id), jobs_about(owner_connection, order_id)
    legal = (current, new) in JOBS
    if legal:
        order = await orders.transition(order_id, OrderStateUpdate(new_state=new), admin)
        assert order["status"] == new
    else:
        with pytest.raises(InvalidStateTransitionError) as refusal:
            await orders.transition(order_id, OrderStateUpdate(new_state=new), admin)
        assert refusal.value.details == {
            "current_state": current,
            "requested_state": new,
            "allowed_transitions": [str(state) for state in StateMachine.get_allowed_order_transitions(current)],
        }
    after = traces(owner_connection, order_id)
    assert jobs_about(owner_connection, order_id) == sorted(jobs_before + JOBS.get((current, new), []))
    assert {name: after[name] - before[name] for name in after} == {
        "history": int(legal),
        "events": int(legal),
        "rejections": int(not legal),
        "version": int(legal),
    }


@pytest.mark.req("REQ-001.2")
async def test_a_set_is_judged_one_by_one(
    orders: OrderService, database: Database, admin: Actor, clock: MovableClock
) -> None:
    starts = list(OrderStatus)
    order_ids = [await order_in(state, orders, admin) for state in starts]
    requests = [
        TransitionRequest(entity_id=order_id, new_state=OrderStatus.PAID, actor=admin, at=clock.now)
        for order_id in order_ids
    ]
    requests.append(TransitionRequest(entity_id=uuid4(), new_state=OrderStatus.PAID, actor=admin, at=clock.now))
    async with database.autocommit() as connection:
        results = await transitions.apply(connection, order_service.STATEMENT, requests)
    assert [result.outcome for result in results] == [
        Outcome.MOVED if state is OrderStatus.PENDING_PAYMENT else Outcome.REFUSED for state in starts
    ] + [Outcome.NOT_FOUND]
    assert [result.previous_state for result in results] == [*starts, None]
    for result, order_id in zip(results, order_ids, strict=False):
        if result.outcome is Outcome.MOVED:
            assert [result.row[name] for name in ("id", "status", "version")] == [order_id, OrderStatus.PAID, 2]


async def test_a_set_names_each_entity_once(admin: Actor, clock: MovableClock) -> None:
    request = TransitionRequest(entity_id=uuid4(), new_state=OrderStatus.PAID, actor=admin, at=clock.now)
    with pytest.raises(ValueError, match="each entity once"):
        transitions.encode([request, request])


@pytest.mark.req("REQ-001")
async def test_expected_state_is_checked_under_the_lock(
    orders: OrderService, database: Database, admin: Actor, clock: MovableClock, owner_connection: psycopg.Connection
) -> None:
    order_id = await order_in(OrderStatus.PAID, orders, admin)
    request = TransitionRequest(
        entity_id=order_id,
        new_state=OrderStatus.CANCELLED,
        actor=SYSTEM_JOB,
        at=clock.now,
        expected_state=OrderStatus.PENDING_PAYMENT,
    )
    async with database.autocommit() as connection:
        [result] = await transitions.apply(connection, order_service.STATEMENT, [request])
    assert (result.outcome, result.previous_state) == (Outcome.UNEXPECTED, OrderStatus.PAID)
    assert traces(owner_connection, order_id)["rejections"] == 0


@pytest.mark.req("REQ-001.5")
async def test_unpaid_orders_are_cancelled_and_paid_ones_left_alone(
    orders: OrderService, database: Database, admin: Actor, clock: MovableClock
) -> None:
    clock.advance(days=-2)
    unpaid, paid = [(await orders.create(order_create(), admin))["id"] for _ in range(2)]
    await orders.transition(paid, OrderStateUpdate(new_state=OrderStatus.PAID), admin)
    clock.advance(hours=23)
    fresh = (await orders.create(order_create(), admin))["id"]
    assert await unpaid_orders(database, clock).cancel_overdue(timedelta(hours=24)) == 0
    clock.advance(hours=2)
    assert await unpaid_orders(database, clock).cancel_overdue(timedelta(hours=24)) == 1
    states = [(await orders.get(order_id, admin))["status"] for order_id in (unpaid, paid, fresh)]
    assert states == [OrderStatus.CANCELLED, OrderStatus.PAID, OrderStatus.PENDING_PAYMENT]


@pytest.mark.req("REQ-001.5")
async def test_payment_and_timeout_race_has_one_winner(
    orders: OrderService, database: Database, admin: Actor, clock: MovableClock, owner_connection: psycopg.Connection
) -> None:
    clock.advance(days=-2)
    order_id = (await orders.create(order_create(), admin))["id"]
    clock.advance(hours=25)
    pay = OrderStateUpdate(new_state=OrderStatus.PAID)
    answers = await asyncio.gather(
        *(orders.transition(order_id, pay, admin) for _ in range(5)),
        *(unpaid_orders(database, clock).cancel_overdue(timedelta(hours=24)) for _ in range(5)),
        return_exceptions=True,
    )
    unexpected = [
        answer
        for answer in answers
        if isinstance(answer, BaseException) and not isinstance(answer, InvalidStateTransitionError)
    ]
    assert unexpected == []
    history = owner_connection.execute(
        "SELECT previous_state, new_state FROM state_history WHERE entity_id = %s ORDER BY seq", (order_id,)
    ).fetchall()
    assert history in ([("PENDING_PAYMENT", "CANCELLED")], [("PENDING_PAYMENT", "PAID")])


@pytest.mark.req("NFR-004")
async def test_foreign_order_is_not_found(orders: OrderService, admin: Actor, customer: Actor) -> None:
    order_id = await order_in(OrderStatus.PENDING_PAYMENT, orders, admin)
    with pytest.raises(OrderNotFoundError):
        await orders.cancel(order_id, OrderCancel(), customer)


@pytest.mark.req("REQ-003")
async def test_time_never_runs_backwards_within_an_entity(
    orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    order_id = await order_in(OrderStatus.PAID, orders, admin)
    clock.advance(hours=-2)
    order = await orders.transition(order_id, OrderStateUpdate(new_state=OrderStatus.PROCESSING_IN_WAREHOUSE), admin)
    assert order["updated_at"] == order["paid_at"]


RETURN_STEPS = {
    ("REQUESTED", "APPROVED"),
    ("REQUESTED", "REJECTED"),
    ("APPROVED", "IN_TRANSIT"),
    ("IN_TRANSIT", "RECEIVED"),
    ("RECEIVED", "COMPLETED"),
}


@pytest.mark.parametrize(
    ("machine", "steps"), [(order_service.MACHINE, set(JOBS)), (return_service.MACHINE, RETURN_STEPS)]
)
async def test_the_statement_holds_exactly_the_table(machine: transitions.Machine, steps: set[tuple[str, str]]) -> None:
    [held] = re.findall(
        r"^legal\(from_state, to_state\) AS \(VALUES (.+)\),$", machine.statement().clause.text, re.MULTILINE
    )
    pairs = re.findall(r"\('(\w+)', '(\w+)'\)", held)
    assert sorted(pairs) == sorted(steps)


async def test_database_guard_holds_the_same_table(database: Database) -> None:
    async with database.autocommit() as connection:
        rows = await connection.execute(text("SELECT entity_type, from_state, to_state FROM state_transitions"))
        stored = {tuple(row) for row in rows}
    assert stored == {("ORDER", *step) for step in JOBS} | {("RETURN", *step) for step in RETURN_STEPS}
