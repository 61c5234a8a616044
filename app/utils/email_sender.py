"""Message → SMTP (INT-002, REQ-006).

A mail is sent at least once: if the worker process ends after the server took the message, it is sent again under the
same Message-ID, by which mail clients and servers recognise the copy. The caller therefore chooses the Message-ID, which
belongs to the notification and not to the attempt.
"""

import asyncio
import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import partial
from typing import Final

from app.config import Settings
from app.config_rules import is_mail_catcher
from app.mail_address import ascii_domain
from app.utils.mail_sessions import MailSessions, Session, SessionOverTls
from app.utils.messages import Attachment, Message, MessageDelayed, MessageRefused, MessageTooLarge
from app.utils.redaction import redact_foreign_text

__all__ = [
    "Attachment",
    "EmailSender",
    "MailRejected",
    "MailTooLarge",
    "MailUnavailable",
    "checked_address",
    "compose",
    "message_id_for",
]

_POLICY: Final = SMTP.clone(max_line_length=78)
_LOCAL_PART: Final = re.compile(r"""[^\s@<>()\[\],;:\\"]{1,64}""")
_MESSAGE_ID: Final = re.compile(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,180}@[A-Za-z0-9.-]{1,253}>")
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends of any kind and lone surrogates."""
_MIME_TYPE: Final = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")
_PERMANENT: Final = 500
_TOO_LARGE: Final = 552
_OUR_LOGIN: Final = frozenset({530, 534, 535, 538})
"""Answers that say our login is wrong, not the mail: an operator has to correct it, and the mail goes then."""


class MailRejected(MessageRefused):
    """The server refused this mail permanently; sending it again gives the same answer."""


class MailTooLarge(MailRejected, MessageTooLarge):
    """The server takes no mail of this size (552), or has no room for it in the mailbox."""


class MailUnavailable(MessageDelayed):
    """The mail could not be handed over now: no server, no login, or a temporary refusal."""


def message_id_for(local: str, mail_from: str) -> str:
    """Return the Message-ID of a matter, e.g. `<notification.018f….1@articurated.example>`.

    Args:
        local: names event, template and recipient; letters, digits, `.`, `_`, `-`.
        mail_from: the sender's address, whose domain makes it unique in the world.

    Raises:
        ValueError: no Message-ID can be made of it.
    """
    return _checked_message_id(f"<{local}@{ascii_domain(mail_from.rpartition('@')[2])}>")


class EmailSender:
    """Sends through the configured SMTP server, in a thread, on a session that is kept for the next mail (`MailSessions`).

    With `SMTP_TLS=starttls` or `implicit` the server's certificate is checked and nothing is said in clear; a server
    without TLS is then `MailUnavailable`, never a fallback.

    Args:
        settings: the `smtp_…` and `mail_…` fields.
        now: the clock, for the Date header.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._tls = ssl.create_default_context() if settings.smtp_tls != "none" else None
        # Given, because smtplib would otherwise ask the name service for it on each connection.
        self._sessions = MailSessions(self._session)
        self._local_name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"

    async def send(self, message: Message) -> None:
        """Send one mail (see `NotificationChannel`).

        Raises:
            MailRejected: it will never be taken; MailTooLarge: not at this size.
            MailUnavailable: it could not be handed over now.
        """
        mail = compose(message, self._settings.mail_from, self._settings.mail_from_name, self._now())
        await asyncio.to_thread(self._deliver, mail)

    async def check(self) -> None:
        """Open a session with the mail server, log in, and leave.

        Raises:
            MailUnavailable: it did not come to that.
        """
        await asyncio.to_thread(lambda: self._session().quit())

    def close(self) -> None:
        """Close the session that is kept, if there is one."""
        self._sessions.close()

    def _session(self) -> Session:
        try:
            return self._connect()
        except smtplib.SMTPException as fault:
            raise MailUnavailable(f"no session with the mail server: {self._reason(fault)}") from fault
        except OSError as fault:
            raise MailUnavailable(f"the mail server cannot be reached: {fault}") from fault

    def _deliver(self, mail: EmailMessage) -> None:
        try:
            self._sessions.send(lambda session: session.send_message(mail))
        except smtplib.SMTPNotSupportedError as fault:
            raise MailRejected(f"the mail server cannot take this address: {fault}") from fault
        except (smtplib.SMTPException, OSError) as fault:
            reason = f"the mail was not taken: {self._reason(fault)}"
            if not _is_final(fault):
                raise MailUnavailable(reason) from fault
            code = _code_of(fault)
            raise (MailTooLarge if code == _TOO_LARGE else MailRejected)(reason, code) from fault

    def _refuse_catcher(self, greeting: str) -> None:
        if self._settings.environment == "production" and is_mail_catcher(greeting):
            raise MailUnavailable("SMTP_HOST leads to a mail catcher, which delivers nothing")

    def _reason(self, fault: Exception) -> str:
        """Return what the server said, without what it may have quoted of us and of the customer."""
        return redact_foreign_text(_words_of(fault), [self._settings.smtp_password.get_secret_value()])

    def _connect(self) -> Session:
        settings = self._settings
        connect: Callable[..., Session] = Session
        if settings.smtp_tls == "implicit":
            connect = partial(SessionOverTls, context=self._tls)
        connection = connect(
            settings.smtp_host,
            settings.smtp_port,
            local_hostname=self._local_name,
            timeout=settings.smtp_timeout_seconds,
        )
        try:
            self._refuse_catcher(connection.greeting)
            if settings.smtp_tls == "starttls":
                connection.starttls(context=self._tls)
            if settings.smtp_user:
                connection.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        except BaseException:
            connection.close()
            raise
        return connection


def compose(message: Message, mail_from: str, from_name: str, sent_at: datetime) -> EmailMessage:
    """Return the mail as it goes over the wire: multipart/alternative, inside multipart/mixed with attachments.

    Args:
        message: what to say and to whom.
        mail_from: the sender's address.
        from_name: shown beside it.
        sent_at: aware; the Date header.

    Raises:
        ValueError: a header value holds a control character, or an address or Message-ID is malformed.
    """
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = _address(mail_from, _checked_header("sender name", from_name))
    mail["To"] = _address(message.recipient)
    mail["Subject"] = _checked_header("subject", message.subject)
    mail["Date"] = format_datetime(sent_at)
    mail["Message-ID"] = _checked_message_id(message.message_id)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text, cte="quoted-printable")
    mail.add_alternative(message.html, subtype="html", cte="quoted-printable")
    for attachment in message.attachments:
        if not _MIME_TYPE.fullmatch(attachment.content_type):
            raise ValueError(f"not a content type: {attachment.content_type!r}")
        maintype, _, subtype = attachment.content_type.partition("/")
        mail.add_attachment(
            attachment.data,
            maintype=maintype,
            subtype=subtype,
            filename=_checked_header("file name", attachment.filename),
        )
    return mail


def checked_address(address: str) -> str:
    """Return an address that can be put into an envelope.

    Raises:
        ValueError: it cannot.
    """
    local, _, domain = address.rpartition("@")
    if _UNFIT.search(address) or not _LOCAL_PART.fullmatch(local) or "" in local.split("."):
        raise ValueError(f"not a mail address: {address!r}")
    ascii_domain(domain)
    return address


def _address(address: str, display_name: str = "") -> Address:
    local, _, domain = checked_address(address).rpartition("@")
    return Address(display_name=display_name, username=local, domain=ascii_domain(domain))


def _checked_header(name: str, value: str) -> str:
    if _UNFIT.search(value):
        raise ValueError(f"the {name} holds a control character or lone surrogate")
    return value


def _checked_message_id(message_id: str) -> str:
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError(f"not a Message-ID: {message_id!r}")
    return message_id


def _code_of(fault: Exception) -> int | None:
    """Return what the server answered; of several refusals the mildest."""
    if isinstance(fault, smtplib.SMTPRecipientsRefused):
        return min(code for code, _ in fault.recipients.values())
    return fault.smtp_code if isinstance(fault, smtplib.SMTPResponseException) else None


def _is_final(fault: Exception) -> bool:
    """Return whether the server will never take this mail."""
    code = _code_of(fault)
    return code is not None and code >= _PERMANENT and code not in _OUR_LOGIN


def _words_of(fault: Exception) -> str:
    if isinstance(fault, smtplib.SMTPRecipientsRefused):
        return "; ".join(f"{code} {text.decode(errors='replace')}" for code, text in fault.recipients.values())
    if isinstance(fault, smtplib.SMTPResponseException):
        error = fault.smtp_error
        return f"{fault.smtp_code} {error.decode(errors='replace') if isinstance(error, bytes) else error}"
    return str(fault)
