"""Messages as the services return them."""

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row

from app.models.notification import Notification


class NotificationView(TypedDict):
    """A message, whom it is for, and how far its delivery got.

    Attributes:
        recipient: the mail address or telephone number, in full.
        entity_id: the order, return, refund or job that it is about.
        resend_of: the message before, of one that was sent again.
        requested_by, requested_operator: who asked for it to be sent again.
    """

    id: UUID
    channel: str
    template: str
    recipient: str
    subject: str
    order_id: UUID | None
    entity_id: UUID
    state: str
    attempts: int
    last_error: str | None
    created_at: datetime
    sent_at: datetime | None
    resend_of: UUID | None
    requested_by: UUID | None
    requested_operator: str | None


SHOWN = tuple(Notification.__table__.c[name] for name in NotificationView.__annotations__)
"""The columns that `notification_view` reads."""


def notification_view(row: Row[Any]) -> NotificationView:
    """Return a message from the columns of `SHOWN`."""
    return {
        "id": row.id,
        "channel": row.channel,
        "template": row.template,
        "recipient": row.recipient,
        "subject": row.subject,
        "order_id": row.order_id,
        "entity_id": row.entity_id,
        "state": row.state,
        "attempts": row.attempts,
        "last_error": row.last_error,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
        "resend_of": row.resend_of,
        "requested_by": row.requested_by,
        "requested_operator": row.requested_operator,
    }
