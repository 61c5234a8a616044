"""Answers: ready JSON for what went well, and the one error shape for what did not.

A handler answers ready JSON. The response models document what services give and are checked against real
answers in the tests: validating every answer again at run time would cost more than the work itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import Response

_OPTIONS = orjson.OPT_UTC_Z
# Services return amounts as Decimal, the one type of theirs that orjson does not know. A float has the same digits for all
# that NUMERIC(12,2) holds. The built-in is called from C; a function of our own would add a tenth to a list of orders.
_AMOUNT = float
JSON = "application/json"
KEPT_BY_THE_CALLER = "private, no-cache"


class Answer(Response):
    """A JSON answer that still knows what it says, for callers who want only some of it (`fields=`).

    Attributes:
        content: what it says.
        etag: the entity tag of a resource that has versions.
    """

    def __init__(
        self, content: Mapping[str, Any], status: int, headers: Mapping[str, str] | None, etag: str | None = None
    ) -> None:
        self.content = content
        self.etag = etag
        self._given = headers
        super().__init__(orjson.dumps(content, default=_AMOUNT, option=_OPTIONS), status, headers, JSON)

    def saying(self, content: Mapping[str, Any]) -> "Answer":
        """Return the same answer with other content."""
        return Answer(content, self.status_code, self._given, self.etag)


def answer(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return `content` as JSON; times are aware, in UTC, and end in Z."""
    return Answer(content, status, headers)


def resource(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a resource that has a `version`: it is the entity tag, under which the caller may keep a copy.

    `no-cache`: a copy is shown only after asking here whether it is still valid.
    """
    etag = f'"{content["version"]}"'
    return Answer(content, status, {**(headers or {}), "ETag": etag, "Cache-Control": KEPT_BY_THE_CALLER}, etag)


def refusal(
    *,
    code: str,
    status: int,
    message: str,
    details: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the one error: `{"error": {"code", "message", "details", "request_id"}}`."""
    body = {"error": {"code": code, "message": message, "details": details, "request_id": request_id}}
    return Response(orjson.dumps(body, default=str, option=_OPTIONS), status, headers, JSON)


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What the document says of an error code, with an example."""

    status: int
    message: str
    details: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)


_ID = "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60"

ERROR_KINDS: Mapping[str, ErrorKind] = {
    "INVALID_STATE_TRANSITION": ErrorKind(
        409,
        "Cannot go from SHIPPED to CANCELLED; allowed from here: DELIVERED.",
        {"current_state": "SHIPPED", "requested_state": "CANCELLED", "allowed_transitions": ["DELIVERED"]},
    ),
    "RETURN_NOT_ALLOWED": ErrorKind(
        400, "An order can be returned once it is delivered.", {"reason": "NOT_DELIVERED", "status": "SHIPPED"}
    ),
    "RETURN_ALREADY_EXISTS": ErrorKind(
        409,
        f"Order {_ID} already has an open return.",
        {"order_id": _ID, "return_id": "0190b6c1-1d2e-7f30-8a41-52637485a6b7", "return_number": "RET-2026-000042"},
    ),
    "RECORD_TAMPERED": ErrorKind(
        409,
        f"The record of order {_ID} was changed outside the application. Nothing was done; a person has to put it right"
        " first.",
        {"entity_type": "ORDER", "entity_id": _ID},
    ),
    "ORDER_NOT_FOUND": ErrorKind(404, f"Order {_ID} was not found.", {"order_id": _ID}),
    "RETURN_NOT_FOUND": ErrorKind(404, f"Return {_ID} was not found.", {"return_id": _ID}),
    "NOT_FOUND": ErrorKind(404, "There is nothing at this address."),
    "ATTACHMENT_NOT_ALLOWED": ErrorKind(
        409,
        f"Return {_ID} has 10 attachments; it takes no more.",
        {"reason": "TOO_MANY", "return_id": _ID, "maximum": 10},
    ),
    "CORRECTION_NOT_ALLOWED": ErrorKind(
        409,
        "tracking_number can be corrected while the order is SHIPPED; it is DELIVERED.",
        {"field": "tracking_number", "current_state": "DELIVERED", "allowed_states": ["SHIPPED"]},
    ),
    "LINK_EXPIRED": ErrorKind(403, "This link has expired.", {"expired_at": "2026-11-23T10:15:00Z"}),
    "VERSION_CONFLICT": ErrorKind(
        412,
        "The current version is 3; read it again and decide anew.",
        {"current_version": 3, "given": '"2"'},
    ),
    "IDEMPOTENCY_KEY_IN_USE": ErrorKind(
        409, "A request with this Idempotency-Key is still at work; try again in a moment."
    ),
    "IDEMPOTENCY_KEY_REUSED": ErrorKind(422, "This Idempotency-Key was used for another request; take a new one."),
    "VALIDATION_ERROR": ErrorKind(
        422,
        "The request is not valid.",
        [{"field": "line_items.0.quantity", "message": "Input should be greater than or equal to 1"}],
    ),
    "UNAUTHENTICATED": ErrorKind(401, "A valid API key or bearer token is required."),
    "FORBIDDEN": ErrorKind(
        403, "The role warehouse may not do this.", {"role": "warehouse", "needed": ["admin", "manager"]}
    ),
    "RATE_LIMITED": ErrorKind(
        429,
        "At most 100 requests in 60 seconds; try again in 17.",
        {"limit": 100, "window_seconds": 60, "retry_after_seconds": 17},
    ),
    "METHOD_NOT_ALLOWED": ErrorKind(405, "This address does not take that method.", {"allowed": ["GET", "HEAD"]}),
    "BAD_REQUEST": ErrorKind(400, "This is not a valid HTTP request."),
    "REQUEST_TIMEOUT": ErrorKind(408, "The request did not arrive in time."),
    "MISDIRECTED_REQUEST": ErrorKind(
        421,
        "This service is not known by the name in the Host header; ALLOWED_HOSTS lists its names.",
        {"host": "shop.example"},
    ),
    "HEADERS_TOO_LARGE": ErrorKind(431, "The request line and headers have more than 32768 bytes."),
    "PAYLOAD_TOO_LARGE": ErrorKind(413, "The body may have at most 1048576 bytes.", {"max_bytes": 1_048_576}),
    "UNSUPPORTED_MEDIA_TYPE": ErrorKind(
        415,
        "The body must be JSON: Content-Type application/json, no Content-Encoding.",
        {"expected": "application/json"},
    ),
    "SERVICE_UNAVAILABLE": ErrorKind(503, "The service cannot answer right now; try again in a moment."),
    "INTERNAL_ERROR": ErrorKind(500, "Something went wrong on our side. The request id finds it in our logs."),
}
"""Every error code with an example. A test compares it with `app.utils.exceptions` and with the contract."""


def error_examples() -> dict[str, Any]:
    """Return the document's `components.examples`: one for every error code."""
    return {
        code: {
            "value": {
                "error": {"code": code, "message": kind.message, "details": kind.details, "request_id": "5f0c2a7e9b1d"}
            }
        }
        for code, kind in ERROR_KINDS.items()
    }


def refuses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route that answers these error codes, with an example for each."""
    documented: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = ERROR_KINDS[code]
        response = documented.setdefault(
            kind.status,
            {
                "description": code,
                "content": {JSON: {"schema": {"$ref": "#/components/schemas/ErrorResponse"}, "examples": {}}},
            },
        )
        examples = response["content"][JSON]["examples"]
        examples[code] = {"$ref": f"#/components/examples/{code}"}
        response["description"] = " · ".join(examples)
    return documented
