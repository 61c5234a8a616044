"""Orders as the services return them, with exact amounts: the API writes them as JSON numbers."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, cast
from uuid import UUID

import orjson
from sqlalchemy import Row

from app.models.order import Order, OrderLineItem
from app.utils.json_values import JsonObject


class OrderLineView(TypedDict):
    """A line as it was sold."""

    id: str
    product_id: str
    product_name: str
    sku: str | None
    quantity: int
    unit_price: Decimal
    tax_rate: Decimal
    tax_amount: Decimal
    subtotal: Decimal


class OrderSummaryView(TypedDict):
    """An order without its lines and metadata; in a list, an address may be the JSON text that is stored."""

    id: UUID
    order_number: str
    status: str
    version: int
    customer_id: UUID
    customer_email: str
    customer_name: str | None
    customer_phone: str | None
    customer_company: str | None
    customer_vat_id: str | None
    locale: str | None
    currency: str
    subtotal_amount: Decimal
    tax_amount: Decimal
    shipping_amount: Decimal
    total_amount: Decimal
    payment_method: str
    payment_transaction_id: str | None
    shipping_address: Mapping[str, str] | orjson.Fragment
    billing_address: Mapping[str, str] | orjson.Fragment
    carrier: str | None
    tracking_number: str | None
    cancellation_reason: str | None
    created_at: datetime
    updated_at: datetime
    paid_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    cancelled_at: datetime | None


class OrderView(OrderSummaryView):
    """An order with its metadata and lines."""

    metadata: JsonObject
    line_items: list[OrderLineView]


def order_summary(row: Row[Any] | Order) -> OrderSummaryView:
    """Return an order row as lists show it: without lines and without the caller's own metadata."""
    return {
        "id": row.id,
        "order_number": row.order_number,
        "status": row.status,
        "version": row.version,
        "customer_id": row.customer_id,
        "customer_email": row.customer_email,
        "customer_name": row.customer_name,
        "customer_phone": row.customer_phone,
        "customer_company": row.customer_company,
        "customer_vat_id": row.customer_vat_id,
        "locale": row.locale,
        "currency": row.currency,
        "subtotal_amount": row.subtotal_amount,
        "tax_amount": row.tax_amount,
        "shipping_amount": row.shipping_amount,
        "total_amount": row.total_amount,
        "payment_method": row.payment_method,
        "payment_transaction_id": row.payment_transaction_id,
        "shipping_address": row.shipping_address,
        "billing_address": row.billing_address,
        "carrier": row.carrier,
        "tracking_number": row.tracking_number,
        "cancellation_reason": row.cancellation_reason,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "paid_at": row.paid_at,
        "shipped_at": row.shipped_at,
        "delivered_at": row.delivered_at,
        "cancelled_at": row.cancelled_at,
    }


_LINE_AMOUNTS = ("unit_price", "tax_rate", "tax_amount", "subtotal")


def with_lines(row: dict[str, Any]) -> OrderView:
    """Return an order from a row that has the columns of `OrderView` in their order.

    Args:
        row: changed in place. Its lines are the members of `OrderLineView`, with amounts as text.
    """
    for line in row["line_items"]:
        for name in _LINE_AMOUNTS:
            line[name] = Decimal(line[name])
    return cast("OrderView", row)


def written_view(order: Order, lines: Iterable[OrderLineItem]) -> OrderView:
    """Return an order that was just written, and its lines."""
    return {**order_summary(order), "metadata": order.details, "line_items": [_written_line(line) for line in lines]}


def _written_line(line: OrderLineItem) -> OrderLineView:
    return {
        "id": str(line.id),
        "product_id": line.product_id,
        "product_name": line.product_name,
        "sku": line.sku,
        "quantity": line.quantity,
        "unit_price": line.unit_price,
        "tax_rate": line.tax_rate,
        "tax_amount": line.tax_amount,
        "subtotal": line.subtotal,
    }
