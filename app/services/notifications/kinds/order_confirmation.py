"""`order_confirmation`: the order is paid."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, TypedDict

from app.models.order import Order
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import (
    Amount,
    Day,
    ToCustomer,
    about_order,
    article_name,
    destination,
    greeting,
    to_customer,
)


class MailLine(TypedDict):
    """One position: pieces and their net amount together."""

    name: str
    quantity: int
    amount: Amount


class OrderConfirmation(ToCustomer):
    """What was bought, what it costs and where it goes."""

    order_date: Day
    currency: str
    lines: Sequence[MailLine]
    subtotal: Amount
    shipping: Amount
    tax: Amount
    total: Amount
    payment_method: str | None
    destination: str


@about_order
async def load(request: FactsRequest, order: Order) -> Addressed[OrderConfirmation]:
    """Read the facts (see `Kind.load`)."""
    facts: OrderConfirmation = {
        **greeting(order),
        "order_date": request.shop_time.day(order.created_at),
        "currency": order.currency,
        "lines": [
            {
                "name": article_name(line, order, request.audience),
                "quantity": line.quantity,
                "amount": line.subtotal,
            }
            for line in order.line_items
        ],
        "subtotal": order.subtotal_amount,
        "shipping": order.shipping_amount,
        "tax": order.tax_amount,
        "total": order.total_amount,
        "payment_method": order.payment_method,
        "destination": destination(order),
    }
    return to_customer(order, facts)


KIND: Final[Kind[OrderConfirmation]] = Kind(
    job=JobKind.NOTIFY_ORDER_CONFIRMATION,
    audience=Audience.CUSTOMER,
    facts=OrderConfirmation,
    load=load,
    subject="Your order {{ order_number }} is confirmed",
    sample={
        **sample_parts.GREETING,
        "order_date": "2026-11-19",
        "currency": "EUR",
        "lines": (
            {"name": "Hand-thrown stoneware vase, ash glaze", "quantity": 1, "amount": Decimal("148.50")},
            {"name": "Linen table runner, natural indigo", "quantity": 2, "amount": Decimal("371.50")},
            {"name": "Walnut serving board with bronze inlay", "quantity": 1, "amount": Decimal("223.00")},
        ),
        "subtotal": Decimal("743.00"),
        "shipping": Decimal("18.00"),
        "tax": Decimal("148.60"),
        "total": Decimal("909.60"),
        "payment_method": "credit_card",
        "destination": sample_parts.DESTINATION,
    },
)
