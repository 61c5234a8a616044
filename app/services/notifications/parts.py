"""Facts that several kinds of notification share: their types, and how they are read (REQ-006).

Amounts are decimals or their text, days and moments are objects or ISO 8601 text; a day is the shop's, and a moment is
shown in the zone that it is given in.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypedDict, cast
from uuid import UUID

from sqlalchemy import bindparam, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import DocumentState, EntityType, Role
from app.database import Database
from app.models.event import Event
from app.models.invoice import Invoice
from app.models.order import Order, OrderLineItem
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.prepared import Prepared
from app.services.documents import views as document_views
from app.services.notifications.kind import GONE, Addressed, Audience, DocumentFile, Facts, FactsRequest, NothingToSend
from app.utils.postal_address import postal_lines
from app.utils.unlinked import is_link_like, place_name, postal_code

Amount = Decimal | str
Day = date | str
Moment = datetime | str

_SEPARATORS: Final = re.compile(r"[ ().\-/]")
E164: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)


class PickLine(TypedDict):
    """One position without money: what to look for."""

    name: str
    sku: str | None
    quantity: int


class InspectedLine(TypedDict):
    """What the inspection found of one returned line, in pieces."""

    name: str
    accepted: int
    damaged: int
    missing: int
    note: str | None


class ToCustomer(TypedDict):
    """Every customer mail greets by name, if there is one, and names the order."""

    customer_name: str | None
    order_number: str


class ReturnToCustomer(ToCustomer):
    """A customer mail about a return names it."""

    return_number: str


class WithDocument(ToCustomer):
    """The PDF is attached; where it was too large for the mail server, `link` leads to it until the end of a day."""

    issued_on: Day
    currency: str
    total: Amount
    link: str | None
    link_until: Day | None


class Inspection(TypedDict):
    """What the inspection found where there is something to report, and the deduction for it, if any."""

    inspected: Sequence[InspectedLine]
    deduction_amount: Amount | None
    deduction_reason: str | None


_ID: Final = bindparam("order_id", type_=Order.__table__.c.id.type)
_PLACED_BY: Final = (
    select(Event.data["placed_by"].astext)
    .where(Event.entity_type == EntityType.ORDER, Event.entity_id == _ID, Event.seq == 1)
    .scalar_subquery()
)
_NAMES: Final = {column.key: name for name, column in inspect(Order).columns.items()}
"""Column → attribute: they differ where SQLAlchemy reserves the column's name."""
_ORDER: Final = Prepared(select(*Order.__table__.c, _PLACED_BY.label("placed_by")).where(Order.__table__.c.id == _ID))
_LINES: Final = Prepared(
    select(*OrderLineItem.__table__.c)
    .where(OrderLineItem.__table__.c.order_id == _ID)
    .order_by(OrderLineItem.__table__.c.position)
)


async def order_of(database: Database, order_id: UUID) -> Order | None:
    """Return an order with its lines and the role that placed it; it belongs to no session."""
    found, lines = await database.rows_together((_ORDER, {"order_id": order_id}), (_LINES, {"order_id": order_id}))
    if not found:
        return None
    [columns] = found
    order = Order(**{_NAMES.get(name, name): value for name, value in columns.items()})
    order.line_items = [OrderLineItem(**line) for line in lines]
    return order


async def return_of(session: AsyncSession, refund: Refund | None) -> ReturnRequest | None:
    """Return the return that a refund is for; None where it is for a whole order."""
    if refund is None or refund.return_id is None:
        return None
    return await session.get(ReturnRequest, refund.return_id)


def about_order(
    load: Callable[[FactsRequest, Order], Awaitable[Addressed[Facts] | NothingToSend]],
) -> Callable[[FactsRequest], Awaitable[Addressed[Facts] | NothingToSend]]:
    """Return a `Kind.load` whose job names an order."""

    async def loaded(request: FactsRequest) -> Addressed[Facts] | NothingToSend:
        order = await order_of(request.database, request.claim.entity_id)
        return GONE if order is None else await load(request, order)

    return loaded


def about_return(
    load: Callable[[FactsRequest, ReturnRequest, Order], Addressed[Facts] | NothingToSend],
) -> Callable[[FactsRequest], Awaitable[Addressed[Facts] | NothingToSend]]:
    """Return a `Kind.load` whose job names a return."""

    async def loaded(request: FactsRequest) -> Addressed[Facts] | NothingToSend:
        returned = await request.session.get(ReturnRequest, request.claim.entity_id)
        order = await order_of(request.database, returned.order_id) if returned is not None else None
        return GONE if returned is None or order is None else load(request, returned, order)

    return loaded


def greeting(order: Order) -> ToCustomer:
    """Return how a customer mail begins."""
    return {"customer_name": order.customer_name, "order_number": order.order_number}


def return_greeting(returned: ReturnRequest, order: Order) -> ReturnToCustomer:
    """Return how a customer mail about a return begins."""
    return {**greeting(order), "return_number": returned.return_number}


def to_customer(order: Order, facts: Facts, document: DocumentFile | None = None) -> Addressed[Facts]:
    """Return facts for the customer of an order.

    An article number that could be shown as a link is left out: the customer does not need it.
    """
    shown: dict[str, Any] = dict(facts)
    if "items" in shown:
        shown["items"] = [
            {**item, "sku": None} if item["sku"] and is_link_like(item["sku"]) else item for item in shown["items"]
        ]
    return Addressed(order.customer_email, cast("Facts", shown), order.id, phone_of(order), document)


def phone_of(order: Order) -> str | None:
    """Return the customer's number in E.164 (`+33612345678`): the order's, else `phone` in its metadata; None without."""
    for phone in (order.customer_phone, order.details.get("phone")):
        compact = _SEPARATORS.sub("", phone) if isinstance(phone, str) else ""
        if E164.fullmatch(compact):
            return compact
    return None


def ship_to(order: Order) -> list[str]:
    """Return the lines of the shipping address for the warehouse, the name first."""
    to = document_views.party(order.shipping_address, order)
    return [to.name, *to.lines]


def destination(order: Order) -> str:
    """Return where an order goes as its customer reads it, such as `69001 Lyon, France`.

    Name, street and state are left out, and a city or postal code that does not look like one.
    """
    address = order.shipping_address
    shown = {
        "city": place_name(address["city"]),
        "postal_code": postal_code(address.get("postal_code")),
        "country": address["country"],
    }
    return ", ".join(postal_lines(shown))


def article_name(line: OrderLineItem, order: Order, audience: Audience) -> str:
    """Return how a message names a line of an order.

    The customer who placed the order with credentials of their own wrote its names, and chose the address of its
    mails: to the customer, such a line is named by its position.
    """
    if audience is Audience.CUSTOMER and order.placed_by == Role.CUSTOMER:
        return f"Item {line.position}"
    return line.product_name


def _pick_line(line: OrderLineItem, quantity: int, order: Order, audience: Audience) -> PickLine:
    name = article_name(line, order, audience)
    return {"name": name, "sku": line.sku if name == line.product_name else None, "quantity": quantity}


def pick_lines(order: Order, audience: Audience) -> list[PickLine]:
    """Return the lines of an order without money."""
    return [_pick_line(line, line.quantity, order, audience) for line in order.line_items]


def returned_lines(returned: ReturnRequest, order: Order, audience: Audience) -> list[PickLine]:
    """Return the lines of an order that a return takes back, with the quantities of the return."""
    by_id = {str(line.id): line for line in order.line_items}
    return [_pick_line(by_id[item["line_item_id"]], item["quantity"], order, audience) for item in returned.items]


def inspection(returned: ReturnRequest | None, order: Order) -> Inspection:
    """Return what a customer mail says of an inspection: the lines with something to report, and the deduction, if any."""
    names = {str(line.id): article_name(line, order, Audience.CUSTOMER) for line in order.line_items}
    found = (returned.inspection if returned is not None else None) or []
    deducted = returned if returned is not None and returned.deduction_amount > 0 else None
    return {
        "inspected": [
            {
                "name": names[item["line_item_id"]],
                "accepted": item["accepted"],
                "damaged": item["damaged"],
                "missing": item["missing"],
                "note": item.get("note"),
            }
            for item in found
            if item["damaged"] or item["missing"] or item.get("note")
        ],
        "deduction_amount": deducted.deduction_amount if deducted is not None else None,
        "deduction_reason": deducted.deduction_reason if deducted is not None else None,
    }


async def issued_document(request: FactsRequest) -> tuple[Invoice, Order] | None:
    """Return the document that the job names and its order; None where it is not issued."""
    document = await request.session.get(Invoice, request.claim.entity_id)
    if document is None or document.state != DocumentState.ISSUED:
        return None
    order = await order_of(request.database, document.order_id)
    return (document, order) if order is not None else None


def document_facts(document: Invoice, order: Order) -> WithDocument:
    """Return what both kinds of documents say; the link is filled in where the attachment was too large."""
    return {
        **greeting(order),
        "issued_on": document.issued_on,
        "currency": document.view["currency"],
        "total": document.view["total"],
        "link": None,
        "link_until": None,
    }


def document_file(document: Invoice) -> DocumentFile:
    """Return the file of an issued document."""
    return DocumentFile(document.id, document.number, document.storage_key, document.sha256 or b"")
