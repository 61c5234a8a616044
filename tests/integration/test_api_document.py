"""The document is true: real answers have the documented shape, and every documented operation gives one."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter

from app.api.http.responses import ERROR_KINDS
from app.api.http.routing import ApiRoute
from app.composition import Services
from app.schemas.common import ErrorResponse
from tests.conftest import MovableClock
from tests.factories import order_payload
from tests.files_support import PNG
from tests.integration.conftest import TO_DELIVERED, new_order, new_return
from tests.integration.dead import bury_job, raise_case, refuse_mail
from tests.integration.operations import DOCUMENT, all_operations
from tests.integration.test_api_webhook import captured, signed

pytestmark = pytest.mark.req("REQ-005")

TIMES = re.compile(r'"[a-z_]+_at":"([^"]+)"')


class Recorder:
    """Checks every answer against what the document promises for that operation and status."""

    def __init__(self, api: httpx2.AsyncClient, application: FastAPI) -> None:
        self._api = api
        self._routes = [route for route in application.routes if isinstance(route, ApiRoute)]
        self._documented = {(o.method, o.path): o for o in all_operations()}
        self.seen: set[str] = set()

    async def send(self, method: str, path: str, status: int, **options: Any) -> Any:
        """Send a request, check its answer, and return what it says."""
        response = await self._api.request(method, f"/api/v1/{path}", **options)
        assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text[:500]}"
        plain = response.request.url.path
        route = next(r for r in self._routes if method in (r.methods or ()) and r.path_regex.fullmatch(plain))
        operation = self._documented[method, route.path_format]
        promised = operation.spec["responses"]
        assert str(status) in promised, f"{operation.id} does not document {status}"
        content_type = response.headers["content-type"].partition(";")[0]
        assert content_type in promised[str(status)]["content"], f"{operation.id} answers {content_type}"
        if status >= 400 and operation.id != "health_read":
            error = ErrorResponse.model_validate(response.json()).error
            assert error.code in promised[str(status)]["content"]["application/json"]["examples"]
            return response.json()
        self.seen.add(operation.id)
        if content_type != "application/json":
            return response.content
        TypeAdapter(route.response_model).validate_python(response.json())
        for moment in TIMES.findall(response.text):
            assert moment.endswith("Z"), moment
            datetime.fromisoformat(moment)
        return response.json()


async def case_decided(tell: Recorder, services: Services) -> None:
    """Show a case and close it."""
    case = await raise_case(services.database)
    await tell.send("GET", "cases", 200)
    await tell.send("GET", f"cases/{case}", 200)
    await tell.send("POST", f"cases/{case}/close", 200, json={"note": "decided", "action": "KEEP"})
    await tell.send("POST", f"cases/{case}/close", 409, json={"note": "decided again"})


async def message_resent(tell: Recorder, services: Services) -> None:
    """Send a refused mail again, which cannot be done to one that is still being sent."""
    refused = await refuse_mail(services.database)
    again = await tell.send("POST", f"notifications/{refused}/resend", 201, json={"to": "ada@example.net"})
    await tell.send("POST", f"notifications/{again['id']}/resend", 409)


async def refunds_shown(tell: Recorder) -> None:
    """List the refunds and show one."""
    refunds = await tell.send("GET", "refunds", 200)
    assert {refund["reason"] for refund in refunds["data"]} == {"ORDER_CANCELLED", "RETURN_COMPLETED"}
    await tell.send("GET", f"refunds/{refunds['data'][0]['id']}", 200)
    await tell.send("GET", f"refunds/{uuid4()}", 404)


async def correct(tell: Recorder, order: str) -> None:
    """Correct an order in PENDING_PAYMENT, and note something."""
    await tell.send("PATCH", order, 200, json={"customer_phone": "+33 6 12 34 56 78", "reason": "forgotten"})
    await tell.send("PATCH", order, 409, json={"tracking_number": "X1", "reason": "too early"})
    await tell.send("GET", f"{order}/corrections", 200)
    await note(tell, order)


async def note(tell: Recorder, subject: str) -> None:
    """Add a note and list it."""
    await tell.send("POST", f"{subject}/notes", 201, json={"text": "gift wrap"})
    await tell.send("GET", f"{subject}/notes", 200)


@pytest.mark.req("REQ-005.2")
async def test_real_answers_have_the_documented_shape(
    api: httpx2.AsyncClient, application: FastAPI, services: Services, clock: MovableClock
) -> None:
    tell = Recorder(api, application)
    made = await tell.send("POST", "orders", 201, json=order_payload(metadata={"gift": True}))
    order = f"orders/{made['id']}"
    await tell.send("GET", order, 200)
    await tell.send("GET", f"{order}/transitions", 200)
    await correct(tell, order)
    await tell.send("POST", "returns", 400, json={"order_id": made["id"], "reason": "too early"})
    await tell.send("PATCH", f"{order}/state", 409, json={"new_state": "SHIPPED"})
    body = captured(made)
    await tell.send("POST", "payments/webhook", 200, content=body, headers=signed(body, services.settings, clock))
    await tell.send("POST", "payments/webhook", 401, json={})
    for step in TO_DELIVERED[1:]:
        await tell.send("PATCH", f"{order}/state", 200, json={"new_state": step, "carrier": "La Poste", "reason": "so"})
    await tell.send("GET", f"{order}/invoice", 404)
    await tell.send("GET", f"{order}/history", 200)
    await tell.send("GET", "orders?include_total=true&limit=1&status=DELIVERED&status=PAID", 200)
    await tell.send("GET", "orders?offset=0", 200)
    await tell.send("GET", "orders?offset=-1", 422)

    cancelled = await new_order(api, "PAID")
    await tell.send("POST", f"orders/{cancelled['id']}/cancel", 200, json={"reason": "changed my mind"})

    requested = await tell.send("POST", "returns", 201, json={"order_id": made["id"], "reason": "Glaze is cracked"})
    await tell.send("POST", "returns", 409, json={"order_id": made["id"], "reason": "again"})
    found = f"returns/{requested['id']}"
    await note(tell, found)
    photo = {"files": {"file": ("crack.png", PNG)}, "data": {"description": "from the left"}}
    attached = await tell.send("POST", f"{found}/attachments", 201, **photo)
    await tell.send("POST", f"{found}/attachments", 200, **photo)
    await tell.send("POST", f"{found}/attachments", 415, json={})
    await tell.send("GET", f"{found}/attachments", 200)
    link = attached["link"].removeprefix("/api/v1/")
    await tell.send("GET", link, 200)
    await tell.send("GET", f"{link}x", 404)
    await tell.send("PATCH", f"{found}/approve", 200, json={"notes": "cracked indeed", "restocking_fee": 5})
    for step in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
        await tell.send("PATCH", f"{found}/state", 200, json={"new_state": step})
    for path in (found, f"{found}/history", f"{found}/transitions", "returns"):
        await tell.send("GET", path, 200)
    refused = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    rejection = {"notes": "worn", "rejection_reason": "POLICY_VIOLATION"}
    await tell.send("PATCH", f"returns/{refused['id']}/reject", 200, json=rejection)

    for path in ("audit", "audit?rejected=true", f"audit?entity=ORDER&entity_id={made['id']}", "audit/verify"):
        await tell.send("GET", path, 200)
    await refunds_shown(tell)

    for action in ("retry", "dismiss"):
        letter = await bury_job(services.database)
        await tell.send("GET", "jobs/dead", 200)
        await tell.send("POST", f"jobs/dead/{letter}/{action}", 200, json={"note": "looked into"})
        await tell.send("POST", f"jobs/dead/{letter}/{action}", 409)
    await tell.send("GET", "jobs/dead?include_resolved=true", 200)
    await case_decided(tell, services)
    await message_resent(tell, services)
    for path in (f"{order}/refunds", "notifications", "stats", "health", "health/live", "state-machines", "metrics"):
        await tell.send("GET", path, 200)

    # Invoices take a worker: tests/integration/test_api_invoices.py.
    assert {o.id for o in all_operations()} - tell.seen == {"orders_invoice"}


@pytest.mark.req("REQ-005.3")
def test_every_operation_documents_what_can_go_wrong() -> None:
    for operation in all_operations():
        responses = operation.spec["responses"]
        assert {"422", "500", "503"} <= set(responses), operation.id
        looks_at_callers = "security" in operation.spec or operation.id in {"payments_webhook", "health_read"}
        assert ("401" in responses) == looks_at_callers, operation.id
        assert ("413" in responses) == ("415" in responses) == ("requestBody" in operation.spec), operation.id
        assert operation.spec["summary"]
        assert operation.spec["description"]


@pytest.mark.req("REQ-005.1", "REQ-005.2")
def test_the_document_is_openapi_3_1_with_machines_and_examples() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert set(DOCUMENT["components"]["examples"]) == set(ERROR_KINDS)
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    assert set(DOCUMENT["x-state-machines"]) == {"order", "return"}
    assert DOCUMENT["components"]["schemas"]["OrderCreate"]["examples"]
    assert "post" not in DOCUMENT["paths"]["/api/v1/orders/{order_id}/state"]
    assert len({operation.id for operation in all_operations()}) == len(all_operations())


async def test_post_answers_a_state_change_as_patch_does(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    moved = await api.post(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID"})
    assert moved.status_code == 200
    assert moved.json()["status"] == "PAID"
    assert UUID(moved.json()["id"]) == UUID(order["id"])
    delivered = await new_order(api, *TO_DELIVERED)
    requested = await new_return(api, delivered["id"])
    refused = await api.post(f"/api/v1/returns/{requested['id']}/state", json={"new_state": "RECEIVED"})
    assert refused.status_code == 409
