"""Bearer tokens that were ended before their time (NFR-004)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class RevokedToken(Base):
    """A token that is refused, issued by us or by the identity provider.

    Attributes:
        token_id: its `jti` (RFC 7519, 4.1.7).
        created_at: when it was revoked.
        expires_at: when every token of that id has expired, and the row may be removed.
    """

    __tablename__ = "revoked_tokens"

    token_id: Mapped[str] = mapped_column(String(255, collation="C"), primary_key=True)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("token_id <> ''", name="token_id"),
        CheckConstraint("expires_at > created_at", name="expires_at"),
        Index(None, "expires_at"),
    )
