"""The one error shape of the gateway: `{"error": {"type", "code", "message", …}}`."""

from typing import Any, Literal

ErrorType = Literal["card_error", "invalid_request_error", "idempotency_error", "api_error", "rate_limit_error"]


class RefusalError(Exception):
    """A request that is answered with an error; nothing was written for it.

    Attributes:
        status: HTTP status.
        body: the complete error body.
    """

    def __init__(self, status: int, error_type: ErrorType, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(error_type, code, message, **facts)


def error_body(error_type: ErrorType, code: str, message: str, **facts: Any) -> dict[str, Any]:
    """Return an error body; `facts` are further fields beside type, code and message."""
    return {"error": {"type": error_type, "code": code, "message": message, **facts}}


def invalid(code: str, message: str, *, status: int = 400, **facts: Any) -> RefusalError:
    """Return the refusal of a request that is wrong in itself."""
    return RefusalError(status, "invalid_request_error", code, message, **facts)
