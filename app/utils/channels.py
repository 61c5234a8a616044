"""Adapters of the port in `messages` for SMS and chat: a line in the log, a signed webhook (REQ-006)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypedDict

import orjson
import structlog

from app.config import Settings
from app.utils.messages import Message, MessageDelayed, MessageRefused, NotificationChannel
from app.utils.outbound import Outbound, OutboundError

logger = structlog.get_logger(__name__)

_REFUSALS: Final = frozenset({400, 410, 413, 422})
"""Answers that say no to this very message. Any other that is not 2xx may be a fault of ours or theirs that someone
corrects (a login, an address, a redirect, an outage): the job tries again, and in the end a person decides."""

_PREFIX: Final = "whsec_"


class LogChannel:
    """Messages as lines of the log: no account, no cost, and no one receives them.

    Args:
        shows_text: the line holds the message too; it names no person, but can hold a tracking number or an amount.
    """

    def __init__(self, *, shows_text: bool) -> None:
        self._shows_text = shows_text

    async def send(self, message: Message) -> None:
        """Write the line; it always works."""
        shown = {"text": message.text} if self._shows_text else {}
        logger.info(
            "message.logged",
            channel=message.channel,
            template=message.template,
            notification_id=str(message.id),
            **shown,
        )


class WebhookData(TypedDict):
    """The message in a webhook; `id` is that of the notification."""

    id: str
    channel: str
    template: str
    recipient: str
    text: str


class WebhookPayload(TypedDict):
    """The JSON body of a webhook.

    Attributes:
        type: `notification.` and the channel.
        timestamp: when the message was made.
        text: that of the message; chat servers look for it here.
    """

    type: str
    timestamp: datetime
    text: str
    data: WebhookData


class WebhookChannel:
    """Messages as JSON, posted to one address and signed in the manner of Standard Webhooks.

    The body is a `WebhookPayload`. `webhook-id` is the notification's id at each attempt,
    `webhook-timestamp` the attempt's time, `webhook-signature` covers both and the body.

    Args:
        url: where to.
        secret: `whsec_` and base64, or any other text.
        outbound: makes the call.
        now: the clock, for the timestamp.
    """

    def __init__(
        self, url: str, secret: str, outbound: Outbound, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._url = url
        self._key = signing_key(secret)
        self._outbound = outbound
        self._now = now

    async def send(self, message: Message) -> None:
        """Post it (see `NotificationChannel`).

        Raises:
            DestinationRefusedError: the configured address may not be called.
        """
        body = orjson.dumps(_payload(message), option=orjson.OPT_UTC_Z)
        headers = signed_headers(self._key, str(message.id), self._now(), body)
        try:
            answer = await self._outbound.post(self._url, body, {"Content-Type": "application/json", **headers})
        except OutboundError as fault:
            raise MessageDelayed(str(fault)) from fault
        if answer.is_success:
            return
        if answer.status in _REFUSALS:
            raise MessageRefused(f"the receiver answered {answer.status}")
        raise MessageDelayed(f"the receiver answered {answer.status}", answer.retry_after)


def _payload(message: Message) -> WebhookPayload:
    return {
        "type": f"notification.{message.channel.lower()}",
        "timestamp": message.created_at,
        "text": message.text,
        "data": {
            "id": str(message.id),
            "channel": message.channel,
            "template": message.template,
            "recipient": message.recipient,
            "text": message.text,
        },
    }


def signing_key(secret: str) -> bytes:
    """Return the key of a secret: what follows `whsec_`, decoded where it is base64, else as UTF-8.

    Raises:
        ValueError: it is empty.
    """
    text = secret.removeprefix(_PREFIX)
    if not text:
        raise ValueError("the signing secret is empty")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def signed_headers(key: bytes, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers of Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`."""
    timestamp = str(int(at.timestamp()))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def channels_for(
    settings: Settings, sender: NotificationChannel, now: Callable[[], datetime]
) -> dict[str, NotificationChannel]:
    """Return the channels that the configuration switches on, by name; mail is always among them."""
    channels: dict[str, NotificationChannel] = {"EMAIL": sender}
    for name, adapter, url in (
        ("SMS", settings.sms_adapter, settings.sms_webhook_url),
        ("CHAT", settings.chat_adapter, settings.chat_webhook_url),
    ):
        if adapter == "log":
            channels[name] = LogChannel(shows_text=settings.environment != "production")
        elif adapter == "webhook":
            secret = settings.channel_webhook_secret.get_secret_value()
            channels[name] = WebhookChannel(url.get_secret_value(), secret, Outbound.from_settings(settings), now)
    return channels
