"""No more goes out than came in, through the services, random journeys, and plain SQL."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError, ProgrammingError

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, ReturnStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnStateUpdate
from app.services.jobs.service import JobKind
from app.services.orders.views import OrderView
from app.tasks.runner import Verdict
from app.utils.exceptions import AppError, InvalidStateTransitionError
from tests.conftest import MovableClock
from tests.factories import LineFactory
from tests.integration.jobs_support import execute, refund_of, rows
from tests.integration.money_support import Shop
from tests.profile import examples

pytestmark = [pytest.mark.req("REQ-002"), pytest.mark.req("REQ-004")]

COPY = (
    "INSERT INTO refunds (payment_id, order_id, reason, amount, currency)"
    " SELECT payment_id, order_id, {reason}, {amount}, currency FROM refunds"
)


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.mark.req("REQ-001.6", "REQ-004.5")
async def test_of_forty_cancellations_at_once_one_makes_one_refund(shop: Shop) -> None:
    order = await shop.paid()
    answers = await asyncio.gather(
        *(shop.orders.cancel(order["id"], OrderCancel(), shop.admin) for _ in range(40)), return_exceptions=True
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert sum(isinstance(answer, InvalidStateTransitionError) for answer in answers) == 39
    refund = await refund_of(shop.database, order["id"])
    payment = await shop.payment(order["id"])
    assert refund.amount == payment.captured_amount == payment.refund_reserved_amount == Decimal("341.10")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


@pytest.mark.req("REQ-001.6")
async def test_an_unpaid_order_is_cancelled_without_refund(shop: Shop) -> None:
    order = await shop.ordered()
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []
    assert await rows(shop.database, "SELECT 1 FROM jobs WHERE queue = 'refunds'") == []
    assert (await shop.payment(order["id"])).refund_reserved_amount == 0


async def test_an_order_that_cost_nothing_is_cancelled_without_refund(shop: Shop) -> None:
    order = await shop.ordered(shipping_amount=0, line_items=[LineFactory(unit_price=0)])
    assert (order["total_amount"], order["status"]) == (Decimal(0), "PAID")
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []
    assert await rows(shop.database, "SELECT 1 FROM jobs WHERE queue = 'refunds'") == []


@pytest.mark.req("REQ-004.5")
async def test_of_twenty_completions_at_once_one_makes_one_refund(shop: Shop) -> None:
    order = await shop.delivered()
    request = await shop.returns.create(ReturnCreate(order_id=order["id"], reason="Cracked"), shop.admin)
    await shop.returns.approve(request["id"], ReturnApprove(notes="Fine"), shop.admin)
    for step in (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED):
        await shop.returns.transition(request["id"], ReturnStateUpdate(new_state=step), shop.admin)
    done = ReturnStateUpdate(new_state=ReturnStatus.COMPLETED)
    answers = await asyncio.gather(
        *(shop.returns.transition(request["id"], done, shop.admin) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, InvalidStateTransitionError) for answer in answers) == 19
    refund = await refund_of(shop.database, order["id"])
    # Shipping is not returned.
    assert refund.amount == Decimal("331.20")
    payment = await shop.payment(order["id"])
    assert (payment.refund_reserved_amount, payment.captured_amount) == (Decimal("331.20"), Decimal("341.10"))


@pytest.mark.req("REQ-002.7")
@pytest.mark.parametrize(
    ("sql", "constraint"),
    [
        ("UPDATE payments SET refund_reserved_amount = captured_amount + 0.01", "ck_payments_refund_cap"),
        ("UPDATE payments SET refund_reserved_amount = -0.01", "ck_payments_refund_cap"),
        ("UPDATE payments SET captured_amount = captured_amount * 10", "ck_payments_captured_amount"),
        ("UPDATE payments SET captured_amount = 0, refund_reserved_amount = 0", "ck_payments_captured_amount"),
        (COPY.format(reason="reason", amount="amount"), "uq_refunds_whole_order"),
        (COPY.format(reason="reason", amount="0"), "ck_refunds_amount"),
        (COPY.format(reason="'RETURN_COMPLETED'", amount="amount"), "ck_refunds_return_id"),
        ("UPDATE refunds SET released_at = now()", "ck_refunds_released_at"),
        ("UPDATE refunds SET state = 'SUCCEEDED'", "ck_refunds_"),
        ("UPDATE refunds SET state = 'SUCCEEDED', succeeded_at = now()", "ck_refunds_gateway_refund_id"),
    ],
)
async def test_plain_sql_of_the_application_does_not_get_over_the_cap(shop: Shop, sql: str, constraint: str) -> None:
    refund = await shop.cancelled()
    with pytest.raises(IntegrityError) as refusal:
        await execute(shop.database, sql)
    assert constraint in str(refusal.value.orig)
    assert await shop.refund(refund.id) == refund


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE refunds SET amount = amount + 1",
        "UPDATE refunds SET payment_id = payment_id",
        "UPDATE refunds SET currency = 'JPY'",
        "UPDATE payments SET amount = amount + 1",
        "UPDATE payments SET order_id = order_id",
        "DELETE FROM refunds",
        "DELETE FROM payments",
        "TRUNCATE refunds",
    ],
)
async def test_amounts_are_never_changed_nor_rows_removed(shop: Shop, sql: str) -> None:
    await shop.cancelled()
    with pytest.raises(ProgrammingError, match="permission denied"):
        await execute(shop.database, sql)


async def test_two_reservations_at_once_do_not_overlook_each_other(shop: Shop) -> None:
    order = await shop.paid()
    sql = "UPDATE payments SET refund_reserved_amount = refund_reserved_amount + 200 WHERE order_id = :id"
    answers = await asyncio.gather(
        *(execute(shop.database, sql, id=order["id"]) for _ in range(10)), return_exceptions=True
    )
    assert sum(answer is None for answer in answers) == 1
    assert (await shop.payment(order["id"])).refund_reserved_amount == 200


MONEY = st.decimals(min_value=0, max_value=400, places=2)
COMMANDS = st.lists(
    st.one_of(
        st.sampled_from(["pay", "pay by hand", "fulfil", "cancel", "return", "advance", "advance", "advance"]),
        st.sampled_from(["work", "work", "charge again"]),
        st.sampled_from(["decline", "timeout_after", "late", "lost"]).map(lambda mode: ("fault", mode)),
        st.tuples(st.just("approve"), st.one_of(st.none(), MONEY), st.one_of(st.none(), MONEY)),
    ),
    min_size=6,
    max_size=24,
)
RETURN_STEPS = (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED, ReturnStatus.COMPLETED)


class Journey:
    """One order and its return, on which anything is tried."""

    def __init__(self, shop: Shop, order: OrderView) -> None:
        self.shop = shop
        self.order_id = order["id"]
        self.order = order

    async def attempt(self, command: Any) -> None:
        """Try something; a refusal is an answer too."""
        shop, name = self.shop, command if isinstance(command, str) else command[0]
        steps = {
            "pay": self.pay,
            "charge again": self.pay,
            "pay by hand": lambda: self.move(OrderStatus.PAID),
            "fulfil": self.fulfil,
            "cancel": lambda: shop.orders.cancel(self.order_id, OrderCancel(), shop.admin),
            "return": lambda: shop.returns.create(ReturnCreate(order_id=self.order_id, reason="Cracked"), shop.admin),
            "approve": lambda: self.approve(*command[1:]),
            "advance": self.advance,
            "work": self.work,
            "fault": lambda: self.fault(command[1]),
        }
        try:
            await steps[name]()
        except AppError:
            return

    async def pay(self) -> None:
        """Let the storefront charge, and report it."""
        await self.shop.tell("payment.captured", self.shop.charged(self.order))

    async def move(self, state: OrderStatus) -> None:
        """Ask for a state."""
        await self.shop.orders.transition(self.order_id, OrderStateUpdate(new_state=state), self.shop.admin)

    async def fulfil(self) -> None:
        """Ask for the next step to delivery."""
        status = (await self.shop.orders.get(self.order_id, self.shop.admin))["status"]
        path = [OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED, OrderStatus.DELIVERED]
        if status in path[:-1]:
            await self.move(path[path.index(OrderStatus(status)) + 1])

    async def approve(self, fee: Decimal | None, amount: Decimal | None) -> None:
        """Approve the return, with any amounts."""
        for row in await rows(
            self.shop.database, "SELECT id FROM return_requests WHERE order_id = :id", id=self.order_id
        ):
            approval = ReturnApprove(notes="Fine", restocking_fee=fee, refund_amount=amount)
            await self.shop.returns.approve(row.id, approval, self.shop.admin)

    async def advance(self) -> None:
        """Ask for every step of the return; one of them may be the next."""
        for row in await rows(
            self.shop.database, "SELECT id FROM return_requests WHERE order_id = :id", id=self.order_id
        ):
            for step in RETURN_STEPS:
                update = ReturnStateUpdate(new_state=step)
                await asyncio.gather(
                    self.shop.returns.transition(row.id, update, self.shop.admin), return_exceptions=True
                )

    async def work(self) -> None:
        """Let workers have a go at all jobs of the order that are about money."""
        sql = (
            "SELECT j.entity_id, j.kind FROM jobs j WHERE j.queue = 'refunds' AND j.entity_id IN"
            " (SELECT id FROM refunds WHERE order_id = :id UNION SELECT id FROM payments WHERE order_id = :id)"
        )
        for row in await rows(self.shop.database, sql, id=self.order_id):
            await self.shop.work(row.entity_id, JobKind(row.kind))

    async def fault(self, mode: Any) -> None:
        """Let the gateway fail at its next refund."""
        self.shop.gateway.faults["refund"].append(mode)

    async def check(self) -> None:
        """Compare what went out with what came in, in our records and in the gateway's."""
        payment = await self.shop.payment(self.order_id)
        refunds = await rows(self.shop.database, "SELECT * FROM refunds WHERE order_id = :id", id=self.order_id)
        due = sum((refund.amount for refund in refunds), Decimal(0))
        assert due == payment.refund_reserved_amount <= payment.captured_amount <= payment.amount
        for refund in refunds:
            moved = self.shop.gateway.moved("refund", refund.id)
            assert moved in ([], [refund.amount])
            assert moved or refund.state != "SUCCEEDED"


@pytest.mark.req("REQ-002.7")
@given(start=st.sampled_from(["ordered", "paid", "delivered", "delivered"]), commands=COMMANDS)
@hypothesis_settings(
    max_examples=examples(20),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_on_no_journey_more_goes_out_than_came_in(shop: Shop, start: str, commands: list[Any]) -> None:
    shop.gateway.faults.clear()
    journey = Journey(shop, await getattr(shop, start)())
    for command in commands:
        await journey.attempt(command)
        await journey.check()
