"""The optional renderer: the same page from the same view, and nothing fetched or embedded."""

import io
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pypdf
import pytest

from app.config import Settings
from app.utils.invoice_generator import TEMPLATES, RenderingError, WeasyPrintRenderer, renderer_for
from tests.profile import PROFILE
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

pytestmark = [
    pytest.mark.req("REQ-004", "INT-003"),
    # A distribution may bring Pango without it; today's version of the renderer does as well.
    pytest.mark.filterwarnings("ignore:HarfBuzz-Subset will be required:DeprecationWarning"),
]


def test_without_the_extra_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)

    with pytest.raises(RenderingError, match="needs the extra `weasyprint` and Pango"):
        renderer_for(Settings(_env_file=None, invoice_renderer="weasyprint"))


@pytest.fixture(scope="module")
def renderer() -> WeasyPrintRenderer:
    try:
        return WeasyPrintRenderer()
    except RenderingError as fault:
        pytest.skip(str(fault))


@pytest.fixture(autouse=True)
def whole_fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the local run fontTools, which cuts a font down in 0.3 s: four fifths of the time of a document."""
    if PROFILE != "local" or "renderer" not in request.fixturenames:
        return
    if request.node.get_closest_marker("cut_fonts") is None:
        request.getfixturevalue("renderer")  # it skips the test where WeasyPrint is not installed
        monkeypatch.setattr("weasyprint.pdf.fonts.Font.subset", lambda *_: None)


@pytest.fixture
def template(renderer: WeasyPrintRenderer, tmp_path: Path) -> Path:
    del renderer
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    return tmp_path / "templates" / "invoice_template.html"


@pytest.mark.req("INT-003.2")
def test_configuration_alone_chooses_it(renderer: WeasyPrintRenderer) -> None:
    chosen = renderer_for(Settings(_env_file=None, invoice_renderer="weasyprint"))

    assert isinstance(chosen, type(renderer))


@pytest.mark.cut_fonts
@pytest.mark.req("INT-003.2")
def test_an_invoice_shows_all_that_belongs_on_it(renderer: WeasyPrintRenderer) -> None:
    text = text_of(renderer.render(view(notes="Gift wrap requested.")))

    for expected in (
        "INV-2026-000142",
        "22 November 2026",
        "ORD-2026-000318",
        "Éléonore Marchetti",
        "FR 40 303 265 045",
        "Hand-thrown stoneware vase",
        "ART-1001",
        "5.5%",
        "€1,031.33",
        "Credit card",
        "JD014600006281230704",
        "Gift wrap requested.",
        "Page 1 of 1",
    ):
        assert expected in text


def test_a_credit_note_names_its_invoice(renderer: WeasyPrintRenderer) -> None:
    text = text_of(renderer.render(credit_note()))

    assert "Credit note" in text
    assert "INV-2026-000142" in text
    assert "€153.20" in text


def test_sixty_lines_flow_over_pages(renderer: WeasyPrintRenderer) -> None:
    held = pages(renderer.render(view(*(line(number) for number in range(60)))))

    assert len(held) > 2
    assert all(f"Page {number} of {len(held)}" in page for number, page in enumerate(held, start=1))


@pytest.mark.parametrize("script", NAMES_BY_SCRIPT)
def test_a_name_in_its_script_is_drawn_with_the_font_that_has_it(renderer: WeasyPrintRenderer, script: str) -> None:
    document = addressed_to(NAMES_BY_SCRIPT[script])
    reader = pypdf.PdfReader(io.BytesIO(renderer.render(document)))
    fonts = [
        str(entry.get_object()["/BaseFont"])
        for page in reader.pages
        for entry in page["/Resources"]["/Font"].values()  # type: ignore[index]
    ]
    expected = {"Burmese": "Myanmar", "CJK extension B": "CJK", "Emoji": "Emoji"}.get(script, script)

    assert renderer.unprintable(document) == ()
    assert any(expected in font for font in fonts), fonts


def test_the_sums_carry_a_position_along(renderer: WeasyPrintRenderer) -> None:
    for count in (1, 10, 13, 15, 31):
        held = pages(renderer.render(view(*(line(number) for number in range(count)))))
        [last] = [page for page in held if "All amounts in" in page]
        assert f"ART-{1000 + count - 1}" in last
        assert all(sum(map(page.count, NAMES)) == page.count("ART-") for page in held)


def test_the_text_of_the_pdf_is_the_value(renderer: WeasyPrintRenderer) -> None:
    given = "pi_3MtwBwLkdIwHu7ix28a3tqPa"
    text = text_of(renderer.render(view(line(0, description=given, sku=given), notes=given)))

    assert text.count(given) == 3


@pytest.fixture(params=["as installed", "fontTools"])
def subsetter(request: pytest.FixtureRequest, renderer: WeasyPrintRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fonts are cut down with what is installed, and as WeasyPrint does without HarfBuzz-Subset."""
    del renderer
    if request.param == "fontTools":
        monkeypatch.setattr("weasyprint.pdf.fonts.harfbuzz_subset", None)


@pytest.mark.cut_fonts
@pytest.mark.usefixtures("subsetter")
def test_the_same_view_gives_the_same_bytes_whenever_it_is_drawn(
    renderer: WeasyPrintRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What fontTools takes for now, in seconds since 1970.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = renderer.render(view())

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert renderer.render(view()) == first
    assert WeasyPrintRenderer().render(view()) == first


@pytest.mark.security
def test_html_jinja_and_addresses_in_data_are_inert(renderer: WeasyPrintRenderer) -> None:
    with _counting_server() as (address, hits):
        text = HOSTILE.replace("http://127.0.0.1:1/hit", address)
        pdf = renderer.render(hostile_view(text))

    assert squeezed(text) in squeezed(text_of(pdf))
    assert hits == []
    assert not pypdf.PdfReader(io.BytesIO(pdf)).attachments


@pytest.mark.req("NFR-004.10")
@pytest.mark.security
@pytest.mark.parametrize(
    "markup",
    [
        '<img src="ADDRESS">',
        '<link rel="stylesheet" href="ADDRESS">',
        '<style>@import url("ADDRESS");</style>',
        '<style>body { background: url("ADDRESS") }</style>',
        '<object data="ADDRESS"></object>',
        '<a rel="attachment" href="file:///etc/passwd">x</a>',
        '<link rel="attachment" href="file:///etc/passwd">',
        '<img src="file:///etc/passwd">',
        '<img src="data:image/png;base64,iVBORw0KGgo=">',
        '<img src="font:../invoice.typ">',
    ],
)
def test_a_template_loads_nothing_but_our_fonts(template: Path, markup: str) -> None:
    with _counting_server() as (address, hits):
        source = template.read_text().replace("<header ", markup.replace("ADDRESS", address) + "<header ", 1)
        template.write_text(source)
        with pytest.raises(RenderingError, match="Error fetching"):
            WeasyPrintRenderer(template.parent).render(view())
    assert hits == []


@pytest.mark.security
@pytest.mark.parametrize(
    "text",
    [UNPRINTABLE, "田中 花子 🎁 محمد", "", "W" * 3000],
    ids=["unprintable", "several scripts", "empty", "without a space"],
)
def test_no_text_stops_an_invoice(renderer: WeasyPrintRenderer, text: str) -> None:
    assert "€196.20" in text_of(renderer.render(hostile_view(text)))


class _counting_server:  # noqa: N801 - used as a function
    """A web server that notes every request it gets."""

    def __enter__(self) -> tuple[str, list[str]]:
        hits: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hits.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/hit", hits

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
