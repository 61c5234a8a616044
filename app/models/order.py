"""Orders and their lines. A line is a snapshot of what was sold: a catalogue never changes it."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Numeric, Sequence, String, text
from sqlalchemy.orm import Mapped, mapped_column, query_expression, relationship

from app.core.enums import OrderStatus
from app.models.base import Base, CreatedAt, PrimaryKey, one_of

order_number_seq = Sequence("order_number_seq", metadata=Base.metadata)


class Order(Base):
    """An order. `audit_seq` and `audit_hash` are the head of its chain in `state_history` (REQ-003)."""

    __tablename__ = "orders"

    id: Mapped[PrimaryKey]
    order_number: Mapped[str] = mapped_column(String(50, collation="C"), unique=True)
    status: Mapped[str] = mapped_column(server_default=text(f"'{OrderStatus.PENDING_PAYMENT}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    customer_id: Mapped[UUID]
    customer_email: Mapped[str] = mapped_column(String(320, collation="C"))
    customer_name: Mapped[str | None] = mapped_column(String(200, collation="C"))
    customer_phone: Mapped[str | None] = mapped_column(String(40))
    customer_company: Mapped[str | None] = mapped_column(String(200))
    customer_vat_id: Mapped[str | None] = mapped_column(String(30))
    locale: Mapped[str | None] = mapped_column(String(35))
    currency: Mapped[str] = mapped_column(String(3), server_default=text("'USD'"))
    subtotal_amount: Mapped[Decimal]
    tax_amount: Mapped[Decimal]
    shipping_amount: Mapped[Decimal]
    total_amount: Mapped[Decimal]
    payment_method: Mapped[str] = mapped_column(String(50))
    payment_transaction_id: Mapped[str | None] = mapped_column(String(255))
    shipping_address: Mapped[dict[str, Any]]
    billing_address: Mapped[dict[str, Any]]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    carrier: Mapped[str | None] = mapped_column(String(100))
    tracking_number: Mapped[str | None] = mapped_column(String(100))
    cancellation_reason: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    paid_at: Mapped[datetime | None]
    shipped_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    audit_seq: Mapped[int] = mapped_column(server_default=text("0"))
    audit_hash: Mapped[bytes | None] = mapped_column(LargeBinary)

    placed_by: Mapped[str | None] = query_expression()
    """The role that placed it, as its event `order.created` says; None where the query does not read it."""

    line_items: Mapped[list["OrderLineItem"]] = relationship(
        back_populates="order", order_by="OrderLineItem.position", lazy="raise"
    )

    __table_args__ = (
        one_of("status", OrderStatus),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("subtotal_amount >= 0", name="subtotal_amount"),
        CheckConstraint("tax_amount >= 0", name="tax_amount"),
        CheckConstraint("shipping_amount >= 0", name="shipping_amount"),
        CheckConstraint("total_amount = subtotal_amount + tax_amount + shipping_amount", name="total_amount"),
        CheckConstraint("(audit_seq = 0) = (audit_hash IS NULL)", name="audit_head"),
        CheckConstraint("(status = 'CANCELLED') = (cancelled_at IS NOT NULL)", name="cancelled_at"),
        CheckConstraint("status <> 'DELIVERED' OR delivered_at IS NOT NULL", name="delivered_at"),
        CheckConstraint("status NOT IN ('SHIPPED', 'DELIVERED') OR shipped_at IS NOT NULL", name="shipped_at"),
        Index(None, "created_at", "id"),
        Index(None, "status", "created_at", "id"),
        Index(None, "customer_id", "created_at", "id"),
        Index("ix_orders_tracking_number", "tracking_number", postgresql_where=text("tracking_number IS NOT NULL")),
    )


class OrderLineItem(Base):
    """One line: quantity × unit_price = subtotal, tax beside it."""

    __tablename__ = "order_line_items"

    id: Mapped[PrimaryKey]
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    position: Mapped[int]
    product_id: Mapped[str] = mapped_column(String(100))
    product_name: Mapped[str] = mapped_column(String(300))
    sku: Mapped[str | None] = mapped_column(String(100))
    quantity: Mapped[int]
    unit_price: Mapped[Decimal]
    tax_rate: Mapped[Decimal] = mapped_column(Numeric(5, 4), server_default=text("0"))
    tax_amount: Mapped[Decimal] = mapped_column(server_default=text("0"))
    subtotal: Mapped[Decimal]

    order: Mapped[Order] = relationship(back_populates="line_items", lazy="raise")

    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("unit_price >= 0", name="unit_price"),
        CheckConstraint("tax_rate >= 0 AND tax_rate <= 1", name="tax_rate"),
        CheckConstraint("tax_amount >= 0", name="tax_amount"),
        CheckConstraint("subtotal = quantity * unit_price", name="subtotal"),
        Index("uq_order_line_items_order_id_position", "order_id", "position", unique=True),
    )
