"""The shop's mail server is not for strangers: what callers write does not reach people who did not ask for it."""

import httpx2
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from tests.conftest import MovableClock
from tests.factories import order_payload
from tests.integration.channels_support import PHONE, FakeChannel, Post
from tests.integration.jobs_support import add_job, order_in, rows

pytestmark = [pytest.mark.req("REQ-006", "NFR-004"), pytest.mark.security]


async def test_an_order_with_an_address_that_cannot_be_sent_to_is_422(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/v1/orders", json=order_payload(customer_email="ada..b@docomo.example"))
    assert answer.status_code == 422
    [fault] = answer.json()["error"]["details"]
    assert fault["field"] == "customer_email"
    kept = await api.post("/api/v1/orders", json=order_payload(customer_email="ada@bücher.example"))
    assert kept.json()["customer_email"] == "ada@xn--bcher-kva.example"


LINK = "https://evil.example/win"


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


@pytest.mark.req("REQ-006.1")
async def test_cancelling_an_unpaid_order_sends_no_message(
    api: httpx2.AsyncClient, post: Post, database: Database
) -> None:
    for _ in range(5):
        payload = order_payload(customer_name=LINK, customer_email="stranger@example.net", metadata={"phone": PHONE})
        order = (await api.post("/api/v1/orders", json=payload)).json()
        await api.post(f"/api/v1/orders/{order['id']}/cancel", json={"reason": f"You won, see {LINK}"})
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind LIKE 'notify.%' OR kind LIKE 'sms.%'") == []
    # A job that an earlier release made due.
    await add_job(database, JobKind.NOTIFY_ORDER_CANCELLED, order["id"])
    await post.deliver()
    assert post.mails.tried == []
    assert post.sms.tried == []


async def test_what_a_customer_typed_does_not_reach_the_address_they_gave(
    post: Post, database: Database, orders: OrderService, returns: ReturnService, admin: Actor
) -> None:
    typed = {"customer_name": f"Click {LINK}", "customer_email": "stranger@example.net", "metadata": {"phone": PHONE}}
    delivered = await order_in(orders, admin, OrderStatus.DELIVERED, **typed)
    wish = ReturnCreate(order_id=delivered["id"], reason=f"See {LINK}", customer_notes=f"Or {LINK}")
    request = await returns.create(wish, admin)
    await order_in(orders, admin, OrderStatus.CANCELLED, **typed)
    await post.deliver()
    told = [mail for mail in post.mails.sent if mail.recipient == "stranger@example.net"]
    assert len(told) == 6
    for mail in told:
        assert not any(link in mail.text + mail.html + mail.subject for link in ("evil.example", "https:"))
        assert mail.text.startswith("Hello,\n")
    assert len(post.sms.sent) == 2
    assert not any("evil" in message.text for message in post.sms.sent)
    about_returns = [mail for mail in post.mails.sent if "return" in mail.subject.lower()]
    assert len(about_returns) == 2
    assert all(
        request["return_number"] in mail.text and request["return_number"] in mail.html for mail in about_returns
    )
