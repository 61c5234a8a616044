"""What a file is, by its bytes alone: its name and the type its sender gave it prove nothing (NFR-004).

A first few bytes are easily put before something else, so each kind is followed as far as its own structure goes
without decoding an image, which is an attack surface of its own (`app.utils.photos`): JPEG to the start of its picture, PNG and
WebP to the header that holds the size, HEIC through its boxes, PDF from its header to its end mark. What is found
is what the file is served as, under `nosniff`; a browser that gets "image/jpeg" runs nothing.
"""

import mmap
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias
from urllib.parse import quote

Bytes: TypeAlias = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of file: its registered name, the extension it is stored under, and whether a browser may show it."""

    name: str
    extension: str
    is_shown: bool


JPEG: Final = MediaType("image/jpeg", "jpg", is_shown=True)
PNG: Final = MediaType("image/png", "png", is_shown=True)
WEBP: Final = MediaType("image/webp", "webp", is_shown=True)
# Hardly any browser shows HEIC; a PDF of a stranger's is shown in no sandbox that keeps its viewer working.
HEIC: Final = MediaType("image/heic", "heic", is_shown=False)
PDF: Final = MediaType("application/pdf", "pdf", is_shown=False)

_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_WEBP_FORMATS: Final = frozenset({b"VP8 ", b"VP8L", b"VP8X"})
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis"})
_PDF_HEAD: Final = re.compile(rb"%PDF-[12]\.[0-9][\r\n ]")
_PDF_TAIL_BYTES: Final = 1024
_BOXES_MAXIMUM: Final = 64
_BRANDS_BYTES: Final = 1024
_MARKERS_MAXIMUM: Final = 10_000


def sniff(data: Bytes) -> MediaType | None:
    """Return what `data` is, or None when it is none of `ACCEPTED`."""
    return next((kind for kind, is_one in _CHECKS.items() if is_one(data)), None)


def _is_jpeg(data: Bytes) -> bool:
    """Follow the segments to the picture itself: a frame with a size has to come before it."""
    if data[:2] != b"\xff\xd8":
        return False
    position, has_frame = 2, False
    for _ in range(_MARKERS_MAXIMUM):
        if position + 4 > len(data) or data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _JPEG_WITHOUT_LENGTH:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4])
        if length < 2:
            return False
        if marker in _JPEG_FRAMES:
            # Precision, height (0: given later), width.
            has_frame = length >= 8 and int.from_bytes(data[position + 7 : position + 9]) > 0
        if marker == 0xDA:
            return has_frame and position + 2 + length < len(data)
        position += 2 + length
    return False


def _is_png(data: Bytes) -> bool:
    """Check the header: signature, size, and the checksum over both; and that something follows."""
    if data[: len(_PNG_HEAD)] != _PNG_HEAD or len(data) < 45:
        return False
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return width > 0 and height > 0 and zlib.crc32(data[12:29]) == int.from_bytes(data[29:33])


def _is_webp(data: Bytes) -> bool:
    """Check the container, which says how long the file is, and its first chunk."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or data[12:16] not in _WEBP_FORMATS:
        return False
    size = 8 + int.from_bytes(data[4:8], "little")
    first_chunk = int.from_bytes(data[16:20], "little")
    # Nothing may hang on behind; one byte of padding may.
    return 20 + first_chunk <= len(data) and first_chunk >= 5 and 0 <= len(data) - size <= 1


def _is_heic(data: Bytes) -> bool:
    """Go through the outer boxes: the first names HEIC as a brand, one describes the pictures, all fit the file."""
    if data[4:8] != b"ftyp":
        return False
    position, found = 0, set[bytes]()
    for _ in range(_BOXES_MAXIMUM):
        size, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[position + 8 : position + 16]), 16
        elif size == 0:
            size = len(data) - position
        if size < head or position + size > len(data):
            return False
        if position == 0 and (size > _BRANDS_BYTES or not _has_heic_brand(data[8:size])):
            return False
        found.add(kind)
        if found >= {b"meta", b"mdat"}:
            return True
        position += size
    return False


def _has_heic_brand(brands: bytes) -> bool:
    # Major brand, four bytes of version, compatible brands.
    return len(brands) % 4 == 0 and any(
        brands[at : at + 4] in _HEIC_BRANDS for at in range(0, len(brands), 4) if at != 4
    )


def _is_pdf(data: Bytes) -> bool:
    """Take a PDF that begins with its header and ends with its end mark; readers that search for either are fooled."""
    tail = data[-_PDF_TAIL_BYTES:]
    return _PDF_HEAD.match(data) is not None and b"startxref" in tail and b"%%EOF" in tail


_CHECKS: Final[Mapping[MediaType, Callable[[Bytes], bool]]] = MappingProxyType(
    {JPEG: _is_jpeg, PNG: _is_png, WEBP: _is_webp, HEIC: _is_heic, PDF: _is_pdf}
)
ACCEPTED: Final = tuple(_CHECKS)
"""The kinds that are recognised."""

BY_NAME: Final[Mapping[str, MediaType]] = MappingProxyType({kind.name: kind for kind in ACCEPTED})


def content_disposition(name: str, *, is_shown: bool) -> str:
    """Return the header that gives a download its name (RFC 6266): in ASCII for all, as it is for those who can."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    kind = "inline" if is_shown else "attachment"
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{kind}; filename="{plain}"{exact}'
