"""Every log line that the documentation names is one that the source writes."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.req("DOC.3", "NFR-006")

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
NAMED = re.compile(r"\blogs?\b[^`|\n]{0,60}`([a-z][a-z_]*(?:[. ][a-z_]+)+)`")
"""A word such as "log" and, in the same sentence or cell, the line in backticks."""


def written_events() -> set[str]:
    """Return the fixed words of every log line of the application: of calls, and of lines that are put together."""
    events = set()
    for path in (path for folder in ("app", "devtools") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                words = list(node.args) if name in LEVELS else []
            elif isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                words = [value for key, value in zip(keys, node.values, strict=True) if key == "event"]
            events |= {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}
    return events


def named_events(text: str) -> set[str]:
    """Return the log lines that a text names; line breaks are spaces, except in tables."""
    joined = re.sub(r"\n(?![\n|#-])", " ", text)
    return set(NAMED.findall(joined))


def test_each_log_line_that_is_named_is_written() -> None:
    named = {
        (path.name, event)
        for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
        for event in named_events(path.read_text(encoding="utf-8"))
    }
    written = written_events()
    assert len(named) >= 5
    assert {(name, event) for name, event in named if event not in written} == set()


def test_a_line_that_is_named_is_found() -> None:
    assert named_events("the log says `mail rejected`") == {"mail rejected"}
    assert named_events("the log has a line\n`job dead` with the level critical") == {"job dead"}
    assert named_events("| log, `jobs sent again` |") == {"jobs sent again"}
    assert named_events("a log line `attachment.missing`") == {"attachment.missing"}
    assert named_events("| log | `articurated jobs list` |") == set()
