"""The audit trail: what changed, what was refused, and which changes the database allows at all."""

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import ActorType, EntityType
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class StateHistory(Base):
    """One row a transition, chained by hash per entity (REQ-003).

    Append-only: the database refuses update, delete and truncate. `details` is the column `metadata`,
    a name that SQLAlchemy keeps for itself.
    """

    __tablename__ = "state_history"

    id: Mapped[PrimaryKey]
    entity_type: Mapped[str] = mapped_column(String(10))
    entity_id: Mapped[UUID]
    seq: Mapped[int]
    previous_state: Mapped[str] = mapped_column(String(50))
    new_state: Mapped[str] = mapped_column(String(50))
    actor_id: Mapped[UUID | None]
    actor_type: Mapped[str] = mapped_column(String(10))
    trigger: Mapped[str] = mapped_column(String(100))
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    ip_address: Mapped[str | None] = mapped_column(String(45))
    created_at: Mapped[CreatedAt]
    prev_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (
        CheckConstraint("entity_type IN ('ORDER', 'RETURN')", name="entity_type"),
        one_of("actor_type", ActorType),
        CheckConstraint("seq >= 1", name="seq"),
        CheckConstraint("octet_length(prev_hash) = 32 AND octet_length(hash) = 32", name="hash"),
        UniqueConstraint("entity_type", "entity_id", "seq"),
        Index(None, "created_at", "id"),
        Index(None, "new_state", "created_at", "id"),
        Index(None, "actor_id", "new_state", "created_at", "id"),
    )


class TransitionRejection(Base):
    """An attempt that the transition table refused: who, when, what (REQ-001). Append-only."""

    __tablename__ = "transition_rejections"

    id: Mapped[PrimaryKey]
    entity_type: Mapped[str] = mapped_column(String(10))
    entity_id: Mapped[UUID]
    current_state: Mapped[str] = mapped_column(String(50))
    requested_state: Mapped[str] = mapped_column(String(50))
    actor_id: Mapped[UUID | None]
    actor_type: Mapped[str] = mapped_column(String(10))
    trigger: Mapped[str] = mapped_column(String(100))
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    ip_address: Mapped[str | None] = mapped_column(String(45))
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("entity_type IN ('ORDER', 'RETURN')", name="entity_type"),
        one_of("actor_type", ActorType),
        Index(None, "entity_id", "created_at", "id"),
        Index(None, "created_at", "id"),
        Index(None, "requested_state", "created_at", "id"),
        Index(None, "actor_id", "requested_state", "created_at", "id"),
    )


class StateTransition(Base):
    """The transitions that the database guard lets through: `app.services.workflow.state_machine`, stored.

    Written by migrations alone; API and workers compare it with their own table at start.
    """

    __tablename__ = "state_transitions"

    entity_type: Mapped[str] = mapped_column(String(10), primary_key=True)
    from_state: Mapped[str] = mapped_column(String(50), primary_key=True)
    to_state: Mapped[str] = mapped_column(String(50), primary_key=True)

    __table_args__ = (
        CheckConstraint(f"entity_type IN ('{EntityType.ORDER}', '{EntityType.RETURN}')", name="entity_type"),
    )
