"""The port for messages to people, the same for mail, SMS and chat (REQ-006).

Adapters: `email_sender.EmailSender`, `channels.LogChannel` and `channels.WebhookChannel`. A message is
handed over at least once: if the worker process ends after the receiver took it, it is handed over again under the same
id, by which the receiver can drop the copy.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


class MessageRefused(Exception):  # noqa: N818 - named for the fact
    """The receiver refused this message permanently; sending it again gives the same answer.

    `code` is the receiver's answer, such as 550 of SMTP.
    """

    retryable = False

    def __init__(self, reason: str = "", code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class MessageTooLarge(MessageRefused):
    """The receiver takes no message of this size; a smaller one may pass."""


class MessageDelayed(Exception):  # noqa: N818 - named for the fact
    """The message could not be handed over now; `retry_after` is the wait in seconds that the receiver asked for."""

    retryable = True

    def __init__(self, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes with a mail; `content_type` such as `application/pdf`."""

    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedMessage:
    """What a reader sees.

    Attributes:
        subject: one line; of SMS and chat the whole message.
        text: the message as plain text.
        html: the same as HTML, for mail; empty for SMS and chat.
    """

    subject: str
    text: str
    html: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(RenderedMessage):
    """A rendered message ready to be handed over.

    Attributes:
        id: of the notification; the same at each attempt.
        channel: EMAIL, SMS or CHAT.
        template: which message it is, e.g. `order_shipped`.
        recipient: mail address, phone number in E.164, or the name of a group.
        created_at: when the notification was created, not the attempt.
        message_id: of a mail, with angle brackets, see `email_sender.message_id_for`; else the id as text.
        attachments: files that go with a mail.
    """

    id: UUID
    channel: str
    template: str
    recipient: str
    created_at: datetime
    message_id: str
    attachments: tuple[Attachment, ...] = ()


class NotificationChannel(Protocol):
    """The port; tests put fakes behind it."""

    async def send(self, message: Message) -> None:
        """Hand the message to someone who takes the responsibility for it.

        Raises:
            MessageRefused: it will never be taken; `code` is what the receiver answered, if it did.
            MessageTooLarge: as MessageRefused, but a smaller message may be taken.
            MessageDelayed: it could not be handed over now.
            ValueError: an address or a header value is not acceptable; that is permanent too.
        """
