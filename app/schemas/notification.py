"""Messages and their delivery on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.core.enums import Channel, NotificationState
from app.schemas.common import Answer, PageQuery, Pagination, Request, Timestamp, text_line


class NotificationQuery(PageQuery):
    """Filters of `GET /notifications`."""

    order_id: UUID | None = None
    entity_id: UUID | None = None
    state: Annotated[list[NotificationState], Field(max_length=5)] = Field(default_factory=list)
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
    resend_of: UUID | None
    requested_by: UUID | None
    requested_operator: str | None


class NotificationResend(Request):
    """`POST /notifications/{id}/resend`: where to, when the first recipient was wrong."""

    to: text_line(254) | None = None  # type: ignore[valid-type]

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "ada@example.com"}]})


class NotificationList(Answer):
    """A page of messages, newest first."""

    data: list[NotificationResponse]
    pagination: Pagination
