"""What a file is, by its bytes: real files of every kind, and everything that pretends (REQ-002, NFR-004)."""

import io
import zipfile
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.utils.media_types import ACCEPTED, BY_NAME, content_disposition, sniff
from tests.files_support import JPEG, KINDS, PDF, PNG, WEBP, box

pytestmark = [pytest.mark.req("INT-004.3", "NFR-004"), pytest.mark.security]

BOXES = box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", b"\0" * 40) + box(b"mdat", b"\1" * 40)
HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
SCRIPT = b"GIF89a=1;alert(1)//"


def archive() -> bytes:
    """Return a ZIP archive."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as written:
        written.writestr("word/document.xml", "x" * 500)
    return held.getvalue()


def png_with(width: int, height: int, *, is_right: bool = True) -> bytes:
    """Return a PNG whose header says this size, with its checksum or another."""
    head = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + PNG[24:29]
    return PNG[:12] + head + (zlib.crc32(head) ^ (not is_right)).to_bytes(4) + PNG[33:]


def jpeg_of(*segments: bytes) -> bytes:
    """Return a JPEG of these segments."""
    return b"\xff\xd8" + b"".join(segments) + b"data\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content


FRAME = segment(0xC0, b"\x08\x00\x01\x00\x01\x01\x01\x11\x00")
SCAN = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")

GENUINE = {
    "progressive JPEG": ("image/jpeg", jpeg_of(segment(0xC2, FRAME[4:]), SCAN)),
    "JPEG with padding before a marker": ("image/jpeg", jpeg_of(b"\xff\xff" + FRAME, SCAN)),
    "JPEG with a restart marker before its frame": ("image/jpeg", jpeg_of(b"\xff\xd0", FRAME, SCAN)),
    "JPEG with a video behind it, as phones make them": ("image/jpeg", JPEG + box(b"ftyp", b"isom")),
    "JPEG with HTML in a comment": ("image/jpeg", jpeg_of(segment(0xFE, HTML), FRAME, SCAN)),
    "padded WebP": ("image/webp", WEBP + b"\0"),
    "HEIC by a compatible brand": ("image/heic", box(b"ftyp", b"mif1\0\0\0\0heix") + box(b"meta") + box(b"mdat", b"x")),
    "HEIC whose last box has no size": ("image/heic", BOXES[:-48] + b"\0\0\0\0mdat" + b"x" * 9),
    "HEIC with a large box": ("image/heic", BOXES[:-48] + b"\0\0\0\1mdat" + (20).to_bytes(8) + b"data"),
    "PDF 2.0": ("application/pdf", PDF.replace(b"1.4", b"2.0")),
}

PRETENDING = {
    "nothing": b"",
    "HTML": HTML,
    "SVG": SVG,
    "script that begins as a GIF": SCRIPT,
    "ZIP": archive(),
    "Windows program": b"MZ" + b"\0" * 200,
    "ELF program": b"\x7fELF" + b"\0" * 200,
    "GIF": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "TIFF": b"II*\0" + b"\0" * 100,
    "BMP": b"BM" + b"\0" * 100,
    "MP4": box(b"ftyp", b"isom\0\0\0\0mp42") + box(b"meta") + box(b"mdat", b"x"),
    "AVIF": box(b"ftyp", b"avif\0\0\0\0mif1") + box(b"meta") + box(b"mdat", b"x"),
    "WAV": b"RIFF" + (40).to_bytes(4, "little") + b"WAVEfmt " + b"\0" * 32,
    "HTML behind the first bytes of a JPEG": b"\xff\xd8\xff\xe0" + HTML,
    "ZIP behind the first bytes of a JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + archive(),
    "script as a segment that never ends": b"\xff\xd8\xff\xe0\x2f\x2a" + SCRIPT,
    "JPEG without a frame": jpeg_of(segment(0xE0, b"JFIF\0"), SCAN),
    "JPEG of no width": jpeg_of(FRAME[:7] + b"\0\0" + FRAME[9:], SCAN),
    "JPEG whose segment is shorter than its length": jpeg_of(b"\xff\xe0\x00\x01", FRAME, SCAN),
    "JPEG without a scan": b"\xff\xd8" + FRAME,
    "JPEG with something else between its segments": jpeg_of(FRAME, b"<svg>", SCAN),
    "JPEG that ends where its picture should begin": b"\xff\xd8" + FRAME + SCAN,
    "JPEG behind HTML": HTML + JPEG,
    "SVG behind the signature of a PNG": PNG[:8] + SVG,
    "HTML behind the header's name of a PNG": PNG[:16] + HTML,
    "PNG with another checksum": png_with(1, 1, is_right=False),
    "PNG of no width": png_with(0, 1),
    "PNG of no height": png_with(1, 0),
    "PNG that is only a header": PNG[:33],
    "PNG behind a line feed": b"\n" + PNG,
    "HTML in the container of a WebP": b"RIFF" + len(HTML).to_bytes(4, "little") + b"WEBP" + HTML,
    "WebP with something behind it": WEBP + archive(),
    "WebP that is shorter than it says": WEBP[:-1],
    "WebP whose picture is longer than the file": WEBP[:16] + b"\xff\xff\0\0" + WEBP[20:],
    "WebP with an empty picture": WEBP[:16] + b"\0\0\0\0" + WEBP[20:],
    "HTML behind the brand of a HEIC": box(b"ftyp", b"heic\0\0\0\0heic") + HTML,
    "HEIC without pictures": box(b"ftyp", b"heic\0\0\0\0heic") + box(b"meta"),
    "HEIC without a description": box(b"ftyp", b"heic\0\0\0\0heic") + box(b"mdat", b"x"),
    "HEIC whose version says heic": box(b"ftyp", b"isomheic") + box(b"meta") + box(b"mdat", b"x"),
    "HEIC whose box is longer than the file": BOXES[:-1],
    "HEIC of endless brands": box(b"ftyp", b"mif1\0\0\0\0" + b"mif1" * 300 + b"heic") + BOXES[24:],
    "JPEG of endless markers": jpeg_of(b"\xff" * 20_000 + FRAME, SCAN),
    "HEIC of boxes without an end": box(b"ftyp", b"heic\0\0\0\0heic") + box(b"free") * 200,
    "box that is shorter than its own head": box(b"ftyp", b"heic\0\0\0\0heic") + b"\0\0\0\4meta",
    "PDF behind something else": b"MZ" + PDF,
    "PDF behind a line feed": b"\n" + PDF,
    "PDF behind a byte order mark": b"\xef\xbb\xbf" + PDF,
    "PDF without an end": PDF.replace(b"%%EOF", b""),
    "PDF without its table": PDF.replace(b"startxref", b"startx"),
    "PDF of no version": PDF.replace(b"%PDF-1.4", b"%PDF-x.y"),
    "PDF with something behind it": PDF + archive() + b"\0" * 1024,
    "HTML behind the header of a PDF": b"%PDF-1.4\n" + HTML,
    "Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500,
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_known_by_its_bytes(name: str) -> None:
    assert sniff(KINDS[name]) is BY_NAME[name]
    assert [kind.name for kind in ACCEPTED] == list(KINDS)


@pytest.mark.parametrize("which", GENUINE)
def test_what_cameras_and_programs_make_of_it_is_known_too(which: str) -> None:
    name, data = GENUINE[which]
    assert sniff(data) is BY_NAME[name]


@pytest.mark.parametrize("which", PRETENDING)
def test_what_pretends_is_refused(which: str) -> None:
    assert sniff(PRETENDING[which]) is None


@pytest.mark.parametrize("name", KINDS)
def test_a_head_that_was_cut_off_is_refused(name: str) -> None:
    """However little is left: as long as what follows is missing, it is no such file."""
    data = KINDS[name]
    picture = {"image/jpeg": JPEG.index(b"\xff\xda") + 14, "image/png": 45, "image/heic": len(data) - 1}
    for length in range(picture.get(name, len(data) - 7)):
        assert sniff(data[:length]) is None, length


@given(st.sampled_from([*KINDS]), st.integers(0, 400), st.binary(max_size=24))
@example("image/jpeg", 2, b"\xff" * 24)
@example("image/heic", 0, b"\0\0\0\1ftyp" + b"\xff" * 8)
@example("image/heic", 0, b"\0\0\0\0ftyp")
@example("image/jpeg", 0, PNG[:24])
@example("image/webp", 0, PDF[:24])
def test_damage_makes_no_other_kind_of_a_file(name: str, position: int, put_in: bytes) -> None:
    """Twenty-four bytes are less than the smallest file that is accepted, so they alone make none."""
    data = KINDS[name]
    damaged = data[:position] + put_in + data[position + len(put_in) :]
    assert sniff(damaged) in {None, BY_NAME[name]}


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("crack.jpg", 'inline; filename="crack.jpg"'),
        (
            "Glaçure fêlée.jpg",
            "inline; filename=\"Gla_ure f_l_e.jpg\"; filename*=UTF-8''Gla%C3%A7ure%20f%C3%AAl%C3%A9e.jpg",
        ),
        ('a"b\\c.pdf', "inline; filename=\"a_b_c.pdf\"; filename*=UTF-8''a%22b%5Cc.pdf"),
        ("100%.png", "inline; filename=\"100_.png\"; filename*=UTF-8''100%25.png"),
        ("a\r\nSet-Cookie: x", "inline; filename=\"a__Set-Cookie: x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
    ],
)
def test_a_download_is_named_without_leaving_its_header(name: str, header: str) -> None:
    assert content_disposition(name, is_shown=True) == header
    assert content_disposition(name, is_shown=False) == header.replace("inline", "attachment")
    assert content_disposition(name, is_shown=True).isascii()
