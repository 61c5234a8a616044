"""Messages and their delivery (REQ-006)."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.responses import answer, refuses
from app.api.routes import ApiRoute
from app.schemas.notification import NotificationList, NotificationQuery

router = APIRouter(prefix="/api/v1/notifications", tags=["Operations"], route_class=ApiRoute)


@router.get(
    "", response_model=NotificationList, responses=refuses("FORBIDDEN"), summary="List messages and their delivery"
)
async def list_notifications(query: Annotated[NotificationQuery, Query()], context: Context) -> Response:
    """Newest first: mail, SMS and chat. SENT says that the mail server or webhook took it, not that it was read."""
    return answer(await context.services.notifications.list(query, context.actor))
