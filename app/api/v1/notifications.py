"""Messages and their delivery (REQ-006)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.schemas.notification import (
    NotificationList,
    NotificationQuery,
    NotificationResend,
    NotificationResponse,
)

router = APIRouter(prefix="/api/v1/notifications", tags=["Operations"], route_class=ApiRoute)


@router.get(
    "", response_model=NotificationList, responses=refuses("FORBIDDEN"), summary="List messages and their delivery"
)
async def list_notifications(query: Annotated[NotificationQuery, Query()], context: Context) -> Response:
    """Newest first: mail, SMS and chat. SENT says that the mail server or webhook took it, not that it was read."""
    return answer(await context.services.notification_log.list(query, context.actor))


@router.post(
    "/{notification_id}/resend",
    status_code=201,
    response_model=NotificationResponse,
    responses=refuses("FORBIDDEN", "NOT_FOUND", "INVALID_STATE_TRANSITION"),
    summary="Send a message again",
)
async def resend(
    notification_id: UUID, context: Context, data: Annotated[NotificationResend | None, Body()] = None
) -> Response:
    """Send a message again as a new one, to the same recipient or to a corrected one. The body may be left out.

    Not while it is still being sent. The new message is made of the facts as they are now, and counts towards no limit.
    """
    to = data.to if data is not None else None
    return answer(await context.services.message_resend.resend(notification_id, to, context.actor), 201)
