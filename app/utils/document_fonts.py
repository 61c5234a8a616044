"""The fonts that documents are drawn with: those shipped beside the templates, then those of `INVOICE_FONT_PATHS`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import structlog

from app.utils.documents import DocumentView
from app.utils.font_coverage import FONT_SUFFIXES, FontCoverage, code_points_of
from app.utils.formatting import printable, unsupported

logger = structlog.get_logger(__name__)

# The faces of the design, which come first and are no fallback.
DESIGN: Final = ("EBGaramond12-Regular", "Inter-Regular", "Inter-SemiBold")
_MOST_NAMED: Final = 20
"""So many fields of a document are named as unprintable; the rest is of the same kind."""


@dataclass(frozen=True, slots=True)
class Unprintable:
    """What no font can show.

    Attributes:
        field: of the view, such as `bill_to.name` or `lines.2.description`.
        characters: each once.
    """

    field: str
    characters: str

    def __str__(self) -> str:
        """Return the field and its characters with their code points."""
        points = ", ".join(f"U+{ord(character):04X}" for character in self.characters)
        return f"{self.field}: {points}"


class DocumentFonts:
    """The fonts, in the order in which they are tried for a character.

    Args:
        shipped: folder of the templates' own fonts.
        added: further folders, looked through with all that is below them.

    Raises:
        ValueError: a shipped font cannot be used, or an added folder is none.
    """

    def __init__(self, shipped: Path, added: tuple[Path, ...] = ()) -> None:
        self.folders = (shipped, *added)
        self.files = [*_shipped(shipped), *(path for folder in added for path in _usable(folder))]

    @cached_property
    def coverage(self) -> FontCoverage:
        """Which characters have a glyph."""
        return FontCoverage(self.files)

    def clean(self, text: str) -> str:
        """Return a text as it can be drawn."""
        return printable(text, self.coverage.__contains__)

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Return what a document has to say and no font can show."""
        found = (
            Unprintable(field, missing)
            for field, text in _texts(view.to_json())
            if (missing := unsupported(text, self.coverage.__contains__))
        )
        return tuple(found)[:_MOST_NAMED]


def _shipped(folder: Path) -> list[Path]:
    """Return the design's fonts, then the others; the widest, for Chinese, Japanese and Korean, last."""
    files = [path for path in folder.iterdir() if path.suffix in FONT_SUFFIXES]
    return sorted(files, key=lambda path: (path.stem not in DESIGN, path.name.startswith("Droid"), path.name))


def _usable(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise ValueError(f"INVOICE_FONT_PATHS: {folder} is not a folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in FONT_SUFFIXES:
            continue
        try:
            code_points_of(path)
        except (ValueError, OSError) as fault:
            logger.warning("font.skipped", error=str(fault))
            continue
        yield path


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Return each text in plain JSON values with the names that lead to it."""
    if isinstance(value, str):
        yield field, value
        return
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, held in entries:
        yield from _texts(held, f"{field}.{key}" if field else str(key))
