"""Mail, SMS and chat on a real database: each once, and none waits for another or is repeated because of it."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr

from alembic import command
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Channel, OrderStatus
from app.database import Database
from app.models.order import Order
from app.schemas.order import OrderCancel
from app.schemas.return_request import ReturnCreate
from app.services import job_service, notification_rows
from app.services.dead_letter_service import DeadLetterService
from app.services.gateway_webhooks import WebhookPayloadError, verify_webhook
from app.services.job_service import JobKind, LeaseLostError
from app.services.mail_scene import phone_of
from app.services.notification_rows import NewRow
from app.services.order_service import OrderService
from app.services.payment_gateway import GatewayRefund
from app.services.payment_service import NEEDS_A_PERSON
from app.services.return_service import ReturnService
from app.services.sweep_service import SweepService
from app.tasks.workbench import Workbench
from app.utils.email_sender import MailUnavailable
from app.utils.messages import Message, MessageDelayed, MessageRefused
from app.utils.outbound import DestinationRefusedError
from tests import databases
from tests.conftest import MovableClock
from tests.databases import TestServers, past_guard
from tests.fakes import CREATED
from tests.integration.jobs_support import (
    FakeMailSender,
    add_job,
    claim,
    execute,
    job_of,
    order_in,
    refund_of,
    rows,
    settle,
)
from tests.integration.money_support import Shop

pytestmark = pytest.mark.req("REQ-006")

PHONE = "+33612345678"


@dataclass
class FakeChannel:
    """Keeps the messages; raises what it is told to, once each."""

    faults: list[Exception] = field(default_factory=list)
    tried: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        """Take a message."""
        self.tried.append(message)
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(message)


class Post:
    """The three channels over one database, and a worker that does what is due, whatever its time."""

    def __init__(self, settings: Settings, database: Database, clock: MovableClock, **channels: FakeChannel) -> None:
        self.database = database
        self.mails = FakeMailSender()
        self.sms, self.chat = channels.get("SMS", FakeChannel()), channels.get("CHAT", FakeChannel())
        self.bench = Workbench(
            settings, database=database, clock=clock, mail_sender=self.mails, channels=channels or None
        )
        self.runner = self.bench.runner("tester")

    async def deliver(self, prefix: str = "") -> None:
        """Do every message job whose kind begins with `prefix`, and what they make due, each once."""
        done: set[UUID] = set()
        while True:
            await execute(self.database, "UPDATE jobs SET run_at = now() WHERE state IN ('PENDING', 'PUBLISHED')")
            due = await rows(
                self.database,
                "SELECT id FROM jobs WHERE state = 'PENDING' AND kind ~ :kinds AND kind LIKE :prefix ORDER BY id",
                kinds=r"^(notify|sms|chat)\.",
                prefix=f"{prefix}%",
            )
            if not (ids := [row.id for row in due if row.id not in done]):
                return
            for job_id in ids:
                done.add(job_id)
                await self.runner.run(job_id)

    async def exhaust(self, prefix: str) -> None:
        """Do them again and again, until all are done or dead."""
        while await rows(
            self.database, "SELECT 1 FROM jobs WHERE kind LIKE :prefix AND state = 'PENDING'", prefix=f"{prefix}%"
        ):
            await self.deliver(prefix)

    async def told(self, **where: Any) -> list[Any]:
        """Return the rows of messages, by channel."""
        condition = " AND ".join(f"{name} = :{name}" for name in where) or "true"
        return await rows(self.database, f"SELECT * FROM notifications WHERE {condition} ORDER BY channel, id", **where)


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


async def shipped(orders: OrderService, by: Actor, phone: object = PHONE) -> dict[str, Any]:
    """Return a shipped order whose metadata has a phone number; only its shipping is yet to be told."""
    return await order_in(orders, by, OrderStatus.SHIPPED, metadata={"phone": phone})


async def only(database: Database, kind: JobKind) -> None:
    """Leave of all jobs those of one kind."""
    await execute(database, "UPDATE jobs SET state = 'DISMISSED' WHERE kind <> :kind", kind=kind.value)


@pytest.mark.req("REQ-006.5")
async def test_a_shipping_is_told_by_mail_and_by_sms_once_each(
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
    assert (mail.to, sms.recipient) == (order["customer_email"], PHONE)
    assert order["order_number"] in sms.text
    assert post.chat.tried == []
    by_mail, by_sms = await post.told()
    assert by_mail.source_key == by_sms.source_key
    assert (by_mail.channel, by_sms.channel) == ("EMAIL", "SMS")
    assert {row.state for row in (by_mail, by_sms)} == {"SENT"}
    assert {row.order_id for row in (by_mail, by_sms)} == {order["id"]}
    assert (by_sms.recipient, by_sms.template, by_sms.message_id) == (PHONE, "order_shipped", str(by_sms.id))
    assert by_sms.subject == sms.text


async def test_delivery_and_refund_are_told_by_sms_too(
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
        ("0612345678", False), ("+0612345678", False), ("+33 6 12 34 56", False), ("+123456", False),
        ("+1234567890123456", False), (33612345678, False), (["+33612345678"], False), ("+33612345678\n", False),
        ("+٣٣٦١٢٣٤٥٦٧٨", False), ("tel:+33612345678", False),
    ],
)  # fmt: skip
def test_a_number_is_one_in_e164(phone: object, valid: bool) -> None:  # noqa: FBT001
    assert phone_of(Order(details={"phone": phone})) == (phone if valid else None)


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
    assert post.mails.sent[1].to == settings.operations_email
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

    async def dies(*_: object) -> bool:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr("app.services.notification_service.job_service.add", dies)
        with pytest.raises(RuntimeError):
            await post.bench.notifications.send(held)
    assert await post.told() == []
    await post.bench.notifications.send(held)
    await post.deliver()
    assert (len(post.mails.sent), len(post.sms.sent)) == (1, 1)


async def test_a_message_refused_for_good_is_done(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await shipped(orders, admin)
    await only(database, JobKind.NOTIFY_ORDER_SHIPPED)
    post.sms.faults = [MessageRefused("the receiver answered 422")]
    await post.deliver()
    assert [(row.channel, row.state) for row in await post.told()] == [("EMAIL", "SENT"), ("SMS", "REJECTED")]
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
    # Switched on later, nobody is told of what was told by mail long ago.
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


# --- internal alerts -------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-006.2", "REQ-006.5")
async def test_operations_hear_of_everything_internal_in_chat_without_anyones_data(
    post: Post,
    database: Database,
    settings: Settings,
    orders: OrderService,
    returns: ReturnService,
    admin: Actor,
    clock: MovableClock,
) -> None:
    clock.now = clock.now.replace(hour=12) - timedelta(days=2)
    order = await order_in(orders, admin, OrderStatus.DELIVERED, customer_name="Zacharias Quux")
    await returns.create(ReturnCreate(order_id=order["id"], reason="Blemished"), admin)
    clock.advance(hours=25)
    sweeps = SweepService(database, settings, clock)
    assert await sweeps.remind_reviewers(10) == 1
    assert await sweeps.summarise_yesterday()
    await add_job(database, JobKind.PROCESS_REFUND, uuid4(), "dies")
    await execute(database, "UPDATE jobs SET claims = 99 WHERE dedupe_key = 'dies'")
    [dying] = await rows(database, "SELECT id FROM jobs WHERE dedupe_key = 'dies'")
    await post.runner.run(dying.id)
    for _ in range(2):
        await post.deliver()
    told = {message.template: message for message in post.chat.sent}
    assert sorted(told) == ["daily_summary", "job_failed", "return_review_overdue"]
    assert len(post.chat.sent) == len(told)
    assert order["order_number"] in told["return_review_overdue"].text
    for message in post.chat.sent:
        assert message.recipient == "operations"
        for word in ("Zacharias", "Quux", "@", "Blemished", "Atelier"):
            assert word not in message.text


async def test_chat_that_is_out_of_order_is_told_by_mail_alone_and_that_ends(
    post: Post, database: Database, settings: Settings
) -> None:
    held = await claim(database, await add_job(database, JobKind.PROCESS_REFUND, uuid4()))
    post.chat.faults = [MessageDelayed("no connection") for _ in range(100)]
    async with database.transaction() as session:
        await job_service.bury(session, held, "GatewayDeclined: no")
    for _ in range(20):
        await post.deliver()
    assert len(post.chat.tried) == settings.notification_retries + 1
    assert ["refund.process" in mail.subject for mail in post.mails.sent] == [True, False]
    assert "chat.job_failed" in post.mails.sent[1].subject
    assert await rows(database, "SELECT 1 FROM jobs WHERE state = 'PENDING'") == []


async def test_mail_that_is_out_of_order_is_told_in_chat(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    await order_in(orders, admin, OrderStatus.PAID)
    await only(database, JobKind.NOTIFY_ORDER_CONFIRMATION)
    post.mails.faults = [MailUnavailable("away") for _ in range(100)]
    for _ in range(20):
        await post.deliver()
    assert post.mails.sent == []
    assert [message.template for message in post.chat.sent] == ["job_failed"]
    assert "notify.order_confirmation" in post.chat.sent[0].text
    assert {row.state for row in await post.told(channel="EMAIL")} == {"FAILED"}


# --- the gateway -----------------------------------------------------------------------------------------------


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.mark.req("INT-001")
async def test_a_payment_of_another_amount_is_told_to_operations_once(
    post: Post, shop: Shop, database: Database, settings: Settings
) -> None:
    order = await shop.ordered()
    lie = replace(shop.charged(order), captured_amount=Decimal("10.00"))
    outcomes = await asyncio.gather(*(shop.tell("payment.captured", lie, "evt_lie") for _ in range(5)))
    assert sorted(outcomes) == ["AMOUNT_MISMATCH", *["DUPLICATE"] * 4]
    for _ in range(2):
        await post.deliver()
    [mail] = post.mails.sent
    assert mail.to == settings.operations_email
    for fact in (order["order_number"], "evt_lie", "$10.00", "$341.10", lie.id, "Amount mismatch"):
        assert fact in mail.text
        assert fact in mail.html
    [chat] = post.chat.sent
    assert order["order_number"] in chat.text
    assert {(row.template, row.order_id) for row in await post.told()} == {("gateway_event", order["id"])}


@pytest.mark.req("INT-001")
async def test_every_outcome_that_needs_a_person_reaches_one(post: Post, shop: Shop, database: Database) -> None:
    """Each brought about as the gateway would; those that need nobody make no alert."""
    order = await shop.ordered()
    payment = shop.charged(order)
    assert await shop.tell("payment.captured", payment) == "PAID"
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    assert await alerts(database) == []
    assert await shop.tell("payment.captured", replace(payment, id="pay_second")) == "SECOND_PAYMENT"
    assert await shop.tell("payment.captured", replace(payment, reference=uuid4())) == "UNKNOWN_REFERENCE"
    assert await shop.tell("payment.captured", replace(payment, currency="EUR")) == "AMOUNT_MISMATCH"
    cancelled = await order_in(shop.orders, shop.admin, OrderStatus.PENDING_PAYMENT)
    late = shop.charged(cancelled)
    await shop.orders.cancel(cancelled["id"], OrderCancel(), shop.admin)
    assert await shop.tell("payment.captured", late) == "PAID_AFTER_CANCEL"
    refund = await refund_of(database, cancelled["id"])
    await settle(database, refund.id)
    paid = GatewayRefund(
        id="re_other", payment_id=late.id, reference=refund.id, status="succeeded", amount=refund.amount,
        currency=refund.currency, failure_code=None, created=CREATED,
    )  # fmt: skip
    assert await shop.tell("refund.succeeded", paid) == "SECOND_REFUND"
    recorded = replace(paid, id=(await refund_of(database, cancelled["id"])).gateway_refund_id)
    assert await shop.tell("refund.succeeded", recorded) == "ALREADY_SETTLED"
    assert await shop.tell("refund.failed", replace(recorded, status="failed")) == "REFUND_REVERSED"
    given_up = await shop.cancelled()
    shop.gateway.faults["refund"] = ["timeout_after"]
    await shop.work(given_up.id, refund_retries=0)
    [lost] = [known for known in shop.gateway.refunds.values() if known.reference == given_up.id]
    assert await shop.tell("refund.failed", replace(lost, status="failed")) == "REFUND_DUE_AGAIN"
    told = await alerts(database)
    assert sorted(told) == sorted(NEEDS_A_PERSON)
    await post.deliver("notify.gateway_event")
    await post.deliver("chat.")
    assert len(post.mails.sent) == len(post.chat.sent) == len(NEEDS_A_PERSON)
    assert len({mail.subject for mail in post.mails.sent}) == len(NEEDS_A_PERSON)


async def alerts(database: Database) -> list[str]:
    """Return the outcomes that an alert is due or sent for."""
    found = await rows(
        database,
        "SELECT g.outcome FROM jobs j JOIN gateway_events g ON g.id = j.payload ->> 'event_id'"
        " WHERE j.kind = 'notify.gateway_event'",
    )
    return [row.outcome for row in found]


async def test_an_event_that_is_not_stored_makes_no_alert(
    shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = replace(shop.charged(await shop.ordered()), currency="EUR")

    async def dies(*_: object) -> bool:
        raise RuntimeError

    monkeypatch.setattr("app.services.payment_service.job_service.add", dies)
    with pytest.raises(RuntimeError):
        await shop.tell("payment.captured", lie)
    assert await rows(database, "SELECT 1 FROM gateway_events") == []


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
        # Our own reading of the gateway's webhooks proves the signature, before it finds that this is no such event.
        with pytest.raises(WebhookPayloadError):
            verify_webhook(headers, body, on.channel_webhook_secret.get_secret_value(), clock(), timedelta(minutes=5))


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
