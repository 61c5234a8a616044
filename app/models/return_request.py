"""Returns: the lines of an order that come back, and what they are worth. One return of an order is open at a time."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Sequence, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import RejectionReason, ReturnStatus
from app.models.base import Base, CreatedAt, PrimaryKey, one_of

return_number_seq = Sequence("return_number_seq", metadata=Base.metadata)


class ReturnRequest(Base):
    """A return, known to people by its `return_number` (RET-YYYY-NNNNNN). `items` lists `{"line_item_id", "quantity", "amount"}`, amounts as strings.

    Over all returns of an order that are not REJECTED, no line comes back more often than it was bought: trigger
    `guard_return_quantities`. `items_amount` is what those lines cost with tax: the most that can ever be paid back (REQ-002).
    """

    __tablename__ = "return_requests"

    id: Mapped[PrimaryKey]
    return_number: Mapped[str] = mapped_column(String(50, collation="C"), unique=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    customer_id: Mapped[UUID]
    status: Mapped[str] = mapped_column(server_default=text(f"'{ReturnStatus.REQUESTED}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    reason: Mapped[str] = mapped_column(String(1000))
    customer_notes: Mapped[str | None] = mapped_column(String(2000))
    manager_notes: Mapped[str | None] = mapped_column(String(2000))
    rejection_reason: Mapped[str | None] = mapped_column(String(30))
    items: Mapped[list[Any]]
    items_amount: Mapped[Decimal]
    restocking_fee: Mapped[Decimal] = mapped_column(server_default=text("0"))
    refund_amount: Mapped[Decimal]
    inspection: Mapped[list[Any] | None]
    deduction_amount: Mapped[Decimal] = mapped_column(server_default=text("0"))
    deduction_reason: Mapped[str | None] = mapped_column(String(500))
    currency: Mapped[str] = mapped_column(String(3))
    refund_transaction_id: Mapped[str | None] = mapped_column(String(255))
    requested_by: Mapped[UUID]
    reviewed_by: Mapped[UUID | None]
    carrier: Mapped[str | None] = mapped_column(String(100))
    tracking_number: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    approved_at: Mapped[datetime | None]
    rejected_at: Mapped[datetime | None]
    in_transit_at: Mapped[datetime | None]
    received_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    review_reminded_at: Mapped[datetime | None]
    audit_seq: Mapped[int] = mapped_column(server_default=text("0"))
    audit_hash: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (
        one_of("status", ReturnStatus),
        one_of("rejection_reason", RejectionReason, nullable=True),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("items_amount >= 0", name="items_amount"),
        CheckConstraint("restocking_fee >= 0", name="restocking_fee"),
        CheckConstraint(
            "refund_amount >= 0 AND refund_amount <= items_amount - restocking_fee - deduction_amount",
            name="refund_amount",
        ),
        CheckConstraint("deduction_amount >= 0", name="deduction_amount"),
        CheckConstraint("(deduction_amount > 0) = (deduction_reason IS NOT NULL)", name="deduction_reason"),
        CheckConstraint("status = 'COMPLETED' OR (inspection IS NULL AND deduction_amount = 0)", name="inspected"),
        CheckConstraint("inspection IS NULL OR jsonb_typeof(inspection) = 'array'", name="inspection"),
        CheckConstraint("(status = 'REJECTED') = (rejection_reason IS NOT NULL)", name="rejected_with_reason"),
        CheckConstraint("(audit_seq = 0) = (audit_hash IS NULL)", name="audit_head"),
        CheckConstraint("jsonb_typeof(items) = 'array' AND jsonb_array_length(items) > 0", name="items"),
        Index(
            "uq_return_requests_open_order_id",
            "order_id",
            unique=True,
            postgresql_where=text("status NOT IN ('REJECTED', 'COMPLETED')"),
        ),
        Index(None, "order_id"),
        Index(None, "created_at", "id"),
        Index(None, "status", "created_at", "id"),
        Index(None, "customer_id", "created_at", "id"),
    )
