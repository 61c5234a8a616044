"""The site: it builds without a warning, needs nothing from elsewhere, and its generated pages are current."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.utils.yaml import get_yaml_loader, yaml_load

from app.config import ROOT
from tools.documentation.pages import GENERATED
from tools.documentation.site import MERMAID

# One worker has them all: the site is built once.
pytestmark = [pytest.mark.req("DOC.6"), pytest.mark.xdist_group("site")]

DOCS = ROOT / "docs"
DIAGRAMS = [
    diagram
    for file in sorted(DOCS.rglob("*.md"))
    for diagram in re.findall(r"^```mermaid\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


_QUOTING = {"code", "pre", "script", "style"}
_LEFT_RAW = re.compile(r"^[^\S\n]*+(#{1,6} \S|(?:\|\s*)?:?-{3,}\s*\||```|[*-] \S).*", re.MULTILINE)
"""A heading, the line below a table's head, a fence or an item of a list, as a writer types them.

The space before it ends with its line: beyond it, each of a run of empty lines would be read once from every other."""


class Page(HTMLParser):
    """What a page refers to, loads, and can be pointed at, and its words."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self._words: list[str] = []
        self._inside: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.words = "".join(self._words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag refers to."""
        if tag in _QUOTING:
            self._inside.append(tag)
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])
        elif tag == "link" and values.get("rel") not in {"canonical", "alternate"} and "href" in values:
            self.loads.append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        """Leave what quotes; what is a paragraph of its own begins a line."""
        if tag in _QUOTING:
            self._inside.remove(tag)
        elif tag in {"p", "td", "th", "li", "div"} or re.fullmatch(r"h\d", tag):
            self._words.append("\n")

    def handle_data(self, data: str) -> None:
        """Keep what is said, and not what is quoted."""
        self._words.append("_" if self._inside else data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for file, page in pages.items():
        if file.name == "404.html":
            continue  # its links are from the root of a server
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in known):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert len(pages) > 20
    assert broken == []


def test_all_markdown_became_a_page(site: Path, pages: dict[Path, Page]) -> None:
    """A heading right below a table, say, is a cell of it for MkDocs, though not for a forge."""
    raw = {
        f"{file.relative_to(site)}: {found[0].strip()}"
        for file, page in pages.items()
        for found in _LEFT_RAW.finditer(page.words)
    }
    assert raw == set()


@pytest.mark.parametrize(
    "line",
    ["# Head", "###### x", "|---|", " | :--- |", "--- |", ":---- |", "```sh", "* item", "- item", "\n\n  - item"],
)
def test_markdown_that_was_left_is_seen(line: str) -> None:
    assert [found[0].strip() for found in _LEFT_RAW.finditer(f"words\n{line}\nwords")] == [line.strip()]


def test_empty_lines_are_read_once() -> None:
    """Quadratic work on these would take hours: the test would not end."""
    assert _LEFT_RAW.search("\n" * 1_000_000) is None


def test_a_reader_needs_no_internet(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    assert loaded == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name
    text = "".join(file.read_text(encoding="utf-8") for file in pages)
    assert "fonts.googleapis.com" not in text


def test_a_page_with_diagrams_has_what_draws_them(site: Path, pages: dict[Path, Page]) -> None:
    """Without it the theme would load a script from the internet."""
    shown = 0
    for file, page in pages.items():
        if file.name == "404.html":
            continue  # its scripts are from the root of a server
        text = file.read_text(encoding="utf-8")
        here = text.count('<pre class="mermaid">')
        shown += here
        scripts = [(file.parent / load).resolve() for load in page.loads if load.endswith(".js")]
        *ours, bundle = [script.relative_to(site).as_posix() for script in scripts]
        assert ours == (list(MERMAID) if here else []), file.name
        assert bundle.startswith("assets/javascripts/bundle.")
        assert all(script.exists() for script in scripts)
    assert shown == len(DIAGRAMS) > 10


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=range(len(DIAGRAMS)))
def test_a_diagram_is_of_a_kind_that_mermaid_draws(diagram: str) -> None:
    assert diagram.split(maxsplit=1)[0] in {"sequenceDiagram", "erDiagram", "stateDiagram-v2", "graph"}


def test_the_script_is_of_the_release_that_the_theme_expects(site: Path) -> None:
    [bundle] = site.glob("assets/javascripts/bundle.*.js")
    [expected] = set(re.findall(r"unpkg\.com/mermaid@(\d+)/", bundle.read_text(encoding="utf-8")))
    versions = re.findall(r'version:"(\d+)\.\d+\.\d+"', (DOCS / MERMAID[0]).read_text(encoding="utf-8"))
    assert expected in versions


def test_every_page_is_in_the_navigation(pages: dict[Path, Page]) -> None:
    def files(entries: object) -> set[str]:
        if isinstance(entries, str):
            return {entries}
        inner = entries.values() if isinstance(entries, dict) else entries
        return {file for entry in inner for file in files(entry)}  # type: ignore[attr-defined]

    with (ROOT / "mkdocs.yml").open(encoding="utf-8") as file:
        listed = files(yaml_load(file, get_yaml_loader())["nav"])
    written = {file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md")}
    assert written - listed == set()
    assert len(listed) == len(pages) - 1  # and the page of 404


@pytest.mark.req("DOC.3", "TEST.3")
@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.name)
def test_a_generated_page_is_current(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == GENERATED[file](), "run `python -m tools.documentation`"
