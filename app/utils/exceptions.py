"""The errors a caller can meet, each named for the fact and carrying its HTTP status.

    AppError
    ├── NotFoundError                 404 NOT_FOUND
    │   ├── OrderNotFoundError        404 ORDER_NOT_FOUND
    │   └── ReturnNotFoundError       404 RETURN_NOT_FOUND
    ├── InvalidStateTransitionError   409 INVALID_STATE_TRANSITION
    ├── ReturnNotAllowedError         400 RETURN_NOT_ALLOWED
    ├── ReturnAlreadyExistsError      409 RETURN_ALREADY_EXISTS
    ├── RecordTamperedError           409 RECORD_TAMPERED
    ├── VersionConflictError          412 VERSION_CONFLICT
    ├── IdempotencyKeyInUseError      409 IDEMPOTENCY_KEY_IN_USE
    ├── IdempotencyKeyReusedError     422 IDEMPOTENCY_KEY_REUSED
    ├── AttachmentNotAllowedError     409 ATTACHMENT_NOT_ALLOWED
    ├── CorrectionNotAllowedError     409 CORRECTION_NOT_ALLOWED
    ├── LinkExpiredError              403 LINK_EXPIRED
    ├── InvalidInputError             422 VALIDATION_ERROR
    ├── UnauthenticatedError          401 UNAUTHENTICATED
    ├── ForbiddenError                403 FORBIDDEN
    ├── RateLimitedError              429 RATE_LIMITED
    ├── PayloadTooLargeError          413 PAYLOAD_TOO_LARGE
    ├── UnsupportedMediaTypeError     415 UNSUPPORTED_MEDIA_TYPE
    └── ServiceUnavailableError       503 SERVICE_UNAVAILABLE

They meet HTTP in one handler, `app.api.http.errors`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID


class AppError(Exception):
    """A refusal with a stable code.

    Attributes:
        code: stable identifier that clients branch on.
        status: HTTP status.
        message: one sentence for a person.
        details: facts for a program; an object, or a list of faults for VALIDATION_ERROR.
        headers: extra response headers.
    """

    code = "INTERNAL_ERROR"
    status = 500

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details if details is not None else {}
        self.headers = headers or {}


class NotFoundError(AppError):
    """Nothing there, or nothing that this caller may see: both give the same answer, so that existence is not disclosed."""

    code = "NOT_FOUND"
    status = 404


class OrderNotFoundError(NotFoundError):
    """No such order for this caller."""

    code = "ORDER_NOT_FOUND"

    def __init__(self, order_id: UUID | str) -> None:
        super().__init__(f"Order {order_id} was not found.", {"order_id": str(order_id)})


class ReturnNotFoundError(NotFoundError):
    """No such return for this caller."""

    code = "RETURN_NOT_FOUND"

    def __init__(self, return_id: UUID | str) -> None:
        super().__init__(f"Return {return_id} was not found.", {"return_id": str(return_id)})


class InvalidStateTransitionError(AppError):
    """The transition table does not allow it (REQ-001, REQ-002)."""

    code = "INVALID_STATE_TRANSITION"
    status = 409

    def __init__(self, current_state: str, requested_state: str, allowed_transitions: Iterable[str]) -> None:
        allowed = list(allowed_transitions)
        self.current_state = current_state
        self.requested_state = requested_state
        self.allowed_transitions = allowed
        hint = f"allowed from here: {', '.join(allowed)}" if allowed else f"{current_state} is final"
        super().__init__(
            f"Cannot go from {current_state} to {requested_state}; {hint}.",
            {
                "current_state": current_state,
                "requested_state": requested_state,
                "allowed_transitions": allowed,
            },
        )


class ReturnNotAllowedError(AppError):
    """The order cannot be returned: `reason` says why, e.g. NOT_DELIVERED or WINDOW_CLOSED (REQ-002)."""

    code = "RETURN_NOT_ALLOWED"
    status = 400

    def __init__(self, reason: str, message: str, **facts: Any) -> None:
        super().__init__(message, {"reason": reason, **facts})


class ReturnAlreadyExistsError(AppError):
    """An order has at most one open return: one that is neither REJECTED nor COMPLETED (REQ-002)."""

    code = "RETURN_ALREADY_EXISTS"
    status = 409

    def __init__(
        self, order_id: UUID | str, return_id: UUID | str | None = None, return_number: str | None = None
    ) -> None:
        details = {"order_id": str(order_id)}
        if return_id is not None and return_number is not None:
            details |= {"return_id": str(return_id), "return_number": return_number}
        super().__init__(f"Order {order_id} already has an open return.", details)


class AttachmentNotAllowedError(AppError):
    """The return takes no more files: `reason` says why, TOO_MANY or RETURN_CLOSED (REQ-002)."""

    code = "ATTACHMENT_NOT_ALLOWED"
    status = 409

    def __init__(self, reason: str, message: str, **facts: Any) -> None:
        super().__init__(message, {"reason": reason, **facts})


class CorrectionNotAllowedError(AppError):
    """The order is in a state in which this field can no longer be corrected, or not before a later state (REQ-001)."""

    code = "CORRECTION_NOT_ALLOWED"
    status = 409

    def __init__(self, field: str, current_state: str, allowed_states: Iterable[str]) -> None:
        states = list(allowed_states)
        super().__init__(
            f"{field} can be corrected while the order is {', '.join(states)}; it is {current_state}.",
            {"field": field, "current_state": current_state, "allowed_states": states},
        )


class LinkExpiredError(AppError):
    """A signed link that worked until `expired_at`; a caller who may see the record gets a new one there (INT-004)."""

    code = "LINK_EXPIRED"
    status = 403

    def __init__(self, expired_at: datetime) -> None:
        super().__init__("This link has expired.", {"expired_at": f"{expired_at:%Y-%m-%dT%H:%M:%SZ}"})


class RecordTamperedError(AppError):
    """A record was changed outside the application: what should come next is there already.

    Attributes:
        entity_type: of what was changed, as `EntityType` has it.
        entity_id: its id.
        number: the number in its history or among its events that is taken; None when it is not known.
        constraint: the database's rule that found it.
    """

    code = "RECORD_TAMPERED"
    status = 409
    retryable = False

    def __init__(self, entity_type: str, entity_id: UUID, number: int | None, constraint: str) -> None:
        self.entity_type = entity_type
        self.entity_id = entity_id
        self.number = number
        self.constraint = constraint
        super().__init__(
            f"The record of {entity_type.lower()} {entity_id} was changed outside the application. Nothing was done; a"
            " person has to put it right first.",
            {"entity_type": entity_type, "entity_id": str(entity_id)},
        )


class VersionConflictError(AppError):
    """What the caller wants to change is no longer as they saw it (`If-Match`)."""

    code = "VERSION_CONFLICT"
    status = 412

    def __init__(self, current_version: int, given: str) -> None:
        super().__init__(
            f"The current version is {current_version}; read it again and decide anew.",
            {"current_version": current_version, "given": given},
        )


class IdempotencyKeyInUseError(AppError):
    """The first request with this Idempotency-Key is still being answered."""

    code = "IDEMPOTENCY_KEY_IN_USE"
    status = 409

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still at work; try again in a moment.",
            headers={"Retry-After": "1"},
        )


class IdempotencyKeyReusedError(AppError):
    """This Idempotency-Key belongs to another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request; take a new one.")


class InvalidInputError(AppError):
    """The input is well-formed JSON, but cannot be accepted; one entry per field.

    Attributes:
        faults: (field, message) of each.
    """

    code = "VALIDATION_ERROR"
    status = 422

    def __init__(self, *faults: tuple[str, str]) -> None:
        self.faults = faults
        super().__init__(
            "The request is not valid.", [{"field": field, "message": message} for field, message in faults]
        )


class UnauthenticatedError(AppError):
    """No credentials, or none that hold."""

    code = "UNAUTHENTICATED"
    status = 401

    def __init__(self, message: str = "A valid API key or bearer token is required.") -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Bearer realm="articurated"'})


class ForbiddenError(AppError):
    """The caller is known and may not do this."""

    code = "FORBIDDEN"
    status = 403


class RateLimitedError(AppError):
    """Too many requests; `Retry-After` says when the next one passes."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, limit: int, window_seconds: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"At most {limit} requests in {window_seconds} seconds; try again in {retry_after_seconds}.",
            {"limit": limit, "window_seconds": window_seconds, "retry_after_seconds": retry_after_seconds},
            {"Retry-After": str(retry_after_seconds)},
        )


class PayloadTooLargeError(AppError):
    """The body is larger than the service reads."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class RequestTimeoutError(AppError):
    """The caller took too long to send its request."""

    code = "REQUEST_TIMEOUT"
    status = 408

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Connection": "close"})


class UnsupportedMediaTypeError(AppError):
    """The body is not in a format this endpoint reads."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class ServiceUnavailableError(AppError):
    """A part that this request cannot do without is away; try again later."""

    code = "SERVICE_UNAVAILABLE"
    status = 503
