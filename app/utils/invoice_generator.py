"""View → PDF, behind one port (REQ-004, INT-003).

`TypstRenderer` is the default: it comes with pip alone and draws `templates/invoices/invoice.typ` with the fonts
beside it. `WeasyPrintRenderer` draws `invoice_template.html` for shops whose designers work in HTML; it needs Pango
from the system and the extra `weasyprint`.

Both get the document as data, never as source: Typst reads JSON, Jinja escapes. Neither reads a file or an address
that a template or a value names, and the same view gives the same bytes.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import jinja2
import typst

from app.config import ROOT, Settings
from app.utils.document_fonts import DESIGN, DocumentFonts, Unprintable
from app.utils.document_page import page_of, texts_of
from app.utils.documents import DocumentView
from app.utils.formatting import is_right_to_left

if TYPE_CHECKING:
    from weasyprint.urls import URLFetcher

TEMPLATES = ROOT / "templates" / "invoices"


class RenderingError(Exception):
    """The document could not be drawn; drawing it again will not help until template or view change."""

    retryable = False


class DocumentRenderer(Protocol):
    """The port. Blocking and safe to call from several threads."""

    def render(self, view: DocumentView) -> bytes:
        """Return the document as a PDF, the same bytes for the same view.

        Raises:
            RenderingError: it cannot be drawn.
        """

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Return what the document says and no font of this renderer can show; it must not be issued with gaps."""


class TypstRenderer:
    """Draws with Typst: tagged PDF, PDF/A-3a and PDF/UA-1.

    One compiler is kept, as its parsed template and fonts make the next document several times faster. It serves
    one thread at a time; more processes, not more threads, make more documents.

    Args:
        templates: folder with `invoice.typ` and `fonts/`; of other files only the fonts of `added_fonts` are read.
        added_fonts: folders with further fonts.

    Raises:
        ValueError: a font in it cannot be used, or a folder of fonts is none.
    """

    def __init__(self, templates: Path = TEMPLATES, added_fonts: tuple[Path, ...] = ()) -> None:
        self._fonts = DocumentFonts(templates / "fonts", added_fonts)
        self._families = _families(self._fonts.folders)
        self._lock = threading.Lock()
        self._compiler = typst.Compiler(
            templates / "invoice.typ",
            root=templates,
            font_paths=list(self._fonts.folders),
            ignore_system_fonts=True,
            package_path=templates / "packages",
            package_cache_path=templates / "packages",
        )

    def render(self, view: DocumentView) -> bytes:
        """Draw the view (see `DocumentRenderer`)."""
        inputs = {"page": json.dumps({**page_of(view, self._fonts.clean), "families": self._families})}
        issued = datetime.combine(view.issued_on, datetime.min.time(), UTC)
        with self._lock:
            try:
                drawn = self._compiler.compile(
                    format="pdf",
                    sys_inputs=inputs,
                    pdf_standards=["a-3a", "ua-1"],
                    timestamp=issued,  # what a template that asks for today gets
                )
            except typst.TypstError as fault:
                raise RenderingError(f"{view.number}: {fault.message}") from fault
        return cast("bytes", drawn)  # as for every PDF that is not written to a file

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Return what no font can show (see `DocumentRenderer`)."""
        return self._fonts.unprintable(view)


class WeasyPrintRenderer:
    """Draws the HTML template with WeasyPrint (extra `weasyprint`): tagged PDF, PDF/UA-1.

    Args:
        templates: folder with `invoice_template.html` and `fonts/`.
        added_fonts: folders with further fonts.

    Raises:
        RenderingError: WeasyPrint or its system libraries are not installed.
        ValueError: as for `TypstRenderer`.
    """

    def __init__(self, templates: Path = TEMPLATES, added_fonts: tuple[Path, ...] = ()) -> None:
        try:
            import weasyprint  # noqa: PLC0415 - an optional extra, absent in the default installation
            from fontTools.ttLib import TTFont  # noqa: PLC0415 - likewise
            from weasyprint.pdf import fonts  # noqa: PLC0415 - likewise
            from weasyprint.text.fonts import FontConfiguration  # noqa: PLC0415 - likewise
        except (ImportError, OSError) as fault:
            raise RenderingError(
                f"INVOICE_RENDERER=weasyprint needs the extra `weasyprint` and Pango from the system: {fault}"
            ) from fault
        # Without HarfBuzz-Subset, WeasyPrint has fontTools cut fonts down, which dates them now. It offers no option;
        # SOURCE_DATE_EPOCH would be for the whole process, and for what that starts.
        fonts.TTFont = partial(TTFont, recalcTimestamp=False)
        self._html = weasyprint.HTML
        self._font_config = FontConfiguration()
        self._fonts = DocumentFonts(templates / "fonts", added_fonts)
        self._fetcher = _our_fonts_only(self._fonts.files)
        self._lock = threading.Lock()
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(templates),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["direction"] = lambda text: "rtl" if is_right_to_left(text) else "ltr"
        self._template = environment.get_template("invoice_template.html")

    def render(self, view: DocumentView) -> bytes:
        """Draw the view (see `DocumentRenderer`)."""
        from weasyprint.urls import FatalURLFetchingError  # noqa: PLC0415 - an optional extra

        page = page_of(view, self._fonts.clean)
        # Each font that a page names is loaded for it, so it names those that it needs.
        needed = self._fonts.coverage.files_for(texts_of(page))
        families = [(f"Fallback {path.stem}", f"font:{path.name}") for path in needed if path.stem not in DESIGN]
        source = self._template.render(page=page, fallbacks=families)
        identifier = hashlib.sha256(source.encode()).digest()[:16]
        with self._lock:
            try:
                drawn: bytes = self._html(string=source, url_fetcher=self._fetcher).write_pdf(
                    font_config=self._font_config, pdf_variant="pdf/ua-1", pdf_identifier=identifier
                )
            except (FatalURLFetchingError, ValueError) as fault:
                raise RenderingError(f"{view.number}: {fault}") from fault
        return drawn

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Return what no font can show (see `DocumentRenderer`)."""
        return self._fonts.unprintable(view)


def renderer_for(settings: Settings) -> DocumentRenderer:
    """Return the renderer that `INVOICE_RENDERER` names; keep it, as it warms up.

    Raises:
        RenderingError: it cannot work here.
        ValueError: a folder of `INVOICE_FONT_PATHS` is none.
    """
    if settings.invoice_renderer == "weasyprint":
        return WeasyPrintRenderer(added_fonts=settings.font_folders)
    return TypstRenderer(added_fonts=settings.font_folders)


def _families(folders: tuple[Path, ...]) -> list[str]:
    """Return the names by which Typst knows the fonts that replace what the design's do not have, in order.

    Naming them leaves nothing to the order in which a file system lists them.
    """
    named: list[str] = []
    for folder in folders:
        fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[folder])
        known = sorted(fonts.families(), key=lambda family: (family.startswith("Droid"), family))
        named += [family for family in known if family not in named]
    return named


def _our_fonts_only(files: list[Path]) -> "URLFetcher":
    """Return a WeasyPrint fetcher that answers `font:<file>` for these fonts and nothing else.

    WeasyPrint would otherwise open any address or file that a document names. A refusal stops the rendering: an
    invoice with a hole in it is worse than none.
    """
    from weasyprint.urls import URLFetcher, URLFetcherResponse  # noqa: PLC0415 - an optional extra

    fonts = {f"font:{path.name}": path for path in files}

    class OurFontsOnly(URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, _headers: Mapping[str, str] | None = None) -> URLFetcherResponse:
            """Return a font of ours, or refuse."""
            if url not in fonts:
                raise ValueError(f"refused to fetch {url!r}: documents load nothing but their own fonts")
            return URLFetcherResponse(url, fonts[url].read_bytes(), {"Content-Type": "font/otf"})

    return OurFontsOnly(fail_on_errors=True)
