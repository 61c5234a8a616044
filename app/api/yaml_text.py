"""JSON-like data as YAML text, for the OpenAPI file: a few lines instead of a dependency at run time."""

import json
import re
from typing import Any

# What every YAML reader takes for a string without quotes; the rest is quoted, as JSON, which YAML includes.
_PLAIN = re.compile(r"[A-Za-z_/$][A-Za-z0-9_/${}.-]*", re.ASCII)
_TAKEN = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def as_yaml(value: Any, indent: int = 0) -> str:
    """Return a document of dicts with string keys, lists and scalars as YAML, in its own order."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_scalar(str(key))}:{_member(member, indent + 1)}" for key, member in value.items())
    if isinstance(value, list) and value:
        return "".join(_item(item, indent) for item in value)
    return f"{pad}{_scalar(value)}\n"


def _member(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + as_yaml(value, indent)
    return f" {_scalar(value)}\n"


def _item(value: Any, indent: int) -> str:
    pad = "  " * indent
    if isinstance(value, dict | list) and value:
        return f"{pad}- " + as_yaml(value, indent + 1).lstrip(" ")
    return f"{pad}- {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _TAKEN:
        return str(value)
    return "".join(
        character if character.isprintable() else f"\\U{ord(character):08X}"
        for character in json.dumps(value, ensure_ascii=False)
    )
