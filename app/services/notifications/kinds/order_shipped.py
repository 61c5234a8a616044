"""`order_shipped`: the order is on its way."""

from collections.abc import Sequence
from typing import Final

from app.core.enums import Channel
from app.models.order import Order
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import (
    PickLine,
    ToCustomer,
    about_order,
    destination,
    greeting,
    pick_lines,
    to_customer,
)


class OrderShipped(ToCustomer):
    """What is on its way, and how to follow it."""

    carrier: str | None
    tracking_number: str | None
    items: Sequence[PickLine]
    destination: str


@about_order
async def load(request: FactsRequest, order: Order) -> Addressed[OrderShipped]:
    """Read the facts (see `Kind.load`)."""
    facts: OrderShipped = {
        **greeting(order),
        "carrier": order.carrier,
        "tracking_number": order.tracking_number,
        "items": pick_lines(order, request.audience),
        "destination": destination(order),
    }
    return to_customer(order, facts)


KIND: Final[Kind[OrderShipped]] = Kind(
    job=JobKind.NOTIFY_ORDER_SHIPPED,
    audience=Audience.CUSTOMER,
    facts=OrderShipped,
    load=load,
    subject="Your order {{ order_number }} is on its way",
    sample={
        **sample_parts.GREETING,
        "carrier": "DHL Express",
        "tracking_number": "JD014600006281230704",
        "items": sample_parts.ITEMS,
        "destination": sample_parts.DESTINATION,
    },
    short={Channel.SMS: frozenset({"order_number", "carrier", "tracking_number"})},
)
