"""`goods_received`: returned pieces are there to inspect and restock."""

from collections.abc import Sequence
from typing import Final, TypedDict

from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import Moment, PickLine, about_return, returned_lines


class GoodsReceived(TypedDict):
    """What to inspect and restock."""

    order_number: str
    return_number: str
    received_at: Moment
    items: Sequence[PickLine]


@about_return
def load(request: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[GoodsReceived]:
    """Read the facts (see `Kind.load`)."""
    facts: GoodsReceived = {
        "order_number": order.order_number,
        "return_number": returned.return_number,
        "received_at": request.shop_time.local(returned.received_at or returned.updated_at),
        "items": returned_lines(returned, order, request.audience),
    }
    return request.to_staff(facts, order.id)


KIND: Final[Kind[GoodsReceived]] = Kind(
    job=JobKind.NOTIFY_GOODS_RECEIVED,
    audience=Audience.WAREHOUSE,
    facts=GoodsReceived,
    load=load,
    subject="Restock: returned goods of order {{ order_number }}",
    sample={
        "order_number": sample_parts.ORDER,
        "return_number": sample_parts.RETURN,
        "received_at": "2026-12-02T10:40:00Z",
        "items": sample_parts.RETURNED,
    },
)
