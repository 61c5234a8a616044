"""MkDocs hook: pages of the checkout that lie outside docs/, links to them, and the script that draws Mermaid.

The Markdown is written for a reader of the checkout: a link to `../API-SPECIFICATION.yml` works there. On the site
the same file is published under `PUBLISHED`, and the link is turned. Material draws Mermaid with a script that it loads
from the internet unless a page has it already: pages with a diagram load the copy in docs/javascripts/.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {
    "API-SPECIFICATION.yml": "API-SPECIFICATION.yml",
    ".env.example": "env.example",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE.txt",
}
"""File of the checkout → where the site has it."""

MERMAID = ("javascripts/mermaid.min.js", "javascripts/diagrams.js")
"""The script, and how the site uses it."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(|src=\")([^)\s\"]+)(?=[)\"])")


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Publish what lies outside docs/."""
    for source, place in PUBLISHED.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: Files) -> str:  # noqa: ARG001 - the names are MkDocs'
    """Turn the links of a page to where the site has their targets."""
    here = page.file.src_uri
    original = next((source for source, place in PUBLISHED.items() if place == here), f"docs/{here}")
    parts, last = [], 0
    for fence in _FENCE.finditer(markdown):
        parts.append(_turned(markdown[last : fence.start()], original, here))
        parts.append(fence[0])
        last = fence.end()
    return "".join([*parts, _turned(markdown[last:], original, here)])


def on_page_content(html: str, page: "Page", config: "MkDocsConfig", files: Files) -> str:  # noqa: ARG001 - the names are MkDocs'
    """Load Mermaid on a page with a diagram, before Material looks for it; it is too large to be loaded by every page."""
    if '<pre class="mermaid">' not in html:
        return html
    scripts = "".join(f'<script src="{get_relative_url(script, page.url)}"></script>\n' for script in MERMAID)
    return scripts + html


def _turned(text: str, original: str, here: str) -> str:
    def turn(link: re.Match[str]) -> str:
        place, mark, anchor = link[2].partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(original), place))
        return f"{link[1]}{posixpath.relpath(_on_site(target), posixpath.dirname(here) or '.')}{mark}{anchor}"

    return _LINK.sub(turn, text)


def _on_site(target: str) -> str:
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    try:
        return PUBLISHED[target]
    except KeyError:
        raise PluginError(
            f"{target} is not on the site: name it in {__name__}.PUBLISHED, or do not link to it"
        ) from None
