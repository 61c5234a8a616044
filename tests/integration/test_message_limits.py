"""Beyond a limit a message is recorded and not sent; papers about money always go (NFR-004, REQ-006)."""

from uuid import uuid4

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import ActorType, OrderStatus, Role, Trigger
from app.database import Database
from app.models.notification import Notification
from app.schemas.order import OrderStateUpdate
from app.services.notifications.kinds import KINDS
from app.services.orders.service import OrderService
from app.utils.email_sender import MailUnavailable
from tests.conftest import MovableClock
from tests.factories import order_create
from tests.integration.channels_support import PHONE, FakeChannel, Post
from tests.integration.jobs_support import order_in, refund_of, rows, settle

pytestmark = [pytest.mark.req("REQ-006", "NFR-004"), pytest.mark.security]

STRANGER = "stranger@example.net"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"messages_per_recipient_per_hour": 3, "messages_per_customer_per_hour": 4})


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


async def paid(orders: OrderService, admin: Actor, number: int, *, by: Actor | None = None, **fields: object) -> None:
    """Make so many paid orders."""
    for _ in range(number):
        order = await orders.create(order_create(**fields), by or admin)
        await orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), admin)


def told_to_customers(post: Post) -> list[str]:
    return [mail.recipient for mail in post.mails.sent if mail.recipient != "warehouse@articurated.example"]


async def test_one_recipient_gets_so_many_messages_an_hour(
    post: Post, database: Database, orders: OrderService, admin: Actor, clock: MovableClock
) -> None:
    await paid(orders, admin, 3, customer_email=STRANGER)
    await paid(orders, admin, 2, customer_email=STRANGER.upper().replace("NET", "net"))
    await paid(orders, admin, 1, customer_email="other@example.net")
    await post.deliver("notify.order")
    told = await post.told(template="order_confirmation")
    assert sorted(row.state for row in told) == ["SENT"] * 4 + ["SUPPRESSED"] * 2
    suppressed = [row for row in told if row.state == "SUPPRESSED"]
    assert {row.last_error for row in suppressed} == {"more than 3 messages to this recipient within an hour"}
    assert {(row.attempts, row.sent_at) for row in suppressed} == {(0, None)}
    assert len(told_to_customers(post)) == 4
    # One case for the recipient and the day, for any number.
    [case] = await rows(database, "SELECT kind, evidence FROM cases")
    assert case.kind == "UNDELIVERABLE_MESSAGE"
    assert case.evidence["error"] == "more than 3 messages to this recipient within an hour"
    assert STRANGER not in str(case.evidence)
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind LIKE 'notify.order%' AND state <> 'SUCCEEDED'") == []
    clock.advance(hours=1, seconds=1)
    await paid(orders, admin, 1, customer_email=STRANGER)
    await post.deliver("notify.order")
    assert len(told_to_customers(post)) == 5


async def test_the_limit_holds_for_sms_by_itself(post: Post, orders: OrderService, admin: Actor) -> None:
    for number in range(4):
        await order_in(
            orders, admin, OrderStatus.SHIPPED, customer_email=f"a{number}@example.net", metadata={"phone": PHONE}
        )
    await post.deliver()
    assert sorted(row.state for row in await post.told(channel="SMS")) == ["SENT"] * 3 + ["SUPPRESSED"]


async def test_orders_that_a_customer_placed_cause_so_many_messages_an_hour(
    post: Post, orders: OrderService, admin: Actor
) -> None:
    customer_id = uuid4()
    customer = Actor(
        id=uuid4(), type=ActorType.USER, trigger=Trigger.API_CALL, role=Role.CUSTOMER, customer_id=customer_id
    )
    for number in range(5):
        await paid(orders, admin, 1, by=customer, customer_id=customer_id, customer_email=f"a{number}@example.net")
    # The same customer, served by staff.
    await paid(orders, admin, 1, customer_id=customer_id, customer_email="b@example.net")
    await post.deliver("notify.order")
    told = await post.told(template="order_confirmation")
    assert sorted(row.state for row in told) == ["SENT"] * 5 + ["SUPPRESSED"]
    assert [row.last_error for row in told if row.state == "SUPPRESSED"] == [
        "more than 4 messages of this customer's orders within an hour"
    ]
    assert [row.customer_id for row in told].count(customer_id) == 5


async def test_staff_and_papers_about_money_are_not_limited(
    post: Post, database: Database, orders: OrderService, admin: Actor
) -> None:
    for _ in range(4):
        cancelled = await order_in(orders, admin, OrderStatus.CANCELLED, customer_email=STRANGER)
        await settle(database, (await refund_of(database, cancelled["id"])).id)
    await paid(orders, admin, 4, customer_email="other@example.net")
    await post.deliver()
    by_template = {row.template: 0 for row in await post.told(state="SENT")}
    for row in await post.told(state="SENT", channel="EMAIL"):
        by_template[row.template] += 1
    assert by_template["refund_processed"] == 4
    assert by_template["warehouse_order_ready"] == 4
    unlimited = {name for name, kind in KINDS.items() if not kind.is_limited}
    assert unlimited == {"invoice", "credit_note", "refund_processed"}
    assert {row.template for row in await post.told(state="SUPPRESSED")} <= {"order_confirmation", "order_cancelled"}


async def test_a_message_counts_once_however_often_it_is_tried(post: Post, orders: OrderService, admin: Actor) -> None:
    await paid(orders, admin, 3, customer_email=STRANGER)
    post.mails.faults = [MailUnavailable("away") for _ in range(6)]
    await post.exhaust("notify.order")
    assert {row.state for row in await post.told(template="order_confirmation")} == {"SENT"}


def test_the_recipient_is_found_by_an_index() -> None:
    named = {index.name for index in Notification.__table__.indexes}  # type: ignore[attr-defined]
    assert {"ix_notifications_recipient", "ix_notifications_customer"} <= named
