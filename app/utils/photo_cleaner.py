"""Writes a photo without what its camera and programs wrote into it (NFR-004). Run as a program, in a process of its own.

    python -I photo_cleaner.py MEDIA_TYPE <photo >cleaned

Decoding is an attack surface, so the process that does it holds no secret, has limits of memory and CPU time, and ends
after one photo. This file imports nothing of the application. Exit status: 0, or one of the constants below with a
reason on standard error.

EXIF with its position and thumbnail, XMP, IPTC, comments, further pictures, and bytes behind the picture are left out.
What decides how the picture looks is kept: its orientation, its ICC profile, transparency, the quantisation of a JPEG.
"""

import io
import os
import resource
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

UNDECODABLE = 3
TOO_MANY_PIXELS = 4
OUT_OF_MEMORY = 5

PIXELS_MAXIMUM = 50_000_000
MEMORY_BYTES = 1_610_612_736
"""Address space. A progressive JPEG of 50 million pixels takes the most: 1.1 GB."""
CPU_SECONDS = 40
OUTPUT_BYTES = 268_435_456

_ORIENTATION = 0x0112
_LOSSY_QUALITY = 92


class TooManyPixelsError(Exception):
    """The picture has more than `PIXELS_MAXIMUM`."""


def clean(source: IO[bytes], media_type: str, target: IO[bytes]) -> None:
    """Write the photo in `source` to `target` without its metadata; HEIC becomes JPEG.

    Args:
        source: a file that can be searched.
        media_type: `image/jpeg`, `image/png`, `image/webp` or `image/heic`, as `sniff` returned it.

    Raises:
        TooManyPixelsError: known from its header, before it is decoded.
        Exception: of any kind that the decoder raises: the photo cannot be decoded.
    """
    writers = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp, "image/heic": _heic}
    writers[media_type](source, target)


def _jpeg(source: IO[bytes], target: IO[bytes]) -> None:
    from PIL import Image  # noqa: PLC0415 - only what the photo needs is loaded
    from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415

    # Not Image.open: it makes a file of several pictures of what phones append, which has no "keep".
    image = JpegImageFile(source)
    _require_size(image)
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    image.load()
    # What is left in `info` is written again, the comment for one.
    is_progressive = bool(image.info.get("progressive"))
    image.info = {}
    exif = Image.Exif()
    if orientation != 1:
        exif[_ORIENTATION] = orientation
    image.save(
        target,
        "JPEG",
        quality="keep",
        progressive=is_progressive,
        icc_profile=profile,
        exif=exif.tobytes() if orientation != 1 else b"",
    )


def _png(source: IO[bytes], target: IO[bytes]) -> None:
    from PIL import Image  # noqa: PLC0415

    image = _upright(Image.open(source, formats=["PNG"]))
    image.save(target, "PNG", icc_profile=image.info.get("icc_profile"))


def _webp(source: IO[bytes], target: IO[bytes]) -> None:
    from PIL import Image  # noqa: PLC0415

    is_lossless = _is_lossless_webp(source)
    image = _upright(Image.open(source, formats=["WEBP"]))
    profile = image.info.get("icc_profile")
    image.save(target, "WEBP", lossless=is_lossless, exact=is_lossless, quality=_LOSSY_QUALITY, icc_profile=profile)


def _heic(source: IO[bytes], target: IO[bytes]) -> None:
    import pi_heif  # noqa: PLC0415

    pi_heif.options.THUMBNAILS = False
    found = pi_heif.open_heif(source, convert_hdr_to_8bit=True)
    width, height = found.size
    _require_pixels(width, height)
    # The decoder turns the picture as the file says.
    image = found.to_pillow()
    profile = found.info.get("icc_profile")
    image.info = {}
    image.convert("RGB").save(target, "JPEG", quality=_LOSSY_QUALITY, icc_profile=profile)


def _upright(image: "Image.Image") -> "Image.Image":
    """Return the first picture of a PNG or WebP, turned as its EXIF says: few programs read that in these kinds."""
    from PIL import ImageOps  # noqa: PLC0415

    _require_size(image)
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    image.info = {name: image.info[name] for name in ("icc_profile", "transparency") if name in image.info}
    return image


def _orientation(image: "Image.Image") -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF, which is left out anyway, raises errors of many kinds
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_lossless_webp(source: IO[bytes]) -> bool:
    """Return whether the picture is in a VP8L chunk; leave `source` at its start."""
    source.seek(12)
    is_lossless = False
    while len(head := source.read(8)) == 8:
        if head[:4] == b"VP8L":
            is_lossless = True
        source.seek(int.from_bytes(head[4:], "little") + 1 & ~1, os.SEEK_CUR)
    source.seek(0)
    return is_lossless


def _require_size(image: "Image.Image") -> None:
    _require_pixels(*image.size)


def _require_pixels(width: int, height: int) -> None:
    if width * height > PIXELS_MAXIMUM:
        raise TooManyPixelsError(f"{width} x {height} pixels")


def _limit() -> None:
    """Bound what this process may use; the API goes first where both want the CPU."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_BYTES, OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)


def main(media_type: str) -> int:
    """Clean standard input to standard output; return the exit status."""
    _limit()
    from PIL import Image  # noqa: PLC0415

    # Ours counts, and is an error and not a warning.
    Image.MAX_IMAGE_PIXELS = None
    cleaned = io.BytesIO()
    try:
        clean(sys.stdin.buffer, media_type, cleaned)
    except TooManyPixelsError as fault:
        return _failed(TOO_MANY_PIXELS, fault)
    except MemoryError as fault:
        return _failed(OUT_OF_MEMORY, fault)
    except ImportError:
        raise
    except Exception as fault:  # noqa: BLE001 - a decoder raises errors of any kind on a damaged file
        return _failed(UNDECODABLE, fault)
    sys.stdout.buffer.write(cleaned.getbuffer())
    sys.stdout.buffer.flush()
    return 0


def _failed(status: int, fault: Exception) -> int:
    sys.stderr.write(f"{type(fault).__name__}: {fault}"[:500])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
