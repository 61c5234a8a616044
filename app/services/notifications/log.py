"""The log of messages: what was sent to whom, and whether it arrived (REQ-006)."""

from sqlalchemy import select

from app.core.actor import Actor
from app.database import Database
from app.models.notification import Notification
from app.schemas.notification import NotificationQuery
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.notifications.views import SHOWN, NotificationView, notification_view
from app.services.paging import Page


class NotificationLog:
    """Messages of every channel."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, query: NotificationQuery, actor: Actor) -> Page[NotificationView]:
        """Return a page of messages, newest first, with their recipients in full: staff sees the order's address too.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_NOTIFICATIONS)
        columns = Notification.__table__.c
        filters = pages.given(
            (query.order_id, columns.order_id.__eq__),
            (query.entity_id, columns.entity_id.__eq__),
            (query.state or None, columns.state.in_),
            (query.channel or None, columns.channel.in_),
            (query.template, columns.template.__eq__),
        )
        return await self._database.reading(
            lambda connection: pages.fetch_page(
                connection,
                select(*SHOWN).where(*filters),
                (columns.created_at, columns.id),
                query,
                notification_view,
                newest_first=True,
            )
        )
