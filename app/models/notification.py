"""Messages and their recipients, once per event, template, recipient and channel (REQ-006)."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import Channel, NotificationState
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Notification(Base):
    """A message and its delivery.

    `source_key` names the event it reports, the same on every channel. `customer_id` is set where the message is for a
    customer who placed the order with their own credentials: such messages are limited per customer. A message that
    was sent again names the one before in `resend_of`, and who asked for it.
    """

    __tablename__ = "notifications"

    id: Mapped[PrimaryKey]
    source_key: Mapped[str] = mapped_column(String(200))
    template: Mapped[str] = mapped_column(String(60))
    recipient: Mapped[str] = mapped_column(String(320))
    channel: Mapped[str] = mapped_column(String(10), server_default=text(f"'{Channel.EMAIL}'"))
    entity_id: Mapped[UUID]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    customer_id: Mapped[UUID | None]
    resend_of: Mapped[UUID | None] = mapped_column(ForeignKey("notifications.id"))
    requested_by: Mapped[UUID | None]
    requested_operator: Mapped[str | None] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{NotificationState.PENDING}'"))
    message_id: Mapped[str] = mapped_column(String(300))
    subject: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    last_error: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("state", NotificationState),
        one_of("channel", Channel),
        UniqueConstraint("source_key", "template", "recipient", "channel"),
        Index(None, "entity_id"),
        Index(None, "order_id"),
        Index(None, "created_at", "id"),
        Index(None, "channel", "state", "created_at", "id"),
        Index(None, "template", "channel", "state", "created_at", "id"),
        Index(None, "resend_of"),
        Index("ix_notifications_recipient", text("lower(recipient)"), "channel", "created_at"),
        Index(
            "ix_notifications_customer", "customer_id", "created_at", postgresql_where=text("customer_id IS NOT NULL")
        ),
    )
