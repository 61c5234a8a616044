"""Messages: each sent once per event, template, recipient and channel (REQ-006).

The row of a message is unique and committed before it is sent; SENT and the end of the job commit together afterwards.
If the worker process ends at one of these moments, this is what is left:

    before the row commits         nothing
    after it, before sending       the row, PENDING: the next try sends
    after sending, before SENT     the receiver has the message and the row does not know: it is sent again, under the
                                   same id, by which mail programs and webhooks recognise the copy
    after SENT commits             the job is done; a row that is SENT is never sent again

Every event is reported by mail. An SMS or chat message about the same event is a separate job, made due in the
transaction that first writes the row of the mail: before the mail server is asked, and once, also when the mail fails.
After that the two are independent: each has its retries, its dead letter and its row.

A message has three shapes on its way: the facts of its kind (`kind.Addressed`), the rendered message
(`messages.RenderedMessage`, with its recipient and id a `messages.Message`), and what the channel's transport takes
(an `EmailMessage`, or the JSON of a webhook).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core import monitoring
from app.core.enums import CaseEntity, CaseKind, Channel, NotificationState
from app.database import Database
from app.mail_address import masked
from app.services.cases.service import open_case
from app.services.documents import store as document_store
from app.services.documents.links import FileKind, FileLinks
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind
from app.services.notifications import limits as message_limits
from app.services.notifications import rows as notification_rows
from app.services.notifications.kind import Addressed, FactsRequest, NothingToSend, job_kind, route_of
from app.services.notifications.kinds import KINDS
from app.services.notifications.opening import ShortJob, opened_at_once
from app.services.notifications.rendering import render
from app.services.notifications.resend import RESENT
from app.services.notifications.rows import SETTLED, NewRow, Row
from app.utils.channels import channels_for
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.email_sender import message_id_for
from app.utils.mail_templates import shop_of
from app.utils.messages import (
    Attachment,
    Message,
    MessageDelayed,
    MessageRefused,
    MessageTooLarge,
    NotificationChannel,
)
from app.utils.outbound import DestinationRefusedError
from app.utils.shop_time import ShopTime
from app.utils.storage import Storage

logger = structlog.get_logger(__name__)

CHAT_RECIPIENT = "operations"
_EVENT = "event"


class NotificationService:
    """Sending messages.

    Args:
        channels: adapters by name, in place of those that the settings ask for.
    """

    def __init__(
        self,
        database: Database,
        mail_sender: NotificationChannel,
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
        self._shop_time = ShopTime.from_settings(settings)
        lifetime = timedelta(days=settings.mail_link_ttl_days)
        self._links = FileLinks.from_settings(settings, clock, lifetime) if settings.public_url else None

    async def send(self, claim: Claim) -> None:
        """Job `notify.…`, `sms.…` or `chat.…`: send its message and finish the job.

        A message that the receiver refuses permanently is REJECTED, the job is done and a person gets a case: asking again
        gives the same answer. A mail whose attachment is too large goes out with a link instead. A message beyond a
        limit is SUPPRESSED (`message_limits`).

        Raises:
            MessageDelayed: not this time.
            DestinationRefusedError: the configured address may not be called.
            DocumentAlteredError, StorageError: the document to attach cannot be read.
            LeaseLostError: another worker has taken the job.
        """
        channel, template = route_of(claim.kind)
        kind = KINDS[template]
        async with self._database.transaction() as session:
            addressed = await kind.load(
                FactsRequest(self._database, session, self._settings, self._clock, claim, kind.audience)
            )
        if isinstance(addressed, NothingToSend):
            await self._give_up(claim, addressed.reason)
            return
        recipient = _resent(claim).get("recipient") or _recipient(channel, addressed)
        if recipient is None or channel not in self._channels:
            await self._give_up(claim, "the channel is off" if recipient else "no number is known")
            return
        rendered = render(channel, template, addressed.facts, shop_of(self._settings))
        row = await self._row(claim, addressed, recipient, rendered.subject)
        if row is None:
            return
        message = Message(
            id=row.id,
            channel=channel,
            template=template,
            recipient=recipient,
            created_at=row.created_at,
            subject=rendered.subject,
            text=rendered.text,
            html=rendered.html,
            message_id=row.message_id,
            attachments=await self._attachments(addressed) if channel is Channel.EMAIL else (),
        )
        await self._hand_over(claim, message, addressed)

    async def _hand_over(self, claim: Claim, message: Message, addressed: Addressed[Any]) -> None:
        log = logger.bind(channel=message.channel, template=message.template, notification_id=str(message.id))
        try:
            try:
                await self._channels[message.channel].send(message)
            except MessageTooLarge:
                if (smaller := self._linked(message, addressed)) is None:
                    raise
                log.warning("attachment.replaced", reason="the mail server takes no mail of this size")
                await self._channels[message.channel].send(smaller)
        except (MessageDelayed, DestinationRefusedError) as fault:
            async with self._database.transaction() as session:
                await notification_rows.note_attempt(session, message.id, _error(fault, message.channel))
            monitoring.notification_tried(message.channel.lower(), "unavailable")
            raise
        except (MessageRefused, ValueError) as fault:
            monitoring.notification_tried(message.channel.lower(), "rejected")
            await self._reject(claim, message, addressed, _error(fault, message.channel))
            log.warning("message.rejected", error=type(fault).__name__, code=getattr(fault, "code", None))
            return
        monitoring.notification_tried(message.channel.lower(), "sent")
        await notification_rows.sent(self._database, message.id, claim, self._clock())
        log.info("message.sent")

    def _linked(self, message: Message, addressed: Addressed[Any]) -> Message | None:
        """Return a mail with a link in place of its attachment; None where it has none, or no address to link to."""
        if addressed.document is None or not message.attachments or self._links is None:
            return None
        link, expires_at = self._links.signed(FileKind.INVOICES, addressed.document.id)
        # The last day on which it works to the end.
        until = self._shop_time.day(expires_at) - timedelta(days=1)
        facts = {**addressed.facts, "link": link, "link_until": until}
        rendered = render(Channel.EMAIL, message.template, facts, shop_of(self._settings))
        return replace(message, text=rendered.text, html=rendered.html, attachments=())

    async def _reject(self, claim: Claim, message: Message, addressed: Addressed[Any], error: str) -> None:
        """Record that the receiver refused a message permanently, with a case for a person."""
        async with self._database.transaction() as session:
            await self._settle(session, claim, message.id, NotificationState.REJECTED, error)
            # A case alerts operations, by mail and by chat: what does not reach them there must not raise the next one.
            if message.channel != Channel.CHAT and message.recipient != self._settings.operations_email:
                await self._open_case(session, f"undeliverable:{message.id}", message.id, addressed.order_id, {
                    "template": message.template,
                    "channel": message.channel,
                    "recipient": masked(message.recipient),
                    "error": error,
                })  # fmt: skip

    async def _open_case(
        self, session: AsyncSession, key: str, notification_id: UUID, order_id: UUID | None, evidence: Mapping[str, Any]
    ) -> None:
        await open_case(
            session,
            CaseKind.UNDELIVERABLE_MESSAGE,
            entity_type=CaseEntity.NOTIFICATION,
            entity_id=notification_id,
            order_id=order_id,
            evidence={"notification_id": str(notification_id), **evidence},
            dedupe_key=key,
            at=self._clock(),
        )

    async def on_dead(self, session: AsyncSession, claim: Claim) -> None:
        """Record, in the transaction that dead-letters a message's job, that the message was given up."""
        channel, template = route_of(claim.kind)
        await notification_rows.give_up(session, _event_of(claim), template, channel)

    async def _give_up(self, claim: Claim, reason: str) -> None:
        async with self._database.transaction() as session:
            if again := _resent(claim):
                notification_id = UUID(again["notification_id"])
                await self._settle(session, claim, notification_id, NotificationState.REJECTED, reason)
            else:
                await job_service.finish(session, claim)
        logger.warning("message.not_needed", reason=reason)

    async def _row(self, claim: Claim, addressed: Addressed[Any], recipient: str, subject: str) -> Row | None:
        """Return the message's own row, and make the SMS or chat message of the event due; None when the message is settled."""
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
            order_id=addressed.order_id,
            message_id=message_id,
            subject=subject,
            created_at=now,
        )
        short = self._short(claim, addressed) if channel is Channel.EMAIL else []
        if (opened := await opened_at_once(self._database, new, short, self._settings)) is not None:
            return opened
        async with self._database.transaction() as session:
            row = await notification_rows.found(session, new) or await self._opened(session, new)
            if row.is_new:
                for job in short:
                    await job_service.add(session, job.kind, claim.entity_id, job.dedupe_key, job.payload)
            if row.state in SETTLED:
                await job_service.finish(session, claim)
                logger.info("message.already_settled", notification_id=str(row.id), state=row.state)
                return None
            return row

    async def _opened(self, session: AsyncSession, new: NewRow) -> Row:
        """Record a new message; beyond a limit as SUPPRESSED, with a case for each recipient or customer and day."""
        if message_limits.is_to_customer(new.channel, new.template):
            new = replace(new, customer_id=await message_limits.account_of(session, new.order_id))
        suppressed = await message_limits.exceeded(session, new, self._settings)
        row = await notification_rows.opened(session, new, suppressed)
        if suppressed is not None and row.is_new:
            monitoring.notification_tried(new.channel.lower(), "suppressed")
            logger.warning("message.suppressed", notification_id=str(row.id), template=new.template, reason=suppressed)
            whose = uuid5(NAMESPACE_URL, f"mailto:{new.recipient.lower()}")
            key = f"suppressed:{whose}:{self._shop_time.day(new.created_at)}"
            evidence = {"template": new.template, "channel": new.channel, "recipient": masked(new.recipient)}
            await self._open_case(session, key, row.id, new.order_id, {**evidence, "error": suppressed})
        return row

    def _short(self, claim: Claim, addressed: Addressed[Any]) -> list[ShortJob]:
        """Return the jobs of the SMS or chat message about the same event, where there is one."""
        jobs: list[ShortJob] = []
        _, name = route_of(claim.kind)
        for channel in KINDS[name].short:
            kind = job_kind(channel, name)
            # A failure of chat is not reported by chat, which would never end; the mail reports it.
            is_about_chat = kind is JobKind.CHAT_JOB_FAILED and str(addressed.facts["kind"]).startswith("chat.")
            if (
                channel in self._channels
                and _recipient(channel, addressed)
                and not is_about_chat
                and not _resent(claim)
            ):
                payload = {**claim.payload, _EVENT: claim.dedupe_key}
                jobs.append(ShortJob(kind, f"{channel.lower()}:{claim.dedupe_key}", payload))
        return jobs

    async def _attachments(self, addressed: Addressed[Any]) -> tuple[Attachment, ...]:
        if (document := addressed.document) is None:
            return ()
        content = await document_store.read_document(
            self._storage, document.number, document.storage_key, document.sha256
        )
        return (Attachment(f"{document.number}.pdf", "application/pdf", content),)

    async def _settle(
        self, session: AsyncSession, claim: Claim, notification_id: UUID, state: NotificationState, error: str | None
    ) -> None:
        """Record how the message ended, together with the end of the job and under its fence."""
        await notification_rows.settle(session, notification_id, state, error, self._clock())
        await job_service.finish(session, claim)


def _resent(claim: Claim) -> Mapping[str, str]:
    """Return what a job that sends a message again was given; nothing for a first sending."""
    given: Mapping[str, str] = claim.payload.get(RESENT, {})
    return given


def _event_of(claim: Claim) -> str:
    """Return the key of the event that a job reports: on every channel that of the mail's job."""
    return str(claim.payload.get(_EVENT, claim.dedupe_key))


def _recipient(channel: Channel, addressed: Addressed[Any]) -> str | None:
    if channel is Channel.CHAT:
        return CHAT_RECIPIENT
    return addressed.phone if channel is Channel.SMS else addressed.recipient


def _error(fault: Exception, channel: str) -> str:
    """Return an error for the record; of what a mail server says only its code is kept, for it quotes addresses."""
    name = type(fault).__name__
    if channel == Channel.EMAIL:
        code = getattr(fault, "code", None)
        return name if code is None else f"{name} {code}"
    return f"{name}: {fault}"[:300] if str(fault) else name
