"""Hypothesis drives orders and returns with random commands by random people, against a plain model.

In every case: no state that the tables do not lead to, an audit trail that equals the model's, money never
over the cap, and chains that verify.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus, RejectionReason, ReturnStatus, Role
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnReject, ReturnStateUpdate
from app.services.access import permissions
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.services.workflow.audit import AuditService
from app.services.workflow.state_machine import ORDER_TRANSITIONS, RETURN_TRANSITIONS
from app.utils.exceptions import (
    AppError,
    ForbiddenError,
    InvalidInputError,
    InvalidStateTransitionError,
    OrderNotFoundError,
    ReturnAlreadyExistsError,
    ReturnNotAllowedError,
    ReturnNotFoundError,
)
from app.utils.shop_time import ReturnWindow
from tests.conftest import MovableClock, actor
from tests.factories import TOTAL, order_create
from tests.profile import examples

WORTH = TOTAL - Decimal("9.90")
STAFF = {role: actor(role) for role in Role if role is not Role.CUSTOMER}
roles = st.sampled_from(list(Role))

T = TypeVar("T")


def who_may(entity_type: EntityType, state: OrderStatus | ReturnStatus) -> frozenset[Role]:
    """Return the roles that may ask for a state; for an initial one, all that may ask for any."""
    by_state = permissions.TRANSITION_ROLES[entity_type]
    return by_state[state] or frozenset().union(*by_state.values())


@dataclass
class ModelReturn:
    """What the plain model knows of a return."""

    id: UUID
    state: ReturnStatus = ReturnStatus.REQUESTED
    history: list[tuple[str, str]] = field(default_factory=list)
    refund: Decimal = WORTH


@dataclass
class ModelOrder:
    """What the plain model knows of an order."""

    id: UUID
    owner: Actor
    state: OrderStatus = OrderStatus.PENDING_PAYMENT
    history: list[tuple[str, str]] = field(default_factory=list)
    captured: Decimal = Decimal(0)
    refunds: Decimal = Decimal(0)
    returned: ModelReturn | None = None
    earlier: list[ModelReturn] = field(default_factory=list)


class Journeys(RuleBasedStateMachine):
    """The commands; each says what the model expects and compares the answer."""

    orders = Bundle("orders")

    runner: asyncio.Runner
    database: Database
    window: Any
    connection: psycopg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.clock = MovableClock()
        self.order_service = OrderService(self.database, self.clock)
        self.return_service = ReturnService(self.database, self.window, self.clock)
        self.model: list[ModelOrder] = []

    def attempt(self, coroutine: Coroutine[Any, Any, T]) -> T | AppError:
        """Return the answer, or the refusal."""
        self.clock.advance(minutes=1)
        try:
            return self.runner.run(coroutine)
        except AppError as refusal:
            return refusal

    @staticmethod
    def who(order: ModelOrder, role: Role, *, stranger: bool) -> Actor:
        """Return someone of that role; a customer is the owner unless a stranger is asked for."""
        if role is not Role.CUSTOMER:
            return STAFF[role]
        return actor(Role.CUSTOMER) if stranger else order.owner

    @rule(target=orders)
    def create(self) -> ModelOrder:
        """Order something."""
        owner = actor(Role.CUSTOMER)
        answer = self.attempt(self.order_service.create(order_create(customer_id=str(owner.customer_id)), owner))
        assert isinstance(answer, dict)
        order = ModelOrder(answer["id"], owner)
        self.model.append(order)
        return order

    @rule(order=orders, new_state=st.sampled_from(list(OrderStatus)), role=roles, stranger=st.booleans())
    def move(self, order: ModelOrder, new_state: OrderStatus, role: Role, *, stranger: bool) -> None:
        """Ask for any state, as anybody."""
        by = self.who(order, role, stranger=stranger)
        answer = self.attempt(self.order_service.transition(order.id, OrderStateUpdate(new_state=new_state), by))
        self._check_order(order, new_state, by, answer)

    @rule(order=orders, role=roles, stranger=st.booleans())
    def cancel(self, order: ModelOrder, role: Role, *, stranger: bool) -> None:
        """Cancel, as anybody."""
        by = self.who(order, role, stranger=stranger)
        answer = self.attempt(self.order_service.cancel(order.id, OrderCancel(reason="no more"), by))
        self._check_order(order, OrderStatus.CANCELLED, by, answer)

    def _check_order(self, order: ModelOrder, new_state: OrderStatus, by: Actor, answer: Any) -> None:
        allowed = who_may(EntityType.ORDER, new_state)
        if by.role not in allowed:
            assert isinstance(answer, ForbiddenError)
        elif by.sees_only not in {None, order.owner.customer_id}:
            assert isinstance(answer, OrderNotFoundError)
        elif new_state not in ORDER_TRANSITIONS[order.state]:
            assert isinstance(answer, InvalidStateTransitionError)
            assert answer.current_state == order.state
        else:
            assert answer["status"] == new_state
            order.history.append((order.state, new_state))
            if new_state is OrderStatus.PAID:
                order.captured = TOTAL
            elif order.state is OrderStatus.PAID and new_state is OrderStatus.CANCELLED:
                order.refunds += TOTAL
            order.state = new_state

    @rule(order=orders)
    def rush(self, order: ModelOrder) -> None:
        """Bring an order to its end the legal way, or returns would be rare."""
        for state in (
            OrderStatus.PAID,
            OrderStatus.PROCESSING_IN_WAREHOUSE,
            OrderStatus.SHIPPED,
            OrderStatus.DELIVERED,
        ):
            if state in ORDER_TRANSITIONS[order.state]:
                self.move(order, state, Role.ADMIN, stranger=False)

    @rule(order=orders, role=roles, stranger=st.booleans())
    def request_return(self, order: ModelOrder, role: Role, *, stranger: bool) -> None:
        """Ask to send it all back."""
        by = self.who(order, role, stranger=stranger)
        answer = self.attempt(self.return_service.create(ReturnCreate(order_id=order.id, reason="cracked"), by))
        if by.role not in permissions.ACTIONS[permissions.Action.CREATE_RETURN]:
            assert isinstance(answer, ForbiddenError)
        elif by.sees_only not in {None, order.owner.customer_id}:
            assert isinstance(answer, OrderNotFoundError)
        elif order.returned is not None and RETURN_TRANSITIONS[order.returned.state]:
            assert isinstance(answer, ReturnAlreadyExistsError)
        elif order.state is not OrderStatus.DELIVERED or (
            order.returned is not None and order.returned.state is ReturnStatus.COMPLETED
        ):
            assert isinstance(answer, ReturnNotAllowedError)
        else:
            assert isinstance(answer, dict)
            order.earlier += [order.returned] if order.returned is not None else []
            order.returned = ModelReturn(answer["id"])

    @rule(order=orders, fee=st.decimals(0, 400, places=2), role=roles)
    def approve(self, order: ModelOrder, fee: Decimal, role: Role) -> None:
        """Approve, with a fee that may be more than the goods are worth."""
        if order.returned is None:
            return
        by = self.who(order, role, stranger=False)
        request = ReturnApprove(notes="seen", restocking_fee=fee)
        answer = self.attempt(self.return_service.approve(order.returned.id, request, by))
        if order.returned.state is ReturnStatus.REQUESTED and role in {Role.MANAGER, Role.ADMIN} and fee > WORTH:
            assert isinstance(answer, InvalidInputError)
            return
        if self._check_return(order.returned, ReturnStatus.APPROVED, by, answer):
            order.returned.refund = WORTH - fee

    @rule(order=orders, role=roles)
    def reject(self, order: ModelOrder, role: Role) -> None:
        """Reject."""
        if order.returned is None:
            return
        by = self.who(order, role, stranger=False)
        request = ReturnReject(notes="used", rejection_reason=RejectionReason.POLICY_VIOLATION)
        answer = self.attempt(self.return_service.reject(order.returned.id, request, by))
        self._check_return(order.returned, ReturnStatus.REJECTED, by, answer)

    @rule(order=orders, new_state=st.sampled_from(list(ReturnStatus)), role=roles, stranger=st.booleans())
    def move_return(self, order: ModelOrder, new_state: ReturnStatus, role: Role, *, stranger: bool) -> None:
        """Ask for any state of the return, as anybody."""
        if order.returned is None:
            return
        by = self.who(order, role, stranger=stranger)
        answer = self.attempt(
            self.return_service.transition(order.returned.id, ReturnStateUpdate(new_state=new_state), by)
        )
        if isinstance(answer, InvalidInputError):
            assert new_state in {ReturnStatus.APPROVED, ReturnStatus.REJECTED}
            assert order.returned.state is ReturnStatus.REQUESTED
            return
        if isinstance(answer, ReturnNotFoundError):
            assert by.sees_only not in {None, order.owner.customer_id}
            return
        if self._check_return(order.returned, new_state, by, answer) and new_state is ReturnStatus.COMPLETED:
            order.refunds += order.returned.refund

    @staticmethod
    def _check_return(returned: ModelReturn, new_state: ReturnStatus, by: Actor, answer: Any) -> bool:
        allowed = who_may(EntityType.RETURN, new_state)
        if by.role not in allowed:
            assert isinstance(answer, ForbiddenError)
        elif new_state not in RETURN_TRANSITIONS[returned.state]:
            assert isinstance(answer, InvalidStateTransitionError)
            assert answer.current_state == returned.state
        else:
            assert answer["status"] == new_state
            returned.history.append((returned.state, new_state))
            returned.state = new_state
            return True
        return False

    @rule(order=consumes(orders))
    def forget(self, order: ModelOrder) -> None:
        """Leave an order alone from now on."""
        self._compare(order)

    @invariant()
    def refunds_stay_within_what_was_captured(self) -> None:
        """The plain sum over the rows, not what any code computes."""
        [(over,)] = self.connection.execute(
            "SELECT count(*) FROM payments p WHERE p.captured_amount < p.refund_reserved_amount OR"
            " p.refund_reserved_amount <> (SELECT coalesce(sum(amount), 0) FROM refunds r WHERE r.payment_id = p.id)"
        ).fetchall()
        assert over == 0

    def teardown(self) -> None:
        """Compare everything with the model, and verify every chain."""
        for order in self.model:
            self._compare(order)
        report = self.runner.run(AuditService(self.database).verify())
        assert report["ok"], report

    def _compare(self, order: ModelOrder) -> None:
        row = self.connection.execute(
            "SELECT o.status, o.version, p.captured_amount, p.refund_reserved_amount FROM orders o"
            " JOIN payments p ON p.order_id = o.id WHERE o.id = %s",
            (order.id,),
        ).fetchone()
        assert row == (order.state, len(order.history) + 1, order.captured, order.refunds)
        assert self._history(order.id) == order.history
        for returned in [*order.earlier, *([order.returned] if order.returned is not None else [])]:
            assert self._history(returned.id) == returned.history

    def _history(self, entity_id: UUID) -> list[tuple[str, str]]:
        rows = self.connection.execute(
            "SELECT previous_state, new_state FROM state_history WHERE entity_id = %s ORDER BY seq", (entity_id,)
        )
        return [(row[0], row[1]) for row in rows]


@pytest.mark.req("REQ-001.2", "REQ-002.1", "REQ-003.2")
def test_random_journeys(settings: Settings, clean_database: None, owner_connection: psycopg.Connection) -> None:
    with asyncio.Runner() as runner:
        database = Database(settings)
        try:
            machine = type(
                "BoundJourneys",
                (Journeys,),
                {
                    "runner": runner,
                    "database": database,
                    "window": ReturnWindow.from_settings(settings),
                    "connection": owner_connection,
                },
            )
            run_state_machine_as_test(
                machine,
                settings=budget(
                    max_examples=examples(60),
                    derandomize=True,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
        finally:
            runner.run(database.close())
