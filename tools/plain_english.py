"""How plain the English of this project is: listed words per 1,000 in comments and docstrings, and in pages.

    python -m tools.plain_english            # the figures, and where each listed word is
    python -m tools.plain_english app/tasks  # of these files and folders alone

The words are ones that a reader who learned English at work has to look up, or that have a plainer one.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.config import ROOT

LISTED: Final = (
    "afresh",
    "alike",
    "anew",
    "at hand",
    "bear",
    "bears",
    "believe",
    "believed",
    "believes",
    "borne",
    "buried",
    "bury",
    "by now",
    "die",
    "died",
    "dies",
    "for good",
    "hasten",
    "hence",
    "lest",
    "mend",
    "mended",
    "mends",
    "nobody",
    "once more",
    "outlast",
    "outlasts",
    "perhaps",
    "revive",
    "stand",
    "stands",
    "stood",
    "tell",
    "tells",
    "told",
    "whatever",
    "whence",
    "wherever",
    "whichever",
    "whoever",
    "whomever",
    "yet",
)
CODE_GOAL: Final = 2.0
"""Listed words per 1,000 words of comments and docstrings, at most."""
PAGES_GOAL: Final = 3.0
"""Listed words per 1,000 words of the README and of docs/, at most."""
CODE: Final = ("app", "devtools", "alembic", "tools", "tests", "benchmarks")
PAGES: Final = ("README.md", "docs")

_LISTED = re.compile(rf"\b(?:{'|'.join(sorted(LISTED, key=len, reverse=True))})\b(?!-alone)", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


@dataclass(frozen=True, slots=True)
class Prose:
    """A piece of text and the line it begins on."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Count:
    """Words of some files, and the listed ones among them as `file:line: word`."""

    words: int
    found: tuple[str, ...]

    @property
    def per_thousand(self) -> float:
        """Listed words per 1,000 words."""
        return 1000 * len(self.found) / max(self.words, 1)


def prose_of_code(source: str) -> Iterator[Prose]:
    """Give the comments and docstrings of a Python module, those of its attributes too."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Prose(token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        # A string that is a statement by itself documents what is around it or before it.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield Prose(node.lineno, re.sub(r"`[^`\n]*`", " ", node.value.value))


def prose_of_page(text: str) -> Iterator[Prose]:
    """Give the lines of a Markdown page without its code."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield Prose(number, re.sub(r"`[^`]*`|<[^>]*>", " ", line))


def files_below(names: Iterable[str]) -> Iterator[Path]:
    """Give the Python modules and pages of files and folders of the project, in order."""
    for name in names:
        path = ROOT / name
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in {".py", ".md"})
        else:
            yield path


def count(files: Iterable[Path]) -> Count:
    """Count the words of `files`, and find the listed ones."""
    words, found = 0, []
    for file in files:
        if file == Path(__file__):
            continue
        text = file.read_text(encoding="utf-8")
        for prose in prose_of_code(text) if file.suffix == ".py" else prose_of_page(text):
            words += len(_WORD.findall(prose.text))
            found += [
                f"{file.relative_to(ROOT)}:{prose.line + prose.text.count(chr(10), 0, hit.start())}: {hit[0]}"
                for hit in _LISTED.finditer(prose.text)
            ]
    return Count(words, tuple(found))


def main() -> None:
    """Print each listed word with its place, then the figures."""
    wanted = sys.argv[1:]
    for title, names in ((" ".join(wanted), wanted),) if wanted else (("code", CODE), ("pages", PAGES)):
        counted = count(files_below(names))
        sys.stdout.writelines(f"{place}\n" for place in counted.found)
        figure = f"{counted.per_thousand:.1f} listed words per 1,000 ({len(counted.found)} of {counted.words})"
        sys.stdout.write(f"{title}: {figure}\n")


if __name__ == "__main__":
    main()
