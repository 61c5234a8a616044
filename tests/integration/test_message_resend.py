"""A message that was refused is a case, and can be sent again, to a corrected address too (REQ-006)."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.config import Settings, get_settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.core.security import DEVELOPMENT_PRINCIPAL_ID
from app.database import Database
from app.schemas.notification import NotificationResponse
from app.schemas.order import OrderCancel
from app.services.documents.files import FileService
from app.services.documents.invoices import InvoiceService
from app.services.documents.links import FileKind
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.utils.email_sender import MailRejected, MailTooLarge, MailUnavailable
from app.utils.messages import MessageRefused
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.channels_support import PHONE, FakeChannel, Post, only, shipped
from tests.integration.conftest import error_of
from tests.integration.jobs_support import FakeRenderer, add_job, claim_for, order_in, rows

pytestmark = pytest.mark.req("REQ-006", "INT-002")

URL = "/api/v1/notifications"
BASE = "https://api.articurated.example"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": BASE})


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


async def refused(post: Post, orders: OrderService, admin: Actor, fault: Exception | None = None) -> Any:
    """Return the row of a mail that was refused."""
    await shipped(orders, admin)
    await only(post.database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.mails.faults = [fault or MailRejected("550 no such user", 550)]
    await post.deliver("notify.order_shipped")
    [row] = await post.told(template="order_shipped", channel="EMAIL")
    return row


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (MailRejected("550 no such user <ada@example.com>", 550), "MailRejected 550"),
        (MailRejected("554 spam", 554), "MailRejected 554"),
        (MailTooLarge("552 too large", 552), "MailTooLarge 552"),
        (ValueError("not a mail address"), "ValueError"),
    ],
)
async def test_a_refused_mail_is_a_case_and_an_alert(
    post: Post, database: Database, orders: OrderService, admin: Actor, settings: Settings, fault: Exception, error: str
) -> None:
    row = await refused(post, orders, admin, fault)
    assert (row.state, row.last_error) == ("REJECTED", error)
    [case] = await rows(database, "SELECT * FROM cases")
    assert (case.kind, case.entity_type, case.entity_id, case.order_id) == (
        "UNDELIVERABLE_MESSAGE", "NOTIFICATION", row.id, row.order_id,
    )  # fmt: skip
    masked = f"{row.recipient[0]}…@{row.recipient.partition('@')[2]}"
    assert case.evidence == {
        "notification_id": str(row.id), "template": "order_shipped", "channel": "EMAIL", "recipient": masked,
        "error": error,
    }  # fmt: skip
    await post.deliver("notify.case")
    [alert] = post.mails.sent
    assert alert.recipient == settings.operations_email
    assert str(row.id) in alert.text


async def test_a_refused_sms_is_a_case_and_what_operations_refuse_is_none(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.sms.faults = [MessageRefused("the receiver answered 422")]
    await post.deliver("notify.order_shipped")
    await post.deliver("sms.")
    [case] = await rows(database, "SELECT evidence FROM cases")
    assert (case.evidence["channel"], case.evidence["recipient"]) == ("SMS", "+3…78")
    # The alert itself is refused, by mail and by chat: another case would raise another alert.
    post.mails.faults, post.chat.faults = [MailRejected("550", 550)], [MessageRefused("no")]
    await post.deliver()
    assert len(await rows(database, "SELECT 1 FROM cases")) == 1
    assert {row.state for row in await post.told(template="case")} == {"REJECTED"}


async def invoiced(post: Post, orders: OrderService, admin: Actor, settings: Settings, clock: MovableClock) -> UUID:
    """Return the id of an issued invoice whose mail is due."""
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    invoices = InvoiceService(post.database, FakeRenderer(), storage_for(settings), settings, clock)
    await invoices.issue(await claim_for(post.database, order["id"], JobKind.ISSUE_INVOICE))
    [row] = await rows(post.database, "SELECT id FROM invoices")
    return UUID(str(row.id))


async def test_a_mail_that_is_too_large_goes_with_a_link(
    post: Post, database: Database, orders: OrderService, admin: Actor, settings: Settings, clock: MovableClock
) -> None:
    invoice_id = await invoiced(post, orders, admin, settings, clock)
    post.mails.faults = [MailTooLarge("552 5.3.4 too large", 552)]
    await post.deliver("notify.invoice")
    first, second = post.mails.tried
    assert (len(first.attachments), len(second.attachments)) == (1, 0)
    assert first.message_id == second.message_id
    assert [row.state for row in await post.told(template="invoice")] == ["SENT"]
    assert await rows(database, "SELECT 1 FROM cases") == []
    [link] = [word for word in second.text.split() if word.startswith(BASE)]
    assert f"{link.replace('&', '&amp;')}" in second.html
    assert "attached" not in second.text
    path, _, query = link.partition("?")
    assert path == f"{BASE}/api/v1/files/invoices/{invoice_id}"
    given = dict(part.split("=", 1) for part in query.split("&"))
    # It works to the end of the day that the mail names, and no longer.
    clock.advance(days=29, hours=23)
    files = FileService(database, post.bench.storage, post.bench.notifications._links, redirects=False)  # type: ignore[arg-type]
    found = await files.find(FileKind.INVOICES, invoice_id, given["expires"], given["signature"])
    stored = await files.open(found)
    assert not isinstance(stored, str)
    assert stored.size > 0
    assert found.media_type == "application/pdf"


async def test_without_an_address_to_link_to_a_mail_that_is_too_large_is_a_case(
    database: Database, orders: OrderService, admin: Actor, settings: Settings, clock: MovableClock
) -> None:
    settings = settings.model_copy(update={"public_url": None})
    post = Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())
    await invoiced(post, orders, admin, settings, clock)
    post.mails.faults = [MailTooLarge("552 too large", 552)]
    await post.deliver("notify.invoice")
    assert len(post.mails.tried) == 1
    assert len(await rows(database, "SELECT 1 FROM cases")) == 1


async def test_a_mail_whose_smaller_form_is_refused_too_is_a_case(
    post: Post, database: Database, orders: OrderService, admin: Actor, settings: Settings, clock: MovableClock
) -> None:
    await invoiced(post, orders, admin, settings, clock)
    post.mails.faults = [MailTooLarge("552 mailbox full", 552), MailTooLarge("552 mailbox full", 552)]
    await post.deliver("notify.invoice")
    assert len(post.mails.tried) == 2
    assert [row.state for row in await post.told(template="invoice")] == ["REJECTED"]
    assert len(await rows(database, "SELECT 1 FROM cases")) == 1


async def test_a_message_is_sent_again_to_a_corrected_address(
    api: httpx2.AsyncClient, post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    row = await refused(post, orders, admin)
    response = await api.post(f"{URL}/{row.id}/resend", json={"to": "ada@bücher.example"})
    assert response.status_code == 201, response.text
    again = response.json()
    NotificationResponse.model_validate_json(response.content)
    assert (again["state"], again["recipient"], again["resend_of"]) == (
        "PENDING",
        "ada@xn--bcher-kva.example",
        str(row.id),
    )
    assert (again["requested_by"], again["requested_operator"]) == (str(DEVELOPMENT_PRINCIPAL_ID), None)
    assert again["order_id"] == str(row.order_id)
    await post.deliver("notify.order_shipped")
    assert [mail.recipient for mail in post.mails.sent] == ["ada@xn--bcher-kva.example"]
    assert post.mails.sent[0].message_id != row.message_id
    states = {told.id: told.state for told in await post.told(template="order_shipped", channel="EMAIL")}
    assert states == {row.id: "REJECTED", UUID(again["id"]): "SENT"}
    # The SMS of the event was due with the first mail, and is not sent a second time.
    assert len(await rows(database, "SELECT 1 FROM jobs WHERE kind = 'sms.order_shipped'")) == 1
    [event] = await rows(database, "SELECT * FROM events WHERE type = 'job.resent'")
    assert event.data == {
        "notification_id": again["id"],
        "resend_of": str(row.id),
        "order_id": str(row.order_id),
        "actor_id": str(DEVELOPMENT_PRINCIPAL_ID),
        "operator": None,
        "trigger": "API_CALL",
        "former_recipient": f"{row.recipient[0]}…@{row.recipient.partition('@')[2]}",
        "recipient": "a…@xn--bcher-kva.example",
    }


async def test_a_message_that_was_sent_is_sent_again_as_often_as_asked(
    api: httpx2.AsyncClient, post: Post, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(post.database, JobKind.NOTIFY_ORDER_SHIPPED)
    await post.deliver()
    [sms] = await post.told(channel="SMS")
    [first] = await post.told(channel="EMAIL")
    for _ in range(2):
        assert (await api.post(f"{URL}/{first.id}/resend")).status_code == 201
    assert (await api.post(f"{URL}/{sms.id}/resend", json={"to": "+33687654321"})).status_code == 201
    await post.deliver()
    assert len(post.mails.sent) == 3
    assert len({mail.message_id for mail in post.mails.sent}) == 3
    assert [message.recipient for message in post.sms.sent] == [PHONE, "+33687654321"]
    assert {row.state for row in await post.told()} == {"SENT"}
    # A copy can be sent again as well.
    [copy, *_] = await post.told(channel="EMAIL", resend_of=first.id)
    assert (await api.post(f"{URL}/{copy.id}/resend")).status_code == 201


async def test_what_cannot_be_sent_again_is_refused(
    api: httpx2.AsyncClient, post: Post, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(post.database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.mails.faults = [MailUnavailable("later")]
    await post.deliver("notify.order_shipped")
    [waiting] = await post.told(channel="EMAIL")
    response = await api.post(f"{URL}/{waiting.id}/resend")
    assert (response.status_code, error_of(response)["code"]) == (409, "INVALID_STATE_TRANSITION")
    await post.deliver()
    [sms] = await post.told(channel="SMS")
    for notification_id, to in (
        (waiting.id, "ada..b@docomo.example"), (waiting.id, ""), (waiting.id, "a@b.example\nBcc: x@y.example"),
        (sms.id, "ada@example.com"), (sms.id, "0612345678"),
    ):  # fmt: skip
        response = await api.post(f"{URL}/{notification_id}/resend", json={"to": to})
        assert (response.status_code, error_of(response)["code"]) == (422, "VALIDATION_ERROR")
    assert (await api.post(f"{URL}/{waiting.id}/resend", json={"cc": "a@b.example"})).status_code == 422
    assert (await api.post(f"{URL}/{uuid4()}/resend")).status_code == 404
    assert len(await post.told()) == 2


async def test_a_copy_with_nothing_left_to_say_ends_with_the_reason(
    api: httpx2.AsyncClient, post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.PAID)
    await post.deliver("notify.warehouse")
    [ready] = await post.told(template="warehouse_order_ready")
    await orders.cancel(order["id"], OrderCancel(), admin)
    again = (await api.post(f"{URL}/{ready.id}/resend")).json()
    await post.deliver("notify.warehouse")
    [copy] = await post.told(resend_of=ready.id)
    assert (str(copy.id), copy.state, copy.last_error) == (again["id"], "REJECTED", "the order was cancelled meanwhile")


async def test_a_copy_is_given_what_the_first_message_was_given(
    api: httpx2.AsyncClient, post: Post, database: Database
) -> None:
    await add_job(database, JobKind.NOTIFY_DAILY_SUMMARY, uuid4(), "summary", payload={"day": "2026-11-22"})
    await post.deliver("notify.")
    [first] = await post.told(channel="EMAIL")
    await api.post(f"{URL}/{first.id}/resend")
    await post.deliver("notify.")
    assert len({mail.text for mail in post.mails.sent}) == 1
    assert len(post.mails.sent) == 2
    assert "22 November 2026" in post.mails.sent[1].subject


async def test_a_copy_that_gives_up_is_failed(
    api: httpx2.AsyncClient, post: Post, orders: OrderService, admin: Actor
) -> None:
    row = await refused(post, orders, admin)
    await api.post(f"{URL}/{row.id}/resend")
    post.mails.faults = [MailUnavailable("away") for _ in range(6)]
    await post.exhaust("notify.order_shipped")
    [copy] = await post.told(resend_of=row.id)
    assert copy.state == "FAILED"


@pytest.fixture
def _command_settings(settings: Settings, clean_database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("_command_settings")
def test_the_command_sends_again(settings: Settings, owner_connection: Any, admin: Actor) -> None:
    async def ordered() -> Any:
        database = Database(settings, pool_size=1)
        try:
            return (await OrderService(database).create(order_create(), admin))["id"]
        finally:
            await database.close()

    order_id = asyncio.run(ordered())
    [message_id] = owner_connection.execute(
        "INSERT INTO notifications (source_key, template, recipient, entity_id, order_id, message_id, subject)"
        " VALUES ('x', 'order_shipped', 'ada@example.com', %s, %s, '<1@a.example>', 's')"
        " RETURNING id",
        (order_id, order_id),
    ).fetchone()
    owner_connection.execute("UPDATE notifications SET state = 'REJECTED'")
    words = ["notifications", "resend", str(message_id)]
    result = CliRunner().invoke(cli, [*words, "--to", "ada@example.org", "--by", "Grace"])
    assert result.exit_code == 0, result.output
    assert "due: order_shipped to ada@example.org" in result.output
    assert f"this message only; later ones go to the order's address: PATCH /api/v1/orders/{order_id}" in result.output
    assert "customer_email" in result.output
    assert CliRunner().invoke(cli, [*words, "--by", "\x1b[2J"]).exit_code == 2
    assert CliRunner().invoke(cli, [*words, "--to", "nobody"]).exit_code != 0
    rows_found = owner_connection.execute(
        "SELECT recipient, requested_operator, resend_of FROM notifications WHERE resend_of IS NOT NULL"
    ).fetchall()
    assert rows_found == [("ada@example.org", "Grace", message_id)]
    again = CliRunner().invoke(cli, words)
    assert (again.exit_code, "this message only" in again.output) == (0, False)
