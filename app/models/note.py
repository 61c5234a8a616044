"""Notes of the staff on orders and returns. Append-only."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import Role
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Note(Base):
    """A note on an order or on a return: who wrote what, and when."""

    __tablename__ = "notes"

    id: Mapped[PrimaryKey]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    return_id: Mapped[UUID | None] = mapped_column(ForeignKey("return_requests.id"))
    text: Mapped[str] = mapped_column(String(2000))
    author_id: Mapped[UUID]
    author_role: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        one_of("author_role", Role),
        CheckConstraint("num_nonnulls(order_id, return_id) = 1", name="subject"),
        Index(None, "order_id", "created_at", "id"),
        Index(None, "return_id", "created_at", "id"),
    )
