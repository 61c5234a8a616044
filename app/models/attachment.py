"""Attachments: photos and papers that belong to a return, never changed once added (REQ-002)."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.core.enums import Role
from app.models.base import Base, CreatedAt, PrimaryKey, one_of


class Attachment(Base):
    """A file of a return: what it is, who added it and when; its bytes are in the storage, under `storage_key`."""

    __tablename__ = "attachments"

    id: Mapped[PrimaryKey]
    return_id: Mapped[UUID] = mapped_column(ForeignKey("return_requests.id"))
    file_name: Mapped[str] = mapped_column(String(200))
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int]
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    description: Mapped[str | None] = mapped_column(String(500))
    storage_key: Mapped[str] = mapped_column(String(200), unique=True)
    uploaded_by: Mapped[UUID]
    uploaded_by_role: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        one_of("uploaded_by_role", Role),
        # The same bytes a second time are a retry.
        UniqueConstraint("return_id", "sha256"),
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("size_bytes >= 1", name="size_bytes"),
        Index(None, "return_id", "created_at", "id"),
    )
