"""The operations of the API as its own document lists them: suites built on it cover a new one at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.main import openapi_document
from app.schemas.common import TEXT_BLOCK_PATTERN, TEXT_LINE_PATTERN

DOCUMENT = openapi_document()
TEXT = "text"
ZERO = "zero"
_ANY_TEXT = {TEXT_LINE_PATTERN, TEXT_BLOCK_PATTERN}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    spec: dict[str, Any]

    def url(self, **ids: Any) -> str:
        """Return the path with its parameters filled in; one that is not filled is an error of the test."""
        return self.path.format_map({name: str(value) for name, value in ids.items()})

    @property
    def body_schema(self) -> dict[str, Any] | None:
        """The schema of the JSON in the body, or None where there is none."""
        if "requestBody" not in self.spec or "application/json" not in self.spec["requestBody"]["content"]:
            return None
        schema = self.spec["requestBody"]["content"]["application/json"]["schema"]
        return next(option for option in options(schema) if option.get("type") != "null")

    @property
    def needs_body(self) -> bool:
        """Whether a request without a body is refused."""
        return bool(self.spec.get("requestBody", {}).get("required"))


def placed(path: tuple[str, ...], value: Any) -> Any:
    """Return a body with a value at a path as `texts_of` gives it, and nothing else."""
    for name in reversed(path):
        value = [value] if name == "0" else {name: value}
    return value


def all_operations() -> list[Operation]:
    """Return every documented operation."""
    return [
        Operation(spec["operationId"], method.upper(), path, spec)
        for path, methods in DOCUMENT["paths"].items()
        for method, spec in methods.items()
    ]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a schema's reference, if it is one."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def kinds(schema: dict[str, Any]) -> set[str]:
    """Return the JSON types that a schema allows."""
    return {option["type"] for option in options(schema) if "type" in option}


def options(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a schema offers to choose from, itself where there is no choice."""
    plain = resolved(schema)
    if "anyOf" not in plain:
        return [plain]
    return [inner for option in plain["anyOf"] for inner in options(option)]


def texts_of(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path to each text that people write in a body; `0` stands for the first of a list."""
    for choice in options(schema):
        if choice.get("pattern") in _ANY_TEXT:
            yield path
        for name, member in choice.get("properties", {}).items():
            yield from texts_of(member, (*path, name))
        if "items" in choice:
            yield from texts_of(choice["items"], (*path, "0"))


def example_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a valid body with as many fields as can be: the schema's longest example, and text where text may be."""
    example = dict(max(schema.get("examples", [{}]), key=lambda found: len(str(found))))
    for name, field in schema["properties"].items():
        is_free = not any(
            {"format", "enum"} & set(option) or option.get("pattern", TEXT_LINE_PATTERN) not in _ANY_TEXT
            for option in options(field)
        )
        if name not in example and is_free and kinds(field) <= {"string", "null"}:
            example[name] = TEXT
    missing = set(schema.get("required", ())) - set(example)
    assert not missing, f"give {schema['title']} an example that has {missing}"
    return example


def leaves(
    value: Any, schema: dict[str, Any], path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], set[str]]]:
    """Yield the path of every scalar in a body, with the types that the schema allows there, and `ZERO` if that may be."""
    choices = options(schema)
    if isinstance(value, dict):
        for name, member in value.items():
            field: dict[str, Any] = next(
                (choice["properties"][name] for choice in choices if name in choice.get("properties", {})), {}
            )
            yield from leaves(member, field, (*path, name))
    elif isinstance(value, list):
        items: dict[str, Any] = next((choice["items"] for choice in choices if "items" in choice), {})
        for position, member in enumerate(value):
            yield from leaves(member, items, (*path, position))
    else:
        yield path, kinds(schema) | {ZERO for option in choices if option.get("minimum") == 0}
