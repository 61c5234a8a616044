"""Mail, SMS and chat on a real database: each once, and none waits for another or is repeated because of it."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

from alembic import command
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Channel, OrderStatus
from app.database import Database
from app.models.order import Order
from app.services.jobs.service import JobKind, LeaseLostError
from app.services.notifications import rows as notification_rows
from app.services.notifications.parts import phone_of
from app.services.notifications.rows import NewRow
from app.services.operations.dead_letters import DeadLetterService
from app.services.orders.service import OrderService
from app.services.payments.webhooks import WebhookVerifier
from app.utils.email_sender import MailUnavailable
from app.utils.messages import MessageDelayed, MessageRefused
from app.utils.outbound import DestinationRefusedError
from tests import databases
from tests.conftest import MovableClock
from tests.databases import TestServers, past_guard
from tests.integration.channels_support import PHONE, FakeChannel, Post, only, shipped
from tests.integration.jobs_support import add_job, claim, execute, job_of, order_in, refund_of, rows, settle

pytestmark = pytest.mark.req("REQ-006")


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


@pytest.mark.req("REQ-006.5")
async def test_a_shipping_is_sent_by_mail_and_by_sms_once_each(
    post: Post, database: Database, orders: OrderService, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    order = await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    for _ in range(3):
        await post.deliver()
        # As if the jobs came back: rows set back by hand.
        set_back = "UPDATE jobs SET state = 'PENDING', finished_at = NULL WHERE state = 'SUCCEEDED'"
        past_guard(owner_connection, "jobs", "guard_ended_job", set_back)
    [mail] = post.mails.sent
    [sms] = post.sms.sent
    assert (mail.recipient, sms.recipient) == (order["customer_email"], PHONE)
    assert order["order_number"] in sms.text
    assert post.chat.tried == []
    by_mail, by_sms = await post.told()
    assert by_mail.source_key == by_sms.source_key
    assert (by_mail.channel, by_sms.channel) == ("EMAIL", "SMS")
    assert {row.state for row in (by_mail, by_sms)} == {"SENT"}
    assert {row.order_id for row in (by_mail, by_sms)} == {order["id"]}
    assert (by_sms.recipient, by_sms.template, by_sms.message_id) == (PHONE, "order_shipped", str(by_sms.id))
    assert by_sms.subject == sms.text


async def test_delivery_and_refund_are_sent_by_sms_too(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await order_in(orders, admin, OrderStatus.DELIVERED, metadata={"phone": PHONE})
    cancelled = await order_in(orders, admin, OrderStatus.CANCELLED, metadata={"phone": PHONE})
    await settle(database, (await refund_of(database, cancelled["id"])).id)
    await post.deliver()
    assert sorted(message.template for message in post.sms.sent) == [
        "order_delivered",
        "order_shipped",
        "refund_processed",
    ]
    assert {message.recipient for message in post.sms.sent} == {PHONE}


@pytest.mark.parametrize(
    ("phone", "valid"),
    [
        (PHONE, True), ("+1234567", True), ("+123456789012345", True), (None, False), ("", False),
        ("0612345678", False), ("+0612345678", False), ("+123456", False),
        ("+1234567890123456", False), (33612345678, False), (["+33612345678"], False), ("+33612345678\n", False),
        ("+٣٣٦١٢٣٤٥٦٧٨", False), ("tel:+33612345678", False),
    ],
)  # fmt: skip
def test_a_number_is_one_in_e164(phone: object, valid: bool) -> None:  # noqa: FBT001
    assert phone_of(Order(details={"phone": phone})) == (phone if valid else None)


@pytest.mark.parametrize("phone", ["+33 6 12 34 56 78", "+33 (6) 12-34-56-78", "+33.6.12.34.56.78"])
def test_what_separates_its_digits_is_left_out(phone: str) -> None:
    assert phone_of(Order(details={"phone": phone})) == "+33612345678"
    assert phone_of(Order(customer_phone=phone, details={"phone": "+49301234567"})) == "+33612345678"


async def test_without_a_number_there_is_no_sms(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin, "06 12 34 56 78")
    await post.deliver()
    assert post.sms.tried == []
    assert len(post.mails.sent) == 3
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind LIKE 'sms.%'") == []


async def test_a_mail_server_that_is_away_holds_up_no_sms(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.mails.faults = [MailUnavailable("away") for _ in range(3)]
    await post.deliver()
    assert (len(post.mails.sent), len(post.sms.sent)) == (0, 1)
    await post.exhaust("notify.order_shipped")
    assert (len(post.mails.tried), len(post.mails.sent), len(post.sms.tried)) == (4, 1, 1)
    assert [(row.channel, row.state, row.attempts) for row in await post.told()] == [
        ("EMAIL", "SENT", 4),
        ("SMS", "SENT", 1),
    ]


@pytest.mark.req("REQ-006.5", "REQ-006.6")
async def test_an_sms_service_that_is_away_leaves_the_mail_alone(
    post: Post, database: Database, settings: Settings, orders: OrderService, admin: Actor
) -> None:
    """Until its last retry; then operations hear of it by mail and chat, and a person has it tried again."""
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    tries = settings.notification_retries + 1
    post.sms.faults = [MessageDelayed("the receiver answered 503") for _ in range(tries)]
    await post.deliver("notify.order_shipped")
    await post.exhaust("sms.")
    assert (len(post.mails.sent), len(post.sms.tried), post.sms.sent) == (1, tries, [])
    [row] = await post.told(channel="SMS")
    assert (row.state, row.attempts, row.sent_at) == ("FAILED", tries, None)
    assert row.last_error == "MessageDelayed: the receiver answered 503"
    await post.deliver()
    assert post.mails.sent[1].recipient == settings.operations_email
    assert [message.template for message in post.chat.sent] == ["job_failed"]
    assert "sms.order_shipped" in post.chat.sent[0].text

    letters = DeadLetterService(database)
    [dead] = await rows(database, "SELECT id FROM dead_letters")
    await letters.retry(dead.id, admin)
    await post.deliver()
    assert {message.id for message in post.sms.tried} == {row.id}
    assert len(post.sms.sent) == 1
    [row] = await post.told(channel="SMS")
    assert (row.state, row.attempts, row.last_error) == ("SENT", tries + 1, None)
    assert len(post.mails.sent) == 2, "the shipping mail was not repeated"


async def test_a_copy_after_a_crash_carries_the_same_id(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    """Dying between the webhook's answer and our commit: the receiver can drop the second by its id."""
    order = await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    await post.deliver("notify.")
    job_id = await job_of(database, order["id"], JobKind.SMS_ORDER_SHIPPED)
    held = await claim(database, job_id)
    await execute(database, "UPDATE jobs SET fence = fence + 1 WHERE id = :id", id=job_id)
    with pytest.raises(LeaseLostError):
        await post.bench.notifications.send(held)
    assert [row.state for row in await post.told(channel="SMS")] == ["PENDING"]
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :id", id=job_id)
    await post.bench.notifications.send(await claim(database, job_id))
    assert len(post.sms.sent) == 2
    assert len({message.id for message in post.sms.sent}) == len({message.created_at for message in post.sms.sent}) == 1
    assert [(row.state, row.attempts) for row in await post.told(channel="SMS")] == [("SENT", 1)]


async def test_dying_before_the_row_of_the_mail_leaves_no_sms_behind_either(
    post: Post, database: Database, orders: OrderService, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the mail and the job of the SMS are there together, or neither is."""
    order = await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    held = await claim(database, await job_of(database, order["id"], JobKind.NOTIFY_ORDER_SHIPPED))

    with monkeypatch.context() as patched:
        # The table has a list of the queues.
        patched.setattr("app.services.notifications.opening.queue_of", lambda _: "none")
        with pytest.raises(IntegrityError):
            await post.bench.notifications.send(held)
    assert await post.told() == []
    await post.bench.notifications.send(held)
    await post.deliver()
    assert (len(post.mails.sent), len(post.sms.sent)) == (1, 1)


async def test_a_message_refused_permanently_is_done(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.sms.faults = [MessageRefused("the receiver answered 422")]
    await post.deliver()
    told = await post.told(template="order_shipped")
    assert [(row.channel, row.state) for row in told] == [("EMAIL", "SENT"), ("SMS", "REJECTED")]
    assert await rows(database, "SELECT 1 FROM jobs WHERE state NOT IN ('SUCCEEDED', 'DISMISSED')") == []


async def test_an_address_that_may_not_be_called_waits_for_a_person_at_once(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.sms.faults = [DestinationRefusedError("sms.example is at an address that may not be called")]
    await post.deliver()
    [row] = await post.told(channel="SMS")
    assert (row.state, row.attempts) == ("FAILED", 1)
    assert len(await rows(database, "SELECT 1 FROM dead_letters")) == 1
    assert len(post.sms.tried) == 1


async def test_channels_that_are_off_make_no_jobs_and_end_those_that_are_left(
    settings: Settings,
    database: Database,
    clock: MovableClock,
    orders: OrderService,
    admin: Actor,
    owner_connection: psycopg.Connection,
) -> None:
    off = Post(settings, database, clock)
    order = await shipped(orders, admin)
    await off.deliver()
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind ~ '^(sms|chat)'") == []
    await add_job(database, JobKind.SMS_ORDER_SHIPPED, order["id"], "left from before")
    await off.deliver()
    assert await off.told(channel="SMS") == []
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind LIKE 'sms.%' AND state <> 'SUCCEEDED'") == []
    # A channel that is switched on later does not repeat old mails.
    on = Post(settings, database, clock, SMS=FakeChannel())
    set_back = "UPDATE jobs SET state = 'PENDING', finished_at = NULL WHERE kind LIKE 'notify.%'"
    past_guard(owner_connection, "jobs", "guard_ended_job", set_back)
    await on.deliver()
    assert on.sms.tried == []


async def test_a_row_is_that_of_its_channel(database: Database, clock: MovableClock) -> None:
    mail = NewRow(
        id=uuid4(), source_key="event", template="job_failed", recipient="operations", channel=Channel.EMAIL,
        entity_id=uuid4(), order_id=None, message_id="x", subject="x", created_at=clock(),
    )  # fmt: skip
    chat = replace(mail, id=uuid4(), channel=Channel.CHAT)
    async with database.transaction() as session:
        first = [(await notification_rows.opened(session, new)).id for new in (mail, chat)]
    async with database.transaction() as session:
        again = [await notification_rows.opened(session, replace(new, id=uuid4())) for new in (chat, mail)]
    assert first == [mail.id, chat.id]
    assert [(row.id, row.is_new) for row in again] == [(chat.id, False), (mail.id, False)]


# --- over the wire, and over the years -------------------------------------------------------------------------


async def test_a_webhook_arrives_signed_at_a_real_server(
    settings: Settings, database: Database, clock: MovableClock, orders: OrderService, admin: Actor
) -> None:
    received: list[tuple[dict[str, str], bytes]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in head.split("\r\n")[1:] if row)}
        received.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = "503 Busy" if len(received) == 1 else "204 Fine"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/sms"
    on = settings.model_copy(update={"sms_adapter": "webhook", "sms_webhook_url": SecretStr(url)})
    post = Post(on, database, clock)
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    for _ in range(3):
        await post.deliver()
    listener.close()
    [row] = await post.told(channel="SMS")
    assert (row.state, row.attempts) == ("SENT", 2)
    assert {headers["webhook-id"] for headers, _ in received} == {str(row.id)}
    assert json.loads(received[1][1])["data"]["recipient"] == PHONE
    for headers, body in received:
        # Our own reading of the gateway's webhooks proves the signature, then finds that this is no such event.
        secret = on.channel_webhook_secret.get_secret_value()
        verifier = WebhookVerifier(secret, timedelta(minutes=5), clock)
        assert verifier.proven(verifier.claimed(headers), body).object is None


@pytest.fixture
def older_database(servers: TestServers) -> Iterator[str]:
    """URL, as owner, of a database as it was before there were channels."""
    name = f"{servers.template}_{uuid4().hex[:8]}"
    databases.create_database(servers, name, servers.template)
    url = databases.url_of(servers.owner_url, name)
    command.downgrade(databases.alembic_config(url, servers.app_url), "0006")
    yield url
    databases.drop_database(servers, name)


@pytest.mark.req("DEV")
def test_mails_of_before_find_their_order_and_their_channel(servers: TestServers, older_database: str) -> None:
    with psycopg.connect(older_database, autocommit=True) as connection:
        [order_id] = connection.execute(
            "INSERT INTO orders (order_number, customer_id, customer_email, subtotal_amount, tax_amount,"
            " shipping_amount, total_amount, payment_method, shipping_address, billing_address)"
            " VALUES ('ORD-2026-000001', uuid7(), 'a@b.example', 1, 0, 0, 1, 'card', '{}', '{}') RETURNING id"
        ).fetchone() or [None]
        for key, entity_id in (("old:1", order_id), ("old:2", uuid4())):
            connection.execute(
                "INSERT INTO notifications (source_key, template, recipient, entity_id, message_id, subject)"
                " VALUES (%s, 'order_shipped', 'a@b.example', %s, '<1@a.example>', 'x')",
                (key, entity_id),
            )
    command.upgrade(databases.alembic_config(older_database, servers.app_url), "head")
    with psycopg.connect(older_database, autocommit=True) as connection:
        found = connection.execute("SELECT channel, order_id FROM notifications ORDER BY source_key").fetchall()
        assert found == [("EMAIL", order_id), ("EMAIL", None)]
        connection.execute(
            "INSERT INTO notifications (source_key, template, recipient, channel, entity_id, message_id, subject)"
            " VALUES ('old:1', 'order_shipped', 'a@b.example', 'CHAT', uuid7(), 'x', 'x')"
        )
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                "INSERT INTO notifications (source_key, template, recipient, entity_id, message_id, subject)"
                " VALUES ('old:1', 'order_shipped', 'a@b.example', uuid7(), 'x', 'x')"
            )
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("UPDATE notifications SET channel = 'PIGEON'")
