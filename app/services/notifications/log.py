"""The log of messages: what was sent to whom, and whether it arrived (REQ-006)."""

from sqlalchemy import select

from app.core.actor import Actor
from app.core.enums import Channel, NotificationState
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
            (query.template, columns.template.__eq__),
        )
        is_of_one = query.order_id is not None or query.entity_id is not None
        is_any = is_of_one or not (query.state or query.channel or query.template)
        # The indexes begin with template, channel and state; where one of these is not given, each value is read.
        one_of: list[pages.OneOf] = [
            (columns.channel, query.channel or ([] if is_any else list(Channel))),
            (columns.state, query.state or ([] if is_any else list(NotificationState))),
        ]
        return await self._database.reading(
            lambda connection: pages.fetch_page(
                connection,
                select(*SHOWN).where(*filters),
                (columns.created_at, columns.id),
                query,
                notification_view,
                newest_first=True,
                one_of=[(column, values) for column, values in one_of if values],
            )
        )
