"""What the job tests share: fakes at the ports, orders brought into a state, and looks at the rows."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, text

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, ReturnStatus
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnStateUpdate
from app.services.documents.invoices import InvoiceService
from app.services.jobs import leases
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind, queue_of
from app.services.ledger import refunds as refund_ledger
from app.services.notifications.kind import Addressed, FactsRequest, Kind, NothingToSend
from app.services.orders.service import OrderService
from app.services.orders.views import OrderView
from app.services.payments import settlement
from app.services.payments.gateway.port import PaymentGateway
from app.services.payments.unpaid import UnpaidOrders
from app.services.returns.service import ReturnService
from app.services.returns.views import ReturnView
from app.utils.clock import Clock, utc_now
from app.utils.document_fonts import DocumentFonts, Unprintable
from app.utils.documents import DocumentView
from app.utils.invoice_generator import TEMPLATES
from app.utils.messages import Message
from tests.factories import order_create
from tests.fakes import FakeGateway

LEASE = timedelta(seconds=60)


def unpaid_orders(database: Database, clock: Clock = utc_now, gateway: PaymentGateway | None = None) -> UnpaidOrders:
    """Return the sweep of unpaid orders before a gateway, an empty one unless it is given."""
    return UnpaidOrders(database, OrderService(database, clock), gateway or FakeGateway(), clock)


async def pdf_of(invoices: InvoiceService, order_id: UUID, actor: Actor) -> bytes:
    """Return the PDF of an order's invoice as it is given out."""
    opened = await invoices.open(await invoices.issued(order_id, actor))
    return b"".join([piece async for piece in opened.pieces])


class FakeMailSender:
    """Keeps the mails; raises what it is given, once each."""

    def __init__(self, *faults: Exception) -> None:
        self.sent: list[Message] = []
        self.tried: list[Message] = []
        self.faults = list(faults)

    async def send(self, message: Message) -> None:
        """Take a mail."""
        self.tried.append(message)
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(message)


class FakeRenderer:
    """Draws text instead of a PDF, the same for the same view; `drawn` counts them."""

    fonts = DocumentFonts(TEMPLATES / "fonts")

    def __init__(self, *faults: Exception) -> None:
        self.drawn: list[DocumentView] = []
        self.faults = list(faults)

    def render(self, view: DocumentView) -> bytes:
        """Return bytes that name the document."""
        if self.faults:
            raise self.faults.pop(0)
        self.drawn.append(view)
        return f"drawing of {view.number}".encode()

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Return what the fonts of the real one cannot show."""
        return self.fonts.unprintable(view)


async def rows(database: Database, statement: str, **values: Any) -> list[Row[*tuple[Any, ...]]]:
    """Return what a SELECT gives."""
    async with database.autocommit() as connection:
        return list(await connection.execute(text(statement), values))


async def execute(database: Database, statement: str, **values: Any) -> None:
    """Carry out a statement, as the application's role."""
    async with database.autocommit() as connection:
        await connection.execute(text(statement), values)


async def add_job(
    database: Database,
    kind: JobKind,
    entity_id: UUID,
    key: str = "test",
    payload: Mapping[str, Any] | None = None,
) -> UUID:
    """Make a job due and return its id."""
    async with database.transaction() as session:
        await job_service.add(session, kind, entity_id, key, payload)
    [found] = await rows(database, "SELECT id FROM jobs WHERE dedupe_key = :key", key=key)
    return UUID(str(found.id))


async def job_of(database: Database, entity_id: UUID, kind: JobKind) -> UUID:
    """Return the id of the one job of that kind about an entity."""
    [found] = await rows(
        database, "SELECT id FROM jobs WHERE entity_id = :id AND kind = :kind", id=entity_id, kind=kind.value
    )
    return UUID(str(found.id))


async def job(database: Database, job_id: UUID) -> Row[*tuple[Any, ...]]:
    """Return a job's row, with `wait`, the seconds until it is due, by the database's clock."""
    [found] = await rows(
        database, "SELECT *, extract(epoch FROM run_at - now())::float8 AS wait FROM jobs WHERE id = :id", id=job_id
    )
    return found


async def claim(database: Database, job_id: UUID, owner: str = "tester") -> Claim:
    """Claim a job that must be free."""
    held = await leases.claim(database, job_id, owner, LEASE)
    assert held is not None
    return held


async def claim_for(database: Database, entity_id: UUID, kind: JobKind) -> Claim:
    """Claim the one job of that kind about an entity."""
    return await claim(database, await job_of(database, entity_id, kind))


async def facts_of(
    database: Database, settings: Settings, kind: Kind[Any], entity_id: UUID
) -> Addressed[Any] | NothingToSend:
    """Return what the message of a kind about an entity says, without a job."""
    held = Claim(uuid4(), kind.job, queue_of(kind.job), entity_id, "key", {}, 0, 1, 1, "tester")
    async with database.transaction() as session:
        return await kind.load(FactsRequest(database, session, settings, utc_now, held, kind.audience))


async def order_in(orders: OrderService, actor: Actor, state: OrderStatus, **fields: Any) -> OrderView:
    """Return a new order, brought into `state` step by step."""
    order = await orders.create(order_create(**fields), actor)
    path = [OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED, OrderStatus.DELIVERED]
    if state is OrderStatus.CANCELLED:
        path = [OrderStatus.PAID, OrderStatus.CANCELLED]
    for step in path:
        if order["status"] == state:
            break
        order = await orders.transition(order["id"], OrderStateUpdate(new_state=step), actor)
    return order


async def completed_return(
    orders: OrderService,
    returns: ReturnService,
    actor: Actor,
    *,
    fee: Decimal = Decimal(0),
    amount: Decimal | None = None,
    quantity: int | None = None,
) -> tuple[OrderView, ReturnView]:
    """Return a delivered order and its completed return, of `quantity` of the first line or of everything."""
    order = await order_in(orders, actor, OrderStatus.DELIVERED)
    items = [{"line_item_id": order["line_items"][0]["id"], "quantity": quantity}] if quantity else None
    request = await returns.create(
        ReturnCreate.model_validate({"order_id": order["id"], "reason": "Glaze is cracked", "items": items}), actor
    )
    approval = ReturnApprove(notes="Fine", restocking_fee=fee, refund_amount=amount)
    await returns.approve(request["id"], approval, actor)
    for step in (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED, ReturnStatus.COMPLETED):
        request = await returns.transition(request["id"], ReturnStateUpdate(new_state=step), actor)
    return order, request


async def until(condition: Callable[[], bool]) -> None:
    """Wait, at most ten seconds, for something that another thread or task brings about."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def refund_of(database: Database, order_id: UUID) -> Row[*tuple[Any, ...]]:
    """Return the one refund of an order."""
    [found] = await rows(database, "SELECT * FROM refunds WHERE order_id = :id", id=order_id)
    return found


async def settle(database: Database, refund_id: UUID, at: datetime | None = None) -> None:
    """Let the money of a refund have moved, just now or at a moment."""
    async with database.transaction() as session:
        refund = await refund_ledger.locked_refund(session, refund_id)
        assert refund is not None
        await settlement.settle(session, refund, f"re_{refund_id.hex[-8:]}", at or utc_now())
