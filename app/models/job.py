"""The work: PostgreSQL holds the truth, Redis and Celery only carry the wake-up."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import JobState, Queue
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Job(Base):
    """One piece of due work. `failures` and `claims` are separate budgets: a crash is not a failure."""

    __tablename__ = "jobs"

    id: Mapped[PrimaryKey]
    kind: Mapped[str] = mapped_column(String(60))
    queue: Mapped[str] = mapped_column(String(20))
    entity_id: Mapped[UUID]
    dedupe_key: Mapped[str] = mapped_column(String(200), unique=True)
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(String(10), server_default=text(f"'{JobState.PENDING}'"))
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    claims: Mapped[int] = mapped_column(server_default=text("0"))
    run_at: Mapped[CreatedAt]
    published_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    last_error: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("state", JobState),
        one_of("queue", Queue),
        CheckConstraint("failures >= 0 AND claims >= 0 AND fence >= 0", name="budgets"),
        CheckConstraint("(state = 'RUNNING') = (lease_until IS NOT NULL)", name="lease"),
        Index("ix_jobs_pending", "run_at", postgresql_where=text("state = 'PENDING'")),
        Index("ix_jobs_published", "published_at", postgresql_where=text("state = 'PUBLISHED'")),
        Index("ix_jobs_running", "lease_until", postgresql_where=text("state = 'RUNNING'")),
        Index(None, "entity_id"),
    )


class DeadLetter(Base):
    """A job whose budget is spent, waiting for a person to retry or dismiss it (REQ-004)."""

    __tablename__ = "dead_letters"

    id: Mapped[PrimaryKey]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(60))
    entity_id: Mapped[UUID]
    error: Mapped[str]
    failures: Mapped[int]
    claims: Mapped[int]
    created_at: Mapped[CreatedAt]
    resolution: Mapped[str | None] = mapped_column(String(10))
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[UUID | None]
    resolution_note: Mapped[str | None] = mapped_column(String(500))
    resolved_operator: Mapped[str | None] = mapped_column(String(100))

    __table_args__ = (
        CheckConstraint("resolution IS NULL OR resolution IN ('RETRIED', 'DISMISSED')", name="resolution"),
        CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="resolved_at"),
        Index("uq_dead_letters_open_job_id", "job_id", unique=True, postgresql_where=text("resolution IS NULL")),
        Index("ix_dead_letters_open", "created_at", "id", postgresql_where=text("resolution IS NULL")),
        Index(None, "created_at", "id"),
    )
