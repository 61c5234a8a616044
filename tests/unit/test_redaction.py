"""Redaction and every other regular expression of the application: their cost grows with the text, not faster."""

import ast
import importlib
import pkgutil
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import app
import devtools
from app.utils.redaction import redact_foreign_text, without_addresses

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

ROOT = Path(app.__file__).parents[1]
PACKAGES = (app, devtools)
MEBIBYTE = 1024 * 1024
CPU_SECONDS = 20
"""Far above what linear work takes (well under a second), far below what quadratic work on 2 MiB takes (hours)."""

CALLERS = """
from app.utils.redaction import redact_foreign_text, without_addresses
from app.core.logging import describe_exception
from app.core.error_tracking import scrubbed
from app.tasks.runner import describe
from app.services.payments.gateway.transport import _refusal
class Ours(Exception): pass
Ours.__module__ = "app.tests"
event = lambda text: {"exception": {"values": [{"module": "app.x", "type": "T", "value": text}]}}
for unit in ("a", "0", "a-", "a_", "@", "a@", "sk_", "eyJ.", "4242 ", "=", "\\x00", "é"):
    text = unit * (2 * 1024 * 1024 // len(unit))
    redact_foreign_text(text, ["secret"])
    without_addresses(text, 1000)
    describe_exception(Ours(text))
    describe(Ours(text))
    scrubbed(event(text), None)
    _refusal(400, {"error": {"message": text}})
"""


def _runs_within_the_limit(source: str, cpu_seconds: int = CPU_SECONDS) -> bool:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))

    ended = subprocess.run(
        [sys.executable, "-c", source], preexec_fn=limited, capture_output=True, check=False, cwd=ROOT
    )
    if ended.returncode > 0:
        pytest.fail(ended.stderr.decode())
    return ended.returncode == 0


def test_an_answer_of_two_mebibytes_is_redacted_in_linear_time_by_every_caller() -> None:
    assert _runs_within_the_limit(CALLERS)


def test_the_limit_stops_an_expression_that_is_quadratic() -> None:
    former = r"""import re; re.sub(r"[^\s<>@'\"]+@[^\s<>@'\"]+", "", "a" * 2 * 1024 * 1024)"""
    # The process ends at the limit, so the limit is what this test takes.
    assert not _runs_within_the_limit(former, cpu_seconds=2)


@pytest.mark.parametrize("tail", ["ada@example.com", "4242424242424242", "A9" * 12, "sk_live_abcdef"])
@pytest.mark.parametrize("before", range(4040, 4170, 7))
def test_nothing_of_a_secret_shows_where_the_text_is_cut(before: int, tail: str) -> None:
    # Each word of the first part becomes "<address>", so that the result is short enough to show the end.
    words = ("x@" + "y" * 997 + " ") * 5
    text = words[: before - 1] + " " + tail + "z" * 10_000
    shown = redact_foreign_text(text)
    assert set(shown.split()) <= {"<address>", "<address", "<addres", "<addre", "<addr", "<add", "<ad", "<a", "<"}
    assert not any(part in without_addresses(text, 1000) for part in ("ada", "example"))


def test_an_address_is_replaced_with_the_whole_word_that_holds_it() -> None:
    assert without_addresses("to <ada@example.com>: no", 100) == "to <<address>>: no"
    assert without_addresses("a@b@c and @handle and x@", 100) == "<address> and @handle and x@"
    assert without_addresses("abc", 2) == "ab"


# How regular expressions are used decides what they cost: `match` tries one place, `search` every place.
ATTACKS = (
    "a",
    "0",
    "A",
    " ",
    "\n",
    "-",
    "_",
    "@",
    "a.",
    "a-",
    "0-",
    "0 ",
    '"',
    '",',
    "eyJ",
    "sk_",
    "<",
    "/a",
    ",",
    "\\",
)
HARNESS = """
import importlib
for module, name, method in {uses!r}:
    pattern = getattr(importlib.import_module(module), name)
    call = getattr(pattern, method)
    for unit in {attacks!r}:
        for text in (unit * (200_000 // len(unit)), unit * (200_000 // len(unit)) + "\\x00"):
            subject = text.encode() if isinstance(pattern.pattern, bytes) else text
            call("x", subject) if method in ("sub", "subn") else list(call(subject) or ())[:0] if method in (
                "findall", "finditer", "split") else call(subject)
"""


def uses_of_expressions() -> list[tuple[str, str, str]]:
    """Return module, name and method of every compiled expression that a module of the application calls."""
    uses = set()
    modules = [
        module for package in PACKAGES for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    for found in modules:
        if found.name == "app.__main__":
            continue
        module = importlib.import_module(found.name)
        names = {name for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        if not names or module.__file__ is None:
            continue
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                uses.add((found.name, node.value.id, node.attr))
    methods = {"match", "fullmatch", "search", "sub", "subn", "findall", "finditer", "split"}
    return sorted(use for use in uses if use[2] in methods)


def test_every_expression_of_the_application_is_linear() -> None:
    uses = uses_of_expressions()
    assert len({name for _, name, _ in uses}) > 25
    assert _runs_within_the_limit(HARNESS.format(uses=uses, attacks=ATTACKS))
