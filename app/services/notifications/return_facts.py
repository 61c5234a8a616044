"""What each message about a return tells (REQ-002, REQ-006)."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.core.enums import ReturnStatus
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.notifications.scene import (
    GONE,
    Loader,
    MailFacts,
    NothingToTell,
    Scene,
    order_of,
    returned_items,
    to_customer,
)
from app.utils.documents import seller_party

Teller = Callable[[Scene, ReturnRequest, Order], dict[str, Any] | NothingToTell]


def customer_loader(tell: Teller) -> Loader:
    """Return the loader of a message to the customer."""
    return _loader(tell, lambda _, order, told: to_customer(order, told))


def staff_loader(address: str, tell: Teller) -> Loader:
    """Return the loader of a message to the people whose address the setting `address` holds."""
    return _loader(tell, lambda scene, order, told: MailFacts(getattr(scene.settings, address), told, order.id))


def _loader(tell: Teller, address: Callable[[Scene, Order, dict[str, Any]], MailFacts]) -> Loader:
    async def loader(scene: Scene) -> MailFacts | NothingToTell:
        request = await scene.session.get(ReturnRequest, scene.claim.entity_id)
        order = await order_of(scene.session, request.order_id) if request is not None else None
        if request is None or order is None:
            return GONE
        told = tell(scene, request, order)
        if isinstance(told, NothingToTell):
            return told
        return address(scene, order, {"return_number": request.return_number, **told})

    return loader


def return_received(_: Scene, request: ReturnRequest, order: Order) -> dict[str, Any]:
    """The request has come in."""
    return {"items": returned_items(order, request.items)}


def return_arrived(_: Scene, request: ReturnRequest, order: Order) -> dict[str, Any]:
    """The goods have."""
    return {"refund_amount": request.refund_amount, "items": returned_items(order, request.items)}


def return_approved(scene: Scene, request: ReturnRequest, order: Order) -> dict[str, Any]:
    """Under which conditions, and how to send it back."""
    shop = seller_party(scene.settings)
    return {
        "currency": request.currency,
        "items": returned_items(order, request.items),
        "restocking_fee": request.restocking_fee,
        "refund_amount": request.refund_amount,
        "notes": request.manager_notes,
        "return_address": [shop.name, *shop.lines],
    }


def return_completed(_: Scene, request: ReturnRequest, order: Order) -> dict[str, Any] | NothingToTell:
    """What the inspection found, where no money is paid back; of a refund the mail of the refund says it."""
    if request.status != ReturnStatus.COMPLETED or request.refund_amount > 0:
        return NothingToTell("the mail of the refund says it")
    return {
        "currency": request.currency,
        "items": returned_items(order, request.items),
        "restocking_fee": request.restocking_fee,
        **inspection_facts(request, order),
    }


def inspection_facts(request: ReturnRequest | None, order: Order) -> dict[str, Any]:
    """Return what a mail says of an inspection: the lines with something to say, and the deduction, if any."""
    names = {str(line.id): line.product_name for line in order.line_items}
    found = (request.inspection if request is not None else None) or []
    deducted = request is not None and request.deduction_amount > 0
    return {
        "inspected": [
            {"name": names[item["line_item_id"]], **{key: item[key] for key in _COUNTS}, "note": item.get("note")}
            for item in found
            if item["damaged"] or item["missing"] or item.get("note")
        ],
        "deduction_amount": request.deduction_amount if request is not None and deducted else None,
        "deduction_reason": request.deduction_reason if request is not None and deducted else None,
    }


_COUNTS = ("accepted", "damaged", "missing")


def return_rejected(_: Scene, request: ReturnRequest, __: Order) -> dict[str, Any] | NothingToTell:
    """Why not, in the manager's words."""
    if request.rejection_reason is None:
        return NothingToTell("the return is not rejected")
    return {"category": request.rejection_reason, "notes": request.manager_notes}


def awaiting_review(scene: Scene, request: ReturnRequest, order: Order) -> dict[str, Any] | NothingToTell:
    """A decision is due."""
    if request.status != ReturnStatus.REQUESTED:
        return NothingToTell("the return was reviewed meanwhile")
    return {
        "order_number": order.order_number,
        "customer_name": order.customer_name,
        "reason": request.reason,
        "customer_notes": request.customer_notes,
        "currency": order.currency,
        "order_total": order.total_amount,
        "items": returned_items(order, request.items),
        "requested_at": scene.shop_time.local(request.created_at),
        "review_by": scene.shop_time.local(
            request.created_at + timedelta(hours=scene.settings.return_review_sla_hours)
        ),
    }


def review_overdue(scene: Scene, request: ReturnRequest, order: Order) -> dict[str, Any] | NothingToTell:
    """The decision is late."""
    if request.status != ReturnStatus.REQUESTED:
        return NothingToTell("the return was reviewed meanwhile")
    waiting = scene.clock() - request.created_at
    return {
        "order_number": order.order_number,
        "customer_name": order.customer_name,
        "reason": request.reason,
        "requested_at": scene.shop_time.local(request.created_at),
        "hours_waiting": int(waiting.total_seconds() // 3600),
        "expires_at": scene.shop_time.local(request.created_at + timedelta(days=scene.settings.return_expiry_days)),
    }


def goods_received(scene: Scene, request: ReturnRequest, order: Order) -> dict[str, Any]:
    """What to inspect and restock."""
    return {
        "order_number": order.order_number,
        "received_at": scene.shop_time.local(request.received_at or request.updated_at),
        "items": returned_items(order, request.items),
    }
