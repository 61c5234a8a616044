"""Conditional requests: `If-Match` and `If-None-Match` with the version as the entity tag (RFC 9110, section 13)."""

import re

from fastapi import Request, Response
from starlette.types import Scope

from app.api.http.responses import KEPT_BY_THE_CALLER, Answer
from app.core.precondition import Precondition
from app.utils.exceptions import InvalidInputError

TEXT_MAXIMUM = 1000

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_TAGS = re.compile(rf"{_TAG.pattern}(?:[ \t]*,[ \t]*{_TAG.pattern})*")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")

IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that the caller has seen, or a list of them, or `*`: if the version has changed since,"
    " nothing changes and the answer is 412.",
    "schema": {
        "type": "string",
        "maxLength": TEXT_MAXIMUM,
        "pattern": r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$',
    },
    "example": '"3"',
}
"""For the document, on operations that call `if_match`."""
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of the caller's own copy, or a list of them, or `*`: 304 if it still holds.",
    "schema": {"type": "string"},
    "example": '"3"',
}
ETAG_HEADER = {"description": "The version, as an entity tag.", "schema": {"type": "string"}, "example": '"3"'}
NOT_MODIFIED = {"description": "The caller's own copy still holds.", "headers": {"ETag": ETAG_HEADER}}


def if_match(request: Request) -> Precondition | None:
    """Return which versions the caller is willing to change; None for any.

    Raises:
        InvalidInputError: an `If-Match` that is not `*` or a list of entity tags.
    """
    text = _text_of(request.scope, b"if-match")
    if text is None or text == "*":
        return None
    if len(text) > TEXT_MAXIMUM or not _TAGS.fullmatch(text):
        raise InvalidInputError(("If-Match", 'must be * or a list of entity tags, such as "3"'))
    # Compared strongly: a weak tag matches nothing, and neither does one that we never gave.
    strong = (tag for weak, tag in _TAG.findall(text) if not weak)
    return Precondition(tuple(int(tag) for tag in strong if _VERSION.fullmatch(tag)), text)


def unless_known(scope: Scope, answer: Answer) -> Response:
    """Return the answer, or to a GET 304 when `If-None-Match` names its entity tag, compared weakly.

    What is no list of tags is passed over: the caller gets the whole answer.
    """
    if answer.etag is None or scope["method"] != "GET":
        return answer
    text = _text_of(scope, b"if-none-match")
    if text is None:
        return answer
    known = {f'"{tag}"' for _, tag in _TAG.findall(text)} if _TAGS.fullmatch(text) else set()
    if text != "*" and answer.etag not in known:
        return answer
    return Response(status_code=304, headers={"ETag": answer.etag, "Cache-Control": KEPT_BY_THE_CALLER})


def _text_of(scope: Scope, header: bytes) -> str | None:
    found = [value for name, value in scope["headers"] if name == header]
    return b", ".join(found).decode("latin-1").strip(" \t") if found else None
