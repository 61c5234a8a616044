"""Sending a message again: to the same recipient, or to a corrected one (REQ-006).

The message is a new row that names the one before, so what was delivered where stays on record. It is made out of the
facts as they are when it is sent, like every message that waited.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Channel, EntityType, NotificationState
from app.database import Database
from app.mail_address import mail_address, masked
from app.models.job import Job
from app.models.notification import Notification
from app.services import events
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.jobs import service as job_service
from app.services.notifications import rows as notification_rows
from app.services.notifications.kind import job_kind
from app.services.notifications.parts import E164
from app.services.notifications.rows import NewRow
from app.services.notifications.views import SHOWN, NotificationView, notification_view
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.email_sender import message_id_for
from app.utils.exceptions import InvalidInputError, InvalidStateTransitionError, NotFoundError

RESENT = "resent"
"""In the payload of a job that sends a message again: `{"notification_id", "recipient"}`."""

_ENDED = (
    NotificationState.SENT,
    NotificationState.REJECTED,
    NotificationState.FAILED,
    NotificationState.SUPPRESSED,
)


class MessageResend:
    """Repeats messages."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def resend(self, notification_id: UUID, to: str | None, actor: Actor) -> NotificationView:
        """Make a message due again, and return its new row.

        Args:
            to: a corrected mail address or telephone number (E.164); that of the first time when absent.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is no such message.
            InvalidStateTransitionError: it is still being sent.
            InvalidInputError: `to` is no address of the message's channel.
        """
        permissions.require(actor, Action.RESEND_MESSAGES)
        async with self._database.transaction() as session:
            # The row's lock: of two that ask at once, the second one's message is the one after the first's.
            earlier = await session.get(Notification, notification_id, with_for_update=True)
            if earlier is None:
                raise NotFoundError(
                    f"Notification {notification_id} was not found.", {"notification_id": str(notification_id)}
                )
            if earlier.state not in _ENDED:
                raise InvalidStateTransitionError(earlier.state, "RESENT", [])
            recipient = earlier.recipient if to is None else _recipient(Channel(earlier.channel), to)
            new = self._row(earlier, recipient, actor)
            await notification_rows.opened(session, new)
            job_id = await _make_due(session, earlier, new)
            facts = {
                "notification_id": str(new.id),
                "resend_of": str(earlier.id),
                "order_id": str(earlier.order_id) if earlier.order_id else None,
                "actor_id": str(actor.id) if actor.id else None,
                "operator": actor.operator,
                "trigger": str(actor.trigger),
                "former_recipient": masked(earlier.recipient),
                "recipient": masked(recipient),
            }
            await events.append(session, EntityType.JOB, job_id, 1, "job.resent", new.created_at, facts)
            return notification_view((await session.execute(select(*SHOWN).where(Notification.id == new.id))).one())

    def _row(self, earlier: Notification, recipient: str, actor: Actor) -> NewRow:
        now = self._clock()
        new_id = uuid7(now)
        message_id = str(new_id)
        if earlier.channel == Channel.EMAIL:
            message_id = message_id_for(message_id, self._settings.mail_from)
        return NewRow(
            id=new_id,
            source_key=_key(new_id),
            template=earlier.template,
            recipient=recipient,
            channel=Channel(earlier.channel),
            entity_id=earlier.entity_id,
            order_id=earlier.order_id,
            message_id=message_id,
            subject=earlier.subject,
            created_at=now,
            resend_of=earlier.id,
            requested_by=actor.id,
            requested_operator=actor.operator,
        )


def _key(notification_id: UUID) -> str:
    return f"resend:{notification_id}"


def _recipient(channel: Channel, to: str) -> str:
    if channel is Channel.EMAIL:
        try:
            return mail_address(to, is_public=False)
        except ValueError as fault:
            raise InvalidInputError(("to", str(fault))) from None
    if channel is Channel.SMS and E164.fullmatch(to):
        return to
    reason = "must be a telephone number such as +33612345678" if channel is Channel.SMS else "is for mail and SMS only"
    raise InvalidInputError(("to", reason))


async def _make_due(session: AsyncSession, earlier: Notification, new: NewRow) -> UUID:
    """Make the job of the new message due; return its id. What the first one was given is given again."""
    kind = job_kind(Channel(earlier.channel), earlier.template)
    keys = [earlier.source_key, f"{earlier.channel.lower()}:{earlier.source_key}"]
    given = select(Job.payload).where(Job.dedupe_key.in_(keys), Job.kind == kind)
    payload: dict[str, Any] = dict((await session.execute(given)).scalars().first() or {})
    payload.pop("event", None)
    payload[RESENT] = {"notification_id": str(new.id), "recipient": new.recipient}
    await job_service.add(session, kind, earlier.entity_id, new.source_key, payload)
    return (await session.execute(select(Job.id).where(Job.dedupe_key == new.source_key))).scalar_one()
