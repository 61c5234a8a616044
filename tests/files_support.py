"""Small real files of every accepted kind, and bodies that carry them."""

import base64
import os
import struct
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////////////////"
    "////////////2wBDAVVaWnhpeOuCguv/////////////////////////////////////////////////////////////////////////wAARC"
    "AABAAEDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAT/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFAEBAAAAAAAAAAAAAAAAAAAA"
    "AP/EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AIgAf//Z"
)
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC")
WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA4AAAAvAAAAAAcQEf0PRET/Aw==")
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    b"xref\n0 3\n0000000000 65535 f \n0000000009 00000 n \n0000000052 00000 n \n"
    b"trailer<</Size 3/Root 1 0 R>>\nstartxref\n101\n%%EOF\n"
)


def box(kind: bytes, content: bytes = b"") -> bytes:
    """Return a box of the container that HEIC and MP4 share."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


HEIC = box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", b"\0" * 40) + box(b"mdat", b"\1" * 40)

KINDS = {
    "image/jpeg": JPEG,
    "image/png": PNG,
    "image/webp": WEBP,
    "image/heic": HEIC,
    "application/pdf": PDF,
}


def backdate(folder: Path, moment: datetime) -> None:
    """Let every file below a folder have been stored at that moment."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (moment.timestamp(), moment.timestamp()))


def photo(number: int) -> bytes:
    """Return a JPEG that differs from every other number's; what follows the picture's end is nobody's concern."""
    return JPEG + b"%d" % number


BOUNDARY = "limit-of-parts"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def part(content: bytes, disposition: str = 'form-data; name="file"; filename="crack.jpg"', *headers: str) -> bytes:
    """Return one part of a body; `disposition` and `headers` go in as they are."""
    lines = [f"Content-Disposition: {disposition}", *headers]
    head = "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")
    return b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n" + content + b"\r\n"


def text_part(name: str, value: str | bytes) -> bytes:
    """Return a part without a file name."""
    return part(value.encode() if isinstance(value, str) else value, f'form-data; name="{name}"')


def body(*parts: bytes) -> bytes:
    """Return a whole body."""
    return b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"


def chunks(content: bytes, size: int) -> Iterable[bytes]:
    """Yield `content` in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
