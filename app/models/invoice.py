"""Invoices and credit notes: numbered without a gap, issued once, never rendered again."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import DocumentKind, DocumentState
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Invoice(Base):
    """An invoice or a credit note.

    `view` is the frozen content that was, or will be, rendered; `drawn_sha256` the hash of each drawing of it that may
    lie under `storage_key`, `sha256` that of the one that does.
    """

    __tablename__ = "invoices"

    id: Mapped[PrimaryKey]
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{DocumentState.NUMBERED}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    year: Mapped[int]
    number_in_year: Mapped[int]
    number: Mapped[str] = mapped_column(String(30), unique=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    refund_id: Mapped[UUID | None] = mapped_column(ForeignKey("refunds.id"), unique=True)
    refers_to_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"))
    issued_on: Mapped[date]
    view: Mapped[dict[str, Any]]
    storage_key: Mapped[str] = mapped_column(String(200), unique=True)
    drawn_sha256: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary), server_default=text("'{}'"))
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    size_bytes: Mapped[int | None]
    created_at: Mapped[CreatedAt]
    issued_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("kind", DocumentKind),
        one_of("state", DocumentState),
        UniqueConstraint("kind", "year", "number_in_year"),
        CheckConstraint("number_in_year >= 1", name="number_in_year"),
        CheckConstraint("(kind = 'CREDIT_NOTE') = (refund_id IS NOT NULL)", name="refund_id"),
        CheckConstraint(
            "(state = 'ISSUED') = (sha256 IS NOT NULL AND size_bytes IS NOT NULL AND issued_at IS NOT NULL)",
            name="issued",
        ),
        CheckConstraint("sha256 IS NULL OR sha256 = ANY (drawn_sha256)", name="drawn"),
        Index("uq_invoices_order_id_invoice", "order_id", unique=True, postgresql_where=text("kind = 'INVOICE'")),
        Index("ix_invoices_order_id", "order_id"),
        Index("ix_invoices_refers_to_id", "refers_to_id"),
    )


class InvoiceSeries(Base):
    """The last number given out, per kind and year; locked by the transaction that takes the next."""

    __tablename__ = "invoice_series"

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    year: Mapped[int] = mapped_column(primary_key=True)
    last_number: Mapped[int]

    __table_args__ = (one_of("kind", DocumentKind), CheckConstraint("last_number >= 1", name="last_number"))
