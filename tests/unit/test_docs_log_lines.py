"""Every log line has a name of one form, and those that the documentation names are written."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.req("DOC.3", "NFR-006")

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
NAMED = re.compile(r"\blogs?\b[^`|\n]{0,60}`([a-z][a-z_]*(?:[. ][a-z_]+)+)`")
"""A word such as "log" and, in the same sentence or cell, the line in backticks."""


IRREGULAR = {"broken", "found", "left", "lost", "made", "paid", "read", "sent", "set", "shown"}
"""Past participles that do not end in "ed"."""


def is_event_name(event: str) -> bool:
    """Return whether this is `noun.past_participle`, such as `job.postponed`, `lease.not_renewed`, `key.left_out`."""
    subject, point, verb = event.partition(".")
    words = verb.split("_")
    participles = [word for word in words if word.endswith("ed") or word in IRREGULAR]
    return bool(point and re.fullmatch(r"[a-z_]+", subject) and re.fullmatch(r"[a-z_]+", verb) and participles)


def names_of_log_lines() -> set[tuple[str, str]]:
    """Return module and name of every log line; of a name that is not a constant, its expression."""
    names = set()
    for path in (path for folder in ("app", "devtools") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="logger" | "log" | "_LOG"), attr=level), args=args):
                    if level in LEVELS:
                        name = args[1] if level == "log" else args[0]
                        text = str(name.value) if isinstance(name, ast.Constant) else ast.unparse(name)
                        names.add((path.name, text))
    return names


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


def test_each_log_line_is_named_by_a_noun_and_a_past_participle() -> None:
    names = names_of_log_lines()
    assert len(names) >= 80
    assert {(module, name) for module, name in names if not is_event_name(name)} == set()


def test_a_name_of_another_form_is_refused() -> None:
    assert is_event_name("job.postponed")
    assert is_event_name("rate_limit.redis_lost")
    assert not is_event_name("job was postponed")
    assert not is_event_name("disk.full")
    assert not is_event_name("Job.postponed")


def test_a_line_that_is_named_is_found() -> None:
    assert named_events("the log says `mail.rejected`") == {"mail.rejected"}
    assert named_events("the log has a line\n`job.dead_lettered` with the level critical") == {"job.dead_lettered"}
    assert named_events("| log, `jobs.sent_again` |") == {"jobs.sent_again"}
    assert named_events("a log line `attachment.not_found`") == {"attachment.not_found"}
    assert named_events("| log | `articurated jobs list` |") == set()
