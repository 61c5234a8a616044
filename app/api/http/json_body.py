"""Reading request bodies within their bounds; JSON strictly, as `app.utils.strict_json` says (REQ-005, NFR-004)."""

import re
from typing import Any

from fastapi import Request

from app.api.http.incoming import REQUESTS
from app.request_state import state_of
from app.utils.budget import Budget
from app.utils.exceptions import InvalidInputError, PayloadTooLargeError, UnsupportedMediaTypeError
from app.utils.json_values import JsonObject
from app.utils.strict_json import BODY, parse_object

_MEDIA_TYPE = re.compile(r' *application/json *(?:; *charset *= *"?utf-8"? *)?', re.IGNORECASE | re.ASCII)


class StrictRequest(Request):
    """A request whose body is read up to a limit and parsed strictly, once."""

    def __init__(self, request: Request, limit: int) -> None:
        super().__init__(request.scope, request.receive)
        self._limit = limit
        self._bytes: bytes | None = None
        self._object: JsonObject | None = None

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
            self._object = dict(parse_object(await self.body()))
        return self._object


async def read_body(request: Request, limit: int, budget: Budget = REQUESTS) -> bytes:
    """Return the body, of at most `limit` bytes; a longer one is not read to its end, let alone parsed.

    Args:
        limit: bytes it may have.
        budget: what it is held in until the request is answered.

    Raises:
        PayloadTooLargeError: it is longer, by its header or, where that is missing, by what arrives.
        ServiceUnavailableError: the bodies that arrive at this moment have used up the budget, or the caller's part of it.
    """
    state = state_of(request.scope)
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
        state.hold(budget, len(chunk), limit)
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
