"""Messages: each sent once per event, template, recipient and channel (REQ-006).

The row of a message is unique and committed before it is sent; SENT and the end of the job commit together afterwards.
What dying leaves behind:

    before the row commits         nothing
    after it, before sending       the row, PENDING: the next try sends
    after sending, before SENT     the receiver has the message and the row does not know: it is sent again, under the
                                   same id, by which mail programs and webhooks recognise the copy
    after SENT commits             the job is done; a row that is SENT is never sent again, whoever asks

Every event is told by mail. Where it is told by SMS or chat too, that is a job of its own, made due in the transaction
that first writes the row of the mail: before the mail server is asked, and once, whatever becomes of the mail. From
there on the two know nothing of each other: each has its retries, its dead letter and its row.
"""

from collections.abc import Mapping
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core import monitoring
from app.core.enums import Channel, NotificationState
from app.database import Database
from app.services import document_store, job_service, mail_facts, notification_rows
from app.services.job_service import Claim, JobKind
from app.services.mail_scene import MailFacts, NothingToTell, Scene
from app.services.notification_rows import SETTLED, NewRow, Row
from app.utils.channels import channels_for
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.email_sender import MailSender, message_id_for
from app.utils.mail_templates import RenderedMail, render_mail, shop_of
from app.utils.messages import Attachment, Message, MessageDelayed, MessageRefused, NotificationChannel
from app.utils.outbound import DestinationRefusedError
from app.utils.short_texts import render_short
from app.utils.storage import Storage

logger = structlog.get_logger(__name__)

CHANNELS: Mapping[str, Channel] = {"notify": Channel.EMAIL, "sms": Channel.SMS, "chat": Channel.CHAT}
"""The first word of a job's kind → its channel; the second is the template."""

ALSO_TOLD: Mapping[JobKind, JobKind] = {
    JobKind.NOTIFY_ORDER_SHIPPED: JobKind.SMS_ORDER_SHIPPED,
    JobKind.NOTIFY_ORDER_DELIVERED: JobKind.SMS_ORDER_DELIVERED,
    JobKind.NOTIFY_REFUND_PROCESSED: JobKind.SMS_REFUND_PROCESSED,
    JobKind.NOTIFY_JOB_FAILED: JobKind.CHAT_JOB_FAILED,
    JobKind.NOTIFY_CASE: JobKind.CHAT_CASE,
    JobKind.NOTIFY_GATEWAY_EVENT: JobKind.CHAT_GATEWAY_EVENT,
    JobKind.NOTIFY_RETURN_REVIEW_OVERDUE: JobKind.CHAT_RETURN_REVIEW_OVERDUE,
    JobKind.NOTIFY_DAILY_SUMMARY: JobKind.CHAT_DAILY_SUMMARY,
}
"""Which mail is told on another channel too: customers by SMS, operations by chat."""

CHAT_RECIPIENT = "operations"
_EVENT = "event"


def route_of(kind: JobKind) -> tuple[Channel, str]:
    """Return the channel and the template of a message's job."""
    word, _, template = kind.partition(".")
    return CHANNELS[word], template


def is_message(kind: JobKind) -> bool:
    """Return whether a job of this kind sends a message."""
    return kind.partition(".")[0] in CHANNELS


class NotificationService:
    """Sending messages.

    Args:
        channels: adapters by name, in place of those that the settings ask for.
    """

    def __init__(
        self,
        database: Database,
        mail_sender: MailSender,
        storage: Storage,
        settings: Settings,
        clock: Clock = utc_now,
        channels: Mapping[str, NotificationChannel] | None = None,
    ) -> None:
        self._database = database
        self._channels = {**channels_for(settings, mail_sender, clock), **(channels or {})}
        self._storage = storage
        self._settings = settings
        self._clock = clock

    async def send(self, claim: Claim) -> None:
        """Job `notify.…`, `sms.…` or `chat.…`: send its message and finish the job.

        A message that the receiver refuses for good is REJECTED and the job is done: asking again gives the same
        answer.

        Raises:
            MessageDelayed: not this time.
            DestinationRefusedError: the configured address may not be called.
            DocumentAlteredError, StorageError: the document to attach cannot be read.
            LeaseLostError: another worker has the job by now.
        """
        channel, template = route_of(claim.kind)
        async with self._database.transaction() as session:
            facts = await mail_facts.load(Scene(session, self._settings, self._clock, claim), template)
        if isinstance(facts, NothingToTell):
            await self._give_up(claim, facts.reason)
            return
        recipient = _recipient(channel, facts)
        if recipient is None or channel not in self._channels:
            await self._give_up(claim, "the channel is off" if recipient else "no number is known")
            return
        told = self._told(channel, template, facts)
        row = await self._row(claim, facts, recipient, told.subject)
        if row is None:
            return
        message = Message(
            id=row.id,
            channel=channel,
            template=template,
            recipient=recipient,
            created_at=row.created_at,
            subject=told.subject,
            text=told.text,
            html=told.html or None,
            message_id=row.message_id,
            attachments=await self._attachments(facts) if channel is Channel.EMAIL else (),
        )
        await self._hand_over(claim, message)

    async def _hand_over(self, claim: Claim, message: Message) -> None:
        log = logger.bind(channel=message.channel, template=message.template, notification_id=str(message.id))
        try:
            await self._channels[message.channel].send(message)
        except (MessageDelayed, DestinationRefusedError) as fault:
            async with self._database.transaction() as session:
                await notification_rows.note_attempt(session, message.id, _error(fault, message.channel))
            monitoring.notification_tried(message.channel.lower(), "unavailable")
            raise
        except (MessageRefused, ValueError) as fault:
            monitoring.notification_tried(message.channel.lower(), "rejected")
            error = _error(fault, message.channel)
            await self._conclude(claim, message.id, NotificationState.REJECTED, error)
            log.warning("message rejected", error=type(fault).__name__)
            return
        monitoring.notification_tried(message.channel.lower(), "sent")
        await self._conclude(claim, message.id, NotificationState.SENT, None)
        log.info("message sent")

    async def on_dead(self, session: AsyncSession, claim: Claim) -> None:
        """Record, in the transaction that buries a message's job, that the message was given up."""
        channel, template = route_of(claim.kind)
        await notification_rows.give_up(session, _event_of(claim), template, channel)

    async def _give_up(self, claim: Claim, reason: str) -> None:
        async with self._database.transaction() as session:
            await job_service.finish(session, claim)
        logger.warning("nothing to send", reason=reason)

    def _told(self, channel: Channel, template: str, facts: MailFacts) -> RenderedMail:
        shop = shop_of(self._settings)
        if channel is Channel.EMAIL:
            return render_mail(template, facts.context, shop)
        line = render_short(channel, template, facts.context, shop)
        return RenderedMail(subject=line, text=line, html="")

    async def _row(self, claim: Claim, facts: MailFacts, recipient: str, subject: str) -> Row | None:
        """Return the message's own row, and make due what else tells of the event; None when the message is settled."""
        channel, template = route_of(claim.kind)
        now = self._clock()
        notification_id = uuid7(now)
        message_id = str(notification_id)
        if channel is Channel.EMAIL:
            message_id = message_id_for(message_id, self._settings.mail_from)
        new = NewRow(
            id=notification_id,
            source_key=_event_of(claim),
            template=template,
            recipient=recipient,
            channel=channel,
            entity_id=claim.entity_id,
            order_id=facts.order_id,
            message_id=message_id,
            subject=subject,
            created_at=now,
        )
        async with self._database.transaction() as session:
            row = await notification_rows.opened(session, new)
            if row.is_new and channel is Channel.EMAIL:
                await self._tell_elsewhere(session, claim, facts)
            if row.state in SETTLED:
                await job_service.finish(session, claim)
                logger.info("message settled before", notification_id=str(row.id), state=row.state)
                return None
            return row

    async def _tell_elsewhere(self, session: AsyncSession, claim: Claim, facts: MailFacts) -> None:
        """Make the SMS or chat message of the same event due, where there is one."""
        kind = ALSO_TOLD.get(claim.kind)
        if kind is None:
            return
        channel, _ = route_of(kind)
        # Chat that is out of order cannot be told so by chat, which would never end; the mail tells it.
        chat_is_dead = kind is JobKind.CHAT_JOB_FAILED and str(facts.context["kind"]).startswith("chat.")
        if channel not in self._channels or _recipient(channel, facts) is None or chat_is_dead:
            return
        payload = {**claim.payload, _EVENT: claim.dedupe_key}
        await job_service.add(session, kind, claim.entity_id, f"{channel.lower()}:{claim.dedupe_key}", payload)

    async def _attachments(self, facts: MailFacts) -> tuple[Attachment, ...]:
        if (document := facts.document) is None:
            return ()
        content = await document_store.read_document(
            self._storage, document.number, document.storage_key, document.sha256
        )
        return (Attachment(f"{document.number}.pdf", "application/pdf", content),)

    async def _conclude(self, claim: Claim, notification_id: UUID, state: NotificationState, error: str | None) -> None:
        """Record how the message ended, together with the end of the job and under its fence."""
        async with self._database.transaction() as session:
            await notification_rows.settle(session, notification_id, state, error, self._clock())
            await job_service.finish(session, claim)


def _event_of(claim: Claim) -> str:
    """Return the key of the event that a job tells of: on every channel that of the mail's job."""
    return str(claim.payload.get(_EVENT, claim.dedupe_key))


def _recipient(channel: Channel, facts: MailFacts) -> str | None:
    if channel is Channel.CHAT:
        return CHAT_RECIPIENT
    return facts.phone if channel is Channel.SMS else facts.recipient


def _error(fault: Exception, channel: str) -> str:
    """Return an error for the record; what a mail server says quotes addresses, so of that only the kind is kept."""
    name = type(fault).__name__
    return name if channel == Channel.EMAIL or not str(fault) else f"{name}: {fault}"[:300]
