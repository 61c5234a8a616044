"""Which files are generated, in whole or between marks, and by what."""

from collections.abc import Callable, Mapping
from pathlib import Path

from app.config import ROOT
from tools.documentation import attacks, events, metrics, operations, packages, settings, traceability

DOCS = ROOT / "docs"

GENERATED: Mapping[Path, Callable[[], str]] = {
    DOCS / "traceability.md": traceability.page,
    DOCS / "reference" / "operations.md": operations.page,
    DOCS / "reference" / "events.md": events.page,
    DOCS / "reference" / "metrics.md": metrics.page,
    DOCS / "reference" / "attacks.md": attacks.page,
    DOCS / "development" / "packages.md": packages.page,
    DOCS / "configuration.md": settings.page,
    ROOT / ".env.example": settings.example,
    ROOT / "docker-compose.yml": settings.compose,
}
"""File → what gives its text."""
