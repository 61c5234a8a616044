"""How many messages one recipient gets, and one customer causes, in an hour (NFR-004).

The caller who places an order chooses where its messages go. Without a limit, the shop's mail server could be used to
flood a stranger. Messages are counted in PostgreSQL, in the transaction that records the next one: the count holds for
all workers, and is not lost with Redis. Beyond a limit a message is recorded as SUPPRESSED and not handed over; a
manager can send it again.

Invoices, credit notes and refunds are counted and never suppressed: money has moved, and its paper must arrive.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.enums import Channel, EntityType, NotificationState, Role
from app.models.event import Event
from app.models.notification import Notification
from app.models.order import Order
from app.services.notifications.kinds import KINDS
from app.services.notifications.rows import NewRow

WINDOW: Final = timedelta(hours=1)


def is_to_customer(channel: Channel, template: str) -> bool:
    """Return whether a message goes where the order says, and not to staff."""
    return channel is not Channel.CHAT and KINDS[template].is_to_customer


async def account_of(session: AsyncSession, order_id: UUID | None) -> UUID | None:
    """Return the customer who placed an order with their own credentials; None where staff or a service did."""
    statement = (
        select(Order.customer_id)
        .join(Event, Event.entity_id == Order.id)
        .where(
            Order.id == order_id,
            Event.entity_type == EntityType.ORDER,
            Event.seq == 1,
            Event.data["placed_by"].astext == Role.CUSTOMER,
        )
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def exceeded(session: AsyncSession, new: NewRow, settings: Settings) -> str | None:
    """Return which limit a message that is about to be recorded is beyond; None when it may be sent.

    Of two workers that count for one recipient or customer, the second waits for the first one's commit.
    """
    if not KINDS[new.template].is_limited or new.resend_of is not None or not is_to_customer(new.channel, new.template):
        return None
    recipient = new.recipient.lower()
    limit = settings.messages_per_recipient_per_hour
    same = (func.lower(Notification.recipient) == recipient, Notification.channel == new.channel)
    if await _count(session, new, f"{new.channel}:{recipient}", *same) >= limit:
        return f"more than {limit} messages to this recipient within an hour"
    limit = settings.messages_per_customer_per_hour
    if new.customer_id is not None:
        own = Notification.customer_id == new.customer_id
        if await _count(session, new, f"customer:{new.customer_id}", own) >= limit:
            return f"more than {limit} messages of this customer's orders within an hour"
    return None


async def _count(session: AsyncSession, new: NewRow, key: str, *whose: ColumnElement[bool]) -> int:
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"messages:{key}"})
    counted = select(func.count()).where(
        *whose, Notification.created_at > new.created_at - WINDOW, Notification.state != NotificationState.SUPPRESSED
    )
    return int((await session.execute(counted)).scalar_one())
