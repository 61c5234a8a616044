"""Strict reading of request bodies: JSON that can be stored as it was sent, or a 4xx (contract section 6).

orjson refuses what JSON does not have (NaN, infinities, numbers beyond a double, lone surrogates, bad
UTF-8). The rest of this module refuses what PostgreSQL, or the next reader, could not take: NUL characters,
integers that would lose digits, names given twice, objects of thousands of names, and nesting that would
exhaust someone's stack.
"""

import re
from typing import Any

import orjson
from fastapi import Request

from app.utils.exceptions import InvalidInputError, PayloadTooLargeError, UnsupportedMediaTypeError

DEPTH_MAXIMUM = 32
NAMES_MAXIMUM = 1000
INTEGER_LIMIT = 2**63
BODY = "body"
"""The field that faults of the body as a whole are reported under."""

# Every string of a document, and whether a colon follows; valid JSON has no quote outside of a string.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(?:[ \t\r\n]*+(:))?', re.DOTALL)
_MEDIA_TYPE = re.compile(r' *application/json *(?:; *charset *= *"?utf-8"? *)?', re.IGNORECASE | re.ASCII)


class StrictRequest(Request):
    """A request whose body is read up to a limit and parsed strictly, once."""

    def __init__(self, request: Request, limit: int) -> None:
        super().__init__(request.scope, request.receive)
        self._limit = limit
        self._bytes: bytes | None = None
        self._object: dict[str, Any] | None = None

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            PayloadTooLargeError: it is longer than the limit.
        """
        if self._bytes is None:
            self._bytes = await read_body(self, self._limit)
        return self._bytes

    async def json(self) -> Any:
        """Return the body as an object.

        Raises:
            InvalidInputError: it is not one, or holds what cannot be stored.
        """
        if self._object is None:
            self._object = parse_object(await self.body())
        return self._object


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes; a longer one is not read to its end, let alone parsed.

    Raises:
        PayloadTooLargeError: it is longer, by its header or, where that is missing, by what arrives.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidInputError((BODY, "ended too early"))
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body may have at most {limit} bytes.", {"max_bytes": limit})


def require_json(request: Request) -> None:
    """Let a body pass that says it is JSON in UTF-8, unpacked.

    Raises:
        UnsupportedMediaTypeError: it says something else, or nothing.
    """
    media_type = request.headers.get("content-type", "")
    if _MEDIA_TYPE.fullmatch(media_type) is None or "content-encoding" in request.headers:
        raise UnsupportedMediaTypeError(
            "The body must be JSON: Content-Type application/json, no Content-Encoding.",
            {"expected": "application/json"},
        )


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        InvalidInputError: no JSON, no object, or something in it that cannot be kept as it is.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        # The position helps; the text around it is the caller's and stays out of the answer.
        raise InvalidInputError((BODY, f"is not valid JSON: {fault}")) from None
    if not isinstance(value, dict):
        raise InvalidInputError((BODY, "must be a JSON object"))
    names = _refuse_unstorable(value)
    if names != sum(1 for colon in _STRINGS.findall(body) if colon):
        raise InvalidInputError((BODY, "gives a name twice"))
    return value


def _refuse_unstorable(document: dict[str, Any]) -> int:
    """Walk the document without recursion; return how many names its objects have.

    Raises:
        InvalidInputError: what cannot be kept, and where.
    """
    names = 0
    level: list[tuple[str, Any]] = [("", document)]
    for _ in range(DEPTH_MAXIMUM):
        below: list[tuple[str, Any]] = []
        for path, container in level:
            if type(container) is dict:
                names += len(container)
                _check_names(path, container)
                members: Any = container.items()
            else:
                members = enumerate(container)
            for name, member in members:
                kind = type(member)
                if kind is str:
                    if "\0" in member:
                        raise InvalidInputError((_field(path, name), "must not contain NUL characters"))
                elif kind is dict or kind is list:
                    below.append((f"{path}{name}.", member))
                # orjson turns a longer integer into a float; -2^63 itself, as a float, may have been one.
                elif (kind is int and not -INTEGER_LIMIT <= member < INTEGER_LIMIT) or (
                    kind is float and not -INTEGER_LIMIT < member < INTEGER_LIMIT
                ):
                    raise InvalidInputError((_field(path, name), "must be a number within 64 bits"))
        if not below:
            return names
        level = below
    raise InvalidInputError((BODY, f"is nested deeper than {DEPTH_MAXIMUM} levels"))


def _check_names(path: str, container: dict[str, Any]) -> None:
    if len(container) > NAMES_MAXIMUM:
        raise InvalidInputError((printable(path[:-1]) or BODY, f"has more than {NAMES_MAXIMUM} names"))
    for name in container:
        if "\0" in name:
            raise InvalidInputError((_field(path, name), "must not have a NUL character in its name"))


def _field(path: str, name: str | int) -> str:
    return printable(f"{path}{name}")


def printable(text: str, maximum: int = 100) -> str:
    """Return text from a caller, fit for an answer or a log: short, and nothing in it that steers a screen."""
    cut = text if len(text) <= maximum else f"{text[: maximum - 1]}…"
    return "".join(character if character.isprintable() else "�" for character in cut)
