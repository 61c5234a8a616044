"""A new return from a request: what comes back, and what it is worth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from app.core.actor import Actor
from app.core.enums import ReturnStatus
from app.models.order import Order, OrderLineItem
from app.models.return_request import ReturnRequest
from app.schemas.return_request import ReturnCreate, ReturnItemCreate
from app.services.orders.draft import CENT
from app.utils.clock import uuid7
from app.utils.exceptions import InvalidInputError, ReturnNotAllowedError


@dataclass(frozen=True, slots=True)
class Taken:
    """How much of a line other returns take back: pieces, and what those were worth with tax."""

    quantity: int = 0
    amount: Decimal = Decimal(0)


def taken_by(returns: Iterable[Sequence[Mapping[str, Any]]]) -> dict[UUID, Taken]:
    """Return how much of each line is taken back by returns, given as their `items`."""
    taken: dict[UUID, Taken] = {}
    for item in (item for items in returns for item in items):
        line_id = UUID(item["line_item_id"])
        before = taken.get(line_id, Taken())
        taken[line_id] = Taken(before.quantity + int(item["quantity"]), before.amount + Decimal(item["amount"]))
    return taken


def new_return(
    order: Order, data: ReturnCreate, actor: Actor, now: datetime, *, number: str, taken: Mapping[UUID, Taken]
) -> ReturnRequest:
    """Return the return that a request asks for.

    Args:
        order: with its lines.
        data: without `items`, all that is left comes back.
        actor: who asks.
        now: when.
        number: of the return.
        taken: how much of each line the order's other returns take back, rejected ones apart.

    Raises:
        ReturnNotAllowedError: nothing is left to be returned.
        InvalidInputError: a line that is not the order's, twice the same, or more of it than is left.
    """
    items = _items(order, data.items, taken)
    worth = sum((amount for _, _, amount in items), Decimal(0))
    return ReturnRequest(
        id=uuid7(now),
        return_number=number,
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
        deduction_amount=Decimal(0),
        currency=order.currency,
        requested_by=actor.id,
        created_at=now,
        updated_at=now,
    )


def _items(
    order: Order, wanted: list[ReturnItemCreate] | None, taken: Mapping[UUID, Taken]
) -> list[tuple[OrderLineItem, int, Decimal]]:
    """Return (line, quantity, worth with tax) of what comes back; all that is left when nothing is named."""
    left = {line.id: line.quantity - taken.get(line.id, Taken()).quantity for line in order.line_items}
    if not any(left.values()):
        raise ReturnNotAllowedError(
            "NOTHING_LEFT", f"All lines of order {order.order_number} have been returned.", order_id=str(order.id)
        )
    lines = {line.id: line for line in order.line_items}
    if wanted is None:
        chosen = [(line_id, quantity) for line_id, quantity in left.items() if quantity]
    else:
        _require_left(wanted, lines, left)
        chosen = [(item.line_item_id, item.quantity) for item in wanted]
    return [
        (lines[line_id], quantity, worth_of(lines[line_id], quantity, taken.get(line_id, Taken())))
        for line_id, quantity in chosen
    ]


def _require_left(
    wanted: list[ReturnItemCreate], lines: Mapping[UUID, OrderLineItem], left: Mapping[UUID, int]
) -> None:
    faults, seen = [], set()
    for position, item in enumerate(wanted):
        line = lines.get(item.line_item_id)
        if line is None:
            faults.append((f"items.{position}.line_item_id", "is not a line of this order"))
        elif item.line_item_id in seen:
            faults.append((f"items.{position}.line_item_id", "is named twice"))
        elif item.quantity > left[line.id]:
            gone = line.quantity - left[line.id]
            others = f", of which other returns take back {gone}" if gone else ""
            faults.append((f"items.{position}.quantity", f"is more than the {line.quantity} that were bought{others}"))
        seen.add(item.line_item_id)
    if faults:
        raise InvalidInputError(*faults)


def worth_of(line: OrderLineItem, quantity: int, taken: Taken | None = None) -> Decimal:
    """Return what `quantity` of a line cost with tax, to the cent, after `taken` of it.

    Each return is worth the difference of two rounded shares, so that the returns of a line add up to exactly its total.
    """
    before = taken or Taken()
    paid = line.subtotal + line.tax_amount
    return (paid * (before.quantity + quantity) / line.quantity).quantize(CENT, ROUND_HALF_UP) - before.amount
