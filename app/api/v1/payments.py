"""What the payment gateway reports (INT-001)."""

from fastapi import APIRouter, Request, Response

from app.api.deps import ProcessServices
from app.api.http.incoming import WEBHOOKS
from app.api.http.json_body import read_body
from app.api.http.responses import answer, refuses
from app.api.http.routing import WebhookRoute
from app.schemas.operations import WEBHOOK_BODY, WebhookReceipt

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
    # Anyone may call this: without a signature that could hold, no byte of the body is waited for.
    claimed = services.webhooks.claimed(request.headers)
    body = await read_body(request, services.webhooks.limit, WEBHOOKS)
    event = services.webhooks.proven(claimed, body)
    return answer({"outcome": await services.payments.receive_webhook(event)})
