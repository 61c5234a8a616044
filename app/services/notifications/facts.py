"""What each message tells, read from the database when it is sent (REQ-006).

One loader a template: entity id in, recipient and context out, or the reason why there is nothing to tell any more. A
message that waited tells what is true now, so loaders look before they speak: a refund that did not go through is not
announced, whatever made the job. SMS and chat tell a part of what the mail of the same name does.
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from sqlalchemy import select

from app.core.enums import DocumentState, RefundState
from app.models.invoice import Invoice
from app.models.order import Order
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.services.documents import views as document_views
from app.services.jobs.service import JobKind
from app.services.notifications import operations_facts, return_facts
from app.services.notifications.scene import (
    GONE,
    DocumentFile,
    Loader,
    MailFacts,
    NothingToTell,
    Scene,
    order_of,
    pick_lines,
    to_customer,
)
from app.utils.shop_time import ReturnWindow


async def load(scene: Scene, template: str) -> MailFacts | NothingToTell:
    """Return what the message of a job tells."""
    return await LOADERS[JobKind(f"notify.{template}")](scene)


def _ship_to(order: Order) -> list[str]:
    to = document_views.party(order.shipping_address, order)
    return [to.name, *to.lines]


def _order_loader(tell: Callable[[Scene, Order], dict[str, Any]]) -> Loader:
    async def loader(scene: Scene) -> MailFacts | NothingToTell:
        order = await order_of(scene.session, scene.claim.entity_id)
        return GONE if order is None else to_customer(order, tell(scene, order))

    return loader


def _confirmation(scene: Scene, order: Order) -> dict[str, Any]:
    return {
        "order_date": scene.shop_time.day(order.created_at),
        "currency": order.currency,
        "lines": [
            {"name": line.product_name, "quantity": line.quantity, "amount": line.subtotal} for line in order.line_items
        ],
        "subtotal": order.subtotal_amount,
        "shipping": order.shipping_amount,
        "tax": order.tax_amount,
        "total": order.total_amount,
        "payment_method": order.payment_method,
        "ship_to": _ship_to(order),
    }


def _shipped(_: Scene, order: Order) -> dict[str, Any]:
    return {
        "carrier": order.carrier,
        "tracking_number": order.tracking_number,
        "items": pick_lines(order),
        "ship_to": _ship_to(order),
    }


def _delivered(scene: Scene, order: Order) -> dict[str, Any]:
    delivered_at = order.delivered_at or order.updated_at
    return {
        "delivered_on": scene.shop_time.day(delivered_at),
        "return_until": ReturnWindow.from_settings(scene.settings).last_day(delivered_at),
    }


async def _order_cancelled(scene: Scene) -> MailFacts | NothingToTell:
    order = await order_of(scene.session, scene.claim.entity_id)
    if order is None:
        return GONE
    if order.paid_at is None:
        return NothingToTell("the order was never paid")
    refund = select(Refund.amount).where(Refund.order_id == order.id, Refund.return_id.is_(None))
    context = {
        "currency": order.currency,
        "refund_amount": (await scene.session.execute(refund)).scalar_one_or_none(),
    }
    return to_customer(order, context)


async def _warehouse_order_ready(scene: Scene) -> MailFacts | NothingToTell:
    order = await order_of(scene.session, scene.claim.entity_id)
    if order is None:
        return GONE
    if order.cancelled_at is not None:
        return NothingToTell("the order was cancelled meanwhile")
    context = {
        "address_corrected": bool(scene.claim.payload.get("address_corrected")),
        "order_number": order.order_number,
        "paid_at": scene.shop_time.local(order.paid_at or order.updated_at),
        "items": pick_lines(order),
        "ship_to": _ship_to(order),
    }
    return MailFacts(scene.settings.warehouse_email, context, order.id)


async def _document(scene: Scene) -> tuple[Invoice, Order] | None:
    document = await scene.session.get(Invoice, scene.claim.entity_id)
    if document is None or document.state != DocumentState.ISSUED:
        return None
    order = await order_of(scene.session, document.order_id)
    return (document, order) if order is not None else None


def _document_facts(document: Invoice, order: Order, numbers: Mapping[str, str | None]) -> MailFacts:
    context = {
        **numbers,
        "issued_on": document.issued_on,
        "currency": document.view["currency"],
        "total": document.view["total"],
        "link": None,
        "link_until": None,
    }
    attached = DocumentFile(document.id, document.number, document.storage_key, document.sha256 or b"")
    return to_customer(order, context, attached)


async def _invoice(scene: Scene) -> MailFacts | NothingToTell:
    found = await _document(scene)
    return _document_facts(*found, {"invoice_number": found[0].number}) if found else NothingToTell("not issued")


async def _credit_note(scene: Scene) -> MailFacts | NothingToTell:
    found = await _document(scene)
    if found is None:
        return NothingToTell("not issued")
    returned = await _return_of(scene, await scene.session.get(Refund, found[0].refund_id))
    numbers = {
        "credit_note_number": found[0].number,
        "invoice_number": found[0].view["refers_to"],
        "return_number": returned.return_number if returned is not None else None,
    }
    return _document_facts(*found, numbers)


async def _return_of(scene: Scene, refund: Refund | None) -> ReturnRequest | None:
    if refund is None or refund.return_id is None:
        return None
    return await scene.session.get(ReturnRequest, refund.return_id)


async def _refund_processed(scene: Scene) -> MailFacts | NothingToTell:
    refund = await scene.session.get(Refund, scene.claim.entity_id)
    if refund is None or refund.state != RefundState.SUCCEEDED:
        return NothingToTell("the money has not moved")
    order = await order_of(scene.session, refund.order_id)
    if order is None:
        return GONE
    returned = await _return_of(scene, refund)
    context = {
        "return_number": returned.return_number if returned is not None else None,
        **return_facts.inspection_facts(returned, order),
        "currency": refund.currency,
        "amount": refund.amount,
        "transaction_id": refund.gateway_refund_id,
        "payment_method": order.payment_method,
        "processed_on": scene.shop_time.day(refund.succeeded_at or refund.updated_at),
    }
    return to_customer(order, context)


async def _job_failed(scene: Scene) -> MailFacts | NothingToTell:
    context = await operations_facts.job_failed(scene.session, scene.claim.entity_id, scene.shop_time, scene.settings)
    return MailFacts(scene.settings.operations_email, context) if context else GONE


async def _gateway_event(scene: Scene) -> MailFacts | NothingToTell:
    found = await operations_facts.gateway_event(scene.session, scene.claim.payload, scene.shop_time)
    return MailFacts(scene.settings.operations_email, *found) if found else GONE


async def _case(scene: Scene) -> MailFacts | NothingToTell:
    found = await operations_facts.case(scene.session, scene.claim.entity_id, scene.shop_time)
    return MailFacts(scene.settings.operations_email, *found) if found else GONE


async def _daily_summary(scene: Scene) -> MailFacts | NothingToTell:
    day = date.fromisoformat(scene.claim.payload["day"])
    context = await operations_facts.daily_summary(scene.session, day, scene.shop_time)
    return MailFacts(scene.settings.operations_email, context)


_to_customer, _to_staff = return_facts.customer_loader, return_facts.staff_loader

LOADERS: Mapping[JobKind, Loader] = {
    JobKind.NOTIFY_ORDER_CONFIRMATION: _order_loader(_confirmation),
    JobKind.NOTIFY_ORDER_SHIPPED: _order_loader(_shipped),
    JobKind.NOTIFY_ORDER_DELIVERED: _order_loader(_delivered),
    JobKind.NOTIFY_ORDER_CANCELLED: _order_cancelled,
    JobKind.NOTIFY_INVOICE: _invoice,
    JobKind.NOTIFY_CREDIT_NOTE: _credit_note,
    JobKind.NOTIFY_RETURN_RECEIVED: _to_customer(return_facts.return_received),
    JobKind.NOTIFY_RETURN_ARRIVED: _to_customer(return_facts.return_arrived),
    JobKind.NOTIFY_RETURN_COMPLETED: _to_customer(return_facts.return_completed),
    JobKind.NOTIFY_RETURN_APPROVED: _to_customer(return_facts.return_approved),
    JobKind.NOTIFY_RETURN_REJECTED: _to_customer(return_facts.return_rejected),
    JobKind.NOTIFY_REFUND_PROCESSED: _refund_processed,
    JobKind.NOTIFY_WAREHOUSE_ORDER_READY: _warehouse_order_ready,
    JobKind.NOTIFY_RETURN_AWAITING_REVIEW: _to_staff("managers_email", return_facts.awaiting_review),
    JobKind.NOTIFY_RETURN_REVIEW_OVERDUE: _to_staff("managers_email", return_facts.review_overdue),
    JobKind.NOTIFY_GOODS_RECEIVED: _to_staff("warehouse_email", return_facts.goods_received),
    JobKind.NOTIFY_JOB_FAILED: _job_failed,
    JobKind.NOTIFY_GATEWAY_EVENT: _gateway_event,
    JobKind.NOTIFY_CASE: _case,
    JobKind.NOTIFY_DAILY_SUMMARY: _daily_summary,
}
"""Every message, by the job that sends its mail."""
