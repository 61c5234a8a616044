"""What the payment gateway reports by itself: proving that it is the gateway, then reading it (INT-001).

Signatures in the style of Standard Webhooks: `webhook-signature` holds one or more space-separated
`v1,<base64>`, each the HMAC-SHA256 over `id.timestamp.body` under the shared secret; several while a secret
is being changed. Other versions are passed over. Events come at least once and in any order: remember `id`.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self
from uuid import UUID

from app.config import Settings
from app.services.payments.gateway.port import MOCK_HEADER, GatewayDispute, GatewayPayment, GatewayRefund
from app.services.payments.gateway.wire import (
    WireFormatError,
    read_dispute,
    read_moment,
    read_payment,
    read_refund,
    reference_or_none,
)
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import InvalidInputError, UnauthenticatedError
from app.utils.json_values import JsonObject
from app.utils.strict_json import parse_object

MAX_BODY_BYTES = 65_536
"""An event of the gateway has about 1 KB."""

_MAX_SIGNATURE_CHARACTERS = 2_048
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
# 32 bytes in base64.
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=", re.ASCII)
_PREFIX = "whsec_"
_VERSION = "v1,"
_MAX_KIND = 255

UNREADABLE = "unreadable"
"""The type under which an event is kept that has none."""

DISPUTE = "dispute."
"""What the types of all events about disputes contain, such as `dispute.created` and `charge.dispute.created`."""
_READERS: Mapping[str, Callable[[Any], GatewayPayment | GatewayRefund]] = {
    "payment.captured": read_payment,
    "payment.authorized": read_payment,
    "refund.succeeded": read_refund,
    "refund.failed": read_refund,
}
"""The kinds that are acted on, besides disputes → how their object is read."""

_FACTS = (
    "id", "reference", "payment", "status", "amount", "amount_captured", "amount_refunded", "currency", "reason"
)  # fmt: skip
_MONEY = ("payment.", "refund.", "dispute.", "charge.", "chargeback.", "payout.")
_NO_MONEY = frozenset(
    {
        *(f"payment.{word}" for word in ("authorized", "created", "pending", "processing", "requires_action")),
        *(f"payment.{word}" for word in ("failed", "voided", "expired", "canceled", "cancelled", "updated")),
        *(f"refund.{word}" for word in ("created", "pending", "processing", "updated")),
    }
)
"""Kinds of which it is known that no money moved with them."""


def concerns_money(event: "WebhookEvent") -> bool:
    """Return whether money may have moved with an event that nothing here acts on."""
    if event.type in _NO_MONEY:
        return False
    return event.type == UNREADABLE or event.type.startswith(_MONEY) or "amount" in event.facts


class WebhookSignatureError(UnauthenticatedError):
    """Nothing proves that the gateway sent this now; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """One thing that happened at the gateway.

    Attributes:
        id: the webhook id, the same at every delivery of this event.
        type: e.g. `payment.captured`, `refund.succeeded`; `unreadable` where there is none to read.
        created: when it happened, if that can be read.
        object: what it is about, as it was then; None for kinds that are not acted on, and where it cannot be read.
        reference: our id that the event names, if it names one.
        problem: why an event that should be acted on cannot be read; None when it can.
        facts: what a person needs to know of an event that cannot be acted on.
        body: what is kept of it: the JSON object, or `{"text": …}` where it is none that can be stored as it came.
    """

    id: str
    type: str
    created: datetime | None
    object: GatewayPayment | GatewayRefund | GatewayDispute | None
    reference: UUID | None = None
    problem: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimedSignature:
    """What the headers of a webhook claim; nothing of it is proven."""

    event_id: str
    timestamp: str
    signatures: tuple[str, ...]


class WebhookVerifier:
    """Proves that webhooks are the gateway's, and reads them.

    Attributes:
        limit: bytes that a body may have.
    """

    def __init__(
        self,
        secret: str,
        tolerance: timedelta,
        clock: Clock = utc_now,
        *,
        limit: int = MAX_BODY_BYTES,
        takes_mock: bool = True,
    ) -> None:
        """Take what a signature is checked with.

        Args:
            secret: `whsec_…`; what follows the prefix is the key, decoded when it is valid standard base64
                (padded), else as UTF-8 bytes.
            tolerance: how far the signed timestamp may be from the present, either way.
            limit: bytes that a body may have, at most `MAX_BODY_BYTES`.
            takes_mock: whether events of a mock gateway are taken.

        Raises:
            ValueError: the secret is empty, with which anyone could sign.
        """
        self._key = _key(secret)
        self._tolerance = tolerance
        self._clock = clock
        self._takes_mock = takes_mock
        self.limit = min(limit, MAX_BODY_BYTES)

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock = utc_now) -> Self:
        """Return the verifier of a deployment; production takes no events of a mock gateway."""
        return cls(
            settings.payment_webhook_secret.get_secret_value(),
            timedelta(seconds=settings.payment_webhook_tolerance_seconds),
            clock,
            limit=settings.max_body_bytes,
            takes_mock=settings.environment != "production",
        )

    def claimed(self, headers: Mapping[str, str]) -> ClaimedSignature:
        """Return the signature that a webhook's headers claim, before any of its body is read.

        Args:
            headers: of the request, in any capitalisation.

        Raises:
            WebhookSignatureError: a header is missing or malformed, or the time is too far off: no body could make it
                hold. Or a mock gateway sent it, and none is taken.
        """
        lower = {name.lower(): value for name, value in headers.items()}
        if not self._takes_mock and MOCK_HEADER in lower:
            raise WebhookSignatureError("Production takes no events of a mock gateway.")
        event_id = lower.get("webhook-id", "")
        timestamp = lower.get("webhook-timestamp", "")
        given = lower.get("webhook-signature", "")
        if not _ID.fullmatch(event_id) or not _TIMESTAMP.fullmatch(timestamp):
            raise WebhookSignatureError("The webhook-id or webhook-timestamp header is missing or malformed.")
        if len(given) > _MAX_SIGNATURE_CHARACTERS:
            raise WebhookSignatureError("The webhook-signature header is too large.")
        if abs(self._clock().timestamp() - int(timestamp)) > self._tolerance.total_seconds():
            raise WebhookSignatureError("The timestamp is too far from the present.")
        signatures = tuple(signature for signature in given.split(" ") if _SIGNATURE.fullmatch(signature))
        if not signatures:
            raise WebhookSignatureError("No signature fits.")
        return ClaimedSignature(event_id, timestamp, signatures)

    def proven(self, claimed: ClaimedSignature, body: bytes) -> WebhookEvent:
        """Return the event that a webhook holds, if the gateway signed it.

        Args:
            claimed: from `claimed`.
            body: exactly the bytes that were received. Nothing looks into them before the signature holds.

        Raises:
            WebhookSignatureError: forged or oversized.
        """
        if len(body) > MAX_BODY_BYTES:
            raise WebhookSignatureError("The body is too large.")
        signed = f"{claimed.event_id}.{claimed.timestamp}.".encode() + body
        expected = base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest())
        proven = False
        for signature in claimed.signatures:
            proven |= hmac.compare_digest(signature.removeprefix(_VERSION).encode(), expected)
        if not proven:
            raise WebhookSignatureError("No signature fits.")
        return read_event(claimed.event_id, body)


def read_event(event_id: str, body: bytes) -> WebhookEvent:
    """Return what a proven event says, as far as it can be read; none is lost for being written otherwise.

    A body that two readers could read differently, such as one that gives a name twice, is not acted on.

    Args:
        event_id: the proven webhook id.
    """
    try:
        payload = parse_object(body)
    except InvalidInputError as refusal:
        kept = {"text": body.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")}
        [(place, fault)] = refusal.faults
        return _unreadable(event_id, UNREADABLE, kept, f"the body is not strict JSON: {place} {fault}")
    kind = payload.get("type")
    if not isinstance(kind, str) or not 1 <= len(kind) <= _MAX_KIND or not kind.isprintable():
        return _unreadable(event_id, UNREADABLE, payload, "the event has no type")
    if payload.get("id") != event_id:
        return _unreadable(event_id, kind, payload, "the event's id is not the one in the webhook-id header")
    subject: GatewayPayment | GatewayRefund | GatewayDispute | None = None
    about = _about(payload)
    reader = partial(read_dispute, event_id=event_id) if DISPUTE in kind else _READERS.get(kind)
    if reader is not None:
        try:
            subject = reader(about)
        except WireFormatError as fault:
            return _unreadable(event_id, kind, payload, str(fault))
    try:
        created = read_moment(payload, "created")
    except WireFormatError:
        created = None
    return WebhookEvent(
        id=event_id,
        type=kind,
        created=created,
        object=subject,
        reference=subject.reference if subject is not None else reference_or_none(about),
        facts=_facts(about),
        body=payload,
    )


def _unreadable(event_id: str, kind: str, kept: JsonObject, problem: str) -> WebhookEvent:
    about = _about(kept)
    return WebhookEvent(
        id=event_id,
        type=kind,
        created=None,
        object=None,
        reference=reference_or_none(about),
        problem=problem,
        facts=_facts(about),
        body=kept,
    )


def _about(payload: JsonObject) -> JsonObject:
    """Return the object that an event is about; empty where there is none."""
    data = payload.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    return about if isinstance(about, dict) else {}


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    return {name: clean(value) for name in _FACTS if isinstance(value := about.get(name), str | int | float)}


def clean(value: object) -> str:
    """Return a fact as text that the database can store: no NUL, no lone surrogate, at most 255 characters."""
    text = str(value)[:_MAX_KIND]
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _key(secret: str) -> bytes:
    text = secret.removeprefix(_PREFIX)
    if not text:
        raise ValueError("the webhook secret is empty")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
