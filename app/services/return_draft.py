"""A new return from a request: what comes back, and what it is worth."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from app.core.actor import Actor
from app.core.enums import ReturnStatus
from app.models.order import Order, OrderLineItem
from app.models.return_request import ReturnRequest
from app.schemas.return_request import ReturnCreate, ReturnItemCreate
from app.services.order_draft import CENT
from app.utils.clock import uuid7
from app.utils.exceptions import InvalidInputError


def new_return(order: Order, data: ReturnCreate, actor: Actor, now: datetime) -> ReturnRequest:
    """Return the return that a request asks for.

    Raises:
        InvalidInputError: a line that is not the order's, twice the same, or more of it than was bought.
    """
    items = _items(order.line_items, data.items)
    worth = sum((amount for _, _, amount in items), Decimal(0))
    return ReturnRequest(
        id=uuid7(now),
        order_id=order.id,
        customer_id=order.customer_id,
        status=ReturnStatus.REQUESTED,
        version=1,
        reason=data.reason,
        customer_notes=data.customer_notes,
        items=[
            {"line_item_id": str(line.id), "quantity": quantity, "amount": str(amount)}
            for line, quantity, amount in items
        ],
        items_amount=worth,
        restocking_fee=Decimal(0),
        refund_amount=worth,
        currency=order.currency,
        requested_by=actor.id,
        created_at=now,
        updated_at=now,
    )


def _items(
    lines: list[OrderLineItem], wanted: list[ReturnItemCreate] | None
) -> list[tuple[OrderLineItem, int, Decimal]]:
    """Return (line, quantity, worth with tax) of what comes back; all lines when nothing is named."""
    if wanted is None:
        return [(line, line.quantity, worth_of(line, line.quantity)) for line in lines]
    by_id = {line.id: line for line in lines}
    faults, seen = [], set()
    for position, item in enumerate(wanted):
        line = by_id.get(item.line_item_id)
        if line is None:
            faults.append((f"items.{position}.line_item_id", "is not a line of this order"))
        elif item.line_item_id in seen:
            faults.append((f"items.{position}.line_item_id", "is named twice"))
        elif item.quantity > line.quantity:
            faults.append((f"items.{position}.quantity", f"is more than the {line.quantity} that were bought"))
        seen.add(item.line_item_id)
    if faults:
        raise InvalidInputError(*faults)
    return [
        (by_id[item.line_item_id], item.quantity, worth_of(by_id[item.line_item_id], item.quantity)) for item in wanted
    ]


def worth_of(line: OrderLineItem, quantity: int) -> Decimal:
    """Return what `quantity` of a line cost with tax, to the cent; the whole line is worth exactly its total."""
    paid = line.subtotal + line.tax_amount
    return paid if quantity == line.quantity else (paid * quantity / line.quantity).quantize(CENT, ROUND_HALF_UP)
