"""`Idempotency-Key` at the edge: reading it, and what makes two requests the same one (IETF draft-07)."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Response
from starlette.types import Scope

from app.api.http.errors import refused
from app.core import monitoring
from app.request_state import state_of
from app.services.access.idempotency import IdempotencyService, KeptAnswer, is_final
from app.utils.exceptions import AppError, InvalidInputError

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_HEADER = IDEMPOTENCY_KEY.lower().encode()
_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
# Around a header's value it is no part of it (RFC 9110, section 5.5), but the HTTP parser leaves it at the end.
_OPTIONAL_WHITE_SPACE = b" \t"
_CONTENT_LENGTH = "content-length"

PARAMETER: dict[str, Any] = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "description": "Any text of the caller's own, a new one for each new request, best a UUID. Sent again with the same"
    " key within 24 hours, the same request has no second effect: the first answer comes back, with"
    f" `{REPLAYED}: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!#-~]([ -~]*[!-~])?$"},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}
REPLAYED_HEADER: dict[str, Any] = {
    "description": f"`true` on an answer that was stored under its `{IDEMPOTENCY_KEY}` before.",
    "schema": {"type": "string", "const": "true"},
}


def key_of(scope: Scope) -> str | None:
    """Return the key of a request, if it has one; the quotes that the draft puts around it may be left out.

    Raises:
        InvalidInputError: the header is given twice, or is no key.
    """
    found = [value for name, value in scope["headers"] if name == _HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise InvalidInputError((IDEMPOTENCY_KEY, "is given twice"))
    key: bytes = found[0].strip(_OPTIONAL_WHITE_SPACE)
    if len(key) > 1 and key[:1] == key[-1:] == b'"':
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise InvalidInputError((IDEMPOTENCY_KEY, "must be 1 to 255 printable ASCII characters"))
    return key.decode("ascii")


def fingerprint_of(scope: Scope, query_string: bytes, essence: bytes) -> bytes:
    """Return the SHA-256 of what makes a request the same one.

    Args:
        query_string: as it came.
        essence: what the body says (`ApiRoute.essence`).
    """
    parts = [scope["method"].encode(), scope["path"].encode(), query_string]
    # Under another condition it is another request. And one principal may have another role today, or speak for
    # another customer: what is stored was for one who might ask.
    parts += [value for name, value in scope["headers"] if name == b"if-match"]
    actor = state_of(scope).caller
    parts += [str(actor.role).encode(), str(actor.sees_only).encode(), essence]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def stored_answer(service: IdempotencyService, scope: Scope, key: str, fingerprint: bytes) -> Response | None:
    """Return the answer that is stored under this key, None where there is none.

    Raises:
        IdempotencyKeyReusedError: the key belongs to another request.
    """
    kept = await service.stored(state_of(scope).principal_id, key, fingerprint)
    return None if kept is None else _replay(kept)


async def answer_once(
    service: IdempotencyService, scope: Scope, key: str, fingerprint: bytes, handle: Callable[[], Awaitable[Response]]
) -> Response:
    """Return the answer of `handle`, or the one that is stored under this key.

    Raises:
        AppError: as `IdempotencyService.once`; and refusals that are not to be stored.
    """

    async def work() -> KeptAnswer:
        try:
            response = await handle()
        except AppError as error:
            if not is_final(error.status, error.code):
                raise
            response = refused(scope, error)
        headers = {name: value for name, value in response.headers.items() if name != _CONTENT_LENGTH}
        return KeptAnswer(response.status_code, headers, bytes(response.body))

    kept, is_replay = await service.once(state_of(scope).principal_id, key, fingerprint, work)
    return _replay(kept) if is_replay else Response(kept.body, kept.status, kept.headers)


def _replay(kept: KeptAnswer) -> Response:
    monitoring.replayed()
    return Response(kept.body, kept.status, {**kept.headers, REPLAYED: "true"})
