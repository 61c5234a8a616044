"""The gateway's webhooks: proven to be its own, taken once, and nothing else accepted (INT-001)."""

import base64
import gzip
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest
from sqlalchemy.exc import IntegrityError

from app.composition import Services
from app.config import Settings
from app.core.enums import WebhookOutcome
from app.database import Database
from app.main import openapi_document
from tests.conftest import MovableClock
from tests.integration.conftest import error_of, new_order
from tests.integration.jobs_support import execute, rows

pytestmark = pytest.mark.req("INT-001")

URL = "/api/v1/payments/webhook"


def captured(order: dict[str, Any], **changes: Any) -> bytes:
    """Return the event with which the gateway reports that an order was paid."""
    payment = {
        "id": f"pay_{order['order_number']}",
        "reference": order["id"],
        "status": "captured",
        "amount": f"{order['total_amount']:.2f}",
        "amount_captured": f"{order['total_amount']:.2f}",
        "amount_refunded": "0.00",
        "currency": order["currency"],
        "failure_code": None,
        "created": "2026-11-23T00:00:00Z",
        **changes,
    }
    event_id = f"evt_{order['order_number']}"
    event = {"id": event_id, "type": "payment.captured", "created": "2026-11-23T00:00:00Z", "data": {"object": payment}}
    return orjson.dumps(event)


def signed(
    body: bytes, settings: Settings, clock: MovableClock, event_id: str | None = None, **age: float
) -> dict[str, str]:
    """Return the headers with which the gateway sends a body."""
    event_id = event_id or orjson.loads(body).get("id", "evt_1")
    timestamp = str(int((clock() - timedelta(**age)).timestamp()))
    key = settings.payment_webhook_secret.get_secret_value().removeprefix("whsec_").encode()
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@pytest.mark.req("INT-001.2")
async def test_a_captured_payment_pays_its_order_once(
    anonymous: httpx2.AsyncClient, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    order = await new_order(api)
    body = captured(order)
    outcomes = []
    for _ in range(3):
        response = await anonymous.post(URL, content=body, headers=signed(body, settings, clock))
        assert response.status_code == 200, response.text
        outcomes.append(response.json()["outcome"])
    assert outcomes[1:] == ["DUPLICATE", "DUPLICATE"]
    history = (await api.get(f"/api/v1/orders/{order['id']}/history")).json()["data"]
    assert [(row["new_state"], row["trigger"]) for row in history] == [("PAID", "WEBHOOK")]


async def test_without_a_signature_that_could_hold_no_body_is_waited_for(
    anonymous: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    good = signed(b'{"id": "evt_1"}', settings, clock)
    signature = good["webhook-signature"]

    asked: list[bytes] = []

    async def unread() -> AsyncIterator[bytes]:
        asked.append(b"")
        yield b"{}"

    for headers in (
        {"content-type": "application/json"},
        {**good, "webhook-id": "a b"},
        {**good, "webhook-timestamp": "1"},
        {**good, "webhook-signature": ""},
        {**good, "webhook-signature": "v1,short"},
        {**good, "webhook-signature": signature.replace("v1,", "v2,")},
        {**good, "webhook-signature": signature + " " * 3_000},
    ):
        response = await anonymous.post(URL, content=unread(), headers=headers)
        assert response.status_code == 401, headers
        assert error_of(response)["code"] == "UNAUTHENTICATED"
    assert asked == []


async def test_a_webhook_has_at_most_64_kib(
    anonymous: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    body = orjson.dumps({"id": "evt_1", "padding": "x" * 65_536})
    response = await anonymous.post(URL, content=body, headers=signed(body, settings, clock))
    assert response.status_code == 413
    assert error_of(response)["details"] == {"max_bytes": 65_536}


@pytest.mark.req("INT-001.2")
async def test_what_is_not_proven_to_be_the_gateways_is_refused(
    anonymous: httpx2.AsyncClient, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    order = await new_order(api)
    body = captured(order)
    good = signed(body, settings, clock)
    forged = settings.model_copy(update={"payment_webhook_secret": settings.secret_key})
    attempts = [
        (body, {"content-type": "application/json"}),
        (body, {**good, "webhook-signature": "v1,AAAA"}),
        (body, {**good, "webhook-id": "evt_other"}),
        (body, signed(body, forged, clock)),
        (body, signed(body, settings, clock, minutes=6)),
        (body, signed(body, settings, clock, minutes=-6)),
        (body + b" ", good),
        (b"", good),
    ]
    for content, headers in attempts:
        response = await anonymous.post(URL, content=content, headers=headers)
        assert response.status_code == 401, headers
        assert error_of(response)["code"] == "UNAUTHENTICATED"
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json()["status"] == "PENDING_PAYMENT"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"id": "evt_1"}', {"id": "evt_1"}),
        (
            b'{"id": "evt_1", "type": "payment.captured", "data": {"object": 5}}',
            {"id": "evt_1", "type": "payment.captured", "data": {"object": 5}},
        ),
        (b"not JSON", {"text": "not JSON"}),
        (b'{"id": "evt_1", "id": "evt_1"}', {"text": '{"id": "evt_1", "id": "evt_1"}'}),
        (b'{"id": "evt_1", "type": "payment.captured", "data": {"x": NaN}}', None),
        (b'{"id": "evt_1", "type": "refund.\\u0000", "data": {"object": {"id": "\\u0000\\ud800"}}}', None),
        (b"\x00\xff", {"text": "\\x00\\xff"}),
        (b"[" * 5000, None),
        (b'{"id": "evt_2", "type": "payment.captured", "data": {}}', None),
    ],
)
async def test_a_signed_event_that_cannot_be_read_is_kept_for_a_person(
    anonymous: httpx2.AsyncClient,
    api: httpx2.AsyncClient,
    services: Services,
    settings: Settings,
    clock: MovableClock,
    body: bytes,
    kept: dict[str, Any] | None,
) -> None:
    headers = signed(body, settings, clock, event_id="evt_1")
    for outcome in ("UNREADABLE", "DUPLICATE"):
        response = await anonymous.post(URL, content=body, headers=headers)
        assert (response.status_code, response.json()) == (200, {"outcome": outcome})
    [row] = await rows(services.database, "SELECT * FROM gateway_events")
    assert (row.id, row.outcome) == ("evt_1", "UNREADABLE")
    assert kept is None or row.body == kept
    [case] = (await api.get("/api/v1/cases")).json()["data"]
    assert (case["kind"], case["entity_type"], case["evidence"]["event_id"]) == (
        "UNREADABLE_EVENT", "GATEWAY_EVENT", "evt_1",
    )  # fmt: skip
    assert case["evidence"]["problem"]


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"content-type": "text/plain"}, ""),
        ({"content-type": "application/cloudevents+json"}, ""),
        ({"content-type": ""}, ""),
        ({}, "?shop=1&shop=2&x=%00"),
    ],
)
async def test_only_the_signature_decides_whether_an_event_is_taken(
    anonymous: httpx2.AsyncClient,
    api: httpx2.AsyncClient,
    settings: Settings,
    clock: MovableClock,
    headers: dict[str, str],
    query: str,
) -> None:
    body = captured(await new_order(api))
    response = await anonymous.post(URL + query, content=body, headers=signed(body, settings, clock) | headers)
    assert (response.status_code, response.json()) == (200, {"outcome": "PAID"})


# A member of the payment that a captured event is about, which readers would read differently or could not store.
AMBIGUOUS = {
    "a name given twice": b'"note": 1, "note": 2',
    "the id given twice": b'"id": "pay_1", "id": "pay_2"',
    "NaN": b'"fee": NaN',
    "an infinity": b'"fee": -Infinity',
    "a number beyond a double": b'"fee": 1e999',
    "a NUL character": b'"note": "\\u0000"',
    "a lone surrogate": b'"note": "\\ud800"',
}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("member", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_an_event_that_readers_could_read_differently_is_kept_as_it_came_for_a_person(
    anonymous: httpx2.AsyncClient,
    api: httpx2.AsyncClient,
    services: Services,
    settings: Settings,
    clock: MovableClock,
    member: bytes,
    content_type: str,
) -> None:
    body = captured(await new_order(api)).replace(b'"object":{', b'"object":{' + member + b", ")
    body = body.replace(b'{"id":"evt_ORD', b'{"id":"evt_1","former_id":"evt_ORD', 1)
    headers = signed(body, settings, clock, event_id="evt_1") | {"content-type": content_type}
    response = await anonymous.post(URL, content=body, headers=headers)
    assert (response.status_code, response.json()) == (200, {"outcome": "UNREADABLE"})
    [row] = await rows(services.database, "SELECT * FROM gateway_events")
    assert (row.type, row.outcome, row.body) == ("unreadable", "UNREADABLE", {"text": body.decode()})
    [case] = (await api.get("/api/v1/cases")).json()["data"]
    assert case["kind"] == "UNREADABLE_EVENT"
    assert case["evidence"]["problem"].startswith("the body is not strict JSON: ")
    assert await rows(services.database, "SELECT 1 FROM orders WHERE status = 'PAID'") == []


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png", ""])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"5", b'"x"', b"true", b'[{"id": "evt_1"}]', b"{}{}"])
async def test_a_signed_body_that_is_no_object_is_kept_as_text_with_a_case(
    anonymous: httpx2.AsyncClient,
    api: httpx2.AsyncClient,
    services: Services,
    settings: Settings,
    clock: MovableClock,
    body: bytes,
    content_type: str,
) -> None:
    headers = signed(body, settings, clock, event_id="evt_1") | {"content-type": content_type}
    response = await anonymous.post(URL, content=body, headers=headers)
    assert (response.status_code, response.json()) == (200, {"outcome": "UNREADABLE"})
    [row] = await rows(services.database, "SELECT * FROM gateway_events")
    assert (row.type, row.outcome, row.body) == ("unreadable", "UNREADABLE", {"text": body.decode()})
    assert [case["kind"] for case in (await api.get("/api/v1/cases")).json()["data"]] == ["UNREADABLE_EVENT"]


async def test_a_packed_event_is_kept_for_a_person(
    anonymous: httpx2.AsyncClient, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    body = gzip.compress(captured(await new_order(api)))
    headers = signed(body, settings, clock, event_id="evt_1") | {"content-encoding": "gzip"}
    response = await anonymous.post(URL, content=body, headers=headers)
    assert (response.status_code, response.json()) == (200, {"outcome": "UNREADABLE"})
    [case] = (await api.get("/api/v1/cases")).json()["data"]
    assert case["kind"] == "UNREADABLE_EVENT"


@pytest.mark.parametrize(
    ("kind", "changes", "outcome", "cases"),
    [
        ("payment.expired", {"status": "expired"}, "IGNORED", []),
        ("payment.failed", {"status": "failed"}, "IGNORED", []),
        ("payment.chargeback", {}, "UNKNOWN_KIND", ["UNREADABLE_EVENT"]),
        ("customer.updated", {"amount": None}, "IGNORED", []),
        ("payment.captured", {"reference": "order 17"}, "UNKNOWN_REFERENCE", ["UNKNOWN_REFERENCE"]),
        ("payment.captured", {"reference": str(uuid4())}, "UNKNOWN_REFERENCE", ["UNKNOWN_REFERENCE"]),
        ("payment.captured", {"created": "2026-11-23t00:00:60z"}, "PAID", []),
        ("payment.captured", {"amount_refunded": "full"}, "UNREADABLE", ["UNREADABLE_EVENT"]),
        ("dispute.created", {"payment": "pay_of_nobody", "reference": None}, "DISPUTE", ["DISPUTE"]),
    ],
)
async def test_every_signed_event_is_kept_and_money_opens_a_case(
    anonymous: httpx2.AsyncClient,
    api: httpx2.AsyncClient,
    services: Services,
    settings: Settings,
    clock: MovableClock,
    kind: str,
    changes: dict[str, Any],
    outcome: str,
    cases: list[str],
) -> None:
    order = await new_order(api)
    event = {**orjson.loads(captured(order, **changes)), "type": kind}
    body = orjson.dumps(event)
    response = await anonymous.post(URL, content=body, headers=signed(body, settings, clock))
    assert (response.status_code, response.json()) == (200, {"outcome": outcome})
    [row] = await rows(services.database, "SELECT * FROM gateway_events")
    assert (row.id, row.type, row.outcome, row.body) == (event["id"], kind, outcome, event)
    assert [case["kind"] for case in (await api.get("/api/v1/cases")).json()["data"]] == cases


async def test_an_event_about_nothing_of_ours_is_acknowledged(
    anonymous: httpx2.AsyncClient, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    order = await new_order(api)
    body = captured(order, reference=str(uuid4()))
    response = await anonymous.post(URL, content=body, headers=signed(body, settings, clock))
    assert response.status_code == 200
    assert response.json() == {"outcome": "UNKNOWN_REFERENCE"}


async def test_credentials_do_not_replace_the_signature(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    response = await api.post(URL, content=captured(order), headers={"content-type": "application/json"})
    assert response.status_code == 401


async def test_the_longest_names_that_can_be_proven_can_be_kept(
    anonymous: httpx2.AsyncClient, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock
) -> None:
    """What the signature and the wire format let through must fit where it is stored."""
    order = await new_order(api)
    unknown = {"id": "e" * 128, "type": "t" * 255, "created": "2026-11-23T00:00:00Z", "data": {}}
    paid = {**orjson.loads(captured(order, id="p" * 255)), "id": "f" * 128}
    outcomes = []
    for event in (unknown, paid):
        body = orjson.dumps(event)
        response = await anonymous.post(URL, content=body, headers=signed(body, settings, clock))
        assert response.status_code == 200, response.text
        outcomes.append(response.json()["outcome"])
    assert outcomes == ["IGNORED", "PAID"]
    paid_order = (await api.get(f"/api/v1/orders/{order['id']}")).json()
    assert paid_order["payment_transaction_id"] == "p" * 255


async def test_the_database_keeps_no_webhook_with_an_unknown_outcome(database: Database) -> None:
    insert = "INSERT INTO gateway_events (id, type, body, outcome) VALUES (:outcome, 'x', '{}', :outcome)"
    await execute(database, insert, outcome=str(WebhookOutcome.IGNORED))
    with pytest.raises(IntegrityError, match="ck_gateway_events_outcome"):
        await execute(database, insert, outcome="PAYED")


def test_the_document_lists_the_outcomes_of_a_webhook() -> None:
    schemas = openapi_document()["components"]["schemas"]
    assert schemas["WebhookOutcome"]["enum"] == [str(outcome) for outcome in WebhookOutcome]
    assert schemas["WebhookReceipt"]["properties"]["outcome"]["$ref"].endswith("/WebhookOutcome")
