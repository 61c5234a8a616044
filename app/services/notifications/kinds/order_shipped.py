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
    greeting,
    pick_lines,
    ship_to,
    to_customer,
)


class OrderShipped(ToCustomer):
    """What is on its way, and how to follow it."""

    carrier: str | None
    tracking_number: str | None
    items: Sequence[PickLine]
    ship_to: Sequence[str]


@about_order
async def load(_: FactsRequest, order: Order) -> Addressed[OrderShipped]:
    """Read the facts (see `Kind.load`)."""
    facts: OrderShipped = {
        **greeting(order),
        "carrier": order.carrier,
        "tracking_number": order.tracking_number,
        "items": pick_lines(order),
        "ship_to": ship_to(order),
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
        "ship_to": sample_parts.ADDRESS,
    },
    short={Channel.SMS: frozenset({"order_number", "carrier", "tracking_number"})},
)
