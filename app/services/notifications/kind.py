"""What a kind of notification is: one event, with its facts, its mail, and the other channels that report it (REQ-006).

Each kind is a module of `kinds`, with its two templates in `templates/emails/` and, for SMS and chat, one in
`templates/sms/` or `templates/chat/`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.enums import Channel
from app.database import Database
from app.services.jobs.service import Claim, JobKind
from app.utils.clock import Clock
from app.utils.shop_time import ShopTime

Facts = TypeVar("Facts", bound=Mapping[str, Any])
"""The typed dictionary of a kind's facts."""

_WORDS: Final[Mapping[Channel, str]] = {Channel.EMAIL: "notify", Channel.SMS: "sms", Channel.CHAT: "chat"}
_CHANNELS: Final[Mapping[str, Channel]] = {word: channel for channel, word in _WORDS.items()}


def job_kind(channel: Channel, name: str) -> JobKind:
    """Return the kind of job that sends a kind of notification on a channel.

    Raises:
        ValueError: that notification is not sent on that channel.
    """
    return JobKind(f"{_WORDS[channel]}.{name}")


def route_of(kind: JobKind) -> tuple[Channel, str]:
    """Return the channel and the kind of notification that a job sends."""
    word, _, name = kind.partition(".")
    return _CHANNELS[word], name


def is_message(kind: JobKind) -> bool:
    """Return whether a job of this kind sends a message."""
    return kind.partition(".")[0] in _CHANNELS


class Audience(StrEnum):
    """Whom a kind of notification is for: the customer of the order, or the mailbox that a setting names."""

    CUSTOMER = "customer"
    WAREHOUSE = "warehouse_email"
    MANAGERS = "managers_email"
    OPERATIONS = "operations_email"


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """An issued document that is attached to a mail; `id` is what a link to it names."""

    id: UUID
    number: str
    storage_key: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Addressed(Generic[Facts]):
    """The facts of one message and its recipient.

    Attributes:
        recipient: mail address.
        facts: the same on every channel.
        order_id: the order that it is about, if it is about one.
        phone: of the customer in E.164, where the message is for the customer and a number is known.
        document: attached to the mail.
    """

    recipient: str
    facts: Facts
    order_id: UUID | None = None
    phone: str | None = field(default=None, repr=False)
    document: DocumentFile | None = None


@dataclass(frozen=True, slots=True)
class NothingToSend:
    """There is no message to send, and why."""

    reason: str


GONE: Final = NothingToSend("the entity does not exist")


@dataclass(frozen=True, slots=True)
class FactsRequest:
    """What a kind needs to read its facts.

    Attributes:
        session: takes a connection with its first statement.
        claim: the job that sends the message; `entity_id` and `payload` say what it is about.
        audience: of the kind.
    """

    database: Database
    session: AsyncSession
    settings: Settings
    clock: Clock
    claim: Claim
    audience: Audience

    @property
    def shop_time(self) -> ShopTime:
        """The calendar of the days and moments in a message."""
        return ShopTime.from_settings(self.settings)

    def to_staff(self, facts: Facts, order_id: UUID | None = None) -> Addressed[Facts]:
        """Return facts for the mailbox of the audience."""
        return Addressed(getattr(self.settings, self.audience), facts, order_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[Facts]):
    """A kind of notification. Every one is sent by mail.

    Attributes:
        job: the kind of job that sends its mail, `notify.<name>`.
        audience: whom it is for.
        facts: the type of its facts. An optional fact is None, never missing: rendering refuses missing and unknown ones.
        load: reads the facts when the message is sent, and gives nothing to send where they no longer hold: a refund
            that did not succeed is not announced.
        subject: of the mail, in the syntax of the templates.
        sample: plausible facts, for tests, previews and documentation.
        short: the channels other than mail that report the event, each with the only facts that it may say.
        is_limited: whether the limits on messages per hour can suppress it.
    """

    job: JobKind
    audience: Audience
    facts: type[Facts]
    load: Callable[[FactsRequest], Awaitable[Addressed[Facts] | NothingToSend]]
    subject: str
    sample: Facts
    short: Mapping[Channel, frozenset[str]] = field(default_factory=dict)
    is_limited: bool = True

    @property
    def name(self) -> str:
        """The name of its templates, and of the notification in the log."""
        return route_of(self.job)[1]

    @property
    def is_to_customer(self) -> bool:
        """Whether it goes to the address in the order, and not to staff."""
        return self.audience is Audience.CUSTOMER
