"""Refunds as the services return them, with exact amounts: the API writes them as JSON numbers."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID


class OrderRefundView(TypedDict):
    """A refund of an order, without what only operations need."""

    id: UUID
    return_id: UUID | None
    return_number: str | None
    reason: str
    state: str
    amount: Decimal
    currency: str
    created_at: datetime
    succeeded_at: datetime | None


class RefundView(TypedDict):
    """A refund and how far it got."""

    id: UUID
    order_id: UUID
    return_id: UUID | None
    return_number: str | None
    payment_id: UUID
    reason: str
    state: str
    version: int
    amount: Decimal
    currency: str
    gateway_refund_id: str | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime
    succeeded_at: datetime | None


def refund_view(row: Mapping[Any, Any]) -> RefundView:
    """Return a refund row as the API shows it."""
    return {
        "id": row["id"],
        "order_id": row["order_id"],
        "return_id": row["return_id"],
        "return_number": row["return_number"],
        "payment_id": row["payment_id"],
        "reason": row["reason"],
        "state": row["state"],
        "version": row["version"],
        "amount": row["amount"],
        "currency": row["currency"],
        "gateway_refund_id": row["gateway_refund_id"],
        "last_error": row["last_error"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "succeeded_at": row["succeeded_at"],
    }


def order_refund_view(row: Mapping[Any, Any]) -> OrderRefundView:
    """Return a refund row as the customer of its order sees it."""
    return {
        "id": row["id"],
        "return_id": row["return_id"],
        "reason": row["reason"],
        "state": row["state"],
        "amount": row["amount"],
        "currency": row["currency"],
        "created_at": row["created_at"],
        "succeeded_at": row["succeeded_at"],
        "return_number": row["return_number"],
    }
