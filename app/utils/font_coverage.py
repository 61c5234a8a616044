"""Which characters the fonts of the documents can draw.

An archival PDF may not hold a missing glyph, so what no font has must be known before a document gets its number.
fontTools reads the fonts' own character maps, of each font of a collection.
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

FONT_SUFFIXES = frozenset((".otf", ".ttf", ".otc", ".ttc"))
_MISSING = ".notdef"
"""The glyph of what a font cannot draw: the first of every font."""


class FontCoverage:
    """The union of the characters of some fonts.

    Args:
        fonts: OpenType or TrueType files and collections, the preferred ones first.

    Raises:
        ValueError: a file is no such font or has no Unicode map.
    """

    def __init__(self, fonts: Iterable[Path]) -> None:
        self._code_points: set[int] = set()
        self._files: list[tuple[Path, set[int]]] = []
        for path in fonts:
            held = code_points_of(path)
            self._files.append((path, held))
            self._code_points |= held

    def __contains__(self, character: str) -> bool:
        """Return whether one of the fonts has a glyph for the character."""
        return ord(character) in self._code_points

    def __len__(self) -> int:
        """Return how many characters can be drawn."""
        return len(self._code_points)

    def files_for(self, text: str) -> list[Path]:
        """Return the files that it takes to draw a text, in the order of the fonts."""
        wanted = set(map(ord, text))
        chosen = []
        for path, held in self._files:
            if found := wanted & held:
                chosen.append(path)
                wanted -= found
        return chosen


def code_points_of(path: Path) -> set[int]:
    """Return the characters of a font file, of a collection those of all its fonts.

    Raises:
        ValueError: the file is no such font or has no Unicode map.
    """
    # Imported where documents are drawn: the API imports this module, and fontTools takes memory and time to load.
    from fontTools.ttLib import TTCollection, TTFont  # noqa: PLC0415

    data = path.read_bytes()
    try:
        with (
            TTCollection(BytesIO(data), lazy=True)
            if data[:4] == b"ttcf"
            else TTFont(BytesIO(data), lazy=True) as opened
        ):
            fonts = opened if isinstance(opened, TTCollection) else (opened,)
            return set().union(*map(_code_points, fonts))
    except Exception as fault:  # fontTools raises errors of many kinds for damaged bytes
        raise ValueError(f"{path.name} is not a usable font: {fault}") from fault


def _code_points(font: "TTFont") -> set[int]:
    # Glyphs are numbered instead of named: the names are a table of their own, which is slow to read.
    font.setGlyphOrder([_MISSING])
    characters = font.getBestCmap()
    if not characters:
        raise ValueError("no Unicode character map that can be read")
    return {code for code, glyph in characters.items() if glyph != _MISSING}
