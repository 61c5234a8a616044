"""Keys of callers: shown once, stored hashed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import Role
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class ApiKey(Base):
    """A key; its id is the principal id that audit rows name as the actor.

    Attributes:
        principal_id: for a key that succeeded another, the principal id of that one: the caller is the same.
        expires_at: from when on it opens nothing; None for a key without an end.
        successor_id: the key that took over from it.
    """

    __tablename__ = "api_keys"

    id: Mapped[PrimaryKey]
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20))
    customer_id: Mapped[UUID | None]
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    principal_id: Mapped[UUID | None]
    expires_at: Mapped[datetime | None]
    successor_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id"), unique=True)

    __table_args__ = (
        one_of("role", Role),
        CheckConstraint("(role = 'customer') = (customer_id IS NOT NULL)", name="customer_id"),
        CheckConstraint("successor_id IS NULL OR expires_at IS NOT NULL", name="succession"),
    )
