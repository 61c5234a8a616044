"""Bodies that break a default FastAPI (9 of 21 gave 500): every endpoint refuses each with the proper 4xx.

Endpoints, bodies and the types of their fields come from the OpenAPI document, so an endpoint that is added
is covered from the moment it is documented.
"""

import base64
import copy
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.config import Settings
from app.schemas.common import METADATA_BYTES
from tests.conftest import MovableClock
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.dead import bury_job, raise_case, refuse_mail
from tests.integration.operations import ZERO, Operation, all_operations, example_body, leaves

pytestmark = [pytest.mark.req("REQ-005", "NFR-004"), pytest.mark.security]

WITH_BODY = [operation for operation in all_operations() if operation.body_schema is not None]
BY_SIGNATURE = {"payments_webhook"}
"""Every signed body is kept and answered 2xx."""

WEBHOOK = [operation for operation in WITH_BODY if operation.id in BY_SIGNATURE]
REFUSING = [operation for operation in WITH_BODY if operation.id not in BY_SIGNATURE]

MARK = "@@@"
"""Marks where a hostile value goes; what goes there need not be JSON."""

# What no field of any type takes.
ANYWHERE = {
    "NUL": r'"a\u0000b"',
    "lone surrogate": r'"\ud800"',
    "lone low surrogate": r'"x\udc00"',
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "10^400": "1" + "0" * 400,
    "1,000 deep": "[" * 1_000 + "]" * 1_000,
    "100,000 deep": "[" * 100_000 + "]" * 100_000,
    "objects 1,000 deep": '{"a":' * 1_000 + "1" + "}" * 1_000,
    "10,000 keys": "{" + ",".join(f'"k{n}":1' for n in range(10_000)) + "}",
}
# What a field of ours takes in no case; a webhook's fields are the gateway's.
NOT_A_SCALAR = {"object": "{}", "array": "[]", "true": "true"}
NOT_TEXT = {"integer": "5", "float": "1.5", **NOT_A_SCALAR}
NOT_AN_AMOUNT = {
    "three decimals": "1.005",
    "negative": "-1",
    "tiny negative": "-0.01",
    "numeric overflow": "10000000000",
    "2^63": "9223372036854775808",
    "words": '"ten"',
    "NaN in words": '"NaN"',
    "exponent in words": '"1e400"',
    "three decimals in words": '"1.005"',
    **NOT_A_SCALAR,
}
NOT_A_COUNT = {
    "zero": "0",
    "negative": "-1",
    "fraction": "1.5",
    "2^31": "2147483648",
    "2^63": "9223372036854775808",
    "in words": '"1"',
    **NOT_A_SCALAR,
}

WHOLE = {
    "not JSON": b"order=1",
    "truncated": b'{"a": [1, ',
    "array": b"[]",
    "string": b'"text"',
    "number": b"5",
    "null": b"null",
    "only blanks": b"  ",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "bad UTF-8": b'{"a": "\xff\xfe"}',
    "1,000 deep": b"[" * 1_000 + b"]" * 1_000,
    "100,000 deep": b'{"a":' * 100_000,
    "10,000 keys": b"{" + b",".join(b'"k%d":1' % n for n in range(10_000)) + b"}",
}


def variants(allowed: set[str]) -> dict[str, str]:
    """Return the hostile values for a field of these JSON types."""
    if "integer" in allowed:
        return ANYWHERE | {name: value for name, value in NOT_A_COUNT.items() if value != "0" or ZERO not in allowed}
    return ANYWHERE | (NOT_AN_AMOUNT if "number" in allowed else NOT_TEXT)


def with_value(body: dict[str, Any], path: tuple[Any, ...], value: str) -> bytes:
    """Return the body as bytes with `value`, raw, at `path`."""
    changed = copy.deepcopy(body)
    target: Any = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = MARK
    return json.dumps(changed).replace(f'"{MARK}"', value).encode()


class Attack:
    """Sends bodies to one operation, on entities that exist, as someone who may call it."""

    def __init__(self, api: httpx2.AsyncClient, settings: Settings, clock: MovableClock, **ids: Any) -> None:
        self._api = api
        self._secret = settings.payment_webhook_secret.get_secret_value()
        self._clock = clock
        self._ids = ids
        self.order_id = ids["order_id"]
        self.event_id = "evt_hostile"

    async def send(
        self, operation: Operation, content: bytes | AsyncIterator[bytes], media_type: str | None = "application/json"
    ) -> httpx2.Response:
        """Send a body; a webhook with the signature that it needs to be looked into at all."""
        headers = {} if media_type is None else {"content-type": media_type}
        if operation.id in BY_SIGNATURE:
            headers |= self._signed(content if isinstance(content, bytes) else b"")
        return await self._api.request(operation.method, operation.url(**self._ids), content=content, headers=headers)

    def body(self, operation: Operation) -> dict[str, Any]:
        """Return a valid body."""
        if operation.id in BY_SIGNATURE:
            return webhook_event(self.order_id)
        assert operation.body_schema is not None
        return example_body(operation.body_schema)

    def hostile(self, operation: Operation) -> Iterator[tuple[str, bytes]]:
        """Yield every hostile body with a name for it."""
        body = self.body(operation)
        for path, allowed in leaves(body, operation.body_schema or {}):
            values = ANYWHERE if operation.id in BY_SIGNATURE else variants(allowed)
            for name, value in values.items():
                yield f"{name} at {path}", with_value(body, path, value)
        if operation.id not in BY_SIGNATURE:
            yield "unknown field", json.dumps({**body, "status": "PAID"}).encode()
            yield "unknown field with NUL in its name", json.dumps({**body, "a\0b": 1}).encode()
        yield "a name twice", b'{"a": 1, "a": 1, ' + json.dumps(body).encode()[1:]
        yield from WHOLE.items()

    def _signed(self, body: bytes) -> dict[str, str]:
        event_id, timestamp = self.event_id, str(int(self._clock().timestamp()))
        digest = hmac.new(
            self._secret.removeprefix("whsec_").encode(), f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256
        ).digest()
        return {
            "webhook-id": event_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }


def webhook_event(order_id: str) -> dict[str, Any]:
    """Return an event as the gateway sends it."""
    return {
        "id": "evt_hostile",
        "type": "payment.captured",
        "created": "2026-11-23T00:00:00Z",
        "data": {
            "object": {
                "id": "pay_1",
                "object": "payment",
                "reference": order_id,
                "status": "captured",
                "amount": "10.00",
                "amount_captured": "10.00",
                "amount_refunded": "0.00",
                "currency": "USD",
                "failure_code": None,
                "created": "2026-11-23T00:00:00Z",
            }
        },
    }


@pytest.fixture
async def attack(api: httpx2.AsyncClient, settings: Settings, services: Services, clock: MovableClock) -> Attack:
    order = await new_order(api, *TO_DELIVERED)
    requested = await new_return(api, order["id"])
    ids = {
        "order_id": order["id"],
        "return_id": requested["id"],
        "dead_letter_id": await bury_job(services.database),
        "case_id": await raise_case(services.database),
        "notification_id": await refuse_mail(services.database),
    }
    return Attack(api, settings, clock, **ids)


def rows(connection: psycopg.Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    counted = {}
    for (table,) in tables:
        found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert found is not None
        counted[table] = found[0]
    return counted


@pytest.mark.req("NFR-004.5", "REQ-005.10")
@pytest.mark.parametrize("operation", REFUSING, ids=lambda operation: operation.id)
async def test_every_hostile_body_is_refused_and_nothing_is_written(
    operation: Operation, attack: Attack, owner_connection: psycopg.Connection
) -> None:
    before = rows(owner_connection)
    tried = 0
    for name, body in attack.hostile(operation):
        response = await attack.send(operation, body)
        # Too many digits or levels may make it too long instead; the caller can correct both.
        assert response.status_code in {413, 422}, f"{name}: {response.status_code} {response.text[:300]}"
        error = error_of(response)
        if response.status_code == 422:
            assert error["code"] == "VALIDATION_ERROR"
            assert error["details"], name
            assert all(sorted(fault) == ["field", "message"] for fault in error["details"]), name
        assert len(response.content) < 20_000, name
        tried += 1
    assert tried >= 21
    assert rows(owner_connection) == before


@pytest.mark.parametrize("operation", WEBHOOK, ids=lambda operation: operation.id)
async def test_every_hostile_body_that_is_signed_is_kept(
    operation: Operation, attack: Attack, owner_connection: psycopg.Connection
) -> None:
    kept = 0
    for number, (name, body) in enumerate(attack.hostile(operation)):
        attack.event_id = f"evt_hostile_{number}"
        response = await attack.send(operation, body)
        assert response.status_code in {200, 413}, f"{name}: {response.status_code} {response.text[:300]}"
        kept += response.status_code == 200
    found = owner_connection.execute("SELECT count(*), count(DISTINCT outcome) FROM gateway_events").fetchone()
    assert found is not None
    assert found[0] == kept >= 21


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.id)
async def test_a_body_over_the_limit_is_refused_unparsed(
    operation: Operation, attack: Attack, settings: Settings, owner_connection: psycopg.Connection
) -> None:
    before = rows(owner_connection)
    large = b'{"reason": "' + b"x" * settings.max_body_bytes + b'"}'

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for content in (large, in_chunks()):
        response = await attack.send(operation, content)
        assert response.status_code == 413
        assert error_of(response)["code"] == "PAYLOAD_TOO_LARGE"
    assert rows(owner_connection) == before


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.id)
async def test_another_media_type_or_no_body_is_refused(operation: Operation, attack: Attack) -> None:
    body = json.dumps(attack.body(operation)).encode()
    others = ("text/plain", "application/xml", "multipart/form-data; boundary=x", None)
    # What the gateway signed is kept, however it is labelled: see the tests of the webhook.
    for media_type in () if operation in WEBHOOK else others:
        response = await attack.send(operation, body, media_type)
        assert response.status_code == 415, media_type
        assert error_of(response)["code"] == "UNSUPPORTED_MEDIA_TYPE"
    if operation.needs_body:
        response = await attack.send(operation, b"")
        if operation in WEBHOOK:
            assert response.json() == {"outcome": "UNREADABLE"}
            return
        assert response.status_code == 422
        assert error_of(response)["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.id)
async def test_the_body_that_was_made_hostile_is_itself_fit_to_be_read(operation: Operation, attack: Attack) -> None:
    response = await attack.send(operation, json.dumps(attack.body(operation)).encode())
    assert response.status_code in {200, 201, 404, 409}, response.text


async def test_an_order_may_be_cancelled_without_a_body(api: httpx2.AsyncClient) -> None:
    for content in (None, b"{}"):
        order = await new_order(api)
        headers = {"content-type": "application/json"} if content else {}
        response = await api.post(f"/api/v1/orders/{order['id']}/cancel", content=content, headers=headers)
        assert response.status_code == 200
        assert response.json()["status"] == "CANCELLED"


@pytest.mark.req("NFR-004.9")
async def test_secrets_in_a_refused_body_are_not_given_back(api: httpx2.AsyncClient) -> None:
    secret = "tok_live_canary_4242424242424242"
    response = await api.post("/api/v1/orders", json={"payment_token": [secret], secret: secret})
    assert response.status_code == 422
    assert response.text.count(secret) == 1  # the unknown field's name, which the caller has to find


@pytest.mark.parametrize(
    "value",
    [9_223_372_036_854_775_807, -9_223_372_036_854_775_808, 0.1, 1.0, 1e17, 5e-324, "\u2028", "\\u0000", True, None],
)
async def test_what_metadata_may_hold_comes_back_as_it_was(api: httpx2.AsyncClient, value: Any) -> None:
    order = await new_order(api, metadata={"given": value, "k" * 64: value})
    again = await api.get(f"/api/v1/orders/{order['id']}")
    assert again.json()["metadata"] == {"given": value, "k" * 64: value}


async def test_lists_leave_metadata_out(api: httpx2.AsyncClient) -> None:
    """A hundred orders with 16 KiB of it each would be an answer of 1.6 MB."""
    largest = {f"{number:064}": "v" * 200 for number in range(50)}
    largest["0" * 64] += "v" * (METADATA_BYTES - len(json.dumps(largest, separators=(",", ":"))))
    order = await new_order(api, metadata=largest)
    assert order["metadata"] == (await api.get(f"/api/v1/orders/{order['id']}")).json()["metadata"] == largest
    [listed] = (await api.get("/api/v1/orders")).json()["data"]
    assert set(order) - set(listed) == {"metadata", "line_items"}
    refused = await api.get("/api/v1/orders?fields=id,metadata")
    assert refused.status_code == 422
    too_large = await api.post("/api/v1/orders", json=order_payload(metadata=largest | {"1".zfill(64): "v" * 201}))
    assert too_large.status_code == 422
    assert error_of(too_large)["details"] == [
        {"field": "metadata", "message": f"must not have more than {METADATA_BYTES} bytes as JSON"}
    ]


@pytest.mark.parametrize(
    "text",
    [
        r'"\u0000"',
        r'"\ud800"',
        "NaN",
        "1e999",
        "18446744073709551616",
        "9223372036854775808",
        "-0.0",
        "0.12345678901234567890",
        "[]",
        "{}",
        "[" * 40 + "]" * 40,
        '"' + "x" * 16_384 + '"',
    ],
)
async def test_what_metadata_cannot_hold_is_refused(
    api: httpx2.AsyncClient, text: str, owner_connection: psycopg.Connection
) -> None:
    before = rows(owner_connection)
    body = with_value({**order_payload(), "metadata": {"given": None}}, ("metadata", "given"), text)
    response = await api.post("/api/v1/orders", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert rows(owner_connection) == before


@pytest.mark.parametrize(
    "metadata", [{"k" * 65: 1}, {f"k{number}": number for number in range(51)}, {"deep": {"a": 1}}, {"list": [1]}]
)
async def test_metadata_has_few_short_names_and_scalar_values(
    api: httpx2.AsyncClient, metadata: dict[str, Any]
) -> None:
    response = await api.post("/api/v1/orders", json=order_payload(metadata=metadata))
    assert response.status_code == 422
    [fault] = error_of(response)["details"]
    assert fault["field"].startswith("metadata")


@pytest.mark.parametrize(
    "text", ["1_0", "1e1", "+5", ".5", " 10", "10 ", "10\n", "5.", "\u0665", "1.0000005", "", "0x1"]
)
async def test_amounts_in_text_are_what_the_document_says(api: httpx2.AsyncClient, text: str) -> None:
    line = order_payload()["line_items"][0]
    for body in (
        order_payload(shipping_amount=text),
        order_payload(line_items=[{**line, "unit_price": text}]),
        order_payload(line_items=[{**line, "tax_rate": text}]),
    ):
        response = await api.post("/api/v1/orders", json=body)
        assert response.status_code == 422, body
        [fault] = error_of(response)["details"]
        assert fault["field"].endswith(("shipping_amount", "unit_price", "tax_rate"))
    taken = await api.post(
        "/api/v1/orders",
        json=order_payload(shipping_amount="10", line_items=[{**line, "unit_price": "5.5", "tax_rate": "0.0550"}]),
    )
    assert taken.status_code == 201


async def test_ids_that_are_no_ids_are_refused(api: httpx2.AsyncClient) -> None:
    for bad in ("1", "%00", "..%2f", "x" * 5000, "'; DROP TABLE orders --", str(uuid4())[:-1]):
        response = await api.get(f"/api/v1/orders/{bad}")
        assert response.status_code in {404, 422}, bad
        error_of(response)
    assert UUID((await new_order(api))["id"]).version == 7
