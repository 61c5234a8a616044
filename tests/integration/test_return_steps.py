"""Every step of a return, by everyone, from every state (REQ-002)."""

import asyncio
from datetime import timedelta
from itertools import product
from uuid import UUID, uuid4

import pytest

from app.core.actor import Actor
from app.core.enums import ReturnStatus, Role
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.return_request import ReturnQuery, ReturnStateUpdate
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.services.workflow.state_machine import StateMachine
from app.utils.exceptions import (
    ForbiddenError,
    InvalidInputError,
    InvalidStateTransitionError,
    OrderNotFoundError,
    ReturnNotFoundError,
)
from tests.conftest import MovableClock, actor
from tests.integration.jobs_support import rows
from tests.integration.returns_support import PATHS, Desk, R, count

pytestmark = pytest.mark.req("REQ-002")


@pytest.fixture
def desk(orders: OrderService, returns: ReturnService, admin: Actor) -> Desk:
    return Desk(orders, returns, admin)


@pytest.mark.req("REQ-002.4")
@pytest.mark.parametrize("review", [R.APPROVED, R.REJECTED])
async def test_a_review_without_notes_is_asked_to_bring_them(desk: Desk, database: Database, review: R) -> None:
    update = ReturnStateUpdate(new_state=review)
    request = await desk.return_in(R.REQUESTED)
    with pytest.raises(InvalidInputError):
        await desk.returns.transition(request["id"], update, desk.admin)
    assert await count(database, "transition_rejections") == 0
    for state in (R.APPROVED, R.COMPLETED):
        past = await desk.return_in(state)
        with pytest.raises(InvalidStateTransitionError):
            await desk.returns.transition(past["id"], update, desk.admin)
    assert await count(database, "transition_rejections") == 2


JOBS: dict[tuple[R, R], list[str]] = {
    (R.REQUESTED, R.APPROVED): ["notify.return_approved"],
    (R.REQUESTED, R.REJECTED): ["notify.return_rejected"],
    (R.APPROVED, R.IN_TRANSIT): [],
    (R.IN_TRANSIT, R.RECEIVED): ["notify.goods_received", "notify.return_arrived"],
    (R.RECEIVED, R.COMPLETED): ["notify.return_completed"],
}
"""Every legal step, and the jobs about the return that it makes due. Written out: the code has a table of its own."""


async def jobs_about(database: Database, return_id: UUID) -> list[str]:
    """Return the kinds of the jobs about a return, sorted."""
    found = await rows(database, "SELECT kind FROM jobs WHERE entity_id = :id ORDER BY kind", id=return_id)
    return [row.kind for row in found]


async def traces(database: Database, return_id: UUID) -> dict[str, int]:
    """Return how many rows of each table are about a return, and its version."""
    tables = ("state_history", "events", "transition_rejections")
    found = {
        table: len(await rows(database, f"SELECT 1 FROM {table} WHERE entity_id = :id", id=return_id))
        for table in tables
    }
    [row] = await rows(database, "SELECT version FROM return_requests WHERE id = :id", id=return_id)
    return {**found, "version": row.version}


@pytest.mark.req("REQ-002.1", "REQ-003.1")
@pytest.mark.parametrize(("current", "new"), list(product(ReturnStatus, repeat=2)))
async def test_every_pair_of_states(desk: Desk, database: Database, current: R, new: R) -> None:
    request = await desk.return_in(current)
    before, jobs_before = await traces(database, request["id"]), await jobs_about(database, request["id"])
    legal = (current, new) in JOBS
    if legal:
        assert (await desk.step(request["id"], new))["status"] == new
    else:
        with pytest.raises(InvalidStateTransitionError) as refusal:
            await desk.step(request["id"], new)
        assert refusal.value.details == {
            "current_state": current,
            "requested_state": new,
            "allowed_transitions": [str(state) for state in StateMachine.get_allowed_return_transitions(current)],
        }
    after = await traces(database, request["id"])
    assert await jobs_about(database, request["id"]) == sorted(jobs_before + JOBS.get((current, new), []))
    assert {name: after[name] - before[name] for name in after} == {
        "state_history": int(legal),
        "events": int(legal),
        "transition_rejections": int(not legal),
        "version": int(legal),
    }
    refunds = await count(database, "refunds")
    assert refunds == int(current is R.COMPLETED or (legal and new is R.COMPLETED))


async def test_the_way_of_a_return_is_stamped(desk: Desk, clock: MovableClock) -> None:
    request = await desk.return_in(R.REQUESTED)
    moments = {}
    for step in PATHS[R.COMPLETED]:
        clock.advance(hours=1)
        moments[step] = clock.now
        request = await desk.step(request["id"], step)
    stamps = {state: dict(request)[f"{state.lower()}_at"] for state in moments}
    assert stamps == moments
    options = await desk.returns.transitions(request["id"], desk.admin)
    assert [choice["allowed"] for choice in options["transitions"]] == [False] * 6


@pytest.mark.req("NFR-004.4")
async def test_a_customer_sees_and_moves_only_their_own(desk: Desk, customer: Actor, database: Database) -> None:
    own = await desk.delivered(customer_id=str(customer.customer_id))
    foreign = await desk.return_in(R.APPROVED)
    elsewhere = await desk.delivered()
    request = await desk.ask(own["id"], customer)
    with pytest.raises(OrderNotFoundError):
        await desk.ask(elsewhere["id"], customer)
    for unseen in (foreign["id"], uuid4()):
        with pytest.raises(ReturnNotFoundError):
            await desk.returns.get(unseen, customer)
        with pytest.raises(ReturnNotFoundError):
            await desk.returns.history(unseen, PageQuery(), customer)
        with pytest.raises(ReturnNotFoundError):
            await desk.returns.transitions(unseen, customer)
        with pytest.raises(ReturnNotFoundError):
            await desk.step(unseen, R.IN_TRANSIT, customer)
    assert await count(database, "transition_rejections") == 0
    listed = await desk.returns.list(ReturnQuery(), customer)
    assert [entry["id"] for entry in listed["data"]] == [request["id"]]
    assert (await desk.returns.list(ReturnQuery(customer_id=foreign["customer_id"]), customer))["data"] == []
    await desk.step(request["id"], R.APPROVED)
    update = ReturnStateUpdate(new_state=R.IN_TRANSIT, carrier="La Poste", tracking_number="6A1")
    sent = await desk.returns.transition(request["id"], update, customer)
    assert (sent["status"], sent["carrier"], sent["tracking_number"]) == ("IN_TRANSIT", "La Poste", "6A1")


MAY: dict[ReturnStatus, set[Role]] = {
    R.APPROVED: {Role.MANAGER, Role.ADMIN},
    R.REJECTED: {Role.MANAGER, Role.ADMIN},
    R.IN_TRANSIT: {Role.CUSTOMER, Role.WAREHOUSE, Role.MANAGER, Role.ADMIN, Role.SERVICE},
    R.RECEIVED: {Role.WAREHOUSE, Role.MANAGER, Role.ADMIN},
    R.COMPLETED: {Role.MANAGER, Role.ADMIN},
}


@pytest.mark.req("NFR-004.3", "REQ-002.4")
@pytest.mark.parametrize("state", MAY)
async def test_who_may_take_a_step(desk: Desk, state: ReturnStatus) -> None:
    for role in Role:
        request = await desk.return_in(PATHS[state][-2] if len(PATHS[state]) > 1 else R.REQUESTED)
        caller = actor(role, customer_id=request["customer_id"] if role is Role.CUSTOMER else None)
        if role in MAY[state]:
            assert (await desk.step(request["id"], state, caller))["status"] == state
        else:
            with pytest.raises(ForbiddenError):
                await desk.step(request["id"], state, caller)
            assert await desk.returns.get(request["id"], desk.admin) == request


@pytest.mark.req("NFR-004")
async def test_the_warehouse_may_not_ask_for_a_return(desk: Desk) -> None:
    order = await desk.delivered()
    with pytest.raises(ForbiddenError):
        await desk.ask(order["id"], actor(Role.WAREHOUSE))


@pytest.mark.req("REQ-002.10", "REQ-004.8")
async def test_what_was_not_reviewed_expires(desk: Desk, clock: MovableClock) -> None:
    week = timedelta(days=7)
    clock.advance(days=-8)
    overdue, approved = await desk.return_in(R.REQUESTED), await desk.return_in(R.APPROVED)
    clock.now = overdue["created_at"] + week
    assert await desk.returns.expire_unreviewed(week) == 0
    clock.advance(microseconds=1)
    counts = await asyncio.gather(*(desk.returns.expire_unreviewed(week) for _ in range(5)))
    assert sum(counts) == 1
    expired = await desk.returns.get(overdue["id"], desk.admin)
    assert (expired["status"], expired["rejection_reason"], expired["reviewed_by"]) == ("REJECTED", "EXPIRED", None)
    [entry] = (await desk.returns.history(overdue["id"], PageQuery(), desk.admin))["data"]
    assert (entry["actor_type"], entry["actor_id"], entry["trigger"]) == ("SYSTEM", None, "BACKGROUND_JOB")
    assert (await desk.returns.get(approved["id"], desk.admin))["status"] == "APPROVED"
