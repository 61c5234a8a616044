"""What the loaders of facts share: the scene they read in, and what they give (REQ-006)."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.config import Settings
from app.models.order import Order
from app.services.jobs.service import Claim
from app.utils.clock import Clock
from app.utils.shop_time import ShopTime
from app.utils.unlinked import is_link_like

_SEPARATORS: Final = re.compile(r"[ ().\-/]")
E164: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """An issued document that goes with a mail; `id` is what a link to it names."""

    id: UUID
    number: str
    storage_key: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class MailFacts:
    """To whom, and what: `context` is what `mail_templates.TEMPLATES` asks for.

    Attributes:
        recipient: mail address.
        context: what is told, the same on every channel.
        order_id: the order that it is about, if it is about one.
        phone: of the customer in E.164, where the message is for the customer and a number is known.
        document: attached to the mail.
    """

    recipient: str
    context: Mapping[str, Any]
    order_id: UUID | None = None
    phone: str | None = field(default=None, repr=False)
    document: DocumentFile | None = None


@dataclass(frozen=True, slots=True)
class NothingToTell:
    """There is no message to send, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What a loader works with."""

    session: AsyncSession
    settings: Settings
    clock: Clock
    claim: Claim

    @property
    def shop_time(self) -> ShopTime:
        """The calendar that the days and moments of a message are on."""
        return ShopTime.from_settings(self.settings)


Loader = Callable[[Scene], Awaitable[MailFacts | NothingToTell]]

GONE = NothingToTell("the entity does not exist")


async def order_of(session: AsyncSession, order_id: UUID) -> Order | None:
    """Return an order with its lines."""
    statement = select(Order).where(Order.id == order_id).options(selectinload(Order.line_items))
    return (await session.execute(statement)).scalar_one_or_none()


def to_customer(order: Order, told: Mapping[str, Any], document: DocumentFile | None = None) -> MailFacts:
    """Return facts for the customer of an order, greeted by name.

    An article number that could be shown as a link is left out: the customer does not need it.
    """
    context = {"customer_name": order.customer_name, "order_number": order.order_number, **told}
    if "items" in context:
        context["items"] = [
            {**item, "sku": None} if item["sku"] and is_link_like(item["sku"]) else item for item in context["items"]
        ]
    return MailFacts(order.customer_email, context, order.id, phone_of(order), document)


def phone_of(order: Order) -> str | None:
    """Return the customer's number in E.164 (`+33612345678`): the order's, else `phone` in its metadata; None without."""
    for phone in (order.customer_phone, order.details.get("phone")):
        compact = _SEPARATORS.sub("", phone) if isinstance(phone, str) else ""
        if E164.fullmatch(compact):
            return compact
    return None


def pick_lines(order: Order) -> list[dict[str, Any]]:
    """Return the lines of an order without money."""
    return [{"name": line.product_name, "sku": line.sku, "quantity": line.quantity} for line in order.line_items]


def returned_items(order: Order, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of an order that a return takes back."""
    by_id = {str(line.id): line for line in order.line_items}
    lines = [(by_id[item["line_item_id"]], item["quantity"]) for item in items]
    return [{"name": line.product_name, "sku": line.sku, "quantity": quantity} for line, quantity in lines]
