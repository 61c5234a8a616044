"""Photos lose what their camera wrote into them and look as before (REQ-002, NFR-004)."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageCms

from app.utils import photo_cleaner, photos
from app.utils.exceptions import AppError, InvalidInputError, ServiceUnavailableError, UnsupportedMediaTypeError
from app.utils.held_file import MEMORY_BYTES, HeldFile
from app.utils.media_types import BY_NAME, sniff
from app.utils.photos import PhotoCleaner
from tests.files_support import HEIC, JPEG, PNG

pytestmark = [pytest.mark.req("REQ-002", "NFR-004"), pytest.mark.security]

SECRET = "Secret"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>SecretXmp</a></x:xmpmeta>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
UPRIGHT, TURNED = 1, 6


def picture() -> Image.Image:
    """Return a picture of 48 by 32: a gradient with a red corner, so that it shows how it was turned."""
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    image.paste((250, 10, 10), (0, 0, 12, 12))
    return image


def exif_of(orientation: int) -> Image.Exif:
    """Return EXIF with an orientation, a maker, a text and a position."""
    exif = Image.Exif()
    exif[0x010F], exif[0x010E], exif[0x0112] = "SecretMaker", "SecretText", orientation
    position = exif.get_ifd(0x8825)
    position[1], position[2], position[3], position[4] = "N", (52.0, 31.0, 12.0), "E", (13.0, 24.0, 18.0)
    return exif


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg(orientation: int = TURNED, **options: object) -> bytes:
    """Return a JPEG with everything that cameras, phones and programs put into one."""
    written = io.BytesIO()
    picture().save(
        written,
        "JPEG",
        exif=exif_of(orientation),
        xmp=XMP,
        comment=b"SecretComment",
        icc_profile=PROFILE,
        **{"quality": 83, **options},
    )
    whole = written.getvalue()
    iptc = segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0b\x1c\x02\x50\0\x06Secret\0")
    return whole[:2] + iptc + segment(0xEB, b"SecretMakerSegment") + whole[2:] + b"SecretBehind"


def png(orientation: int = TURNED, mode: str = "RGB") -> bytes:
    """Return a PNG with EXIF, texts of each kind, a time, and a chunk of a program."""
    written = io.BytesIO()
    picture().convert(mode).save(written, "PNG", exif=exif_of(orientation), icc_profile=PROFILE)
    whole = written.getvalue()
    texts = (
        chunk(b"tEXt", b"Comment\0SecretText")
        + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"SecretText"))
        + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        + chunk(b"tIME", bytes((7, 234, 11, 30, 1, 2, 3)))
        + chunk(b"prVW", b"SecretPreview")
    )
    return whole[:33] + texts + whole[33:] + b"SecretBehind"


def webp(orientation: int = TURNED, **options: object) -> bytes:
    """Return a WebP with EXIF and XMP."""
    written = io.BytesIO()
    picture().save(written, "WEBP", exif=exif_of(orientation), xmp=XMP, icc_profile=PROFILE, **options)
    return written.getvalue()


PHOTOS = {
    "JPEG": jpeg(),
    "progressive JPEG": jpeg(progressive=True, subsampling=0),
    "PNG": png(),
    "palette PNG": png(mode="P"),
    "PNG with transparency": png(mode="RGBA"),
    "WebP": webp(quality=80),
    "lossless WebP": webp(lossless=True),
}


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def upright(data: bytes) -> Image.Image:
    """Return a picture as a browser shows it."""
    image = opened(data)
    turned = {6: Image.Transpose.ROTATE_270}.get(image.getexif().get(0x0112, 1))
    return image.transpose(turned) if turned is not None else image


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of the channels of all pixels, of 255."""
    assert one.size == other.size
    first, second = one.convert("RGBA").tobytes(), other.convert("RGBA").tobytes()
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


async def refused(data: bytes, cleaner: PhotoCleaner, error: type[AppError]) -> AppError:
    """Return the error that a photo is refused with."""
    kind = sniff(data)
    assert kind is not None, "its head is right"
    held = HeldFile.of(data)
    try:
        with pytest.raises(error) as caught:
            await cleaner.clean(held, kind, "file")
    finally:
        held.close()
    return caught.value


async def cleaned(data: bytes) -> bytes:
    """Return a photo as the child process writes it."""
    kind = sniff(data)
    assert kind is not None
    held = HeldFile.of(data)
    result, _ = await PhotoCleaner().clean(held, kind, "file")
    content = result.start().read()
    assert result.size == len(content)
    result.close()
    held.close()
    return content


@pytest.mark.parametrize("which", PHOTOS)
async def test_nothing_of_the_metadata_is_left_and_the_picture_looks_the_same(which: str) -> None:
    sent = PHOTOS[which]
    assert SECRET.encode() in sent
    kept = await cleaned(sent)
    assert SECRET.encode() not in kept
    image = opened(kept)
    assert dict(image.getexif()) in ({}, {0x0112: TURNED})
    assert dict(image.getexif().get_ifd(0x8825)) == {}
    assert set(image.info) <= {
        *("jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression"),
        *("exif", "icc_profile", "transparency", "loop", "background", "timestamp", "duration"),
    }
    assert image.info["icc_profile"] == PROFILE
    bound = {"JPEG": 1, "progressive JPEG": 1, "WebP": 3}.get(which, 0)
    assert distance(upright(kept), upright(sent)) <= bound
    assert upright(kept).size == (32, 48)


@pytest.mark.parametrize("which", ["JPEG", "progressive JPEG"])
async def test_a_jpeg_keeps_its_quantisation_and_sampling(which: str) -> None:
    sent, kept = opened(PHOTOS[which]), opened(await cleaned(PHOTOS[which]))
    assert kept.quantization == sent.quantization  # type: ignore[attr-defined]
    assert kept.layer == sent.layer  # type: ignore[attr-defined]
    assert kept.info.get("progressive") == sent.info.get("progressive")


async def test_a_photo_that_is_upright_has_no_exif_at_all() -> None:
    assert b"Exif" not in await cleaned(jpeg(UPRIGHT))


async def test_a_heic_becomes_an_upright_jpeg() -> None:
    assert SECRET.encode() in HEIC
    kept = await cleaned(HEIC)
    assert SECRET.encode() not in kept
    image = opened(kept)
    assert (image.format, image.size, dict(image.getexif())) == ("JPEG", (8, 16), {})
    above, below = image.getpixel((4, 2)), image.getpixel((4, 13))
    assert isinstance(above, tuple)
    assert isinstance(below, tuple)
    assert above[2] > 150 > above[0]
    assert below[0] > 150 > below[2]


async def test_the_same_photo_is_cleaned_to_the_same_bytes() -> None:
    for sent in (*PHOTOS.values(), HEIC):
        assert await cleaned(sent) == await cleaned(sent)


async def test_of_pictures_that_hang_behind_each_other_the_first_is_kept() -> None:
    """Phones put a larger preview, a depth map or a second lens's picture behind a photo (MPF)."""
    written = io.BytesIO()
    picture().save(written, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32), (1, 2, 3))], quality=83)
    sent = written.getvalue()
    assert opened(sent).n_frames == 2  # type: ignore[attr-defined]
    kept = await cleaned(sent)
    assert opened(kept).format == "JPEG"
    assert kept.count(b"\xff\xd8\xff") == 1
    assert distance(opened(kept), opened(sent)) <= 1


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(PHOTOS["JPEG"][:-120], id="half a JPEG"),
        pytest.param(PNG[:41] + bytes(8) + PNG[49:], id="a PNG with a damaged picture"),
        pytest.param(HEIC[:495] + bytes(len(HEIC) - 495), id="a HEIC without its picture"),
    ],
)
async def test_what_cannot_be_decoded_is_refused_by_its_kind(damaged: bytes) -> None:
    error = await refused(damaged, PhotoCleaner(), UnsupportedMediaTypeError)
    kind = sniff(damaged)
    assert kind is not None
    assert error.message == f"The file begins as {kind.name} but cannot be decoded."
    assert error.details == {"accepted": [*BY_NAME]}


async def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """10,000 by 5,001 pixels in a few kB."""
    written = io.BytesIO()
    Image.new("1", (10_000, 5_001)).save(written, "PNG")
    error = await refused(written.getvalue(), PhotoCleaner(), InvalidInputError)
    assert error.details == [{"field": "file", "message": "has more than 50 million pixels"}]


async def test_a_photo_that_takes_too_long_is_refused_and_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaner = PhotoCleaner()
    monkeypatch.setattr(photos, "CLEANING_SECONDS", 0)
    for _ in range(photos.CLEANED_AT_ONCE + 1):
        await refused(JPEG, cleaner, UnsupportedMediaTypeError)


async def test_a_photo_waits_for_its_turn_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaner = PhotoCleaner()
    monkeypatch.setattr(photos, "WAIT_SECONDS", 0)
    for _ in range(photos.CLEANED_AT_ONCE):
        await cleaner._turns.acquire()
    await refused(JPEG, cleaner, ServiceUnavailableError)


async def test_a_cleaner_that_does_not_start_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_cleaner, "__file__", "/nowhere/photo_cleaner.py")
    await refused(JPEG, PhotoCleaner(), ServiceUnavailableError)


async def test_a_file_is_in_memory_while_it_is_small_and_the_same_on_disk() -> None:
    for size in (0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES):
        content = bytes(index % 251 for index in range(size))
        held = HeldFile()
        for start in range(0, size, 1000):
            held.write(content[start : start + 1000])
        assert held._file._rolled is (size > MEMORY_BYTES)  # type: ignore[attr-defined]
        with held.view() as data:
            assert bytes(data) == content
        assert (held.size, held.start().read()) == (size, content)
        held.close()
