"""What operations are sent, by mail and in chat: of everything internal, and of a gateway that needs a person."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel
from app.schemas.return_request import ReturnCreate
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.jobs.sweeps import SweepService
from app.services.orders.service import OrderService
from app.services.payments.gateway.port import GatewayRefund
from app.services.payments.service import TOLD_BY_MAIL
from app.services.returns.service import ReturnService
from app.utils.email_sender import MailUnavailable
from app.utils.messages import MessageDelayed
from tests.conftest import MovableClock
from tests.fakes import CREATED
from tests.integration.channels_support import FakeChannel, Post, only
from tests.integration.jobs_support import add_job, claim, execute, order_in, refund_of, rows, settle
from tests.integration.money_support import Shop

pytestmark = pytest.mark.req("REQ-006")


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


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


async def test_chat_that_is_out_of_order_is_reported_by_mail_alone_and_that_ends(
    post: Post, database: Database, settings: Settings
) -> None:
    held = await claim(database, await add_job(database, JobKind.PROCESS_REFUND, uuid4()))
    post.chat.faults = [MessageDelayed("no connection") for _ in range(100)]
    async with database.transaction() as session:
        await job_service.dead_letter(session, held, "GatewayDeclined: no")
    for _ in range(20):
        await post.deliver()
    assert len(post.chat.tried) == settings.notification_retries + 1
    assert ["refund.process" in mail.subject for mail in post.mails.sent] == [True, False]
    assert "chat.job_failed" in post.mails.sent[1].subject
    assert await rows(database, "SELECT 1 FROM jobs WHERE state = 'PENDING'") == []


async def test_mail_that_is_out_of_order_is_reported_in_chat(
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
async def test_a_payment_of_another_amount_is_reported_to_operations_once(
    post: Post, shop: Shop, database: Database, settings: Settings
) -> None:
    order = await shop.ordered()
    lie = replace(shop.charged(order), captured_amount=Decimal("10.00"))
    outcomes = await asyncio.gather(*(shop.tell("payment.captured", lie, "evt_lie") for _ in range(5)))
    assert sorted(outcomes) == ["AMOUNT_MISMATCH", *["DUPLICATE"] * 4]
    for _ in range(2):
        await post.deliver()
    [mail] = post.mails.sent
    assert mail.recipient == settings.operations_email
    for fact in (order["order_number"], "evt_lie", "10.00", "341.10", lie.id, "Amount mismatch"):
        assert fact in mail.text
        assert fact in mail.html
    [chat] = post.chat.sent
    assert order["order_number"] in chat.text
    assert {(row.template, row.order_id) for row in await post.told()} == {("case", order["id"])}


@pytest.mark.req("INT-001")
async def test_every_outcome_that_needs_a_person_reaches_one(post: Post, shop: Shop, database: Database) -> None:
    """Each brought about as the gateway would; those that need no person make no alert."""
    order = await shop.ordered()
    payment = shop.charged(order)
    assert await shop.tell("payment.captured", payment) == "PAID"
    assert await shop.tell("payment.captured", payment) == "ALREADY_CAPTURED"
    assert await alerts(database) == []
    assert await asked(database) == []
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
    assert sorted(await alerts(database)) == sorted(TOLD_BY_MAIL)
    kinds = ["AMOUNT_MISMATCH", "REFUND_REVERSED", "SECOND_PAYMENT", "SECOND_REFUND", "UNKNOWN_REFERENCE"]
    assert await asked(database) == kinds
    await post.deliver("notify.gateway_event")
    await post.deliver("notify.case")
    await post.deliver("chat.")
    number = len(TOLD_BY_MAIL) + len(kinds)
    assert len(post.mails.sent) == len(post.chat.sent) == number
    assert len({mail.subject for mail in post.mails.sent}) == number


async def asked(database: Database) -> list[str]:
    """Return the kinds of the cases that are open."""
    return [row.kind for row in await rows(database, "SELECT kind FROM cases WHERE state = 'OPEN' ORDER BY kind")]


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

    monkeypatch.setattr("app.services.cases.service.job_service.add", dies)
    with pytest.raises(RuntimeError):
        await shop.tell("payment.captured", lie)
    assert await rows(database, "SELECT 1 FROM gateway_events") == []
