"""Signing and delivering webhooks, in the style of Standard Webhooks.

Headers `webhook-id` (the event's id, the same at every attempt), `webhook-timestamp` (seconds since 1970 at
this attempt) and `webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`. A delivery is
done when the receiver answers 2xx; a redirect is not followed and counts as a failure. Failures are retried
with doubling waits until one succeeds, also after a restart: delivery is at least once.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging

import httpx2

from devtools.mock_gateway.clock import Clock
from devtools.mock_gateway.connections import IDENTITY_HEADER
from devtools.mock_gateway.events import DueEvent, Outbox
from devtools.mock_gateway.settings import GatewaySettings

_LOG = logging.getLogger("articurated.gateway")
_PREFIX = "whsec_"
_BATCH = 8
_IDLE_SECONDS = 1.0
_WRONG_SECRET = b"not the secret that was agreed"


def secret_bytes(secret: str) -> bytes:
    """Return the HMAC key of a webhook secret.

    The prefix `whsec_` is taken off when present. What remains is decoded when it is valid standard
    base64 (alphabet A-Z a-z 0-9 + /, padded to a multiple of four, not empty); otherwise its UTF-8 bytes
    are the key, so that a readable development secret works.
    """
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
    return key or text.encode()


def sign(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class WebhookDispatcher:
    """Delivers the outbox to one receiver; `run` is the task, `wake` has it look for new events."""

    def __init__(self, settings: GatewaySettings, outbox: Outbox, clock: Clock) -> None:
        self._settings = settings
        self._key = secret_bytes(settings.webhook_secret)
        self._outbox = outbox
        self._clock = clock
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look at the outbox now instead of at the next tick."""
        self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled. Returns at once when no URL is configured."""
        url = self._settings.webhook_url
        if url is None:
            return
        timeout = httpx2.Timeout(self._settings.webhook_timeout_seconds)
        async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as client:
            while True:
                self._news.clear()
                try:
                    await self._round(client, url)
                except Exception:  # noqa: BLE001 - a full disk, say: deliveries must go on afterwards
                    _LOG.exception("webhook_round.failed")
                    await asyncio.sleep(_IDLE_SECONDS)

    async def _round(self, client: httpx2.AsyncClient, url: str) -> None:
        due = self._outbox.due(_BATCH)
        if due:
            await asyncio.gather(*(self._deliver(client, url, event) for event in due))
            return
        wait = self._outbox.seconds_until_due()
        try:
            async with asyncio.timeout(_IDLE_SECONDS if wait is None else min(wait, _IDLE_SECONDS)):
                await self._news.wait()
        except TimeoutError:
            return

    async def _deliver(self, client: httpx2.AsyncClient, url: str, event: DueEvent) -> None:
        delivered = False
        for _ in range(event.copies):
            status, error = await self._post(client, url, event)
            delivered = delivered or (status is not None and httpx2.codes.is_success(status))
            self._outbox.record(event.id, status, error, None if delivered else self._wait(event.attempts))

    async def _post(self, client: httpx2.AsyncClient, url: str, event: DueEvent) -> tuple[int | None, str | None]:
        body = event.body.encode()
        timestamp = int(self._clock().timestamp())
        key = _WRONG_SECRET if event.bad_signature else self._key
        headers = {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(key, event.id, timestamp, body),
            IDENTITY_HEADER: "true",
        }
        try:
            answer = await client.post(url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as fault:
            return None, f"{type(fault).__name__}: {fault}"
        return answer.status_code, None

    def _wait(self, attempts: int) -> float:
        doubled = self._settings.webhook_retry_base_seconds * float(1 << min(attempts, 30))
        return min(doubled, self._settings.webhook_retry_cap_seconds)
