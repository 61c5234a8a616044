"""The record of each message and its delivery: written before it is sent, settled with the end of its job (REQ-006)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import Channel, JobState, NotificationState
from app.database import Database
from app.models.notification import Notification
from app.prepared import Prepared
from app.services.jobs.service import Claim, LeaseLostError

SETTLED = frozenset({NotificationState.SENT, NotificationState.REJECTED, NotificationState.SUPPRESSED})
"""A message in one of these states is never sent again under its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """A message about to be sent; `source_key` is the event's, the same on every channel.

    Attributes:
        customer_id: who placed the order with their own credentials, for their limit.
        resend_of: the message that this one repeats; who asked for it is in `requested_by` or `requested_operator`.
    """

    id: UUID
    source_key: str
    template: str
    recipient: str
    channel: Channel
    entity_id: UUID
    order_id: UUID | None
    message_id: str
    subject: str
    created_at: datetime
    customer_id: UUID | None = None
    resend_of: UUID | None = None
    requested_by: UUID | None = None
    requested_operator: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A message's row: its ids are those of the first try, so every copy of the message carries the same."""

    id: UUID
    message_id: str
    created_at: datetime
    state: NotificationState
    is_new: bool


async def opened(session: AsyncSession, new: NewRow, suppressed: str | None = None) -> Row:
    """Return the row of a message, made now or by an earlier try.

    Args:
        suppressed: why the message must not be sent, if it must not.
    """
    values = {name: getattr(new, name) for name in NewRow.__slots__}
    state = NotificationState.PENDING if suppressed is None else NotificationState.SUPPRESSED
    inserted = await session.execute(
        pg_insert(Notification)
        .values(**values, state=state, last_error=suppressed)
        .on_conflict_do_nothing()
        .returning(Notification.id)
    )
    if inserted.first() is not None:
        return Row(new.id, new.message_id, new.created_at, state, is_new=True)
    if (known := await found(session, new)) is None:
        raise LookupError(f"message {new.source_key} {new.template} is neither new nor known")
    return known


async def found(session: AsyncSession, new: NewRow) -> Row | None:
    """Return the row that an earlier try made for a message; one that was given up is PENDING again."""
    known = select(Notification.id, Notification.message_id, Notification.created_at, Notification.state).where(
        Notification.source_key == new.source_key,
        Notification.template == new.template,
        Notification.recipient == new.recipient,
        Notification.channel == new.channel,
    )
    row = (await session.execute(known)).one_or_none()
    if row is None:
        return None
    if row.state == NotificationState.FAILED:
        # A person requeued the job from the dead letters.
        await session.execute(
            update(Notification)
            .where(Notification.id == row.id, Notification.state == NotificationState.FAILED)
            .values(state=NotificationState.PENDING)
        )
    return Row(row.id, row.message_id, row.created_at, NotificationState(row.state), is_new=False)


async def note_attempt(session: AsyncSession, notification_id: UUID, error: str) -> None:
    """Count an attempt that did not come through."""
    await session.execute(
        update(Notification)
        .where(Notification.id == notification_id, Notification.state == NotificationState.PENDING)
        .values(attempts=Notification.attempts + 1, last_error=error)
    )


async def settle(
    session: AsyncSession, notification_id: UUID, state: NotificationState, error: str | None, at: datetime
) -> None:
    """Record how a message ended."""
    await session.execute(
        update(Notification)
        .where(Notification.id == notification_id, Notification.state == NotificationState.PENDING)
        .values(
            state=state,
            attempts=Notification.attempts + 1,
            last_error=error,
            sent_at=at if state is NotificationState.SENT else None,
        )
    )


_SENT: Final = Prepared(
    text(f"""
WITH job AS (
    UPDATE jobs SET state = '{JobState.SUCCEEDED}', finished_at = now(), lease_owner = NULL, lease_until = NULL
    WHERE id = CAST(:job_id AS uuid) AND fence = CAST(:fence AS bigint) AND state = '{JobState.RUNNING}'
    RETURNING id
),
message AS (
    UPDATE notifications SET state = '{NotificationState.SENT}', attempts = attempts + 1, last_error = NULL,
        sent_at = CAST(:at AS timestamptz)
    WHERE id = CAST(:id AS uuid) AND state = '{NotificationState.PENDING}' AND EXISTS (SELECT FROM job)
)
SELECT id FROM job
""")  # noqa: S608 - constants of this code base
)


async def sent(database: Database, notification_id: UUID, held: Claim, at: datetime) -> None:
    """Record that a message was sent, and finish its job under its fence: `settle` and `finish` in one statement.

    Raises:
        LeaseLostError: the job is no longer this worker's; nothing is recorded.
    """
    if not await database.rows(_SENT, job_id=held.job_id, fence=held.fence, id=notification_id, at=at):
        raise LeaseLostError(f"job {held.job_id} is no longer held under fence {held.fence}")


async def give_up(session: AsyncSession, source_key: str, template: str, channel: Channel) -> None:
    """Record that the last retry of a message failed."""
    await session.execute(
        update(Notification)
        .where(
            Notification.source_key == source_key,
            Notification.template == template,
            Notification.channel == channel,
            Notification.state == NotificationState.PENDING,
        )
        .values(state=NotificationState.FAILED)
    )
