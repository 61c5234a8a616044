"""Orders as the API shows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row


def order_summary(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return an order row as lists show it: without lines and without the caller's own metadata."""
    return {
        "id": row["id"],
        "order_number": row["order_number"],
        "status": row["status"],
        "version": row["version"],
        "customer_id": row["customer_id"],
        "customer_email": row["customer_email"],
        "customer_name": row["customer_name"],
        "customer_phone": row["customer_phone"],
        "customer_company": row["customer_company"],
        "customer_vat_id": row["customer_vat_id"],
        "locale": row["locale"],
        "currency": row["currency"],
        "subtotal_amount": float(row["subtotal_amount"]),
        "tax_amount": float(row["tax_amount"]),
        "shipping_amount": float(row["shipping_amount"]),
        "total_amount": float(row["total_amount"]),
        "payment_method": row["payment_method"],
        "payment_transaction_id": row["payment_transaction_id"],
        "shipping_address": row["shipping_address"],
        "billing_address": row["billing_address"],
        "carrier": row["carrier"],
        "tracking_number": row["tracking_number"],
        "cancellation_reason": row["cancellation_reason"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "paid_at": row["paid_at"],
        "shipped_at": row["shipped_at"],
        "delivered_at": row["delivered_at"],
        "cancelled_at": row["cancelled_at"],
    }


def order_view(row: Mapping[Any, Any], lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an order row and its lines as the API shows an order."""
    return {**order_summary(row), "metadata": row["metadata"], "line_items": [line_view(line) for line in lines]}


def line_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line as the API shows it."""
    return {
        "id": str(row["id"]),
        "product_id": row["product_id"],
        "product_name": row["product_name"],
        "sku": row["sku"],
        "quantity": row["quantity"],
        "unit_price": float(row["unit_price"]),
        "tax_rate": float(row["tax_rate"]),
        "tax_amount": float(row["tax_amount"]),
        "subtotal": float(row["subtotal"]),
    }


def with_lines(row: Row[Any]) -> dict[str, Any]:
    """Return an order row that has its lines as JSON, as the API shows it."""
    mapping = row._mapping
    return order_view(mapping, mapping["line_items"])
