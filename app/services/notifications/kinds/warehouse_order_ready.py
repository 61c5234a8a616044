"""`warehouse_order_ready`: an order is paid and can be picked and packed."""

from collections.abc import Sequence
from typing import Final, TypedDict

from app.models.order import Order
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Moment, PickLine, about_order, pick_lines, ship_to


class WarehouseOrderReady(TypedDict):
    """What to pick and where it goes; sent again when the address was corrected before it was shipped."""

    address_corrected: bool
    order_number: str
    paid_at: Moment
    items: Sequence[PickLine]
    ship_to: Sequence[str]


@about_order
async def load(request: FactsRequest, order: Order) -> Addressed[WarehouseOrderReady] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if order.cancelled_at is not None:
        return NothingToSend("the order was cancelled meanwhile")
    facts: WarehouseOrderReady = {
        "address_corrected": bool(request.claim.payload.get("address_corrected")),
        "order_number": order.order_number,
        "paid_at": request.shop_time.local(order.paid_at or order.updated_at),
        "items": pick_lines(order, request.audience),
        "ship_to": ship_to(order),
    }
    return request.to_staff(facts, order.id)


KIND: Final[Kind[WarehouseOrderReady]] = Kind(
    job=JobKind.NOTIFY_WAREHOUSE_ORDER_READY,
    audience=Audience.WAREHOUSE,
    facts=WarehouseOrderReady,
    load=load,
    subject='{{ "Address corrected" if address_corrected else "Ready to pick" }}: order {{ order_number }}',
    sample={
        "address_corrected": False,
        "order_number": sample_parts.ORDER,
        "paid_at": "2026-11-19T14:05:11Z",
        "items": sample_parts.ITEMS,
        "ship_to": sample_parts.ADDRESS,
    },
)
