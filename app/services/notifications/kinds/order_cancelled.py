"""`order_cancelled`: a paid order is cancelled."""

from decimal import Decimal
from typing import Final

from sqlalchemy import select

from app.models.order import Order
from app.models.payment import Refund
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Amount, ToCustomer, about_order, greeting, to_customer


class OrderCancelled(ToCustomer):
    """`refund_amount` when money is on its way back."""

    currency: str
    refund_amount: Amount | None


@about_order
async def load(request: FactsRequest, order: Order) -> Addressed[OrderCancelled] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if order.paid_at is None:
        return NothingToSend("the order was never paid")
    refund = select(Refund.amount).where(Refund.order_id == order.id, Refund.return_id.is_(None))
    facts: OrderCancelled = {
        **greeting(order),
        "currency": order.currency,
        "refund_amount": (await request.session.execute(refund)).scalar_one_or_none(),
    }
    return to_customer(order, facts)


KIND: Final[Kind[OrderCancelled]] = Kind(
    job=JobKind.NOTIFY_ORDER_CANCELLED,
    audience=Audience.CUSTOMER,
    facts=OrderCancelled,
    load=load,
    subject="Your order {{ order_number }} is cancelled",
    sample={**sample_parts.GREETING, "currency": "EUR", "refund_amount": Decimal("909.60")},
)
