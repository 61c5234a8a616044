"""Who may call what: every operation of the document, and every route beside it, for every kind of caller.

Each cell is a valid request on entities made for it, so that nothing but the caller decides. An operation without a
row fails the suite, and so does a row without an operation: each new route is listed here with who may use it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.composition import Services
from app.core.enums import CaseEntity, CaseKind, Role
from app.services.cases.service import open_case
from app.services.workflow.verification import VerificationService
from tests.conftest import MovableClock, new_key
from tests.factories import order_payload
from tests.files_support import JPEG
from tests.integration.conftest import TO_DELIVERED, Connect, error_of, new_order, new_return
from tests.integration.dead import bury_job, refuse_mail
from tests.integration.operations import all_operations
from tests.integration.test_api_invoices import PlainRenderer, issue
from tests.integration.test_api_webhook import captured, signed

pytestmark = [pytest.mark.req("NFR-004.3", "NFR-004.4"), pytest.mark.security]

CALLERS = ("owner", "stranger", "warehouse", "manager", "admin", "service", "nobody")
"""Owner and stranger are customers: whose order it is, and another one. Nobody has no credentials."""

TO_SHIPPED = TO_DELIVERED[:3]
REFUSALS = {401: {"UNAUTHENTICATED"}, 403: {"FORBIDDEN"}, 404: {"NOT_FOUND", "ORDER_NOT_FOUND", "RETURN_NOT_FOUND"}}


@dataclass(frozen=True)
class Ask:
    """A request."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)


class Scene:
    """Makes what a request needs, as an administrator; orders are the owner's."""

    def __init__(self, api: httpx2.AsyncClient, services: Services, clock: MovableClock, owner: UUID) -> None:
        self.api, self.services, self.clock, self.owner = api, services, clock, owner
        self._kept: dict[tuple[str, ...], dict[str, Any]] = {}

    async def order(self, *steps: str) -> dict[str, Any]:
        """Return a new order, brought through `steps`."""
        return await new_order(self.api, *steps, customer_id=str(self.owner))

    async def kept_order(self, *steps: str) -> dict[str, Any]:
        """Return an order that is only looked at, the same for all callers."""
        if steps not in self._kept:
            self._kept[steps] = await self.order(*steps)
        return self._kept[steps]

    async def returned(self, *steps: str) -> str:
        """Return the id of a new return, brought through `steps`."""
        found = await new_return(self.api, (await self.order(*TO_DELIVERED))["id"])
        for step in steps:
            url = f"/api/v1/returns/{found['id']}"
            moved = await (
                self.api.patch(f"{url}/approve", json={"notes": "so"})
                if step == "APPROVED"
                else self.api.patch(f"{url}/state", json={"new_state": step})
            )
            assert moved.status_code == 200, moved.text
        return str(found["id"])

    async def kept_return(self) -> str:
        """Return the id of a return that is only looked at."""
        if ("return",) not in self._kept:
            self._kept["return",] = {"id": await self.returned()}
        return str(self._kept["return",]["id"])

    async def invoiced(self) -> dict[str, Any]:
        """Return a shipped order with its invoice."""
        if ("invoice",) not in self._kept:
            self.services.invoices._renderer = PlainRenderer()
            order = await self.order(*TO_SHIPPED)
            await issue(self.services, order)
            self._kept["invoice",] = order
        return self._kept["invoice",]


Prepare = Callable[[Scene], Awaitable[Ask]]


@dataclass(frozen=True)
class Row:
    """An operation, what each caller is answered, and how to ask."""

    operation: str
    answers: str
    prepare: Prepare
    case: str = ""

    @property
    def id(self) -> str:
        """The operation, and which case of it."""
        return f"{self.operation}{'-' if self.case else ''}{self.case}"


def order_read(suffix: str = "", **options: Any) -> Prepare:
    async def ask(scene: Scene) -> Ask:
        return Ask("GET", f"/api/v1/orders/{(await scene.kept_order())['id']}{suffix}", options)

    return ask


def order_state(method: str, state: str, *before: str) -> Prepare:
    async def ask(scene: Scene) -> Ask:
        order = await scene.order(*before)
        return Ask(method, f"/api/v1/orders/{order['id']}/state", {"json": {"new_state": state}})

    return ask


async def order_create(scene: Scene) -> Ask:
    return Ask("POST", "/api/v1/orders", {"json": order_payload(customer_id=str(scene.owner))})


def order_correct(body: dict[str, Any], *steps: str) -> Prepare:
    async def ask(scene: Scene) -> Ask:
        order = await scene.order(*steps)
        return Ask("PATCH", f"/api/v1/orders/{order['id']}", {"json": {"reason": "so", **body}})

    return ask


async def order_note(scene: Scene) -> Ask:
    return Ask("POST", f"/api/v1/orders/{(await scene.kept_order())['id']}/notes", {"json": {"text": "so"}})


async def return_note(scene: Scene) -> Ask:
    return Ask("POST", f"/api/v1/returns/{await scene.kept_return()}/notes", {"json": {"text": "so"}})


async def order_cancel(scene: Scene) -> Ask:
    return Ask("POST", f"/api/v1/orders/{(await scene.order('PAID'))['id']}/cancel", {"json": {"reason": "so"}})


async def order_invoice(scene: Scene) -> Ask:
    return Ask("GET", f"/api/v1/orders/{(await scene.invoiced())['id']}/invoice")


async def return_create(scene: Scene) -> Ask:
    order = await scene.order(*TO_DELIVERED)
    return Ask("POST", "/api/v1/returns", {"json": {"order_id": order["id"], "reason": "cracked"}})


def return_read(suffix: str = "") -> Prepare:
    async def ask(scene: Scene) -> Ask:
        return Ask("GET", f"/api/v1/returns/{await scene.kept_return()}{suffix}")

    return ask


def return_change(method: str, action: str, body: dict[str, Any], *before: str) -> Prepare:
    async def ask(scene: Scene) -> Ask:
        return Ask(method, f"/api/v1/returns/{await scene.returned(*before)}/{action}", {"json": body})

    return ask


async def attachment_add(scene: Scene) -> Ask:
    path = f"/api/v1/returns/{await scene.returned()}/attachments"
    return Ask("POST", path, {"files": {"file": ("crack.jpg", JPEG, "image/jpeg")}})


async def file_by_link(scene: Scene) -> Ask:
    order = await scene.invoiced()
    record = await scene.api.get(f"/api/v1/orders/{order['id']}/invoice", headers={"Accept": "application/json"})
    return Ask("GET", record.json()["link"])


async def file_without_link(scene: Scene) -> Ask:
    return Ask("GET", (await file_by_link(scene)).path.partition("?")[0])


async def webhook(scene: Scene) -> Ask:
    body = captured(await scene.order())
    return Ask(
        "POST",
        "/api/v1/payments/webhook",
        {"content": body, "headers": signed(body, scene.services.settings, scene.clock)},
    )


async def webhook_unsigned(scene: Scene) -> Ask:
    return Ask("POST", "/api/v1/payments/webhook", {"json": {}})


async def refund_read(scene: Scene) -> Ask:
    await scene.kept_order("PAID", "CANCELLED")
    listed = await scene.api.get("/api/v1/refunds")
    return Ask("GET", f"/api/v1/refunds/{listed.json()['data'][0]['id']}")


def dead_letter(action: str) -> Prepare:
    async def ask(scene: Scene) -> Ask:
        letter = await bury_job(scene.services.database)
        return Ask("POST", f"/api/v1/jobs/dead/{letter}/{action}", {"json": {"note": "so"}})

    return ask


async def opened_case(scene: Scene) -> str:
    """Return the id of a new case."""
    key = f"test:{uuid4()}"
    async with scene.services.database.transaction() as session:
        await open_case(
            session, CaseKind.DISPUTE, entity_type=CaseEntity.ORDER, entity_id=uuid4(), evidence={}, dedupe_key=key
        )
    listed = await scene.api.get("/api/v1/cases")
    return str(listed.json()["data"][0]["id"])


async def case_read(scene: Scene) -> Ask:
    return Ask("GET", f"/api/v1/cases/{await opened_case(scene)}")


async def case_close(scene: Scene) -> Ask:
    return Ask("POST", f"/api/v1/cases/{await opened_case(scene)}/close", {"json": {"note": "so"}})


async def notification_resend(scene: Scene) -> Ask:
    """Send a message again that was refused."""
    notification_id = await refuse_mail(scene.services.database)
    return Ask("POST", f"/api/v1/notifications/{notification_id}/resend")


async def audit_verify(scene: Scene) -> Ask:
    """Verify, and wait for the end of it: on a busy machine its process starts late, and the answer would be 202."""
    if "verifications" not in vars(scene.services):
        patient = VerificationService(scene.services.database, scene.services.settings, wait_seconds=300)
        scene.services.verifications = patient
    return Ask("GET", "/api/v1/audit/verify")


def plain(path: str, method: str = "GET") -> Prepare:
    async def ask(_: Scene) -> Ask:
        return Ask(method, path)

    return ask


# The answers, in the order of CALLERS.
ALL = "200 200 200 200 200 200 401"
OWN = "200 404 200 200 200 200 401"
STAFF = "403 403 200 200 200 403 401"
MANAGERS = "403 403 403 200 200 403 401"
NOTERS = "403 403 201 201 201 403 401"
ADMIN = "403 403 403 403 200 403 401"
OPEN = "200 200 200 200 200 200 200"
NONE = "404 404 404 404 404 404 404"

ORDER_STATES = (
    ("PAID", "403 403 403 200 200 200 401"),
    ("PROCESSING_IN_WAREHOUSE", STAFF),
    ("SHIPPED", STAFF),
    ("DELIVERED", STAFF),
)
CANCELLERS = "200 404 403 200 200 200 401"
SENDERS = "200 404 200 200 200 200 401"
RETURN_STATES = (
    ("IN_TRANSIT", SENDERS, ("APPROVED",)),
    ("RECEIVED", STAFF, ("APPROVED", "IN_TRANSIT")),
    ("COMPLETED", MANAGERS, ("APPROVED", "IN_TRANSIT", "RECEIVED")),
)
REJECT = {"notes": "so", "rejection_reason": "OTHER"}

DOCUMENTED = (
    Row("orders_create", "201 403 403 201 201 201 401", order_create),
    Row("orders_list", ALL, plain("/api/v1/orders")),
    Row("orders_read", OWN, order_read()),
    Row("orders_history", OWN, order_read("/history")),
    Row("orders_transitions", OWN, order_read("/transitions")),
    Row("orders_refunds", OWN, order_read("/refunds")),
    Row("orders_invoice", OWN, order_invoice),
    Row("orders_cancel", CANCELLERS, order_cancel),
    Row("orders_correct", MANAGERS, order_correct({"customer_email": "right@example.com"}, "PAID"), "e-mail"),
    Row("orders_correct", STAFF, order_correct({"tracking_number": "X1"}, *TO_SHIPPED), "tracking number"),
    Row("orders_list_corrections", OWN, order_read("/corrections")),
    Row("notes_add_to_order", NOTERS, order_note),
    Row("notes_list_of_order", STAFF, order_read("/notes")),
    Row("notes_add_to_return", NOTERS, return_note),
    Row("notes_list_of_return", STAFF, return_read("/notes")),
    Row("orders_change_state", CANCELLERS, order_state("PATCH", "CANCELLED", "PAID"), "CANCELLED"),
    *(
        Row("orders_change_state", answers, order_state("PATCH", state, *TO_DELIVERED[:number]), state)
        for number, (state, answers) in enumerate(ORDER_STATES)
    ),
    Row("returns_create", "201 404 403 201 201 201 401", return_create),
    Row("returns_list", ALL, plain("/api/v1/returns")),
    Row("returns_read", OWN, return_read()),
    Row("returns_history", OWN, return_read("/history")),
    Row("returns_transitions", OWN, return_read("/transitions")),
    Row("returns_approve", MANAGERS, return_change("PATCH", "approve", {"notes": "so"})),
    Row("returns_reject", MANAGERS, return_change("PATCH", "reject", REJECT)),
    *(
        Row("returns_change_state", answers, return_change("PATCH", "state", {"new_state": state}, *before), state)
        for state, answers, before in RETURN_STATES
    ),
    Row("attachments_add", "201 404 201 201 201 403 401", attachment_add),
    Row("attachments_list", OWN, return_read("/attachments")),
    Row("files_fetch", OPEN, file_by_link, "signed link"),
    Row("files_fetch", NONE, file_without_link, "no signature"),
    Row("payments_webhook", OPEN, webhook, "signed"),
    Row("payments_webhook", "401 401 401 401 401 401 401", webhook_unsigned, "unsigned"),
    Row("audit_search", MANAGERS, plain("/api/v1/audit")),
    Row("audit_verify", MANAGERS, audit_verify),
    Row("refunds_list", MANAGERS, plain("/api/v1/refunds")),
    Row("refunds_read", MANAGERS, refund_read),
    Row("jobs_list_dead", MANAGERS, plain("/api/v1/jobs/dead")),
    Row("jobs_retry", ADMIN, dead_letter("retry")),
    Row("jobs_dismiss", ADMIN, dead_letter("dismiss")),
    Row("cases_list", MANAGERS, plain("/api/v1/cases")),
    Row("cases_read", MANAGERS, case_read),
    Row("cases_close", MANAGERS, case_close),
    Row("notifications_list", MANAGERS, plain("/api/v1/notifications")),
    Row("notifications_resend", "403 403 403 201 201 403 401", notification_resend),
    Row("stats_read", MANAGERS, plain("/api/v1/stats")),
    Row("health_read", OPEN, plain("/api/v1/health")),
    Row("health_live", OPEN, plain("/api/v1/health/live")),
    Row("metrics_read", OPEN, plain("/api/v1/metrics")),
    Row("state_machines_read", OPEN, plain("/api/v1/state-machines")),
)

MOVED = "307 307 307 307 307 307 307"
BESIDE_THE_DOCUMENT = (
    Row("POST /api/v1/orders/{order_id}/state", CANCELLERS, order_state("POST", "CANCELLED", "PAID")),
    Row("POST /api/v1/orders/{order_id}/state", STAFF, order_state("POST", "SHIPPED", *TO_DELIVERED[:2]), "SHIPPED"),
    Row(
        "POST /api/v1/returns/{return_id}/state",
        MANAGERS,
        return_change("POST", "state", {"new_state": "COMPLETED"}, "APPROVED", "IN_TRANSIT", "RECEIVED"),
    ),
    *(Row(f"GET {path}", OPEN, plain(path)) for path in ("/docs", "/redoc", "/openapi.json")),
    Row("GET /docs-assets/{name}", OPEN, plain("/docs-assets/favicon.png")),
    *(
        Row(f"GET {path}", MOVED, plain(path))
        for path in ("/", "/api/v1/docs", "/api/v1/redoc", "/api/v1/openapi.json")
    ),
)


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    assert {row.operation for row in DOCUMENTED} == {operation.id for operation in all_operations()}


def test_every_route_beside_the_document_has_a_row_too(application: FastAPI) -> None:
    found = set()
    for route in application.routes:
        if not (isinstance(route, APIRoute) and route.include_in_schema):
            path = str(getattr(route, "path", ""))
            methods = set(getattr(route, "methods", None) or {"ANY"}) - {"HEAD"}
            found |= {f"{method} {path}" for method in methods}
    assert found == {row.operation for row in BESIDE_THE_DOCUMENT}


def test_the_document_says_who_is_asked_for_credentials() -> None:
    open_to_all = {row.operation for row in DOCUMENTED if row.answers.split()[-1] == "200"}
    assert {operation.id for operation in all_operations() if "security" not in operation.spec} == open_to_all


@pytest.fixture
def scene(api: httpx2.AsyncClient, services: Services, clock: MovableClock, customer_id: UUID) -> Scene:
    return Scene(api, services, clock, customer_id)


@pytest.fixture
async def cast(
    callers: dict[Role, httpx2.AsyncClient], anonymous: httpx2.AsyncClient, services: Services, connect: Connect
) -> dict[str, httpx2.AsyncClient]:
    """A client for each of CALLERS."""
    stranger = await new_key(services.settings, Role.CUSTOMER, "stranger", uuid4())
    return {
        "owner": callers[Role.CUSTOMER],
        "stranger": connect(**{"X-API-Key": stranger["key"]}),
        "warehouse": callers[Role.WAREHOUSE],
        "manager": callers[Role.MANAGER],
        "admin": callers[Role.ADMIN],
        "service": callers[Role.SERVICE],
        "nobody": anonymous,
    }


@pytest.mark.parametrize("row", [*DOCUMENTED, *BESIDE_THE_DOCUMENT], ids=lambda row: row.id)
async def test_the_matrix(row: Row, scene: Scene, cast: dict[str, httpx2.AsyncClient]) -> None:
    expected = dict(zip(CALLERS, map(int, row.answers.split()), strict=True))
    answered = {}
    ask = await row.prepare(scene)
    # Who is refused changes nothing, so the refused come first and ask for the same; each of the others has his own.
    for name in sorted(CALLERS, key=lambda name: expected[name] < 400):
        response = await cast[name].request(ask.method, ask.path, **ask.options)
        answered[name] = response.status_code
        if response.is_success:
            ask = await row.prepare(scene)
        if response.status_code in REFUSALS:
            assert error_of(response)["code"] in REFUSALS[response.status_code], name
            assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    assert answered == expected
