"""Figures that were collected once for all processes."""

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class KeptFigures(Base):
    """The figures of one kind as of `collected_at`, and how long it took to collect them; the next ones replace them."""

    __tablename__ = "kept_figures"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    collected_at: Mapped[datetime]
    seconds: Mapped[float]
    figures: Mapped[dict[str, Any]]
