"""Which test names which requirement, read from the sources without running anything.

A marker counts for what is below it: `pytestmark` for its module, a decorator of a class for its methods.
A statement's ID (`REQ-001.3`) counts for its requirement (`REQ-001`) too.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.config import ROOT

TESTS = ROOT / "tests"


@dataclass(frozen=True, slots=True, order=True)
class Test:
    """One test function: its file from the root of the checkout, its name, and the IDs that its markers name."""

    file: str
    name: str
    ids: frozenset[str]

    @property
    def node(self) -> str:
        """What pytest calls it."""
        return f"{self.file}::{self.name}"


@cache
def every_test(folder: Path = TESTS) -> tuple[Test, ...]:
    """Return every test below a folder, in the order of files and lines; read once."""
    return tuple(test for file in sorted(folder.rglob("test_*.py")) for test in read(file))


def read(file: Path, source: str | None = None) -> Iterator[Test]:
    """Yield the tests of a file, or of a text that could be in it."""
    tree = ast.parse(file.read_text(encoding="utf-8") if source is None else source)
    assigned = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(_named(target, "pytestmark") for target in node.targets)
    ]
    name = file.relative_to(ROOT).as_posix()
    yield from (Test(name, function, ids) for function, ids in _functions(tree.body, "", named(assigned)))


def _functions(
    body: Iterable[ast.stmt], prefix: str, inherited: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield prefix + node.name, inherited | named(node.decorator_list)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _functions(node.body, f"{prefix}{node.name}::", inherited | named(node.decorator_list))


def named(expressions: Iterable[ast.expr]) -> frozenset[str]:
    """Return the IDs that the `req` markers in these expressions name."""
    calls = (node for expression in expressions for node in ast.walk(expression) if isinstance(node, ast.Call))
    return frozenset(
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "req"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )


def _named(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name
