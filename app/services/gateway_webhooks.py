"""What the payment gateway tells us unasked: proving that it is the gateway, then reading it (INT-001).

Signatures in the style of Standard Webhooks: `webhook-signature` holds one or more space-separated
`v1,<base64>`, each the HMAC-SHA256 over `id.timestamp.body` under the shared secret; several while a secret
is being changed. Other versions are passed over. Events come at least once and in any order: remember `id`.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.services.gateway_wire import (
    WireFormatError,
    read_moment,
    read_object,
    read_payment,
    read_refund,
    read_text,
)
from app.services.payment_gateway import GatewayPayment, GatewayRefund

MAX_BODY_BYTES = 65_536
"""An event of the gateway has about 1 KB."""

_MAX_SIGNATURE_CHARACTERS = 2_048
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
# 32 bytes in base64.
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=", re.ASCII)
_PREFIX = "whsec_"
_VERSION = "v1,"


class WebhookSignatureError(Exception):
    """Nothing proves that the gateway sent this now; the message says what is missing. Answer 401."""


class WebhookPayloadError(Exception):
    """The gateway sent this, yet it cannot be read; the message says why. Answer 422 and look into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """One thing that happened at the gateway.

    Attributes:
        id: the same at every delivery of this event.
        type: e.g. `payment.captured`, `refund.succeeded`.
        created: when it happened.
        object: the payment or refund as it was then; None for kinds of events this version does not know,
            which are to be acknowledged and left alone.
    """

    id: str
    type: str
    created: datetime
    object: GatewayPayment | GatewayRefund | None


def verify_webhook(
    headers: Mapping[str, str], body: bytes, secret: str, now: datetime, tolerance: timedelta
) -> WebhookEvent:
    """Return the event that a webhook holds, if the gateway signed it and it is fresh.

    Args:
        headers: of the request, in any capitalisation.
        body: exactly the bytes that were received.
        secret: `whsec_…`; what follows the prefix is the key, decoded when it is valid standard base64
            (padded), else as UTF-8 bytes.
        now: the present, aware.
        tolerance: how far the signed timestamp may be from `now`, either way.

    Raises:
        WebhookSignatureError: forged, stale, from the future, incomplete or oversized.
        WebhookPayloadError: truly from the gateway, but not an event as agreed.
        ValueError: the secret is empty, with which anyone could sign.
    """
    event_id = _verify_signature(signature_of(headers, now, tolerance), body, _key(secret))
    try:
        payload = read_object(json.loads(body), "the event")
        event = _read_event(payload)
    except WireFormatError as fault:
        raise WebhookPayloadError(f"The event cannot be read: {fault}.") from fault
    except (ValueError, RecursionError) as fault:
        raise WebhookPayloadError("The event is not JSON.") from fault
    if event.id != event_id:
        raise WebhookPayloadError("The event's id is not the one in the webhook-id header.")
    return event


@dataclass(frozen=True, slots=True)
class ClaimedSignature:
    """What the headers of a webhook claim; nothing of it is proven."""

    event_id: str
    timestamp: str
    signatures: tuple[str, ...]


def signature_of(headers: Mapping[str, str], now: datetime, tolerance: timedelta) -> ClaimedSignature:
    """Return the signature that a webhook's headers claim, before any of its body is read.

    Args:
        headers: of the request, in any capitalisation.
        now: the present, aware.
        tolerance: how far the signed timestamp may be from `now`, either way.

    Raises:
        WebhookSignatureError: a header is missing or malformed, or the time is too far off: no body could make it hold.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    event_id = lower.get("webhook-id", "")
    timestamp = lower.get("webhook-timestamp", "")
    given = lower.get("webhook-signature", "")
    if not _ID.fullmatch(event_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise WebhookSignatureError("The webhook-id or webhook-timestamp header is missing or malformed.")
    if len(given) > _MAX_SIGNATURE_CHARACTERS:
        raise WebhookSignatureError("The webhook-signature header is too large.")
    if abs(now.timestamp() - int(timestamp)) > tolerance.total_seconds():
        raise WebhookSignatureError("The timestamp is too far from the present.")
    signatures = tuple(signature for signature in given.split(" ") if _SIGNATURE.fullmatch(signature))
    if not signatures:
        raise WebhookSignatureError("No signature fits.")
    return ClaimedSignature(event_id, timestamp, signatures)


def _verify_signature(claimed: ClaimedSignature, body: bytes, key: bytes) -> str:
    """Return the proven event id."""
    if len(body) > MAX_BODY_BYTES:
        raise WebhookSignatureError("The body is too large.")
    signed = f"{claimed.event_id}.{claimed.timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    proven = False
    for signature in claimed.signatures:
        proven |= hmac.compare_digest(signature.removeprefix(_VERSION).encode(), expected)
    if not proven:
        raise WebhookSignatureError("No signature fits.")
    return claimed.event_id


def _key(secret: str) -> bytes:
    text = secret.removeprefix(_PREFIX)
    if not text:
        raise ValueError("the webhook secret is empty")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def _read_event(payload: Mapping[str, Any]) -> WebhookEvent:
    kind = read_text(payload, "type")
    data = read_object(payload.get("data"), "data")
    subject: GatewayPayment | GatewayRefund | None = None
    if kind.startswith("payment."):
        subject = read_payment(data.get("object"))
    elif kind.startswith("refund."):
        subject = read_refund(data.get("object"))
    return WebhookEvent(id=read_text(payload, "id"), type=kind, created=read_moment(payload, "created"), object=subject)
