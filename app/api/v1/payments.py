"""What the payment gateway reports (INT-001)."""

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.deps import ProcessServices
from app.api.http.incoming import WEBHOOKS
from app.api.http.json_body import parse_object, read_body
from app.api.http.responses import answer, refuses
from app.api.http.routing import WebhookRoute
from app.schemas.operations import WEBHOOK_BODY, WebhookReceipt
from app.services.payments.gateway.port import MOCK_HEADER
from app.services.payments.webhooks import (
    MAX_BODY_BYTES,
    WebhookSignatureError,
    signature_of,
    verify_webhook,
)
from app.utils.exceptions import InvalidInputError, UnauthenticatedError

router = APIRouter(prefix="/api/v1/payments", tags=["Payments"], route_class=WebhookRoute)

_HEADERS = [
    {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}
    for name, description in (
        ("webhook-id", "The event's id, the same at every delivery."),
        ("webhook-timestamp", "Seconds since 1970; at most five minutes from now."),
        ("webhook-signature", "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."),
    )
]


@router.post(
    "/webhook",
    response_model=WebhookReceipt,
    responses=refuses("UNAUTHENTICATED", "PAYLOAD_TOO_LARGE"),
    summary="Receive an event of the payment gateway",
    openapi_extra={
        "parameters": _HEADERS,
        "requestBody": {"required": True, "content": {"application/json": {"schema": WEBHOOK_BODY}}},
    },
)
async def webhook(request: Request, services: ProcessServices) -> Response:
    """Signed by the gateway, which is its only credential. A captured payment brings its order to PAID.

    Delivered at least once: an event seen before has no further effect and is answered 200 all the same. So is one
    that cannot be read or matched: it is kept, and where money is concerned it opens a case. Only the signature decides:
    the media type and a query string in the address make no difference.
    """
    settings = services.settings
    if settings.environment == "production" and MOCK_HEADER in request.headers:
        raise UnauthenticatedError("Production takes no events of a mock gateway.")
    secret = settings.payment_webhook_secret.get_secret_value()
    now, tolerance = services.clock(), timedelta(seconds=settings.payment_webhook_tolerance_seconds)
    try:
        # Anyone may call this: without a signature that could hold, no byte of the body is waited for.
        signature_of(request.headers, now, tolerance)
        # It covers the bytes as they came; nothing looks into them before it holds.
        body = await read_body(request, min(MAX_BODY_BYTES, settings.max_body_bytes), WEBHOOKS)
        event = verify_webhook(request.headers, body, secret, now, tolerance)
    except WebhookSignatureError as fault:
        raise UnauthenticatedError(str(fault)) from None
    return answer({"outcome": await services.payments.receive_webhook(event, _kept(body))})


def _kept(body: bytes) -> dict[str, Any]:
    """Return a proven body as it is kept: the JSON object, or the text of what is none that the database can store."""
    try:
        return parse_object(body)
    except InvalidInputError:
        return {"text": body.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")}
