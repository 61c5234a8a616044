"""Webhooks: only the gateway's own, fresh and whole events get in."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.payments.gateway.port import GatewayPayment, GatewayRefund
from app.services.payments.webhooks import (
    MAX_BODY_BYTES,
    WebhookEvent,
    WebhookSignatureError,
    WebhookVerifier,
    concerns_money,
)
from tests.unit.gateway_support import SECRET, live_gateway, wait_for, webhook_receiver

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("NFR-004")]

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
TOLERANCE = timedelta(seconds=300)
PAYMENT_ID = UUID("01930000-0000-7000-8000-000000000001")
PAYMENT = {
    "id": "pay_1",
    "reference": str(PAYMENT_ID),
    "status": "captured",
    "amount": "120.50",
    "amount_captured": "120.50",
    "amount_refunded": "0.00",
    "currency": "USD",
    "failure_code": None,
    "created": "2026-11-22T09:59:58.000Z",
}
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "type": "payment.captured",
    "created": "2026-11-22T09:59:59.123Z",
    "data": {"object": PAYMENT},
}


def body_of(event: object) -> bytes:
    return json.dumps(event).encode()


def signature(body: bytes, *, secret: str = SECRET, event_id: str = "evt_1", at: object = None) -> str:
    timestamp = int(NOW.timestamp()) if at is None else at
    key = secret.removeprefix("whsec_").encode()
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def headers_for(body: bytes, **changes: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": signature(body),
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in headers.items() if value is not None}


def verify(headers: Mapping[str, str], body: bytes, secret: str = SECRET, now: datetime = NOW) -> WebhookEvent:
    verifier = WebhookVerifier(secret, TOLERANCE, lambda: now)
    return verifier.proven(verifier.claimed(headers), body)


def test_a_payment() -> None:
    body = body_of(EVENT)
    event = verify(headers_for(body), body)
    assert (event.id, event.type) == ("evt_1", "payment.captured")
    assert event.created == datetime(2026, 11, 22, 9, 59, 59, 123_000, tzinfo=UTC)
    assert isinstance(event.object, GatewayPayment)
    assert (event.object.reference, event.object.id) == (PAYMENT_ID, "pay_1")
    assert (event.object.amount, event.object.currency) == (Decimal("120.50"), "USD")


def test_a_refund() -> None:
    refund = {**PAYMENT, "id": "re_1", "payment": "pay_1", "status": "succeeded"}
    body = body_of({**EVENT, "type": "refund.succeeded", "data": {"object": refund}})
    event = verify(headers_for(body), body)
    assert isinstance(event.object, GatewayRefund)
    assert (event.object.payment_id, event.object.status) == ("pay_1", "succeeded")


def test_a_kind_of_event_that_is_new_to_us_is_read_without_its_object() -> None:
    body = body_of({**EVENT, "type": "payout.paid", "data": {"object": {"anything": 1}}})
    assert verify(headers_for(body), body).object is None


def test_header_names_in_any_capitalisation() -> None:
    body = body_of(EVENT)
    headers = {name.title(): value for name, value in headers_for(body).items()}
    assert verify(headers, body).id == "evt_1"


def test_several_signatures_while_a_secret_changes() -> None:
    body = body_of(EVENT)
    old, new = signature(body, secret="whsec_old-secret"), signature(body)
    for several in (f"{old} {new}", f"{new} {old}", f"v1a,abc {new}", f"v2,{new} {new}"):
        assert verify(headers_for(body, webhook_signature=several), body).id == "evt_1"
    with pytest.raises(WebhookSignatureError):
        verify(headers_for(body, webhook_signature=f"{old} {old}"), body)


@pytest.mark.parametrize("name", ["webhook_id", "webhook_timestamp", "webhook_signature"])
@pytest.mark.parametrize("value", [None, "", " "])
def test_nothing_is_accepted_without_all_headers(name: str, value: str | None) -> None:
    body = body_of(EVENT)
    with pytest.raises(WebhookSignatureError):
        verify(headers_for(body, **{name: value}), body)


BODY = body_of(EVENT)
GOOD = signature(BODY)
HEXADECIMAL = "v1," + base64.b64decode(GOOD[3:]).hex()


@pytest.mark.parametrize(
    "forged",
    [
        signature(BODY, secret="whsec_another"),
        signature(BODY, secret="whsec_"),
        GOOD[:-1],
        GOOD[:-4],
        GOOD + "A",
        GOOD.removeprefix("v1,"),
        "v1," + GOOD,
        GOOD.replace("v1,", "v2,"),
        GOOD.replace("v1,", "V1,"),
        GOOD.replace("v1,", "v1, "),
        GOOD.upper(),
        HEXADECIMAL,
        "v1,",
        "v1,\u00e4\ud800",
        "v1," * 600,
        "v1,AAAA " * 100_000,
    ],
)
def test_forged_signatures(forged: str) -> None:
    with pytest.raises(WebhookSignatureError):
        verify(headers_for(BODY, webhook_signature=forged), BODY)


@pytest.mark.parametrize(
    "body", [BODY + b" ", BODY[:-1], BODY.replace(b"120.50", b"920.50"), b"", BODY.replace(b'"', b"'")]
)
def test_a_body_that_was_touched(body: bytes) -> None:
    with pytest.raises(WebhookSignatureError):
        verify(headers_for(BODY), body)


def test_another_id_or_timestamp_than_was_signed() -> None:
    moment = str(int(NOW.timestamp()) + 1)
    for changes in ({"webhook_id": "evt_2"}, {"webhook_timestamp": moment}):
        with pytest.raises(WebhookSignatureError):
            verify(headers_for(BODY, **changes), BODY)


@pytest.mark.parametrize(("seconds", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_freshness(seconds: int, fresh: bool) -> None:  # noqa: FBT001
    moment = str(int(NOW.timestamp()) + seconds)
    headers = headers_for(BODY, webhook_timestamp=moment, webhook_signature=signature(BODY, at=moment))
    if fresh:
        assert verify(headers, BODY).id == "evt_1"
    else:
        with pytest.raises(WebhookSignatureError, match="present"):
            verify(headers, BODY)


@pytest.mark.parametrize(
    "moment",
    ["now", "-1", "1e9", "1.5", "0x10", " 1", "\u0661" * 10, "9" * 12, "9" * 13, "9" * 100_000, "nan"],
)
def test_impossible_timestamps(moment: str) -> None:
    headers = headers_for(BODY, webhook_timestamp=moment, webhook_signature=signature(BODY, at=moment))
    with pytest.raises(WebhookSignatureError):
        verify(headers, BODY)


@pytest.mark.parametrize("event_id", ["a.b", "a b", "\u00e4", "x" * 129, "\n", "evt_1\n"])
def test_impossible_ids(event_id: str) -> None:
    headers = headers_for(BODY, webhook_id=event_id, webhook_signature=signature(BODY, event_id=event_id))
    with pytest.raises(WebhookSignatureError):
        verify(headers, BODY)


def test_a_huge_body_is_not_even_hashed() -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    with pytest.raises(WebhookSignatureError, match="too large"):
        verify(headers_for(body), body)


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_an_empty_secret_is_no_secret(secret: str) -> None:
    headers = headers_for(BODY, webhook_signature=signature(BODY, secret=secret))
    with pytest.raises(ValueError, match="secret"):
        verify(headers, BODY, secret)


def test_a_base64_secret_is_decoded() -> None:
    key = b"\x00\x01binary secret of the right sort"
    secret = "whsec_" + base64.b64encode(key).decode()
    stamp = str(int(NOW.timestamp()))
    digest = hmac.new(key, f"evt_1.{stamp}.".encode() + BODY, hashlib.sha256).digest()
    signed = "v1," + base64.b64encode(digest).decode()
    assert verify(headers_for(BODY, webhook_signature=signed), BODY, secret).id == "evt_1"


def test_the_example_of_the_standard_is_proven_then_found_wanting() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    at = datetime.fromtimestamp(1614265330, UTC)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    event = verify(headers, b'{"test": 2432232314}', secret, at)
    assert (event.id, event.type, event.object) == (headers["webhook-id"], "unreadable", None)
    assert event.problem == "the event has no type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff",
        b"[" * 65_000,
        b'{"id": ' + b"9" * 10_000 + b"}",
        body_of({}),
        body_of({**EVENT, "id": "evt_2"}),
        body_of({**EVENT, "id": 1}),
        body_of({**EVENT, "type": None}),
        body_of({**EVENT, "type": ""}),
        body_of({**EVENT, "data": []}),
        body_of({**EVENT, "data": {}}),
        body_of({**EVENT, "data": {"object": None}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "reference": "p-1"}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "reference": "{" + str(PAYMENT_ID) + "}"}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "amount": 120.5}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "amount": "1e3"}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "amount": "9" * 20}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "currency": "\ud800AB"}}}),
        body_of({**EVENT, "data": {"object": {**PAYMENT, "status": "lost"}}}),
        body_of({**EVENT, "type": "refund.succeeded"}),
    ],
)
def test_a_true_event_that_cannot_be_read_says_why(body: bytes) -> None:
    event = verify(headers_for(body), body)
    assert (event.id, event.object) == ("evt_1", None)
    assert event.problem
    assert concerns_money(event)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-11-22t10:00:00z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:60Z", datetime(2026, 11, 22, 10, 1, tzinfo=UTC)),
        ("2026-12-31T23:59:60.25Z", datetime(2027, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-22T10:00:00.123456789+02:00", datetime(2026, 11, 22, 8, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_rfc_3339_writes_them(written: str, meant: datetime) -> None:
    body = body_of({**EVENT, "created": written, "data": {"object": {**PAYMENT, "created": written}}})
    event = verify(headers_for(body), body)
    assert event.created == meant
    assert event.object is not None
    assert event.problem is None


@pytest.mark.parametrize("written", [1_700_000_000, "2026-11-22T10:00:00", "2026-11-22", "yesterday", None])
def test_an_event_of_which_only_the_time_cannot_be_read_is_read(written: object) -> None:
    body = body_of({**EVENT, "created": written})
    event = verify(headers_for(body), body)
    assert (event.created, event.problem) == (None, None)
    assert event.object is not None


@pytest.mark.parametrize(
    ("kind", "told", "money"),
    [
        ("payment.expired", {}, False),
        ("payment.voided", {"amount": "1.00"}, False),
        ("payment.chargeback", {}, True),
        ("payout.paid", {}, True),
        ("customer.updated", {}, False),
        ("mandate.charged", {"amount": "1.00"}, True),
    ],
)
def test_a_kind_that_nothing_acts_on_is_kept_with_its_reference(kind: str, told: dict[str, str], money: bool) -> None:  # noqa: FBT001 - a column
    body = body_of({**EVENT, "type": kind, "data": {"object": {**told, "reference": str(PAYMENT_ID)}}})
    event = verify(headers_for(body), body)
    assert (event.object, event.problem, event.reference) == (None, None, PAYMENT_ID)
    assert concerns_money(event) is money


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(list(headers_for(BODY))), st.text()))
def test_nothing_unsigned_is_accepted(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(WebhookSignatureError):
        verify({**headers_for(BODY), **headers, "webhook-id": "evt_9"}, body)


def test_what_the_gateway_sends_is_what_is_read(tmp_path: Path) -> None:
    with webhook_receiver() as receiver, live_gateway(tmp_path, webhook_url=receiver.url) as gateway:
        references = [str(uuid4()) for _ in range(3)]
        payment = {"reference": references[0], "amount": "50", "currency": "EUR"}
        payment_id = gateway.send("POST", "/v1/payments", payment)["id"]
        refund = {"payment": payment_id, "reference": references[1], "amount": "20", "currency": "EUR"}
        gateway.send("POST", "/v1/refunds", refund)
        gateway.fault("refund", "bad_signature")
        gateway.send("POST", "/v1/refunds", {**refund, "reference": references[2]})
        wait_for(lambda: len(receiver.deliveries) == 3)
    accepted, refused = [], 0
    for delivery in receiver.deliveries:
        try:
            accepted.append(verify(delivery.headers, delivery.body, now=datetime.now(UTC)))
        except WebhookSignatureError:
            refused += 1
    assert refused == 1
    told = {event.type: event.object for event in accepted}
    assert set(told) == {"payment.captured", "refund.succeeded"}
    paid, returned = told["payment.captured"], told["refund.succeeded"]
    assert isinstance(paid, GatewayPayment)
    assert isinstance(returned, GatewayRefund)
    assert (str(paid.reference), paid.amount, paid.currency) == (references[0], Decimal(50), "EUR")
    assert (str(returned.reference), returned.amount) == (references[1], Decimal(20))
