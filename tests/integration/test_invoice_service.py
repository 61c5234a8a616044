"""Issuing documents on a real database and a real folder: numbers, credit notes, who may see them."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, Role
from app.database import Database
from app.services.documents.invoices import InvoiceNotIssuedError, InvoiceService
from app.services.documents.store import DocumentAlteredError
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.utils.documents import DocumentView
from app.utils.exceptions import NotFoundError, OrderNotFoundError
from app.utils.invoice_generator import RenderingError, renderer_for
from app.utils.storage import Storage, storage_for
from tests.conftest import MovableClock, actor
from tests.databases import unguarded
from tests.factories import TOTAL
from tests.integration.jobs_support import (
    FakeRenderer,
    add_job,
    claim,
    claim_for,
    completed_return,
    job,
    order_in,
    pdf_of,
    refund_of,
    rows,
    settle,
)

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return storage_for(settings)


@pytest.fixture
def renderer() -> FakeRenderer:
    return FakeRenderer()


@pytest.fixture
def invoices(
    database: Database, renderer: FakeRenderer, storage: Storage, settings: Settings, clock: MovableClock
) -> InvoiceService:
    return InvoiceService(database, renderer, storage, settings, clock)


async def issued_invoice(database: Database, invoices: InvoiceService, order_id: UUID) -> None:
    await invoices.issue(await claim_for(database, order_id, JobKind.ISSUE_INVOICE))


async def documents(database: Database) -> list[Any]:
    return await rows(database, "SELECT * FROM invoices ORDER BY created_at, number")


@pytest.mark.req("REQ-004.1")
async def test_an_order_that_ships_gets_its_invoice(
    database: Database,
    invoices: InvoiceService,
    orders: OrderService,
    storage: Storage,
    admin: Actor,
    clock: MovableClock,
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    await invoices.issue(held)
    [invoice] = await documents(database)
    year = clock.now.year
    assert (invoice.number, invoice.number_in_year) == (f"INV-{year}-000001", 1)
    assert (invoice.state, invoice.version) == ("ISSUED", 2)
    assert invoice.storage_key == f"invoices/{order['order_number']}_{clock.now:%Y%m%d}.pdf"
    view = DocumentView.from_json(invoice.view)
    assert (view.total, view.shipping, view.order_number) == (TOTAL, Decimal("9.90"), order["order_number"])
    assert len(view.lines) == 2
    stored = await storage.get(invoice.storage_key)
    assert len(stored) == invoice.size_bytes
    assert (await job(database, held.job_id)).state == "SUCCEEDED"
    events = await rows(database, "SELECT seq, type FROM events WHERE entity_id = :id ORDER BY seq", id=invoice.id)
    assert [tuple(event) for event in events] == [(1, "invoice.numbered"), (2, "invoice.issued")]
    [mail] = await rows(database, "SELECT * FROM jobs WHERE kind = 'notify.invoice'")
    assert mail.entity_id == invoice.id
    record: dict[str, Any] = {**await invoices.record(order["id"], admin)}
    assert record.pop("link").startswith(f"/api/v1/files/invoices/{invoice.id}?")
    assert record.pop("link_expires_at") > clock.now
    assert record == {
        "number": invoice.number,
        "order_id": order["id"],
        "issued_at": clock.now,
        "sha256": invoice.sha256.hex(),
        "size": len(stored),
    }
    assert (await invoices.issued(order["id"], admin)).number == invoice.number
    assert await pdf_of(invoices, order["id"], admin) == stored


@pytest.mark.req("REQ-004.1")
async def test_the_real_renderer_draws_it(
    database: Database, orders: OrderService, storage: Storage, settings: Settings, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    invoices = InvoiceService(database, renderer_for(settings), storage, settings)
    await issued_invoice(database, invoices, order["id"])
    assert (await pdf_of(invoices, order["id"], admin)).startswith(b"%PDF-")


@pytest.mark.req("REQ-004.2")
async def test_forty_at_once_leave_no_gap_and_no_double(
    database: Database, invoices: InvoiceService, orders: OrderService, admin: Actor
) -> None:
    shipped = [await order_in(orders, admin, OrderStatus.SHIPPED) for _ in range(40)]
    claims = [await claim_for(database, order["id"], JobKind.ISSUE_INVOICE) for order in shipped]
    await asyncio.gather(*(invoices.issue(held) for held in claims))
    assert sorted(invoice.number_in_year for invoice in await documents(database)) == list(range(1, 41))
    [series] = await rows(database, "SELECT last_number FROM invoice_series")
    assert series.last_number == 40


async def test_numbering_that_fails_takes_no_number(
    database: Database,
    invoices: InvoiceService,
    orders: OrderService,
    admin: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When anything fails before the row is committed, the number goes back with it."""
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    monkeypatch.setattr(
        "app.services.documents.views.invoice_view", lambda *_: (_ for _ in ()).throw(ValueError("bad sums"))
    )
    with pytest.raises(ValueError, match="bad sums"):
        await invoices.issue(held)
    assert await documents(database) == []
    assert await rows(database, "SELECT 1 FROM invoice_series") == []
    monkeypatch.undo()
    await invoices.issue(held)
    assert [invoice.number_in_year for invoice in await documents(database)] == [1]


async def test_a_failed_drawing_keeps_number_and_date(
    database: Database,
    invoices: InvoiceService,
    renderer: FakeRenderer,
    orders: OrderService,
    admin: Actor,
    clock: MovableClock,
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    renderer.faults = [RenderingError("out of ink")]
    with pytest.raises(RenderingError):
        await invoices.issue(held)
    [numbered] = await documents(database)
    assert (numbered.state, numbered.sha256) == ("NUMBERED", None)
    with pytest.raises(NotFoundError):
        await invoices.record(order["id"], admin)
    issued_on = clock.now.date()
    clock.advance(days=400)
    await invoices.issue(held)
    [issued] = await documents(database)
    assert (issued.number, issued.storage_key, issued.issued_on) == (numbered.number, numbered.storage_key, issued_on)
    assert renderer.drawn[0].issued_on == issued_on


async def test_a_second_job_for_the_same_order_draws_nothing(
    database: Database, invoices: InvoiceService, renderer: FakeRenderer, orders: OrderService, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    await issued_invoice(database, invoices, order["id"])
    again = await claim(database, await add_job(database, JobKind.ISSUE_INVOICE, order["id"], "again"))
    await invoices.issue(again)
    assert len(renderer.drawn) == len(await documents(database)) == 1
    assert (await job(database, again.job_id)).state == "SUCCEEDED"
    assert len(await rows(database, "SELECT 1 FROM jobs WHERE kind = 'notify.invoice'")) == 1


async def test_two_jobs_at_once_for_the_same_order_share_one_number(
    database: Database, invoices: InvoiceService, orders: OrderService, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    first = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    others = [await add_job(database, JobKind.ISSUE_INVOICE, order["id"], f"again {n}") for n in range(7)]
    claims = [first, *[await claim(database, job_id) for job_id in others]]
    await asyncio.gather(*(invoices.issue(held) for held in claims))
    [invoice] = await documents(database)
    assert invoice.number_in_year == 1
    assert [row.last_number for row in await rows(database, "SELECT last_number FROM invoice_series")] == [1]


@pytest.mark.parametrize("kind", [JobKind.ISSUE_INVOICE, JobKind.ISSUE_CREDIT_NOTE])
async def test_jobs_about_nothing_end_quietly(database: Database, invoices: InvoiceService, kind: JobKind) -> None:
    held = await claim(database, await add_job(database, kind, uuid4()))
    await (invoices.issue if kind is JobKind.ISSUE_INVOICE else invoices.issue_credit_note)(held)
    assert (await job(database, held.job_id)).state == "SUCCEEDED"
    assert await documents(database) == []


async def test_an_order_that_is_not_shipped_gets_no_invoice(
    database: Database,
    invoices: InvoiceService,
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    order = await order_in(orders, admin, OrderStatus.PAID)
    with unguarded(owner_connection, "jobs"):
        held = await claim(database, await add_job(database, JobKind.ISSUE_INVOICE, order["id"]))
    await invoices.issue(held)
    assert await documents(database) == []


async def credit_note(database: Database, invoices: InvoiceService, order_id: UUID) -> tuple[Any, DocumentView]:
    refund = await refund_of(database, order_id)
    await settle(database, refund.id)
    await invoices.issue_credit_note(await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE))
    [note] = await rows(database, "SELECT * FROM invoices WHERE kind = 'CREDIT_NOTE'")
    return note, DocumentView.from_json(note.view)


async def test_a_return_is_credited_against_its_invoice(
    database: Database, invoices: InvoiceService, orders: OrderService, returns: ReturnService, admin: Actor
) -> None:
    order, returned = await completed_return(
        orders, returns, admin, quantity=1, fee=Decimal("14.60"), amount=Decimal(120)
    )
    await issued_invoice(database, invoices, order["id"])
    note, view = await credit_note(database, invoices, order["id"])
    [invoice] = await rows(database, "SELECT * FROM invoices WHERE kind = 'INVOICE'")
    assert (note.number, note.state) == (f"CN-{note.year}-000001", "ISSUED")
    assert note.storage_key == f"invoices/{order['order_number']}_{note.issued_on:%Y%m%d}_{note.number}.pdf"
    assert (note.refers_to_id, view.refers_to) == (invoice.id, invoice.number)
    # One of two vases at 120.50 and 20 % tax: 144.60. The fee and the rest kept are gross; 20 % of each is tax.
    assert [(line.description, line.subtotal, line.tax_amount) for line in view.lines] == [
        (order["line_items"][0]["product_name"], Decimal("120.50"), Decimal("24.10")),
        ("Restocking fee", Decimal("-12.17"), Decimal("-2.43")),
        ("Not refunded, as agreed", Decimal("-8.33"), Decimal("-1.67")),
    ]
    reason = f"Goods returned, {returned['return_number']}"
    assert (view.total, view.shipping, view.reason) == (Decimal("120.00"), Decimal(0), reason)
    [mail] = await rows(database, "SELECT * FROM jobs WHERE kind = 'notify.credit_note'")
    assert mail.entity_id == note.id


async def test_a_credit_note_waits_for_the_invoice(
    database: Database, invoices: InvoiceService, orders: OrderService, returns: ReturnService, admin: Actor
) -> None:
    order, _ = await completed_return(orders, returns, admin)
    refund = await refund_of(database, order["id"])
    await settle(database, refund.id)
    held = await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE)
    with pytest.raises(InvoiceNotIssuedError):
        await invoices.issue_credit_note(held)
    assert await documents(database) == []
    await issued_invoice(database, invoices, order["id"])
    await invoices.issue_credit_note(held)
    assert len(await documents(database)) == 2


async def test_a_cancelled_order_is_credited_in_full(
    database: Database, invoices: InvoiceService, orders: OrderService, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.CANCELLED)
    note, view = await credit_note(database, invoices, order["id"])
    assert (view.total, view.shipping, len(view.lines)) == (TOTAL, Decimal("9.90"), 2)
    assert (note.refers_to_id, view.refers_to) == (None, order["order_number"])


async def test_no_credit_note_before_the_money_has_moved(
    database: Database,
    invoices: InvoiceService,
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    order = await order_in(orders, admin, OrderStatus.CANCELLED)
    refund = await refund_of(database, order["id"])
    with unguarded(owner_connection, "jobs"):
        held = await claim(database, await add_job(database, JobKind.ISSUE_CREDIT_NOTE, refund.id))
    await invoices.issue_credit_note(held)
    assert await documents(database) == []


@pytest.mark.req("NFR-004.4")
async def test_a_customer_sees_only_their_own(
    database: Database, invoices: InvoiceService, orders: OrderService, admin: Actor
) -> None:
    customer, stranger = actor(Role.CUSTOMER), actor(Role.CUSTOMER)
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_id=str(customer.customer_id))
    await issued_invoice(database, invoices, order["id"])
    assert (await invoices.record(order["id"], customer))["order_id"] == order["id"]
    for ask in (invoices.record, invoices.issued):
        with pytest.raises(OrderNotFoundError):
            await ask(order["id"], stranger)
        with pytest.raises(OrderNotFoundError):
            await ask(uuid4(), admin)


@pytest.mark.req("INT-004.2", "REQ-004.2")
@pytest.mark.parametrize("damage", ["altered", "gone"])
async def test_only_the_bytes_that_were_issued_are_given_out(
    database: Database, invoices: InvoiceService, orders: OrderService, settings: Settings, admin: Actor, damage: str
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    await issued_invoice(database, invoices, order["id"])
    [invoice] = await documents(database)
    file = settings.storage_path / invoice.storage_key
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DocumentAlteredError) as caught:
        await invoices.open(await invoices.issued(order["id"], admin))
    assert caught.value.status == 500
