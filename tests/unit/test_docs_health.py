"""The page on health and doctor names every check and every line, and no other."""

import ast
import re
from collections.abc import Iterator

import pytest

from app.config import ROOT
from app.schemas.system import HealthChecks

pytestmark = pytest.mark.req("DOC.3", "NFR-003.2")

PAGE = ROOT / "docs" / "reference" / "health-and-doctor.md"
MAKERS = {"fine", "doubtful", "broken", "verdict"}
"""What makes a finding; its first argument is the line's name."""


def named(heading: str) -> list[str]:
    """Return the names in the first column of the table under a heading."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    return re.findall(r"^\| `([^`]+)` \|", section.partition("\n## ")[0], re.MULTILINE)


def words(node: ast.expr) -> Iterator[str]:
    """Yield the text constants of an expression that is one, or that is a tuple of them."""
    for each in node.elts if isinstance(node, ast.Tuple) else [node]:
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def lines_of_doctor() -> set[str]:
    """Return the names of the lines that the source can print, those of a part that does not work included."""
    found: set[str] = set()
    for path in (ROOT / "app" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS and node.args:
                found |= set(words(node.args[0]))
            elif isinstance(node, ast.IfExp) and isinstance(node.body, ast.Call):
                found |= set(words(node.body.args[0]))
            elif isinstance(node, ast.For) and getattr(node.target, "id", "") == "part":
                found |= set(words(node.iter))
            elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "LOOKS":
                assert isinstance(node.value, ast.Tuple)
                found |= {next(words(look.elts[0])) for look in node.value.elts if isinstance(look, ast.Tuple)}
    return found


def test_every_check_of_health_is_named_once() -> None:
    assert sorted(named("Health")) == sorted(HealthChecks.model_fields)


def test_every_line_of_the_doctor_is_named_once() -> None:
    assert sorted(named("Doctor")) == sorted(lines_of_doctor())
