"""A real SMTP server in the test's own loop."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from app.config import Settings
from app.utils import mail_sessions


class Mailbox:
    """Keeps what is accepted; answers each step as configured."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.envelopes: list[Envelope] = []
        self.secured: list[bool] = []

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Answer the sender."""
        if "mail" not in self.answers:
            envelope.mail_from = address
        return self.answers.get("mail", "250 OK")

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Answer the recipient."""
        if "rcpt" not in self.answers:
            envelope.rcpt_tos.append(address)
        return self.answers.get("rcpt", "250 OK")

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """Answer the message, and keep it."""
        if "data" not in self.answers:
            self.envelopes.append(envelope)
            self.secured.append(session.ssl is not None)
        return self.answers.get("data", "250 OK")


@asynccontextmanager
async def serving(
    mailbox: Mailbox, *, implicit: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Settings]:
    """Run a server on a free port in this loop; gives the settings that reach it.

    It takes one mail a session meanwhile: a session that is kept would outlive the loop.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0, ssl=implicit
    )
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(mail_sessions, "MAILS_A_SESSION", 1)
            yield Settings(
                _env_file=None,
                smtp_host="127.0.0.1",
                smtp_port=server.sockets[0].getsockname()[1],
                smtp_timeout_seconds=3,
            )
    finally:
        server.close()
        await server.wait_closed()
