"""Money in and money out. The cap on money out is a constraint that no code can step over."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import PaymentState, RefundReason, RefundState, WebhookOutcome
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Payment(Base):
    """The payment of one order; made with the order, so that one row lock orders all that touches money.

    `refund_reserved_amount` is the sum of all refunds due, under way or paid; `refunded_elsewhere_amount` is what the
    provider paid back without us. The CHECK keeps both together within what was captured.

    `accepted_amount` is what a manager took in place of `amount`, deciding `accepted_case_id`. While `refunds_held_by`
    names a case, no refund is sent.
    """

    __tablename__ = "payments"

    id: Mapped[PrimaryKey]
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), unique=True)
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{PaymentState.PENDING}'"))
    method: Mapped[str] = mapped_column(String(50))
    token: Mapped[str | None] = mapped_column(String(200))
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3))
    captured_amount: Mapped[Decimal] = mapped_column(server_default=text("0"))
    refund_reserved_amount: Mapped[Decimal] = mapped_column(server_default=text("0"))
    accepted_amount: Mapped[Decimal | None]
    accepted_case_id: Mapped[UUID | None] = mapped_column(ForeignKey("cases.id"))
    refunded_elsewhere_amount: Mapped[Decimal] = mapped_column(server_default=text("0"))
    refunds_held_by: Mapped[UUID | None] = mapped_column(ForeignKey("cases.id"))
    gateway_payment_id: Mapped[str | None] = mapped_column(String(255), unique=True)
    created_at: Mapped[CreatedAt]
    captured_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("state", PaymentState),
        CheckConstraint("amount >= 0", name="amount"),
        CheckConstraint(
            "captured_amount = CASE state WHEN 'CAPTURED' THEN coalesce(accepted_amount, amount) ELSE 0 END",
            name="captured_amount",
        ),
        CheckConstraint("(state = 'CAPTURED') = (captured_at IS NOT NULL)", name="captured_at"),
        CheckConstraint(
            "refund_reserved_amount >= 0 AND refunded_elsewhere_amount >= 0"
            " AND refund_reserved_amount + refunded_elsewhere_amount <= captured_amount",
            name="refund_cap",
        ),
        CheckConstraint(
            "(accepted_amount IS NULL) = (accepted_case_id IS NULL) AND accepted_amount > 0", name="accepted"
        ),
        *(
            Index(f"ix_payments_{column}", column, postgresql_where=text(f"{column} IS NOT NULL"))
            for column in ("accepted_case_id", "refunds_held_by")
        ),
    )


class Refund(Base):
    """One refund, created in the transaction that makes it due. Paid once, even when a process is killed (REQ-004).

    `declines` counts definite refusals by the gateway: the only thing that changes the idempotency key.
    """

    __tablename__ = "refunds"

    id: Mapped[PrimaryKey]
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    return_id: Mapped[UUID | None] = mapped_column(ForeignKey("return_requests.id"), unique=True)
    reason: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{RefundState.PENDING}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3))
    declines: Mapped[int] = mapped_column(server_default=text("0"))
    gateway_refund_id: Mapped[str | None] = mapped_column(String(255), unique=True)
    last_error: Mapped[str | None]
    first_sent_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    succeeded_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("state", RefundState),
        one_of("reason", RefundReason),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("(state = 'SUCCEEDED') = (succeeded_at IS NOT NULL)", name="succeeded_at"),
        CheckConstraint("state <> 'SUCCEEDED' OR gateway_refund_id IS NOT NULL", name="gateway_refund_id"),
        CheckConstraint("released_at IS NULL OR state = 'FAILED'", name="released_at"),
        CheckConstraint("(reason = 'RETURN_COMPLETED') = (return_id IS NOT NULL)", name="return_id"),
        Index("ix_refunds_order_id", "order_id"),
        Index("ix_refunds_payment_id", "payment_id"),
        Index(None, "created_at", "id"),
        Index(None, "state", "created_at", "id"),
        Index(
            "uq_refunds_whole_order",
            "order_id",
            unique=True,
            postgresql_where=text("return_id IS NULL"),
        ),
    )


class GatewayEvent(Base):
    """A webhook as the gateway sent it, stored with its effect: the same event twice has one effect."""

    __tablename__ = "gateway_events"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    type: Mapped[str] = mapped_column(String(255))
    reference: Mapped[UUID | None]
    body: Mapped[dict[str, Any]]
    outcome: Mapped[str] = mapped_column(String(30))
    received_at: Mapped[CreatedAt]

    __table_args__ = (one_of("outcome", WebhookOutcome), Index(None, "reference"), Index(None, "received_at"))
