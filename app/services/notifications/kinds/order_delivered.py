"""`order_delivered`: the order has arrived."""

from typing import Final

from app.core.enums import Channel
from app.models.order import Order
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import Day, ToCustomer, about_order, greeting, to_customer
from app.utils.shop_time import ReturnWindow


class OrderDelivered(ToCustomer):
    """`return_until` is the last day on which a return can be requested."""

    delivered_on: Day
    return_until: Day


@about_order
async def load(request: FactsRequest, order: Order) -> Addressed[OrderDelivered]:
    """Read the facts (see `Kind.load`)."""
    delivered_at = order.delivered_at or order.updated_at
    facts: OrderDelivered = {
        **greeting(order),
        "delivered_on": request.shop_time.day(delivered_at),
        "return_until": ReturnWindow.from_settings(request.settings).last_day(delivered_at),
    }
    return to_customer(order, facts)


KIND: Final[Kind[OrderDelivered]] = Kind(
    job=JobKind.NOTIFY_ORDER_DELIVERED,
    audience=Audience.CUSTOMER,
    facts=OrderDelivered,
    load=load,
    subject="Your order {{ order_number }} has arrived",
    sample={**sample_parts.GREETING, "delivered_on": "2026-11-24", "return_until": "2026-12-24"},
    short={Channel.SMS: frozenset({"order_number", "delivered_on", "return_until"})},
)
