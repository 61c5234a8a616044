"""The customer who places an order chooses where its mails go: nothing that they typed is sent there (NFR-004)."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import httpx2
import pytest

from app.composition import Services
from app.config import Settings
from app.core.enums import Role
from app.database import Database
from app.main import create_app
from app.services.documents.invoices import InvoiceService
from app.services.jobs.service import JobKind
from app.services.notifications.kinds import KINDS
from app.utils.messages import Message
from app.utils.storage import storage_for
from tests.conftest import MovableClock, new_key
from tests.factories import order_payload
from tests.files_support import photo
from tests.integration.attachments_support import add
from tests.integration.channels_support import PHONE, FakeChannel, Post
from tests.integration.conftest import TO_DELIVERED, error_of
from tests.integration.jobs_support import FakeRenderer, claim_for, refund_of, rows, settle
from tests.integration.operations import all_operations, placed, texts_of

pytestmark = [pytest.mark.req("REQ-006", "NFR-004"), pytest.mark.security]

STRANGER = "stranger@example.net"
EXCEPTIONS = {
    "customer_name": "the greeting: at most 60 characters, without digits, links and addresses",
    "shipping_address.city": "where the order goes: at most 40 characters, without links and with two digits at most",
    "shipping_address.postal_code": "where the order goes: at most 10 letters and digits",
}
"""What a mail shows of what a customer typed, and why that is of no use to send a message to a stranger."""
OF_A_SERVICE = {
    "line_items.0.product_name": "the shop's own names of its articles: a customer does not write them",
    "line_items.0.sku": "the shop's own numbers of its articles",
}
"""What a mail shows besides, of an order that a service or the staff placed."""


OF_THE_STAFF = frozenset({"inspection", "deduction_reason"})
"""Fields of a step of a return that is never a customer's."""


class Markers:
    """A text of its own for each field, by which the field is recognised in a message."""

    def __init__(self) -> None:
        self.of_field: dict[str, str] = {}

    def of(self, field: str) -> str:
        """Return the text to type into a field: letters alone, as in a name; in a postal code with a digit."""
        if field not in self.of_field:
            number = len(self.of_field)
            marker = f"QZ{chr(65 + number // 26)}{chr(65 + number % 26)}X"
            self.of_field[field] = f"{marker}7" if field.endswith("postal_code") else marker
        return self.of_field[field]

    def body(self, operation_id: str, without: frozenset[str] = frozenset(), **fixed: Any) -> dict[str, Any]:
        """Return a body of an operation with a marker in each text not in `without`; `fixed` is laid over it."""
        [operation] = [each for each in all_operations() if each.id == operation_id]
        assert operation.body_schema is not None
        of_order = operation_id == "orders_create"
        body: dict[str, Any] = {}
        for path in texts_of(operation.body_schema):
            if path[0] not in without:
                field = ".".join(path if of_order else (operation_id, *path))
                merge(body, placed(path, self.of(field)))
        return merge(body, fixed)

    def in_messages(self, messages: Iterable[Message]) -> set[str]:
        """Return the fields whose text is in one of the messages."""
        seen = "".join(message.subject + message.text + message.html + str(message.recipient) for message in messages)
        return {field for field, marker in self.of_field.items() if marker.lower() in seen.lower()}


def merge(body: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add `more` to a body, in depth; of lists the first items are joined."""
    for name, value in more.items():
        held = body.get(name)
        if isinstance(held, dict) and isinstance(value, dict):
            merge(held, value)
        elif isinstance(held, list) and isinstance(value, list):
            merge(held[0], value[0])
        else:
            body[name] = value
    return body


class Customer:
    """A caller who types a marker into every field, and the staff who do their part."""

    def __init__(self, client: httpx2.AsyncClient, staff: httpx2.AsyncClient, customer_id: UUID) -> None:
        self.client, self.staff, self.customer_id = client, staff, customer_id
        self.markers = Markers()

    async def sent(self, client: httpx2.AsyncClient, method: str, path: str, body: Any) -> dict[str, Any]:
        """Return what the API answers to a request that it takes."""
        answer = await client.request(method, f"/api/v1{path}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def order(self, *steps: str) -> dict[str, Any]:
        """Return an order of the customer's that the staff brought through the steps."""
        markers = self.markers
        body = markers.body(
            "orders_create",
            customer_id=str(self.customer_id),
            customer_email=STRANGER,
            customer_phone=PHONE,
            customer_vat_id="FRQZVATX",
            line_items=[{"quantity": 2, "unit_price": 120}],
            shipping_address={"country": "FR"},
            billing_address={"country": "FR"},
            metadata={markers.of("a name in metadata"): markers.of("a value in metadata")},
        )
        markers.of_field["customer_vat_id"] = "QZVATX"
        order = await self.sent(self.client, "POST", "/orders", body)
        for step in steps:
            await self.sent(self.staff, "PATCH", f"/orders/{order['id']}/state", {"new_state": step})
        return order

    async def cancel(self, order: dict[str, Any]) -> None:
        """Cancel an order with a reason."""
        await self.sent(self.client, "POST", f"/orders/{order['id']}/cancel", self.markers.body("orders_cancel"))

    async def ask_to_return(self) -> dict[str, Any]:
        """Return the request to return a delivered order."""
        order = await self.order(*TO_DELIVERED)
        return await self.sent(
            self.client, "POST", "/returns", self.markers.body("returns_create", order_id=order["id"])
        )

    async def send_back(self, **review: Any) -> dict[str, Any]:
        """Return a completed return."""
        request = await self.ask_to_return()
        path = f"/returns/{request['id']}"
        await self.sent(self.staff, "PATCH", f"{path}/approve", {"notes": "Fine", **review})
        step = self.markers.body("returns_change_state", OF_THE_STAFF, new_state="IN_TRANSIT")
        await self.sent(self.client, "PATCH", f"{path}/state", step)
        await self.sent(self.staff, "PATCH", f"{path}/state", {"new_state": "RECEIVED"})
        [item] = request["items"]
        found = [{"line_item_id": item["line_item_id"], "accepted": 1, "damaged": 1}]
        return await self.sent(self.staff, "PATCH", f"{path}/state", {"new_state": "COMPLETED", "inspection": found})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings whose limits suppress no message: its text is what matters here."""
    return settings.model_copy(update={"messages_per_recipient_per_hour": 1000, "messages_per_customer_per_hour": 1000})


@pytest.fixture
def post(settings: Settings, database: Database, clock: MovableClock) -> Post:
    return Post(settings, database, clock, SMS=FakeChannel(), CHAT=FakeChannel())


@pytest.fixture
def invoices(database: Database, settings: Settings, clock: MovableClock) -> InvoiceService:
    return InvoiceService(database, FakeRenderer(), storage_for(settings), settings, clock)


async def all_that_happens(customer: Customer, database: Database, invoices: InvoiceService) -> None:
    """Make every message to a customer due."""
    await customer.cancel(await customer.order("PAID"))
    rejected = await customer.ask_to_return()
    decision = {"notes": "No", "rejection_reason": "OTHER"}
    await customer.sent(customer.staff, "PATCH", f"/returns/{rejected['id']}/reject", decision)
    await customer.send_back(refund_amount=0)
    returned = await customer.send_back()
    await invoices.issue(await claim_for(database, UUID(returned["order_id"]), JobKind.ISSUE_INVOICE))
    refund = await refund_of(database, UUID(returned["order_id"]))
    await settle(database, refund.id)
    await invoices.issue_credit_note(await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE))


def to_the_customer(post: Post) -> list[Message]:
    return [*(mail for mail in post.mails.sent if mail.recipient == STRANGER), *post.sms.sent]


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.SERVICE])
async def test_no_message_to_a_customer_echoes_what_they_typed(
    role: Role,
    api: httpx2.AsyncClient,
    callers: dict[Role, httpx2.AsyncClient],
    customer_id: UUID,
    post: Post,
    database: Database,
    invoices: InvoiceService,
) -> None:
    customer = Customer(callers[role], api, customer_id)
    await customer.cancel(await customer.order())
    await post.deliver()
    assert (post.mails.tried, post.sms.tried) == ([], []), "nothing is sent before the payment"

    await all_that_happens(customer, database, invoices)
    if role is Role.CUSTOMER:
        with_file = await customer.ask_to_return()
        await add(customer.client, with_file, photo(1), f"{customer.markers.of('a file name')}.jpg")
    await post.deliver()

    messages = to_the_customer(post)
    assert {message.template for message in messages} == {name for name, kind in KINDS.items() if kind.is_to_customer}
    assert {message.channel for message in messages} == {"EMAIL", "SMS"}
    assert customer.markers.in_messages(messages) == set(EXCEPTIONS) | set(OF_A_SERVICE if role is Role.SERVICE else ())
    assert customer.markers.in_messages(post.sms.sent) == set()
    assert customer.markers.in_messages(post.chat.sent) == set()
    # The warehouse needs to read what the customer may not send.
    assert {"line_items.0.product_name", "shipping_address.street"} <= customer.markers.in_messages(post.mails.sent)
    ordered = [message.text for message in messages if message.template == "order_confirmation"]
    assert all(("Item 1" in text) == (role is Role.CUSTOMER) for text in ordered)


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        (("customer_name",), "You won, call 0900123456"),
        (("customer_name",), "Visit evil.example"),
        (("shipping_address", "city"), "You won, call 0900 123 456"),
        (("shipping_address", "city"), "Visit evil.example today"),
        (("shipping_address", "city"), "Dear customer your account is blocked please write to us"),
        (("shipping_address", "postal_code"), "evil.com"),
        (("shipping_address", "postal_code"), "YOU WON"),
        (("shipping_address", "postal_code"), "+490900123456"),
        (("payment_method",), "Visit evil example, you won"),
    ],
    ids=lambda value: value if isinstance(value, str) else ".".join(value),
)
async def test_a_message_typed_where_a_name_belongs_is_left_out(
    field: tuple[str, ...],
    typed: str,
    api: httpx2.AsyncClient,
    callers: dict[Role, httpx2.AsyncClient],
    customer_id: UUID,
    post: Post,
) -> None:
    fields = merge(order_payload(customer_id=str(customer_id), customer_email=STRANGER), placed(field, typed))
    placed_order = await callers[Role.CUSTOMER].post("/api/v1/orders", json=fields)
    assert placed_order.status_code == 201
    await api.patch(f"/api/v1/orders/{placed_order.json()['id']}/state", json={"new_state": "PAID"})
    await post.deliver()
    [mail] = to_the_customer(post)
    for word in ("evil", "won", "0900", "blocked"):
        assert word not in (mail.subject + mail.text + mail.html).lower()
    assert "France" in mail.text


async def test_in_production_a_customer_cannot_name_the_articles_of_an_order(
    settings: Settings, database: Database, clock: MovableClock, customer_id: UUID
) -> None:
    production = settings.model_copy(update={"environment": "production", "api_key": None})
    services = Services(production, database, clock)
    transport = httpx2.ASGITransport(app=create_app(production, services))
    answers = {}
    async with httpx2.AsyncClient(transport=transport, base_url="https://test") as client:
        for role in Role:
            key = (await new_key(production, role, str(role), customer_id if role is Role.CUSTOMER else None))["key"]
            body = order_payload(customer_id=str(customer_id))
            answers[role] = await client.post("/api/v1/orders", json=body, headers={"X-API-Key": key})
    await services.health.close()
    assert {role for role, answer in answers.items() if answer.status_code == 201} == {
        Role.SERVICE,
        Role.MANAGER,
        Role.ADMIN,
    }
    assert answers[Role.CUSTOMER].status_code == 403
    assert "ORDERS_PRICED_BY" in error_of(answers[Role.CUSTOMER])["message"]
    assert len(await rows(database, "SELECT 1 FROM orders")) == 3
