"""A shop whose gateway is in memory: what the tests of money do again and again, in short words."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row

from app.composition import Ports
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, ReturnStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnStateUpdate
from app.services.jobs.service import JobKind
from app.services.orders.service import STATEMENT, OrderService
from app.services.orders.views import OrderView
from app.services.payments.gateway.port import GatewayDispute, GatewayPayment, GatewayRefund, PaymentGateway
from app.services.payments.refunds import RefundService
from app.services.payments.service import PaymentService
from app.services.payments.webhooks import WebhookEvent
from app.services.returns.service import ReturnService
from app.services.returns.views import ReturnView
from app.tasks.runner import JOB_TIME_LIMIT, Verdict
from app.tasks.worker_services import WorkerServices
from app.utils.shop_time import ReturnWindow
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.fakes import CREATED, FakeGateway, Killed
from tests.integration.jobs_support import execute, job, job_of, refund_of, rows

FULFILMENT = (OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED, OrderStatus.DELIVERED)
RefundRow = Row[tuple[Any, ...]]


def cents(amount: Decimal | float) -> Decimal:
    """Return an amount of the API as our ledger has it."""
    return Decimal(str(amount)).quantize(Decimal("0.01"))


def event(
    kind: str, subject: GatewayPayment | GatewayRefund | GatewayDispute | None, event_id: str | None = None
) -> WebhookEvent:
    """Return a verified webhook about a payment or refund."""
    return WebhookEvent(id=event_id or f"evt_{uuid4().hex}", type=kind, created=CREATED, object=subject)


async def die() -> None:
    """End, as a process that is killed."""
    raise Killed


@dataclass
class Shop:
    """Services on a real database before a gateway in memory."""

    settings: Settings
    database: Database
    clock: MovableClock
    admin: Actor
    gateway: FakeGateway = field(default_factory=FakeGateway)

    def __post_init__(self) -> None:
        """Make the services."""
        self.orders = OrderService(self.database, self.clock)
        self.returns = ReturnService(self.database, ReturnWindow.from_settings(self.settings), self.clock)
        self.payments = PaymentService(self.database, STATEMENT, self.clock)
        self.refunds = RefundService(self.database, self.clock)

    async def tell(
        self, kind: str, subject: GatewayPayment | GatewayRefund | GatewayDispute | None, event_id: str | None = None
    ) -> str:
        """Deliver a webhook and return its outcome."""
        return await self.payments.receive_webhook(event(kind, subject, event_id))

    async def ordered(self, **fields: Any) -> OrderView:
        """Return a new order."""
        return await self.orders.create(order_create(**fields), self.admin)

    def charged(self, order: OrderView, **changes: Any) -> GatewayPayment:
        """Let the storefront charge what an order costs."""
        return self.gateway.charge(order["id"], cents(order["total_amount"]), order["currency"], **changes)

    async def paid(self, **fields: Any) -> OrderView:
        """Return an order that was paid through the storefront, and that the gateway reported."""
        order = await self.ordered(**fields)
        assert await self.tell("payment.captured", self.charged(order)) == "PAID"
        return await self.orders.get(order["id"], self.admin)

    async def delivered(self, **fields: Any) -> OrderView:
        """Return an order that was paid and delivered."""
        order = await self.paid(**fields)
        for step in FULFILMENT:
            order = await self.orders.transition(order["id"], OrderStateUpdate(new_state=step), self.admin)
        return order

    async def cancelled(self) -> RefundRow:
        """Return the refund of an order that was cancelled after it was paid."""
        order = await self.paid()
        await self.orders.cancel(order["id"], OrderCancel(), self.admin)
        return await refund_of(self.database, order["id"])

    async def returned(
        self, amount: Decimal | None = None, fee: Decimal | None = None, order: OrderView | None = None
    ) -> ReturnView:
        """Return a completed return of a delivered order, a new one unless it is given."""
        order = order or await self.delivered()
        request = await self.returns.create(ReturnCreate(order_id=order["id"], reason="Cracked"), self.admin)
        approval = ReturnApprove(notes="Fine", refund_amount=amount, restocking_fee=fee)
        await self.returns.approve(request["id"], approval, self.admin)
        for step in (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED, ReturnStatus.COMPLETED):
            request = await self.returns.transition(request["id"], ReturnStateUpdate(new_state=step), self.admin)
        return request

    async def part_refund(self, amount: str = "50.00") -> RefundRow:
        """Return a refund of part of what was paid: the gateway could pay it more than once."""
        request = await self.returned(Decimal(amount))
        return await refund_of(self.database, request["order_id"])

    async def refund(self, refund_id: UUID) -> RefundRow:
        """Return a refund's row."""
        [found] = await rows(self.database, "SELECT * FROM refunds WHERE id = :id", id=refund_id)
        return found

    async def payment(self, order_id: UUID) -> Row[Any]:
        """Return the row of an order's payment."""
        [found] = await rows(self.database, "SELECT * FROM payments WHERE order_id = :id", id=order_id)
        return found

    def bench(self, gateway: PaymentGateway | None = None, **changes: Any) -> WorkerServices:
        """Return the workbench of a worker, with settings changed."""
        settings = self.settings.model_copy(update=changes)
        return WorkerServices(
            settings, database=self.database, clock=self.clock, ports=Ports(gateway=gateway or self.gateway)
        )

    async def work(
        self,
        entity_id: UUID,
        kind: JobKind = JobKind.PROCESS_REFUND,
        *,
        owner: str = "one",
        gateway: PaymentGateway | None = None,
        time_limit: timedelta = JOB_TIME_LIMIT,
        **changes: Any,
    ) -> Verdict:
        """Carry out the job of an entity, due or waiting for its retry, as a worker does."""
        job_id = await job_of(self.database, entity_id, kind)
        await execute(self.database, "UPDATE jobs SET run_at = now() WHERE id = :id AND state = 'PENDING'", id=job_id)
        return await self.bench(gateway, **changes).runner(owner, time_limit).run(job_id)

    async def killed_at(self, operation: Any, moment: Any, entity_id: UUID) -> None:
        """Carry out the refund's job up to a moment at the gateway, and be killed there; the lease has run out since."""
        self.gateway.hooks[operation, moment] = die
        await self.killed(lambda: self.work(entity_id, owner="the dead"))

    async def killed(self, what: Callable[[], Awaitable[Any]]) -> None:
        """Do something that kills the process; the leases that it held have run out since."""
        try:
            await what()
        except Killed:
            await self.expire_leases()
        else:
            raise AssertionError("nobody died")

    async def expire_leases(self) -> None:
        """Let the leases of all running jobs have run out."""
        sql = "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'RUNNING'"
        await execute(self.database, sql)

    async def job_state(self, entity_id: UUID, kind: JobKind = JobKind.PROCESS_REFUND) -> str:
        """Return the state of the job of an entity."""
        state: str = (await job(self.database, await job_of(self.database, entity_id, kind))).state
        return state

    async def follow_ups(self, refund_id: UUID) -> list[str]:
        """Return the kinds of all jobs that follow a refund, alerts about it apart."""
        sql = (
            "SELECT kind FROM jobs WHERE entity_id = :id"
            " AND kind NOT IN ('refund.process', 'notify.gateway_event') ORDER BY kind"
        )
        return [row.kind for row in await rows(self.database, sql, id=refund_id)]

    async def assert_paid_once(self, refund_id: UUID) -> None:
        """Make sure that a refund was paid once, in full, and that everyone who has to know will."""
        refund = await self.refund(refund_id)
        assert self.gateway.moved("refund", refund_id) == [refund.amount]
        assert (refund.state, refund.last_error, refund.released_at) == ("SUCCEEDED", None, None)
        assert refund.gateway_refund_id in self.gateway.refunds
        assert await self.job_state(refund_id) == "SUCCEEDED"
        assert await self.follow_ups(refund_id) == [JobKind.ISSUE_CREDIT_NOTE, JobKind.NOTIFY_REFUND_PROCESSED]
