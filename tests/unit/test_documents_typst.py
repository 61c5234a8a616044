"""The default renderer: what is in the PDF, that it is always the same, and that data stays data."""

import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pypdf
import pytest
import typst

from app.config import Settings
from app.utils.documents import DocumentView
from app.utils.invoice_generator import TEMPLATES, RenderingError, TypstRenderer, renderer_for
from tests.unit.documents_support import (
    HOSTILE,
    NAMES,
    NAMES_BY_SCRIPT,
    UNPRINTABLE,
    addressed_to,
    credit_note,
    hostile_view,
    line,
    pages,
    squeezed,
    text_of,
    view,
)

pytestmark = pytest.mark.req("REQ-004", "INT-003")


@pytest.fixture(scope="module")
def renderer() -> TypstRenderer:
    return TypstRenderer()


@pytest.mark.req("INT-003.1")
def test_it_is_the_default() -> None:
    assert isinstance(renderer_for(Settings(_env_file=None)), TypstRenderer)


@pytest.mark.req("REQ-004.1")
def test_an_invoice_shows_all_that_belongs_on_it(renderer: TypstRenderer) -> None:
    text = text_of(renderer.render(view(notes="Gift wrap requested.")))

    for expected in (
        "ArtiCurated",
        "Invoice",
        "INV-2026-000142",
        "22 November 2026",
        "ORD-2026-000318",
        "19 November 2026",
        "Éléonore Marchetti",
        "14 Via dei Coronari",
        "FR 40 303 265 045",
        "Hand-thrown stoneware vase",
        "ART-1001",
        "€149.50",
        "5.5%",
        "€1,031.33",
        "Credit card",
        "pay_9f2c41d07a",
        "JD014600006281230704",
        "Gift wrap requested.",
        "Page 1 of 1",
    ):
        assert expected in text


def test_a_credit_note_names_its_invoice_and_reason(renderer: TypstRenderer) -> None:
    text = text_of(renderer.render(credit_note()))

    assert "Credit note" in text
    assert "CN-2026-000017" in text
    assert "INV-2026-000142" in text
    assert "The glaze is a different colour" in text
    assert "\N{MINUS SIGN}€25.00" in text
    assert "€153.20" in text
    assert "SHIP TO" not in text.upper()


def test_sixty_lines_flow_over_pages_with_the_header_on_each(renderer: TypstRenderer) -> None:
    held = pages(renderer.render(view(*(line(number) for number in range(60)))))

    assert len(held) > 2
    for number, page in enumerate(held, start=1):
        assert f"Page {number} of {len(held)}" in page
        assert "INV-2026-000142" in page
    # The last page may hold the sums alone.
    for page in held[:-1]:
        assert "DESCRIPTION" in page
    text = " ".join(held)
    assert all(f"ART-{1000 + number}" in text for number in range(60))


def test_the_same_view_gives_the_same_bytes_in_every_process(renderer: TypstRenderer) -> None:
    first = renderer.render(view())
    renderer.render(credit_note())

    assert renderer.render(view()) == first
    assert TypstRenderer().render(DocumentView.from_json(view().to_json())) == first
    assert renderer.render(replace(view(), issued_on=date(2026, 11, 23))) != first


@pytest.mark.req("INT-003.1")
def test_it_is_tagged_titled_and_dated(renderer: TypstRenderer) -> None:
    reader = pypdf.PdfReader(io.BytesIO(renderer.render(view())))
    catalog: Any = reader.trailer["/Root"].get_object()
    metadata = catalog["/Metadata"].get_object().get_data().decode()

    assert catalog["/MarkInfo"]["/Marked"]
    assert catalog["/Lang"] == "en"
    assert catalog["/ViewerPreferences"]["/DisplayDocTitle"]
    assert "/StructTreeRoot" in catalog
    assert re.search(r"pdfaid:part>3<.*pdfaid:conformance>A<", metadata, re.DOTALL)
    assert "pdfuaid:part>1<" in metadata
    assert reader.metadata is not None
    assert reader.metadata.title == "Invoice INV-2026-000142"
    assert reader.metadata.author == "ArtiCurated Marketplace"
    assert reader.metadata.creation_date is not None
    assert reader.metadata.creation_date.date() == date(2026, 11, 22)
    assert not reader.attachments


@pytest.mark.req("NFR-004.5")
@pytest.mark.security
@pytest.mark.parametrize("base", ["invoice", "credit note"])
def test_typst_and_markup_in_data_are_inert(renderer: TypstRenderer, base: str) -> None:
    document = hostile_view(HOSTILE) if base == "invoice" else credit_note(reason=HOSTILE, payment_reference=HOSTILE)
    pdf = renderer.render(document)
    text = squeezed(text_of(pdf))

    assert squeezed(HOSTILE) in text
    assert "root:x:0" not in text
    assert not pypdf.PdfReader(io.BytesIO(pdf)).attachments


@pytest.mark.security
@pytest.mark.parametrize(
    "text",
    [
        UNPRINTABLE,
        "田中 花子",
        "김민수",
        "שלום כהן",
        "محمد علي",
        "हिन्दी ไทย",
        "🎁👩‍🎨🏳️‍🌈",
        "e" + "\u0301" * 200,
        "\u202e\u2066\u200f",
        "",
        "W" * 5000,
        "long word " * 400,
        '"}],"total":["Total","€0.01"],"x":[{"',
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_no_text_stops_an_invoice(renderer: TypstRenderer, text: str) -> None:
    pdf = renderer.render(hostile_view(text))

    assert pdf.startswith(b"%PDF-")
    assert "€196.20" in text_of(pdf)


def test_names_in_other_scripts_are_printed(renderer: TypstRenderer) -> None:
    assert "田中花子" in squeezed(text_of(renderer.render(addressed_to("田中 花子"))))
    assert "김민수" in text_of(renderer.render(addressed_to("김민수")))
    # Extraction gives Hebrew in visual order.
    hebrew = text_of(renderer.render(addressed_to("שלום")))
    assert "שלום" in hebrew or "םולש" in hebrew


def test_a_long_word_stays_inside_its_column(renderer: TypstRenderer) -> None:
    pdf = renderer.render(view(line(0, description="X" * 280), bill_to=replace(view().bill_to, name="W" * 200)))
    reader = pypdf.PdfReader(io.BytesIO(pdf))
    runs: list[str] = []
    reader.pages[0].extract_text(visitor_text=lambda text, *_: runs.append(text))
    longest = max((part for run in runs for part in run.replace("\u200b", "").split()), key=len)

    assert "W" * 20 in squeezed(text_of(pdf))
    assert text_of(pdf).count("X") >= 280
    assert len(longest) < 100


def test_yen_have_no_decimals(renderer: TypstRenderer) -> None:
    item = line(
        0, unit_price=Decimal(18_500), subtotal=Decimal(18_500), tax_amount=Decimal(1_850), tax_rate=Decimal("0.1")
    )
    text = text_of(renderer.render(view(item, currency="JPY", shipping=Decimal(1_500))))

    assert "¥21,850" in text
    assert "21,850.00" not in text


def test_threads_may_share_it(renderer: TypstRenderer) -> None:
    documents = [addressed_to(f"Customer {number}") for number in range(12)]
    alone = [TypstRenderer().render(document) for document in documents]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(renderer.render, documents)) == alone


@pytest.mark.req("NFR-004.10")
@pytest.mark.security
def test_a_template_cannot_read_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    for place in (tmp_path, folder):
        (place / "secret.txt").write_text("secret")

    def drawn(source: str) -> bytes:
        (folder / "invoice.typ").write_text(f'#set document(title: "T")\n{source}')
        return TypstRenderer(folder).render(view())

    assert drawn('#read("secret.txt")').startswith(b"%PDF"), "what is in the folder can be read"
    absolute = f'#read("{tmp_path}/secret.txt")'
    for source in ('#read("../secret.txt")', '#read("/../secret.txt")', absolute, '#import "@preview/x:0.1.0": y\n#y'):
        with pytest.raises(RenderingError, match="INV-2026-000142"):
            drawn(source)


def test_the_template_names_no_package_and_no_address() -> None:
    source = (TEMPLATES / "invoice.typ").read_text()

    assert "@preview" not in source
    assert "http" not in source
    assert "read(" not in source


def test_a_broken_template_is_a_rendering_error_that_no_retry_helps(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "invoice.typ").write_text("#panic(sys.inputs.page.len())")

    with pytest.raises(RenderingError) as caught:
        TypstRenderer(tmp_path / "templates").render(view())
    assert caught.value.retryable is False


def test_today_is_the_day_of_issue_whenever_it_is_drawn(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "invoice.typ").write_text(
        '#set document(title: "x")\n#set text(font: "Inter")\n#datetime.today().display()'
    )

    assert "2026-11-22" in text_of(TypstRenderer(tmp_path / "templates").render(view()))


def test_only_shipped_fonts_are_used(renderer: TypstRenderer) -> None:
    fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(TEMPLATES / "fonts")])
    shipped = set(fonts.families())
    reader = pypdf.PdfReader(io.BytesIO(renderer.render(addressed_to("田中 שלום محمد"))))
    resources: list[Any] = [page["/Resources"] for page in reader.pages]
    fonts_used = [entry.get_object()["/BaseFont"] for held in resources for entry in held["/Font"].values()]
    names = {str(name).partition("+")[2].partition("-")[0] for name in fonts_used}

    assert {"Inter", "EB Garamond 12", "Noto Sans Hebrew", "Noto Sans Arabic", "Droid Sans Fallback"} <= shipped
    assert names <= {"Inter", "EBGaramond12", "NotoSansHebrew", "NotoSansArabic", "DroidSansFallback"}
    assert {"Inter", "DroidSansFallback"} <= names


@pytest.mark.parametrize("script", NAMES_BY_SCRIPT)
def test_a_name_in_its_script_is_drawn_without_a_box(renderer: TypstRenderer, script: str) -> None:
    document = addressed_to(NAMES_BY_SCRIPT[script])
    reader = pypdf.PdfReader(io.BytesIO(renderer.render(document)))
    fonts = [entry.get_object()["/BaseFont"] for page in reader.pages for entry in page["/Resources"]["/Font"].values()]  # type: ignore[index]
    expected = {"Burmese": "Myanmar", "CJK extension B": "CJKSupplement", "Emoji": "Emoji"}.get(script, script)

    assert renderer.unprintable(document) == ()
    assert any(expected in font for font in fonts)


def test_what_no_font_can_show_is_named_with_its_field(renderer: TypstRenderer) -> None:
    document = replace(
        view(line(0, description="Vase \ue000\ue001"), line(1)),
        bill_to=replace(view().bill_to, name="𠀂 Wu", tax_id="\U0001f9ff"),
    )

    assert [str(fault) for fault in renderer.unprintable(document)] == [
        "bill_to.name: U+20002",
        "lines.0.description: U+E000, U+E001",
    ]


def test_fonts_of_added_folders_are_used_after_the_shipped_ones(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    fonts, added = tmp_path / "templates" / "fonts", tmp_path / "added"
    (added / "deeper").mkdir(parents=True)
    (fonts / "NotoSansThai-Regular.ttf").rename(added / "deeper" / "NotoSansThai-Regular.ttf")
    (added / "broken.ttf").write_bytes(b"no font")
    thai = addressed_to(NAMES_BY_SCRIPT["Thai"])

    assert TypstRenderer(tmp_path / "templates").unprintable(thai)
    renderer = TypstRenderer(tmp_path / "templates", (added,))
    assert renderer.unprintable(thai) == ()
    assert b"NotoSansThai" in renderer.render(thai)
    with pytest.raises(ValueError, match=r"INVOICE_FONT_PATHS: .* is not a folder"):
        TypstRenderer(TEMPLATES, (tmp_path / "missing",))


LONG_VALUES = {
    "reference": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
    "parcel": "JD014600006281230704",
    "with hyphens": "0192c7e4-7c1d-7a51-9d5e-0b4a6f1d2c3e",
    "address": "wilhelmina.vandenberghe@mail.example",
    "article": "ART/2026/CERAMICS/VASE-ASH-GLAZE-XL-0001",
    "ligatures": "officina.fflorentina.example/waffle",
}


@pytest.mark.parametrize("what", LONG_VALUES)
def test_the_text_of_the_pdf_is_the_value_so_it_can_be_searched_and_copied(renderer: TypstRenderer, what: str) -> None:
    given = LONG_VALUES[what]
    pdf = renderer.render(
        view(line(0, description=f"A long description that comes before {given}", sku=given), notes=given)
    )
    text = "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages)

    assert text.count(given) >= 3
    assert "\u200b" not in text


def test_a_word_is_broken_only_where_it_overflows(renderer: TypstRenderer) -> None:
    wide = "W" * 28
    pdf = renderer.render(view(line(0, description=wide), bill_to=replace(view().bill_to, name=wide)))
    text = pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text()

    assert wide in text.splitlines()  # the column of descriptions has room for it
    assert text.count("W") == 56
    assert "\u200b" not in text


def _left_edges(pdf: bytes) -> dict[str, float]:
    """Return where each run of text on the first page begins, in points from the left."""
    edges: dict[str, float] = {}

    def note(text: str, cm: Any, tm: Any, *_: Any) -> None:
        edges.setdefault(text.strip(), tm[4] * cm[0] + cm[4])

    pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text(visitor_text=note)
    return edges


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("אבי Cohen", ("Cohen", "אבי")),  # read from the right: Avi, then Cohen
        ("Cohen אבי", ("Cohen", "אבי")),
        ("محمد Ali", ("Ali", "محمد")),
    ],
)
def test_a_mixed_name_keeps_the_order_of_its_first_letter(
    renderer: TypstRenderer, name: str, order: tuple[str, str]
) -> None:
    edges = _left_edges(renderer.render(addressed_to(name)))
    left, right = (next(edge for text, edge in edges.items() if text in (part, part[::-1])) for part in order)

    assert left < right


def test_the_sums_carry_a_position_along_and_no_row_is_divided(renderer: TypstRenderer) -> None:
    """With any number of positions, the page with the sums has one of them under the header of the table."""
    for count in (1, 9, *range(10, 17), *range(31, 37)):
        held = pages(renderer.render(view(*(line(number) for number in range(count)))))
        [last] = [page for page in held if "All amounts in" in page]
        assert f"ART-{1000 + count - 1}" in last
        for page in held:
            names = sum(page.count(name) for name in NAMES)
            assert names == page.count("ART-")
            assert not names or "DESCRIPTION" in page


def test_sixty_tax_rates_are_printed_one_under_the_other(renderer: TypstRenderer) -> None:
    lines = [line(number, tax_rate=Decimal(number) / 1000, tax_amount=_tax(number)) for number in range(60)]
    pdf = renderer.render(view(*lines))
    text = text_of(pdf)

    for number in range(60):
        assert f"{Decimal(number) / 10:f}".rstrip("0").rstrip(".") + "%" in text or number == 0
    for page in pypdf.PdfReader(io.BytesIO(pdf)).pages:
        heights: list[float] = []

        def note(text: str, cm: Any, tm: Any, *_: Any, kept: list[float] = heights) -> None:
            if text.strip():
                kept.append(tm[5] * cm[3] + cm[5])

        page.extract_text(visitor_text=note)
        assert min(heights) > 30  # in points from the bottom: nothing runs out of the page


def _tax(number: int) -> Decimal:
    return ((1 + number % 3) * (Decimal("148.50") + number) * Decimal(number) / 1000).quantize(Decimal("0.01"))
