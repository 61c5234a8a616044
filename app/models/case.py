"""What a person must decide: one row a question, decided once."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import CaseEntity, CaseKind, CaseState
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Case(Base):
    """A question for a manager, with the evidence as it was when the question arose.

    The database refuses every change but the one from OPEN to CLOSED, and that one may not touch what was asked.
    `action` is the way out that was taken, if it is one that the system carries out.
    """

    __tablename__ = "cases"

    id: Mapped[PrimaryKey]
    kind: Mapped[str] = mapped_column(String(40))
    entity_type: Mapped[str] = mapped_column(String(20))
    entity_id: Mapped[UUID]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    dedupe_key: Mapped[str] = mapped_column(String(200), unique=True)
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{CaseState.OPEN}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[CreatedAt]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[UUID | None]
    close_note: Mapped[str | None] = mapped_column(String(2000))
    action: Mapped[str | None] = mapped_column(String(40))

    __table_args__ = (
        one_of("kind", CaseKind),
        one_of("entity_type", CaseEntity),
        one_of("state", CaseState),
        CheckConstraint("version = CASE state WHEN 'OPEN' THEN 1 ELSE 2 END", name="version"),
        CheckConstraint("(state = 'CLOSED') = (closed_at IS NOT NULL)", name="closed_at"),
        CheckConstraint("(state = 'CLOSED') = (close_note IS NOT NULL)", name="close_note"),
        CheckConstraint("state = 'CLOSED' OR (closed_by IS NULL AND action IS NULL)", name="decision"),
        Index("ix_cases_open", "created_at", "id", postgresql_where=text("state = 'OPEN'")),
        Index(None, "created_at", "id"),
        Index(None, "kind", "state", "created_at", "id"),
        Index(None, "entity_type", "state", "created_at", "id"),
        Index(None, "order_id"),
        Index(None, "entity_id"),
    )
