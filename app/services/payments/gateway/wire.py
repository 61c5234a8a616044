"""Reading the gateway's JSON: strict, because what is read wrong here is paid wrong later."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, get_args
from uuid import UUID

from app.services.payments.gateway.port import (
    GatewayDispute,
    GatewayPayment,
    GatewayRefund,
    GatewayTransaction,
    PaymentStatus,
    RefundStatus,
    TransactionType,
)
from app.utils.json_values import JsonObject

_AMOUNT = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,3})?", re.ASCII)
_MOMENT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<minute>\d\d:\d\d):(?P<second>\d\d)(?P<fraction>\.\d{1,12})?"
    r"(?P<offset>[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_MAX_TEXT = 255
_PAYMENT_STATUSES: dict[str, PaymentStatus] = {name: name for name in get_args(PaymentStatus)}
_REFUND_STATUSES: dict[str, RefundStatus] = {name: name for name in get_args(RefundStatus)}
_TRANSACTION_TYPES: dict[str, TransactionType] = {name: name for name in get_args(TransactionType)}

_T = TypeVar("_T")


class WireFormatError(ValueError):
    """An object of the gateway is not what it should be; the message names the field."""


def read_payment(record: Any) -> GatewayPayment:
    """Return the payment that a JSON object describes.

    Raises:
        WireFormatError: a field is missing or malformed.
    """
    fields = read_object(record, "payment")
    return GatewayPayment(
        id=read_text(fields, "id"),
        reference=_uuid(fields, "reference"),
        status=_choice(fields, "status", _PAYMENT_STATUSES),
        amount=_amount(fields, "amount"),
        captured_amount=_amount(fields, "amount_captured"),
        refunded_amount=_amount(fields, "amount_refunded"),
        currency=_currency(fields),
        failure_code=_optional_text(fields, "failure_code"),
        created=read_moment(fields, "created"),
    )


def read_refund(record: Any) -> GatewayRefund:
    """Return the refund that a JSON object describes.

    Raises:
        WireFormatError: a field is missing or malformed.
    """
    fields = read_object(record, "refund")
    return GatewayRefund(
        id=read_text(fields, "id"),
        payment_id=read_text(fields, "payment"),
        reference=_uuid(fields, "reference"),
        status=_choice(fields, "status", _REFUND_STATUSES),
        amount=_amount(fields, "amount"),
        currency=_currency(fields),
        failure_code=_optional_text(fields, "failure_code"),
        created=read_moment(fields, "created"),
    )


def read_dispute(record: Any, event_id: str) -> GatewayDispute:
    """Return the dispute that a JSON object describes; what it leaves out is None, so that none goes unnoticed.

    Args:
        event_id: names a dispute that has no id.

    Raises:
        WireFormatError: it is no object.
    """
    fields = read_object(record, "dispute")
    named = (_text_or_none(fields, name) for name in ("payment", "payment_intent", "charge"))
    return GatewayDispute(
        id=_text_or_none(fields, "id") or event_id,
        payment_id=next((name for name in named if name is not None), None),
        reference=reference_or_none(fields),
        amount=_text_or_none(fields, "amount"),
        currency=_text_or_none(fields, "currency"),
        reason=_text_or_none(fields, "reason"),
        status=_text_or_none(fields, "status"),
    )


def reference_or_none(fields: Mapping[str, Any]) -> UUID | None:
    """Return the reference of an object, when it is one that we can have given."""
    try:
        return _uuid(fields, "reference")
    except WireFormatError:
        return None


def read_transaction(record: Any) -> GatewayTransaction:
    """Return the movement that a JSON object describes.

    Raises:
        WireFormatError: a field is missing or malformed.
    """
    fields = read_object(record, "transaction")
    return GatewayTransaction(
        id=read_text(fields, "id"),
        type=_choice(fields, "type", _TRANSACTION_TYPES),
        reference=read_text(fields, "reference"),
        payment_id=read_text(fields, "payment"),
        refund_id=_optional_text(fields, "refund"),
        amount=_amount(fields, "amount"),
        currency=_currency(fields),
        created=read_moment(fields, "created"),
    )


def read_object(record: Any, what: str) -> JsonObject:
    """Return a JSON object as it is.

    Raises:
        WireFormatError: it is something else.
    """
    if not isinstance(record, dict):
        raise WireFormatError(f"{what} is not an object")
    return record


def read_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text of 1 to 255 printable characters.

    Raises:
        WireFormatError: it is missing or something else.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT or not value.isprintable():
        raise WireFormatError(f"{name} is not a text of 1 to {_MAX_TEXT} characters")
    return value


def read_moment(fields: Mapping[str, Any], name: str) -> datetime:
    """Return an RFC 3339 moment with an offset, in UTC; `t` and `z` may be small, and a leap second is second 60.

    Raises:
        WireFormatError: it is missing or something else.
    """
    found = _MOMENT.fullmatch(read_text(fields, name))
    if found is None:
        raise WireFormatError(f"{name} is not an RFC 3339 moment")
    # A leap second is the last one of its minute and a second more: Python's clock has no second 60.
    leap = found["second"] == "60"
    fraction = (found["fraction"] or "")[:7]
    text = f"{found['date']}T{found['minute']}:{'59' if leap else found['second']}{fraction}{found['offset'].upper()}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise WireFormatError(f"{name} is not an RFC 3339 moment") from None


def _text_or_none(fields: Mapping[str, Any], name: str) -> str | None:
    try:
        return read_text(fields, name)
    except WireFormatError:
        return None


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else read_text(fields, name)


def _amount(fields: Mapping[str, Any], name: str) -> Decimal:
    value = fields.get(name)
    if not isinstance(value, str) or _AMOUNT.fullmatch(value) is None:
        raise WireFormatError(f"{name} is not a decimal string such as 120.50")
    return Decimal(value)


def _currency(fields: Mapping[str, Any]) -> str:
    value = fields.get("currency")
    if not isinstance(value, str) or _CURRENCY.fullmatch(value) is None:
        raise WireFormatError("currency is not an ISO 4217 code")
    return value


def _uuid(fields: Mapping[str, Any], name: str) -> UUID:
    value = read_text(fields, name)
    try:
        found = UUID(value)
    except ValueError:
        raise WireFormatError(f"{name} is not a UUID") from None
    if str(found) != value.lower():
        raise WireFormatError(f"{name} is not a UUID in its usual form")
    return found


def _choice(fields: Mapping[str, Any], name: str, allowed: Mapping[str, _T]) -> _T:
    value = fields.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise WireFormatError(f"{name} is none of {', '.join(allowed)}")
    return allowed[value]
