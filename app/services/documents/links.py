r"""Links that open one file for a while, without other credentials (INT-004, NFR-004).

    /api/v1/files/{kind}/{id}?expires={seconds since 1970}&signature={base64url}

`signature = HMAC-SHA256(key, "{kind}\n{id}\n{expires}")`. The key is derived from SECRET_KEY under a label of its own,
so that a signature made here can never be one of a token's, nor the other way round. The signature is in the
query, which no log of ours holds.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypedDict
from uuid import UUID

from app.config import Settings
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import LinkExpiredError, NotFoundError

PREFIX = "/api/v1/files"
_LABEL = b"articurated file links v1"


class FileKind(StrEnum):
    """What links lead to."""

    INVOICES = "invoices"
    ATTACHMENTS = "attachments"


class LinkView(TypedDict):
    """A link to a file, absolute when there is a public address, and when it ends."""

    link: str
    link_expires_at: datetime


class FileLinks:
    """Makes links and checks them.

    Args:
        secrets: the first signs, all of them check; more than one while a secret is being replaced.
        lifetime: how long a link works.
        public_url: what to put before the path, if anything.
    """

    def __init__(
        self, secrets: Sequence[str], lifetime: timedelta, public_url: str | None = None, clock: Clock = utc_now
    ) -> None:
        self._keys = [hmac.digest(secret.encode(), _LABEL, hashlib.sha256) for secret in secrets]
        self._lifetime = lifetime
        self._base = (public_url or "") + PREFIX
        self._clock = clock

    @classmethod
    def from_settings(
        cls, settings: Settings, clock: Clock = utc_now, lifetime: timedelta | None = None
    ) -> "FileLinks":
        """Return the links of a process; those made under the previous SECRET_KEY work while it is accepted.

        Args:
            lifetime: how long a link works; FILE_LINK_TTL_SECONDS when absent.
        """
        secrets = [settings.secret_key.get_secret_value(), settings.secret_key_previous.get_secret_value()]
        lifetime = lifetime or timedelta(seconds=settings.file_link_ttl_seconds)
        return cls([secret for secret in secrets if secret], lifetime, settings.public_url, clock)

    def to(self, kind: FileKind, file_id: UUID) -> LinkView:
        """Return `link`, absolute when there is a public address, and `link_expires_at`."""
        link, expires_at = self.signed(kind, file_id)
        return {"link": link, "link_expires_at": expires_at}

    def signed(self, kind: FileKind, file_id: UUID) -> tuple[str, datetime]:
        """Return a link, absolute when there is a public address, and when it ends."""
        expires_at = (self._clock().astimezone(UTC) + self._lifetime).replace(microsecond=0)
        expires = str(int(expires_at.timestamp()))
        signature = base64.urlsafe_b64encode(_signature(self._keys[0], kind, file_id, expires)).decode().rstrip("=")
        return f"{self._base}/{kind}/{file_id}?expires={expires}&signature={signature}", expires_at

    def check(self, kind: FileKind, file_id: UUID, expires: str, signature: str) -> None:
        """Let a link pass that is ours and still works.

        Raises:
            NotFoundError: it is not valid; the answer does not say why.
            LinkExpiredError: ours, and too old.
        """
        given = signature.encode("utf-8", "surrogatepass")
        is_ours = False
        for key in self._keys:
            expected = base64.urlsafe_b64encode(_signature(key, kind, file_id, expires)).rstrip(b"=")
            is_ours |= hmac.compare_digest(given, expected)
        if not is_ours:
            raise NotFoundError("There is nothing at this address.")
        # It is signed, so we wrote it.
        expires_at = datetime.fromtimestamp(int(expires), UTC)
        if self._clock() >= expires_at:
            raise LinkExpiredError(expires_at)


def _signature(key: bytes, kind: FileKind, file_id: UUID, expires: str) -> bytes:
    signed = f"{kind}\n{file_id}\n{expires}".encode("utf-8", "surrogatepass")
    return hmac.digest(key, signed, hashlib.sha256)
