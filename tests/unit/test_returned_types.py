"""What a function of the application returns has a type, so that mypy finds a misspelt key in its callers.

A mapping of text to anything has none: it is a `TypedDict` or a dataclass, or a `JsonObject` where its members are
decided elsewhere.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("app/services", "app/tasks", "app/utils", "app/cli", "app/core")
MAPPINGS = {"dict", "Mapping", "MutableMapping"}
CONTAINERS = {"list", "Sequence", "Iterator", "AsyncIterator", "Page"}
ANYTHING = {"Any", "object"}

EXCUSED = {
    ("app/services/payments/gateway/http.py", "_records"): "a reader checks each record that the gateway lists",
    ("app/tasks/celery_app.py", "configuration"): "the names and types of the settings are Celery's",
    ("app/utils/mail_templates.py", "cleaned"): "a value of a template has any type, and keeps it",
}
"""Functions that return a mapping of anything, each with its reason."""


def untyped(annotation: ast.expr | None, *, is_content: bool = True) -> bool:
    """Return whether a return annotation is, or holds, something whose members have no type.

    Args:
        annotation: None where there is none.
        is_content: of what is returned; False within `Row[…]`, `Select[…]` and the like, where Any is columns.
    """
    parts: list[ast.expr] = []
    match annotation:
        case ast.Constant(value=str(text)):
            parts = [ast.parse(text, mode="eval").body]
        case ast.Name(id=name):
            return name in MAPPINGS or (is_content and name in ANYTHING)
        case ast.BinOp(left=left, right=right):
            parts = [left, right]
        case ast.Subscript(value=ast.Name(id=name), slice=held):
            parts = held.elts if isinstance(held, ast.Tuple) else [held]
            parts = parts[1:] if name in MAPPINGS else parts
            is_content = name in MAPPINGS | CONTAINERS
    return any(untyped(part, is_content=is_content) for part in parts)


def untyped_functions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and untyped(node.returns):
            yield node.name


def test_what_a_function_returns_has_a_type() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for name in untyped_functions(path.read_text(encoding="utf-8"))
    }
    assert found == EXCUSED.keys()


@pytest.mark.parametrize(
    "returned",
    [
        "Any",
        "Any | None",
        "object",
        "dict",
        "list[dict]",
        "dict[str, Any]",
        "dict[str, object]",
        "Mapping[str, Any]",
        "Mapping[Any, Any] | None",
        "list[dict[str, Any]]",
        "list[Any]",
        "Page[dict[str, Any]]",
        "AsyncIterator[dict[str, Any]]",
        "Awaitable[dict[str, Any]]",
        "dict[str, dict[str, Any]]",
        "tuple[dict[str, Any], str]",
        "'dict[str, Any]'",
    ],
)
def test_a_mapping_of_anything_is_found(returned: str) -> None:
    assert list(untyped_functions(f"class Service:\n    async def found(self) -> {returned}: ...")) == ["found"]


@pytest.mark.parametrize(
    "returned",
    [
        "None",
        "OrderView",
        "Page[OrderView]",
        "JsonObject",
        "dict[str, JsonObject]",
        "dict[str, int]",
        "Row[Any]",
        "Select[Any]",
        "dict[str, Row[Any]]",
        "tuple[str, Row[Any]]",
        "'Actor'",
    ],
)
def test_a_named_type_is_passed(returned: str) -> None:
    """A row or a statement of SQLAlchemy is a type; only its columns are not known to mypy."""
    assert list(untyped_functions(f"def passed() -> {returned}: ...")) == []
