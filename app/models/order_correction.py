"""Corrections of orders: what was changed from what to what, by whom and why. Append-only."""

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import Role
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class OrderCorrection(Base):
    """One correction. `changes` is field → `{"old", "new"}`; `version` is the order's after it."""

    __tablename__ = "order_corrections"

    id: Mapped[PrimaryKey]
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    version: Mapped[int]
    changes: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(String(500))
    actor_id: Mapped[UUID]
    actor_role: Mapped[str] = mapped_column(String(20))
    ip_address: Mapped[str | None] = mapped_column(String(45))
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        one_of("actor_role", Role),
        CheckConstraint("version >= 2", name="version"),
        CheckConstraint("jsonb_typeof(changes) = 'object' AND changes <> '{}'", name="changes"),
        UniqueConstraint("order_id", "version"),
    )
