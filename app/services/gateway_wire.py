"""Reading the gateway's JSON: strict, because what is read wrong here is paid wrong later."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar, get_args
from uuid import UUID

from app.services.payment_gateway import (
    GatewayPayment,
    GatewayRefund,
    GatewayTransaction,
    PaymentStatus,
    RefundStatus,
    TransactionType,
)

_AMOUNT = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,3})?", re.ASCII)
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


def read_object(record: Any, what: str) -> Mapping[str, Any]:
    """Return a JSON object as it is.

    Raises:
        WireFormatError: it is something else.
    """
    if not isinstance(record, dict):
        raise WireFormatError(f"{what} is not an object")
    return record


def read_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text of 1 to 255 characters.

    Raises:
        WireFormatError: it is missing or something else.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT:
        raise WireFormatError(f"{name} is not a text of 1 to {_MAX_TEXT} characters")
    return value


def read_moment(fields: Mapping[str, Any], name: str) -> datetime:
    """Return an RFC 3339 moment with an offset, in UTC.

    Raises:
        WireFormatError: it is missing or something else.
    """
    try:
        moment = datetime.fromisoformat(read_text(fields, name))
        if moment.tzinfo is None:
            raise WireFormatError(f"{name} has no offset from UTC")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise WireFormatError(f"{name} is not an RFC 3339 moment") from None


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
