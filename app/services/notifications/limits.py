"""How many messages one recipient gets, and one customer causes, in an hour (NFR-004).

The caller who places an order chooses where its messages go. Without a limit, the shop's mail server could be used to
flood a stranger. Messages are counted in PostgreSQL, in the transaction that records the next one: the count holds for
all workers, and is not lost with Redis. Beyond a limit a message is recorded as SUPPRESSED and not handed over; a
manager can send it again.

Invoices, credit notes and refunds are counted and never suppressed: money has moved, and its paper must arrive.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.enums import Channel, EntityType, NotificationState, Role
from app.services.notifications.kinds import KINDS
from app.services.notifications.rows import NewRow

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended({key}, 0))"
"""Of two workers that count for one recipient or customer, the second waits for the first one's commit."""

ACCOUNT: Final = f"""
SELECT o.customer_id FROM orders o JOIN events e ON e.entity_id = o.id
WHERE o.id = CAST(:placed_order AS uuid) AND e.entity_type = '{EntityType.ORDER}' AND e.seq = 1
    AND e.data ->> 'placed_by' = '{Role.CUSTOMER}'"""  # noqa: S608 - constants of this code base
"""The customer who placed the order with their own credentials; no row where staff or a service did."""

CUSTOMER_KEY: Final = "'messages:customer:' || CAST(account.customer_id AS text)"
"""What is locked for a customer; `account` is the row of `ACCOUNT`."""

_COUNTED: Final = f"""
SELECT count(*) FROM notifications n
WHERE {{whose}} AND n.created_at > CAST(:created_at AS timestamptz) - interval '1 hour'
    AND n.state <> '{NotificationState.SUPPRESSED}'"""  # noqa: S608 - constants of this code base
SENT_TO_RECIPIENT: Final = _COUNTED.format(
    whose="lower(n.recipient) = CAST(:lowered AS text) AND n.channel = CAST(:channel AS text)"
)
SENT_FOR_CUSTOMER: Final = _COUNTED.format(whose="n.customer_id = {customer}")


def is_to_customer(channel: Channel, template: str) -> bool:
    """Return whether a message goes where the order says, and not to staff."""
    return channel is not Channel.CHAT and KINDS[template].is_to_customer


def is_limited(new: NewRow) -> bool:
    """Return whether a limit can suppress a message."""
    return KINDS[new.template].is_limited and new.resend_of is None and is_to_customer(new.channel, new.template)


def recipient_key(new: NewRow) -> str:
    """Return what is locked for the recipient of a message."""
    return f"messages:{new.channel}:{new.recipient.lower()}"


async def account_of(session: AsyncSession, order_id: UUID | None) -> UUID | None:
    """Return the customer who placed an order with their own credentials; None where staff or a service did."""
    found: UUID | None = (await session.execute(text(ACCOUNT), {"placed_order": order_id})).scalar_one_or_none()
    return found


async def exceeded(session: AsyncSession, new: NewRow, settings: Settings) -> str | None:
    """Return which limit a message that is about to be recorded is beyond; None when it may be sent."""
    if not is_limited(new):
        return None
    limit = settings.messages_per_recipient_per_hour
    same = {"lowered": new.recipient.lower(), "channel": new.channel.value}
    if await _count(session, new, recipient_key(new), SENT_TO_RECIPIENT, same) >= limit:
        return f"more than {limit} messages to this recipient within an hour"
    limit = settings.messages_per_customer_per_hour
    if new.customer_id is not None:
        counted = SENT_FOR_CUSTOMER.format(customer="CAST(:customer AS uuid)")
        key = f"messages:customer:{new.customer_id}"
        if await _count(session, new, key, counted, {"customer": new.customer_id}) >= limit:
            return f"more than {limit} messages of this customer's orders within an hour"
    return None


async def _count(session: AsyncSession, new: NewRow, key: str, counted: str, whose: Mapping[str, Any]) -> int:
    await session.execute(text(LOCK.format(key=":key")), {"key": key})
    return int((await session.execute(text(counted), {"created_at": new.created_at, **whose})).scalar_one())
