"""Mails on a real database: each once, the same Message-ID at every try, nothing announced before it is true."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate, ReturnReject
from app.services.documents.invoices import InvoiceService
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind, LeaseLostError
from app.services.jobs.sweeps import SweepService
from app.services.notifications.kinds import KINDS
from app.services.notifications.service import NotificationService
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.utils.email_sender import MailRejected, MailUnavailable
from app.utils.storage import Storage, storage_for
from tests.conftest import MovableClock
from tests.databases import past_guard, unguarded
from tests.integration.jobs_support import (
    FakeMailSender,
    FakeRenderer,
    add_job,
    claim,
    claim_for,
    completed_return,
    execute,
    job,
    order_in,
    pdf_of,
    refund_of,
    rows,
    settle,
)

pytestmark = pytest.mark.req("REQ-006")


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return storage_for(settings)


@pytest.fixture
def mails() -> FakeMailSender:
    return FakeMailSender()


@pytest.fixture
def notifications(
    database: Database, mails: FakeMailSender, storage: Storage, settings: Settings, clock: MovableClock
) -> NotificationService:
    return NotificationService(database, mails, storage, settings, clock)


@pytest.fixture
def invoices(database: Database, storage: Storage, settings: Settings, clock: MovableClock) -> InvoiceService:
    return InvoiceService(database, FakeRenderer(), storage, settings, clock)


async def send_all(database: Database, notifications: NotificationService) -> None:
    due = await rows(database, "SELECT id FROM jobs WHERE kind LIKE 'notify.%' AND state = 'PENDING' ORDER BY id")
    for row in due:
        await notifications.send(await claim(database, row.id))


def test_every_mail_job_has_its_kind() -> None:
    assert [kind.job for kind in KINDS.values()] == [kind for kind in JobKind if kind.startswith("notify.")]


@pytest.mark.req("REQ-004.8", "REQ-006.1", "REQ-006.2")
async def test_the_messages_of_a_whole_order_reach_the_right_people(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    invoices: InvoiceService,
    orders: OrderService,
    returns: ReturnService,
    settings: Settings,
    admin: Actor,
    clock: MovableClock,
) -> None:
    """Every template that an order and its return can set off, each rendered from real rows and sent once."""
    order = await order_in(orders, admin, OrderStatus.PAID)
    await send_all(database, notifications)
    order, _ = await completed_return(orders, returns, admin, fee=Decimal(10))
    # What was due on the way is told late; what is not true any more is not told at all.
    await send_all(database, notifications)
    await invoices.issue(await claim_for(database, order["id"], JobKind.ISSUE_INVOICE))
    refund = await refund_of(database, order["id"])
    await settle(database, refund.id)
    await invoices.issue_credit_note(await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE))
    await order_in(orders, admin, OrderStatus.CANCELLED)
    await send_all(database, notifications)
    sent = await rows(database, "SELECT template, recipient, state FROM notifications")
    assert {row.state for row in sent} == {"SENT"}
    by_template = {row.template: row.recipient for row in sent}
    customers = {
        "order_confirmation", "order_shipped", "order_delivered", "order_cancelled", "invoice", "credit_note",
        "return_received", "return_arrived", "return_approved", "refund_processed",
    }  # fmt: skip
    internal = {"warehouse_order_ready": settings.warehouse_email, "goods_received": settings.warehouse_email}
    assert set(by_template) == customers | set(internal)
    assert all("customer" in by_template[template] for template in customers)
    assert {template: by_template[template] for template in internal} == internal
    assert len(mails.sent) == len(sent)
    assert len({mail.message_id for mail in mails.sent}) == len(sent)
    assert all(mail.text and "<html" in mail.html for mail in mails.sent)
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind LIKE 'notify.%' AND state <> 'SUCCEEDED'") == []


@pytest.mark.req("REQ-006.1", "REQ-006.2")
async def test_managers_are_asked_reminded_and_the_customer_hears_of_the_rejection(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    orders: OrderService,
    returns: ReturnService,
    settings: Settings,
    admin: Actor,
    clock: MovableClock,
) -> None:
    clock.advance(days=-2)
    order = await order_in(orders, admin, OrderStatus.DELIVERED)
    await execute(database, "UPDATE jobs SET state = 'DISMISSED'")
    request = await returns.create(ReturnCreate(order_id=order["id"], reason="Too small"), admin)
    clock.advance(hours=25)
    assert await SweepService(database, settings, clock).remind_reviewers(10) == 1
    await send_all(database, notifications)
    assert [mail.recipient for mail in mails.sent] == [
        order["customer_email"],
        settings.managers_email,
        settings.managers_email,
    ]
    assert "25" in mails.sent[2].text
    await returns.reject(request["id"], ReturnReject(notes="Worn", rejection_reason="POLICY_VIOLATION"), admin)
    await send_all(database, notifications)
    assert mails.sent[3].recipient == order["customer_email"]
    assert "Worn" in mails.sent[3].text


async def shipped_mail(database: Database, orders: OrderService, admin: Actor) -> UUID:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    [row] = await rows(
        database, "SELECT id FROM jobs WHERE kind = 'notify.order_shipped' AND entity_id = :id", id=order["id"]
    )
    return UUID(str(row.id))


async def notification(database: Database) -> Any:
    [row] = await rows(database, "SELECT * FROM notifications")
    return row


@pytest.mark.req("INT-002.3")
async def test_a_copy_after_a_crash_carries_the_same_message_id(
    database: Database, notifications: NotificationService, mails: FakeMailSender, orders: OrderService, admin: Actor
) -> None:
    """Dying between SMTP's answer and our commit sends the mail again: the one thing that is at least once."""
    job_id = await shipped_mail(database, orders, admin)
    held = await claim(database, job_id)
    await execute(database, "UPDATE jobs SET fence = fence + 1 WHERE id = :id", id=job_id)
    with pytest.raises(LeaseLostError):
        await notifications.send(held)
    assert (await notification(database)).state == "PENDING"
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :id", id=job_id)
    await notifications.send(await claim(database, job_id))
    assert len(mails.sent) == 2
    row = await notification(database)
    assert {mail.message_id for mail in mails.sent} == {row.message_id} == {f"<{row.id}@articurated.example>"}
    assert (row.state, row.attempts, row.sent_at is not None) == ("SENT", 1, True)


@pytest.mark.req("INT-002.3", "REQ-006.6")
async def test_what_was_sent_is_never_sent_again(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    job_id = await shipped_mail(database, orders, admin)
    await notifications.send(await claim(database, job_id))
    set_back = f"UPDATE jobs SET state = 'PENDING', finished_at = NULL WHERE id = '{job_id}'"
    past_guard(owner_connection, "jobs", "guard_ended_job", set_back)
    await notifications.send(await claim(database, job_id))
    assert len(mails.sent) == 1
    assert (await job(database, job_id)).state == "SUCCEEDED"


@pytest.mark.req("NFR-003.1")
async def test_a_mail_server_that_is_away_is_tried_again(
    database: Database, notifications: NotificationService, mails: FakeMailSender, orders: OrderService, admin: Actor
) -> None:
    held = await claim(database, await shipped_mail(database, orders, admin))
    mails.faults = [MailUnavailable("421 later, ada@example.com"), MailUnavailable("no route")]
    for attempts in (1, 2):
        with pytest.raises(MailUnavailable):
            await notifications.send(held)
        row = await notification(database)
        assert (row.state, row.attempts, row.last_error) == ("PENDING", attempts, "MailUnavailable")
    await notifications.send(held)
    assert (await notification(database)).attempts == 3
    assert len({mail.message_id for mail in mails.tried}) == 1


@pytest.mark.req("REQ-006.6")
@pytest.mark.parametrize("fault", [MailRejected("550 no such mailbox"), ValueError("not a mail address")])
async def test_a_mail_refused_permanently_is_not_tried_again(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    orders: OrderService,
    admin: Actor,
    fault: Exception,
) -> None:
    held = await claim(database, await shipped_mail(database, orders, admin))
    mails.faults = [fault]
    await notifications.send(held)
    row = await notification(database)
    assert (row.state, row.last_error, row.sent_at) == ("REJECTED", type(fault).__name__, None)
    assert (await job(database, held.job_id)).state == "SUCCEEDED"


@pytest.mark.req("REQ-004.7")
async def test_no_word_of_a_refund_before_the_money_has_moved(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    order = await order_in(orders, admin, OrderStatus.CANCELLED)
    refund = await refund_of(database, order["id"])
    with unguarded(owner_connection, "jobs"):
        premature = await add_job(database, JobKind.NOTIFY_REFUND_PROCESSED, refund.id, "premature")
    await notifications.send(await claim(database, premature))
    assert mails.tried == []
    assert await rows(database, "SELECT 1 FROM notifications") == []
    await settle(database, refund.id)
    await notifications.send(await claim_for_key(database, f"notify.refund_processed:{refund.id}"))
    assert [mail.recipient for mail in mails.sent] == [order["customer_email"]]


async def claim_for_key(database: Database, key: str) -> job_service.Claim:
    [row] = await rows(database, "SELECT id FROM jobs WHERE dedupe_key = :key", key=key)
    return await claim(database, row.id)


@pytest.mark.req("REQ-004.3")
async def test_the_invoice_goes_with_its_mail_as_it_was_issued(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    invoices: InvoiceService,
    orders: OrderService,
    admin: Actor,
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    await invoices.issue(await claim_for(database, order["id"], JobKind.ISSUE_INVOICE))
    content = await pdf_of(invoices, order["id"], admin)
    name = f"{(await invoices.issued(order['id'], admin)).number}.pdf"
    [row] = await rows(database, "SELECT id FROM jobs WHERE kind = 'notify.invoice'")
    await notifications.send(await claim(database, row.id))
    [attached] = mails.sent[0].attachments
    assert (attached.filename, attached.content_type, attached.data) == (name, "application/pdf", content)


@pytest.mark.req("NFR-006.5", "REQ-004.11")
async def test_operations_hear_of_dead_jobs(
    database: Database, notifications: NotificationService, mails: FakeMailSender, settings: Settings
) -> None:
    held = await claim(database, await add_job(database, JobKind.PROCESS_REFUND, entity_id := uuid4()))
    async with database.transaction() as session:
        await job_service.dead_letter(session, held, "GatewayDeclined: no")
    await send_all(database, notifications)
    [mail] = mails.sent
    assert mail.recipient == settings.operations_email
    assert str(entity_id) in mail.text
    assert "GatewayDeclined: no" in mail.text


@pytest.mark.req("REQ-004.8")
async def test_operations_get_the_figures_of_the_day(
    database: Database,
    notifications: NotificationService,
    mails: FakeMailSender,
    orders: OrderService,
    settings: Settings,
    admin: Actor,
    clock: MovableClock,
) -> None:
    clock.now = clock.now.replace(hour=12) - timedelta(days=2)
    await order_in(orders, admin, OrderStatus.SHIPPED)
    cancelled = await order_in(orders, admin, OrderStatus.CANCELLED)
    await settle(database, (await refund_of(database, cancelled["id"])).id, clock.now)
    await execute(database, "UPDATE jobs SET state = 'DISMISSED'")
    clock.advance(days=1)
    assert await SweepService(database, settings, clock).summarise_yesterday()
    await send_all(database, notifications)
    [mail] = mails.sent
    assert mail.recipient == settings.operations_email
    assert "$682.20" in mail.text
    assert "$341.10" in mail.text
    assert "Shipped" in mail.text


async def test_entities_that_are_gone_end_quietly(
    database: Database, notifications: NotificationService, mails: FakeMailSender
) -> None:
    for kind in (kind.job for kind in KINDS.values()):
        if kind is not JobKind.NOTIFY_DAILY_SUMMARY:
            await add_job(database, kind, uuid4(), kind)
    await send_all(database, notifications)
    assert mails.tried == []
    assert await rows(database, "SELECT 1 FROM jobs WHERE state <> 'SUCCEEDED'") == []
