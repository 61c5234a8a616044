"""What a page has its reader type, what it shows as the answer, and whether that is what came."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_VARYING = re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{4,})*|\d+")
_COUNTS = {
    "size",
    "rows",
    "entities",
    "latency_ms",
    "oldest_due_seconds",
    "dead_letters",
    "workers",
    "total",
    "version",
}


@dataclass
class Example:
    """A block to type, and what its page shows as the answer."""

    shell: str
    shown: list[tuple[str, str]] = field(default_factory=list)


def blocks(file: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [body for name, body in _BLOCK.findall(file.read_text(encoding="utf-8")) if name == language]


def examples(file: Path) -> list[Example]:
    """Return the shell blocks of a page, each with the blocks that follow it directly."""
    found: list[Example] = []
    text = file.read_text(encoding="utf-8")
    end = -1
    for block in _BLOCK.finditer(text):
        language, body = block[1], block[2]
        if language == "sh":
            found.append(Example(body))
            end = block.end()
        elif language in {"json", "text"} and end >= 0 and not text[end : block.start()].strip():
            found[-1].shown.append((language, body))
            end = block.end()
        else:
            end = -1
    return found


def documents(text: str) -> Iterator[Any]:
    """Yield the JSON documents in a text, leaving out what is between them."""
    decoder, place = json.JSONDecoder(), 0
    while (start := text.find("{", place)) >= 0:
        try:
            found, place = decoder.raw_decode(text, start)
        except ValueError:
            place = start + 1
            continue
        yield found


def alike(shown: Any, real: Any, name: str = "") -> bool:
    """Return whether an answer has all that is shown, what differs from call to call apart."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(key in real and alike(shown[key], real[key], key) for key in shown)
    if isinstance(shown, list):
        left = iter(real if isinstance(real, list) else [])
        return isinstance(real, list) and all(any(alike(one, other) for other in left) for one in shown)
    if isinstance(shown, str) and isinstance(real, str):
        return same_words(shown, real)
    if name in _COUNTS:
        return isinstance(real, int | float)
    return bool(shown == real) and type(shown) is type(real)


def same_words(shown: str, real: str) -> bool:
    """Return whether two lines say the same but for numbers and ids; `…` matches anything."""
    if re.fullmatch(r"[\w-]{16,}…?", shown) and not shown.replace("_", "").isupper():
        return bool(real)  # a cursor or a signature
    parts = [re.escape(part) for part in _VARYING.sub("#", shown).split("…")]
    return re.fullmatch(".*".join(parts), _VARYING.sub("#", real)) is not None


def compare(example: Example, said: str) -> None:
    """Compare what a page shows with what came.

    Raises:
        AssertionError: something that is shown did not come.
    """
    came, lines = documents(said), [line.rstrip() for line in said.splitlines()]
    for language, body in example.shown:
        body = re.sub(r",\s*…", "", body) if language == "json" else body  # noqa: PLW2901 - the same, cleaned
        for line in filter(str.strip, body.splitlines() if language == "text" else ()):
            if not line.startswith("{"):
                assert any(same_words(line.rstrip(), real) for real in lines), f"not said: {line}\nbut:\n{said}"
        for shown in documents(body):
            seen = []
            for real in came:
                seen.append(real)
                if alike(shown, real):
                    break
            else:
                pytest.fail(f"not answered: {json.dumps(shown)}\nbut: {json.dumps(seen)[:3000]}")
