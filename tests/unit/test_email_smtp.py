"""Sending to a real SMTP server: what arrives, how it is secured, and what each refusal means."""

import asyncio
import email
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from app.config import Settings
from app.utils.email_sender import Attachment, EmailSender, MailRejected, MailTooLarge, MailUnavailable
from tests.factories import mail_message
from tests.unit.smtp_support import Mailbox, serving

pytestmark = pytest.mark.req("REQ-006", "INT-002")

MAIL = mail_message(
    recipient="eleonore@example.com",
    subject="Your invoice INV-2026-000142",
    text="Bonjour Éléonore.\n.\nA line that is a dot.\n",
    html="<p>Bonjour Éléonore.</p>",
    message_id="<invoice.1@articurated.example>",
    attachments=(Attachment("invoice.pdf", "application/pdf", b"%PDF" + bytes(range(256)) * 200),),
)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """Return a certificate authority that this process trusts."""
    held = trustme.CA()
    held.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return held


def _server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.req("INT-002.1")
async def test_the_mail_arrives_whole() -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as settings:
        await EmailSender(settings, now=lambda: datetime(2026, 11, 22, 14, 5, tzinfo=UTC)).send(MAIL)

    [envelope] = mailbox.envelopes
    assert envelope.mail_from == "orders@articurated.example"
    assert envelope.rcpt_tos == ["eleonore@example.com"]
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=default)
    plain = message.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().replace("\r\n", "\n") == MAIL.text
    assert next(message.iter_attachments()).get_content() == MAIL.attachments[0].data
    assert message["Message-ID"] == MAIL.message_id
    assert message["Date"] == "Sun, 22 Nov 2026 14:05:00 +0000"


async def test_a_second_attempt_has_the_same_message_id() -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as settings:
        sender = EmailSender(settings)
        await sender.send(MAIL)
        await sender.send(MAIL)

    ids = {
        email.message_from_bytes(envelope.content, policy=default)["Message-ID"]
        for envelope in mailbox.envelopes
        if isinstance(envelope.content, bytes)
    }
    assert len(mailbox.envelopes) == 2
    assert ids == {MAIL.message_id}


async def test_many_at_once_do_not_mix() -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as settings:
        sender = EmailSender(settings)
        await asyncio.gather(
            *(
                sender.send(
                    mail_message(
                        recipient=f"c{number}@example.com",
                        subject=f"Order {number}",
                        text="t",
                        html="h",
                        message_id=f"<{number}@articurated.example>",
                    )
                )
                for number in range(12)
            )
        )

    for envelope in mailbox.envelopes:
        assert isinstance(envelope.content, bytes)
        number = envelope.rcpt_tos[0].removeprefix("c").removesuffix("@example.com")
        assert email.message_from_bytes(envelope.content, policy=default)["Subject"] == f"Order {number}"
    assert len(mailbox.envelopes) == 12


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("550 No such user", MailRejected),
        ("552 Too big", MailTooLarge),
        ("554 Spam", MailRejected),
        ("450 Try later", MailUnavailable),
        ("452 Disk full", MailUnavailable),
        ("421 Going down", MailUnavailable),
        ("530 Authentication required", MailUnavailable),
    ],
)
async def test_a_refusal_is_classified_by_its_code(step: str, answer: str, kind: type[Exception]) -> None:
    mailbox = Mailbox(**{step: answer})
    async with serving(mailbox) as settings:
        with pytest.raises(kind, match=answer) as caught:
            await EmailSender(settings).send(MAIL)

    assert caught.value.retryable is (kind is MailUnavailable)  # type: ignore[attr-defined]
    if kind is not MailUnavailable:
        assert type(caught.value) is kind
        assert caught.value.code == int(answer[:3])  # type: ignore[attr-defined]
    assert mailbox.envelopes == []


async def test_a_server_that_is_away_is_temporary() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    settings = Settings(_env_file=None, smtp_host="127.0.0.1", smtp_port=port)

    with pytest.raises(MailUnavailable, match="cannot be reached"):
        await EmailSender(settings).send(MAIL)


async def test_a_check_opens_a_session_and_sends_nothing() -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as settings:
        await EmailSender(settings).check()

    assert mailbox.envelopes == []
    with pytest.raises(MailUnavailable, match="cannot be reached"):
        await EmailSender(settings).check()


@pytest.mark.parametrize("greeting", [b"", b"554 Go away\r\n", b"SSH-2.0-OpenSSH\r\n", b"220 Hello\r\n"])
async def test_a_server_that_is_none_is_temporary(greeting: bytes) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await writer.drain()
        writer.close()

    async with _plain_server(answer) as settings:
        with pytest.raises(MailUnavailable):
            await EmailSender(settings).send(MAIL)


async def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    done = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with _plain_server(silent) as settings:
        sender = EmailSender(settings.model_copy(update={"smtp_timeout_seconds": 0.2}))
        started = asyncio.get_running_loop().time()
        with pytest.raises(MailUnavailable, match="timed out"):
            await sender.send(MAIL)
        assert asyncio.get_running_loop().time() - started < 2
        done.set()


async def test_an_address_beyond_ascii_needs_a_server_that_speaks_it() -> None:
    mail = mail_message(recipient="éléonore@example.com", subject="s", text="t", html="h", message_id="<1@a.example>")
    mailbox = Mailbox()
    async with serving(mailbox, enable_SMTPUTF8=True) as settings:
        await EmailSender(settings).send(mail)
    assert mailbox.envelopes[0].rcpt_tos == ["éléonore@example.com"]

    async with serving(Mailbox()) as settings:
        with pytest.raises(MailRejected, match="cannot take this address"):
            await EmailSender(settings).send(mail)


@pytest.mark.req("INT-002.1")
@pytest.mark.security
async def test_starttls_secures_the_session_and_then_logs_in(authority: trustme.CA) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"correct", handled=False)

    mailbox = Mailbox()
    async with serving(
        mailbox, tls_context=_server_tls(authority), require_starttls=True, authenticator=authenticate
    ) as settings:
        secured = settings.model_copy(update={"smtp_tls": "starttls"})
        await EmailSender(_with_login(secured, "correct")).send(MAIL)
        with pytest.raises(MailUnavailable, match="535") as caught:
            await EmailSender(_with_login(secured, "wrong-password")).send(MAIL)

    assert mailbox.secured == [True]
    assert seen[0] == (b"shop", b"correct")
    assert "wrong-password" not in str(caught.value)


@pytest.mark.req("INT-002.1")
@pytest.mark.security
async def test_implicit_tls_secures_the_session(authority: trustme.CA) -> None:
    mailbox = Mailbox()
    async with serving(mailbox, implicit=_server_tls(authority)) as settings:
        await EmailSender(settings.model_copy(update={"smtp_tls": "implicit"})).send(MAIL)

    assert len(mailbox.envelopes) == 1


@pytest.mark.security
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_server_without_tls_gets_neither_mail_nor_password(mode: str) -> None:
    mailbox = Mailbox()
    async with serving(mailbox, auth_require_tls=False) as settings:
        secured = _with_login(settings.model_copy(update={"smtp_tls": mode}), "secret")
        with pytest.raises(MailUnavailable):
            await EmailSender(secured).send(MAIL)

    assert mailbox.envelopes == []


@pytest.mark.security
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("fault", ["unknown authority", "other name"])
async def test_a_certificate_that_does_not_hold_stops_the_mail(authority: trustme.CA, mode: str, fault: str) -> None:
    context = _server_tls(trustme.CA()) if fault == "unknown authority" else _server_tls(authority, "other.example")
    options: dict[str, Any] = {"tls_context": context} if mode == "starttls" else {"implicit": context}
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server notes the broken handshake
    async with serving(mailbox, **options) as settings:
        with pytest.raises(MailUnavailable, match="certificate verify failed"):
            await EmailSender(settings.model_copy(update={"smtp_tls": mode})).send(MAIL)

    assert mailbox.envelopes == []


@pytest.mark.security
async def test_a_header_injection_reaches_no_server() -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as settings:
        with pytest.raises(ValueError, match="control character"):
            await EmailSender(settings).send(
                mail_message(
                    recipient=MAIL.recipient,
                    subject="Hello\r\nBcc: victim@example.com",
                    text="t",
                    html="h",
                    message_id=MAIL.message_id,
                )
            )

    assert mailbox.envelopes == []


def _with_login(settings: Settings, password: str) -> Settings:
    return Settings(
        _env_file=None,
        **(settings.model_dump(include={"smtp_host", "smtp_port", "smtp_tls", "smtp_timeout_seconds"})),
        smtp_user="shop",
        smtp_password=password,
    )


@asynccontextmanager
async def _plain_server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[Settings]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Settings(
            _env_file=None,
            smtp_host="127.0.0.1",
            smtp_port=server.sockets[0].getsockname()[1],
            smtp_timeout_seconds=3,
        )
    finally:
        server.close()
        await server.wait_closed()
