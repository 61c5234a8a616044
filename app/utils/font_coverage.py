"""Which characters the fonts of the documents can draw.

An archival PDF may not hold a missing glyph, so what no font has must be known before a document gets its number. The
fonts' own character maps are read: the OpenType `cmap` table, formats 4 and 12
(https://learn.microsoft.com/typography/opentype/spec/cmap), of each font of a collection.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

FONT_SUFFIXES = frozenset((".otf", ".ttf", ".otc", ".ttc"))
_FORMAT_SEGMENTS = 4
_FORMAT_GROUPS = 12
_UNICODE_SUBTABLES = {(0, 3): 1, (0, 4): 2, (0, 6): 2, (3, 1): 1, (3, 10): 2}
"""(platform, encoding) of the Unicode maps, with the better one ranked higher."""


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
    data = path.read_bytes()
    try:
        found: set[int] = set()
        for start in _fonts_in(data):
            found |= _code_points(data, start)
    except (struct.error, ValueError) as fault:
        raise ValueError(f"{path.name} is not a usable font: {fault}") from fault
    return found


def _fonts_in(data: bytes) -> tuple[int, ...]:
    """Return where each font of the file begins."""
    if data[:4] != b"ttcf":
        return (0,)
    (count,) = struct.unpack_from(">I", data, 8)
    return struct.unpack_from(f">{count}I", data, 12)


def _code_points(data: bytes, font: int) -> set[int]:
    start = _cmap_offset(data, font)
    (count,) = struct.unpack_from(">H", data, start + 2)
    ranked = []
    for index in range(count):
        platform, encoding, offset = struct.unpack_from(">HHI", data, start + 4 + 8 * index)
        rank = _UNICODE_SUBTABLES.get((platform, encoding))
        if rank is not None:
            ranked.append((rank, start + offset))
    if not ranked:
        raise ValueError("no Unicode character map")
    offset = max(ranked)[1]
    (form,) = struct.unpack_from(">H", data, offset)
    if form == _FORMAT_SEGMENTS:
        return _from_segments(data, offset)
    if form == _FORMAT_GROUPS:
        return _from_groups(data, offset)
    raise ValueError(f"character map of format {form}")


def _cmap_offset(data: bytes, font: int) -> int:
    (tables,) = struct.unpack_from(">H", data, font + 4)
    for index in range(tables):
        tag, _, offset, _ = struct.unpack_from(">4sIII", data, font + 12 + 16 * index)
        if tag == b"cmap":
            return int(offset)
    raise ValueError("no cmap table")


def _from_segments(data: bytes, offset: int) -> set[int]:
    """Read format 4: segments of the basic plane, glyphs by delta or through an array behind the segments."""
    (doubled,) = struct.unpack_from(">H", data, offset + 6)
    count = doubled // 2
    ends = struct.unpack_from(f">{count}H", data, offset + 14)
    starts = struct.unpack_from(f">{count}H", data, offset + 16 + doubled)
    deltas = struct.unpack_from(f">{count}H", data, offset + 16 + 2 * doubled)
    ranges_at = offset + 16 + 3 * doubled
    ranges = struct.unpack_from(f">{count}H", data, ranges_at)
    found: set[int] = set()
    for index, (first, last, delta, reach) in enumerate(zip(starts, ends, deltas, ranges, strict=True)):
        for code in range(first, last + 1):
            glyph = code
            if reach:
                (glyph,) = struct.unpack_from(">H", data, ranges_at + 2 * index + reach + 2 * (code - first))
            if (glyph or not reach) and (glyph + delta) & 0xFFFF:
                found.add(code)
    found.discard(0xFFFF)
    return found


def _from_groups(data: bytes, offset: int) -> set[int]:
    """Read format 12: runs of consecutive characters with consecutive glyphs."""
    (count,) = struct.unpack_from(">I", data, offset + 12)
    found: set[int] = set()
    for index in range(count):
        first, last, glyph = struct.unpack_from(">III", data, offset + 16 + 12 * index)
        found.update(range(first + (glyph == 0), last + 1))
    return found
