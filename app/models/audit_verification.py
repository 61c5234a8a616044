"""Runs of the audit trail's verification."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import VerificationState
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class AuditVerification(Base):
    """One run. `updated_at` is its heartbeat; `result` is what the API answers once it is DONE."""

    __tablename__ = "audit_verifications"

    id: Mapped[PrimaryKey]
    state: Mapped[str] = mapped_column(server_default=text(f"'{VerificationState.RUNNING}'"))
    started_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    rows_checked: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rows_expected: Mapped[int | None] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any] | None]

    __table_args__ = (
        one_of("state", VerificationState),
        CheckConstraint("(state = 'DONE') = (result IS NOT NULL)", name="result"),
        Index("uq_audit_verifications_running", "state", unique=True, postgresql_where=text("state = 'RUNNING'")),
    )
