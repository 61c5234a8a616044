"""docs/development/walk-through.md names modules and functions that exist."""

import ast
import re

import pytest

from app.config import ROOT

PAGE = ROOT / "docs" / "development" / "walk-through.md"
STEP = re.compile(r"^\| .+ \| `([\w/]+\.py)` \| `([\w.]+)` \|$", re.MULTILINE)

STEPS = STEP.findall(PAGE.read_text(encoding="utf-8"))


def names(source: str) -> set[str]:
    """Return the functions of a module, and its methods with their class."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, functions)}
    return found


def test_the_page_has_both_walks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Step")]
    assert len(STEPS) == len(rows) > 20


@pytest.mark.parametrize(("module", "function"), STEPS, ids=[function for _, function in STEPS])
def test_each_function_exists(module: str, function: str) -> None:
    assert function in names((ROOT / module).read_text(encoding="utf-8"))
