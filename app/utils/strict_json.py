"""Strict JSON: an object that can be stored as it was sent and that every reader reads alike, or a refusal (REQ-005, NFR-004).

orjson refuses what JSON does not have (NaN, infinities, numbers beyond a double, lone surrogates, bad
UTF-8). The rest of this module refuses what PostgreSQL, or the next reader, could not take: NUL characters,
integers that would lose digits, names given twice, objects of thousands of names, and nesting that would
exhaust someone's stack.

One event loop serves every caller of a process, so a body must not occupy it for long. The values are counted on the
bytes, by searches that run at memory speed, before anything is parsed; all later work is bounded by that count.
"""

import re
from typing import Any, NamedTuple

import orjson

from app.utils.exceptions import InvalidInputError
from app.utils.json_values import JsonObject

DEPTH_MAXIMUM = 32
NAMES_MAXIMUM = 1000
VALUES_MAXIMUM = 10_000
"""Values of a body in all: texts, numbers, and the objects and lists that hold them.

The largest valid request, an order of 200 lines, has about 3,000. Each value can cost one validation error of Pydantic,
which is what this number is chosen for: 10,000 errors take 35 ms.
"""
INTEGER_LIMIT = 2**63
BODY = "body"
"""The field that faults of the body as a whole are reported under."""

# Possessive, and never from the middle of a number: a run of digits is read once.
_FRACTION = re.compile(rb"(?<![0-9])-?[0-9]++[.eE][0-9.eE+-]*")


def parse_object(body: bytes) -> JsonObject:
    """Return the JSON object in `body`.

    Raises:
        InvalidInputError: no JSON, no object, or something in it that cannot be kept as it is.
    """
    outside = _outside_of_strings(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        # The position helps; the text around it is the caller's and stays out of the answer.
        raise InvalidInputError((BODY, f"is not valid JSON: {fault}")) from None
    if not isinstance(value, dict):
        raise InvalidInputError((BODY, "must be a JSON object"))
    # A colon follows each name that was given, and nothing else.
    if outside.count(b":") != _refuse_unstorable(value):
        raise InvalidInputError((BODY, "gives a name twice"))
    if _any_loses_digits(_FRACTION.findall(outside)):
        raise InvalidInputError((BODY, "has a number with more digits than can be kept"))
    return value


def _outside_of_strings(body: bytes) -> bytes:
    """Return what a document has besides strings and white space: punctuation, numbers and words.

    Exact for valid JSON; of anything else the parser makes a refusal. Each step is one pass in C.

    Raises:
        InvalidInputError: more than `VALUES_MAXIMUM` values.
    """
    # Without escapes, every second quote ends a string. A run of backslashes is read in pairs, from its start.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    # A string is a value or the name of one.
    if plain.count(b'"') > 4 * VALUES_MAXIMUM:
        raise _too_many_values()
    outside = b"".join(plain.split(b'"')[::2]).translate(None, b" \t\r\n")
    # A container has one value more than commas, or none.
    containers = outside.count(b"[") + outside.count(b"{") - outside.count(b"[]") - outside.count(b"{}")
    if 1 + containers + outside.count(b",") > VALUES_MAXIMUM:
        raise _too_many_values()
    return outside


def _any_loses_digits(numbers: list[bytes]) -> bool:
    """Return whether a number with a fraction or an exponent would read back as another one: a double has 17 digits.

    The double that is nearest to a number has its magnitude, so equal digits mean equal numbers. What is too small for a
    double becomes zero, which has no digits. orjson writes 10,000 doubles in the time that `repr` takes for 500.
    """
    if not numbers:
        return False
    nearest = orjson.dumps(orjson.loads(b"[%b]" % b",".join(numbers)))[1:-1].split(b",")
    return any(_significant(number) != _significant(read) for number, read in zip(numbers, nearest, strict=True))


def _significant(number: bytes) -> bytes:
    """Return the digits of a number without leading and trailing zeros."""
    return number.lower().partition(b"e")[0].replace(b".", b"").lstrip(b"-0").rstrip(b"0")


def _too_many_values() -> InvalidInputError:
    return InvalidInputError((BODY, f"has more than {VALUES_MAXIMUM} values"))


class _Container(NamedTuple):
    """An object or a list, and where it is: by reference, for a path copied for each would be quadratic."""

    parent: "_Container | None"
    name: str | int
    members: Any

    def field(self, *below: str | int) -> str:
        """Return the path of this container, or of what is below it, fit for an answer."""
        path: list[str | int] = list(reversed(below))
        container = self
        while container.parent is not None:
            path.append(container.name)
            container = container.parent
        return printable(".".join(str(name) for name in reversed(path))) or BODY


def _refuse_unstorable(document: dict[str, Any]) -> int:
    """Walk the document without recursion; return how many names its objects have.

    Raises:
        InvalidInputError: what cannot be kept, and where.
    """
    names = 0
    level = [_Container(None, "", document)]
    for _ in range(DEPTH_MAXIMUM):
        below: list[_Container] = []
        for container in level:
            if type(container.members) is dict:
                names += len(container.members)
                _check_names(container)
                members: Any = container.members.items()
            else:
                members = enumerate(container.members)
            for name, member in members:
                kind = type(member)
                if kind is str:
                    if "\0" in member:
                        raise InvalidInputError((container.field(name), "must not contain NUL characters"))
                elif kind is dict or kind is list:
                    below.append(_Container(container, name, member))
                # orjson turns a longer integer into a float; -2^63 itself, as a float, may have been one.
                elif (kind is int and not -INTEGER_LIMIT <= member < INTEGER_LIMIT) or (
                    kind is float and not -INTEGER_LIMIT < member < INTEGER_LIMIT
                ):
                    raise InvalidInputError((container.field(name), "must be a number within 64 bits"))
        if not below:
            return names
        level = below
    raise InvalidInputError((BODY, f"is nested deeper than {DEPTH_MAXIMUM} levels"))


def _check_names(container: _Container) -> None:
    if len(container.members) > NAMES_MAXIMUM:
        raise InvalidInputError((container.field(), f"has more than {NAMES_MAXIMUM} names"))
    for name in container.members:
        if "\0" in name:
            raise InvalidInputError((container.field(name), "must not have a NUL character in its name"))


def printable(text: str, maximum: int = 100) -> str:
    """Return text from a caller, fit for an answer or a log: short, and nothing in it that steers a screen."""
    cut = text if len(text) <= maximum else f"{text[: maximum - 1]}…"
    return "".join(character if character.isprintable() else "�" for character in cut)
