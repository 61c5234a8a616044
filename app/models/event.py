"""The facts: one row a change of an entity, append-only, numbered per entity."""

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import EntityType
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Event(Base):
    """A fact about an entity. `seq` is the entity's version after the change: no gap, no repeat."""

    __tablename__ = "events"

    id: Mapped[PrimaryKey]
    entity_type: Mapped[str] = mapped_column(String(10))
    entity_id: Mapped[UUID]
    seq: Mapped[int]
    type: Mapped[str] = mapped_column(String(60))
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        one_of("entity_type", EntityType),
        CheckConstraint("seq >= 1", name="seq"),
        UniqueConstraint("entity_type", "entity_id", "seq"),
        Index(None, "created_at", "id"),
    )
