"""Small real files of every accepted kind, and bodies that carry them."""

import base64
import io
import os
import struct
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from PIL import Image

from app.utils.media_types import HEIC as HEIC_KIND
from app.utils.media_types import JPEG as JPEG_KIND
from app.utils.media_types import PDF as PDF_KIND
from app.utils.media_types import MediaType, sniff
from app.utils.photo_cleaner import clean

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


# 16 by 8 pixels, left half blue and right half red, made with pillow-heif 1.8; its EXIF says "SecretMaker", a position,
# and that it is to be turned, which makes it 8 by 16 with the blue half above.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAcdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAAB6wABAAAAAAAAAEQAAgAAAAACLwABAAAAAAAAAH4AAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABBmlwcnAAAADlaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQB"
    "wXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAEAAAAAEAAAAIAAAAAf///9AAAAAC////yAAA"
    "AAIAAAAQcGl4aQAAAAADCAgIAAAACWlyb3QDAAAAGWlwbWEAAAAAAAAAAQABBoECAwWEhgAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAA"
    "ym1kYXQAAABAKAGvCchoCRojmJb/tP+9w2/8cYxan2/CiV3MGn3a8u1ABq/d9Xrid0DzLvpmb8PzzOOg6lD0b79ToORVFch4bAAAAAZFeGlm"
    "AABNTQAqAAAACAADAQ8AAgAAAAwAAAAyARIAAwAAAAEABgAAiCUABAAAAAEAAAA+AAAAAFNlY3JldE1ha2VyAAACAAEAAgAAAAJOAAAAAAIA"
    "BQAAAAMAAABcAAAAAAAAADQAAAABAAAAHwAAAAEAAAAMAAAAAQ=="
)

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
    """Return a JPEG whose picture differs from every other number's, up to 65,535."""
    image = Image.new("L", (16, 8), number % 256)
    image.paste(number // 256, (8, 0, 16, 8))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=100)
    return written.getvalue()


def as_stored(content: bytes) -> tuple[bytes, MediaType]:
    """Return what is stored of a file, a photo without its metadata, and its kind."""
    kind = sniff(content)
    assert kind is not None
    if kind is PDF_KIND:
        return content, kind
    written = io.BytesIO()
    clean(io.BytesIO(content), kind.name, written)
    return written.getvalue(), JPEG_KIND if kind is HEIC_KIND else kind


def paper(size: int, mark: bytes = b"") -> bytes:
    """Return a PDF of so many bytes, with a comment that makes it longer and begins with `mark`."""
    head, rest = PDF.split(b"\n", 1)
    filling = size - len(PDF) - 2 - len(mark)
    return head + b"\n%" + mark + b" " * filling + b"\n" + rest


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
