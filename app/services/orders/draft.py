"""A new order from a request: its lines, and what it all comes to."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from app.config import MONEY_LIMIT
from app.core.enums import OrderStatus
from app.schemas.common import Address
from app.schemas.order import LineItemCreate, OrderCreate
from app.services.orders.views import OrderLineView, OrderView
from app.utils.clock import uuid7
from app.utils.exceptions import InvalidInputError

CENT = Decimal("0.01")


def address_of(address: Address) -> dict[str, str]:
    """Return an address as it is stored."""
    return address.model_dump(exclude_none=True)


def new_order(data: OrderCreate, order_id: UUID, at: datetime) -> OrderView:
    """Return the order of a request, still without its number: the sum of its lines and shipping, to the cent.

    Raises:
        InvalidInputError: the total is beyond what an amount can hold.
    """
    lines = [_line(line, at) for line in data.line_items]
    subtotal = sum((line["subtotal"] for line in lines), Decimal(0))
    tax = sum((line["tax_amount"] for line in lines), Decimal(0))
    total = subtotal + tax + data.shipping_amount
    if total > MONEY_LIMIT:
        raise InvalidInputError(("line_items", f"the order's total is beyond {MONEY_LIMIT}"))
    shipping = address_of(data.shipping_address)
    return {
        "id": order_id,
        "order_number": "",
        "status": OrderStatus.PENDING_PAYMENT,
        "version": 1,
        "customer_id": data.customer_id,
        "customer_email": data.customer_email,
        "customer_name": data.customer_name,
        "customer_phone": data.customer_phone,
        "customer_company": data.customer_company,
        "customer_vat_id": data.customer_vat_id,
        "locale": data.locale,
        "currency": data.currency,
        "subtotal_amount": subtotal,
        "tax_amount": tax,
        "shipping_amount": data.shipping_amount,
        "total_amount": total,
        "payment_method": data.payment_method,
        "payment_transaction_id": None,
        "shipping_address": shipping,
        "billing_address": address_of(data.billing_address) if data.billing_address else shipping,
        "carrier": None,
        "tracking_number": None,
        "cancellation_reason": None,
        "created_at": at,
        "updated_at": at,
        "paid_at": None,
        "shipped_at": None,
        "delivered_at": None,
        "cancelled_at": None,
        "metadata": data.metadata,
        "line_items": lines,
    }


def _line(line: LineItemCreate, at: datetime) -> OrderLineView:
    """Return one line as it is sold; tax is rounded to the cent per line, halves away from zero."""
    subtotal = line.quantity * line.unit_price
    return {
        "id": str(uuid7(at)),
        "product_id": line.product_id,
        "product_name": line.product_name,
        "sku": line.sku,
        "quantity": line.quantity,
        "unit_price": line.unit_price,
        "tax_rate": line.tax_rate,
        "tax_amount": (subtotal * line.tax_rate).quantize(CENT, ROUND_HALF_UP),
        "subtotal": subtotal,
    }
