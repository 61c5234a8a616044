"""Messages and their delivery on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.core.enums import Channel, NotificationState
from app.schemas.common import Answer, PageQuery, Pagination, Timestamp


class NotificationQuery(PageQuery):
    """Filters of `GET /notifications`."""

    order_id: UUID | None = None
    entity_id: UUID | None = None
    state: Annotated[list[NotificationState], Field(max_length=4)] = Field(default_factory=list)
    channel: Annotated[list[Channel], Field(max_length=3)] = Field(default_factory=list)
    template: Annotated[str, Field(max_length=60, pattern="^[a-z_]+$")] | None = None


class NotificationResponse(Answer):
    """A message, whom it is for, and how far its delivery got (REQ-006)."""

    id: UUID
    channel: Channel
    template: str
    recipient: str
    subject: str
    order_id: UUID | None
    entity_id: UUID
    state: NotificationState
    attempts: int
    last_error: str | None
    created_at: Timestamp
    sent_at: Timestamp | None


class NotificationList(Answer):
    """A page of messages, newest first."""

    data: list[NotificationResponse]
    pagination: Pagination
