"""How money, rates, days and foreign text are written, and which characters the shipped fonts have."""

import struct
import unicodedata
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.utils.font_coverage import FontCoverage
from app.utils.formatting import (
    REPLACEMENT,
    date_text,
    is_right_to_left,
    known_payment_text,
    money_text,
    payment_text,
    printable,
    rate_text,
    unsupported,
)
from app.utils.invoice_generator import TEMPLATES
from tests.unit.documents_support import NAMES_BY_SCRIPT, UNPRINTABLE

FONTS = TEMPLATES / "fonts"
SHIPPED = FontCoverage(FONTS.glob("*.*tf"))


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (Decimal("1234.5"), "EUR", "€1,234.50"),
        (Decimal(0), "USD", "$0.00"),
        (Decimal("9999999999.99"), "GBP", "£9,999,999,999.99"),
        (Decimal("-5.00"), "USD", "\N{MINUS SIGN}$5.00"),
        (Decimal("1500.00"), "JPY", "¥1,500"),
        (Decimal("1500.50"), "JPY", "¥1,500.50"),
        (Decimal(1200), "KRW", "₩1,200"),
        (Decimal(12), "CHF", "CHF\N{NO-BREAK SPACE}12.00"),
        (Decimal(12), "XOF", "XOF\N{NO-BREAK SPACE}12"),
        ("12.30", "EUR", "€12.30"),
    ],
)
def test_money_is_written_in_its_currency(amount: Decimal | str, currency: str, text: str) -> None:
    assert money_text(amount, currency) == text


@pytest.mark.parametrize(
    "amount", [0.5, True, None, Decimal("1.001"), Decimal("NaN"), Decimal("Infinity"), "twelve", ""]
)
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        money_text(amount, "EUR")


@pytest.mark.parametrize(
    ("rate", "text"), [("0.2000", "20%"), ("0.0550", "5.5%"), ("0.0888", "8.88%"), ("0", "0%"), ("1", "100%")]
)
def test_a_rate_is_written_as_a_percentage(rate: str, text: str) -> None:
    assert rate_text(Decimal(rate)) == text


@pytest.mark.parametrize(
    "value", [date(2026, 11, 5), datetime(2026, 11, 5, 23, 59, tzinfo=UTC), "2026-11-05", "2026-11-05T10:00:00Z"]
)
def test_a_day_is_written_out(value: date | str) -> None:
    assert date_text(value) == "5 November 2026"


def test_a_payment_method_is_named() -> None:
    assert payment_text("credit_card") == "Credit card"
    assert payment_text("Store voucher") == "Store voucher"
    assert known_payment_text("Apple Pay") == payment_text("apple_pay") == "Apple Pay"
    assert known_payment_text("Store voucher") == ""


@settings(deadline=None)
@given(text=st.text(st.characters(), max_size=60), keep_lines=st.booleans())
def test_printable_text_holds_nothing_that_a_renderer_chokes_on(*, text: str, keep_lines: bool) -> None:
    coverage = SHIPPED
    cleaned = printable(text, coverage.__contains__, keep_lines=keep_lines)

    allowed = {"\n"} if keep_lines else set()
    for character in cleaned:
        assert character in allowed or unicodedata.category(character) not in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
        assert character in coverage or character in {" ", "\n"}
    assert printable(cleaned, coverage.__contains__, keep_lines=keep_lines) == cleaned


def test_controls_overrides_and_private_characters_do_not_survive() -> None:
    assert printable(UNPRINTABLE) == "A B [31mC DE F□G□H□IJK"


def test_what_no_font_has_is_replaced_together_with_what_hangs_on_it() -> None:
    assert printable("Ana 👩‍🎨\ufe0f!", lambda character: character.isascii()) == f"Ana {REPLACEMENT * 2}!"
    assert printable("e\u0301", lambda character: character == "é") == "é"


def test_names_in_the_scripts_of_our_customers_are_covered() -> None:
    coverage = SHIPPED

    names = ("Łukasz Żółć", "Nguyễn Thị Ánh", "Ελένη", "Юлия Ґалаґан", "田中花子", "김민수", "שלום", "محمد علي")
    for name in (*names, *NAMES_BY_SCRIPT.values()):
        assert printable(name, coverage.__contains__) == unicodedata.normalize("NFC", name)
        assert unsupported(name, coverage.__contains__) == ""
    assert REPLACEMENT in coverage
    assert "𠀂" not in coverage
    assert len(coverage) > 50_000


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Ana", ""),
        ("a\ue000b\ue000c\U0010ffff", "\ue000\U0010ffff"),
        ("\u202eA\u200b\t\x00", ""),  # invisible: nothing is lost with them
        ("葛\U000e0100\ufe0f\u034f", ""),  # chooses a form of the character before it
        ("ก\u0e34", ""),
        ("x\U00011f3e", "\U00011f3e"),  # a vowel sign that no font has: the word would be another one
    ],
)
def test_what_no_font_can_show_is_named_once_each(text: str, missing: str) -> None:
    assert unsupported(text, SHIPPED.__contains__) == missing


@pytest.mark.parametrize(
    ("text", "expected"),
    [("שלום Ltd", True), ("(محمد)", True), ("12 ܫܠܡܐ", True), ("Cohen שלום", False), ("12", False), ("", False)],
)
def test_the_first_letter_decides_the_direction(*, text: str, expected: bool) -> None:
    assert is_right_to_left(text) is expected


def test_the_fonts_that_a_text_takes_are_chosen_in_order(tmp_path: Path) -> None:
    for name, first, last in (("a", 0x41, 0x43), ("b", 0x42, 0x50), ("c", 0x60, 0x70)):
        groups = struct.pack(">3I", first, last, 5)
        (tmp_path / f"{name}.ttf").write_bytes(_font(struct.pack(">HHIII", 12, 0, 28, 0, 1) + groups, 3, 10))
    coverage = FontCoverage(tmp_path / f"{name}.ttf" for name in "abc")

    assert [path.stem for path in coverage.files_for("BCB")] == ["a"]
    assert [path.stem for path in coverage.files_for("BPz")] == ["a", "b"]


def test_each_font_of_a_collection_counts(tmp_path: Path) -> None:
    fonts = []
    for code in (0x41, 0x61):
        groups = struct.pack(">3I", code, code, 5)
        fonts.append(_font(struct.pack(">HHIII", 12, 0, 28, 0, 1) + groups, 3, 10))
    head = struct.pack(">4sHHI2I", b"ttcf", 1, 0, 2, 20, 20 + len(fonts[0]))
    moved = [_at(font, offset) for font, offset in zip(fonts, (20, 20 + len(fonts[0])), strict=True)]
    (tmp_path / "both.ttc").write_bytes(head + b"".join(moved))

    coverage = FontCoverage([tmp_path / "both.ttc"])

    assert [character for character in "ABab" if character in coverage] == ["A", "a"]


def _at(font: bytes, offset: int) -> bytes:
    """Return a font of `_font` as it is in a collection: its tables are found from the file's beginning."""
    tag, checksum, place, length = struct.unpack_from(">4sIII", font, 12)
    return font[:12] + struct.pack(">4sIII", tag, checksum, place + offset, length) + font[28:]


def _font(subtable: bytes, platform: int = 3, encoding: int = 1) -> bytes:
    """Return a font file that has a character map and nothing else."""
    cmap = struct.pack(">HHHHI", 0, 1, platform, encoding, 12) + subtable
    return struct.pack(">IHHHH", 0x00010000, 1, 16, 0, 0) + struct.pack(">4sIII", b"cmap", 0, 28, len(cmap)) + cmap


def test_a_map_of_segments_is_read_glyph_by_glyph(tmp_path: Path) -> None:
    # A-C by delta, with B's glyph 0 after the delta wraps; a-c through the array, where b has none.
    ends, starts = (0x43, 0x63, 0xFFFF), (0x41, 0x61, 0xFFFF)
    deltas, ranges = (0x10000 - 0x42, 5, 1), (0, 4, 0)
    body = struct.pack(">HHHH", 6, 0, 0, 0) + struct.pack(">3H", *ends) + b"\0\0" + struct.pack(">3H", *starts)
    body += struct.pack(">3H", *deltas) + struct.pack(">3H", *ranges) + struct.pack(">3H", 7, 0, 9)
    (tmp_path / "a.ttf").write_bytes(_font(struct.pack(">HHH", 4, 6 + len(body), 0) + body))

    coverage = FontCoverage([tmp_path / "a.ttf"])

    assert [character for character in map(chr, range(0x80)) if character in coverage] == ["A", "C", "a", "c"]
    assert "\uffff" not in coverage


def test_a_map_of_groups_is_read(tmp_path: Path) -> None:
    groups = struct.pack(">3I", 0x41, 0x43, 0) + struct.pack(">3I", 0x1F600, 0x1F601, 10)
    (tmp_path / "a.ttf").write_bytes(_font(struct.pack(">HHIII", 12, 0, 40, 0, 2) + groups, 3, 10))

    coverage = FontCoverage([tmp_path / "a.ttf"])

    assert [character for character in "ABCD😀😁😂" if character in coverage] == ["B", "C", "😀", "😁"]


def test_a_trimmed_map_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(_font(struct.pack(">5H3H", 6, 16, 0, 0x41, 3, 7, 0, 9)))

    coverage = FontCoverage([tmp_path / "a.ttf"])

    assert [character for character in "ABCD" if character in coverage] == ["A", "C"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_font(struct.pack(">HHH", 99, 6, 0)), "no Unicode character map"),
        (_font(struct.pack(">HHH", 4, 6, 0), 1, 0), "no Unicode character map"),
    ],
)
def test_a_map_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "odd.ttf").write_bytes(data)

    with pytest.raises(ValueError, match=message):
        FontCoverage([tmp_path / "odd.ttf"])


@pytest.mark.parametrize("data", [b"", b"not a font at all, though long enough to hold a table directory", b"\0" * 64])
def test_a_broken_font_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "broken.otf").write_bytes(data)

    with pytest.raises(ValueError, match=r"broken\.otf is not a usable font"):
        FontCoverage([tmp_path / "broken.otf"])
