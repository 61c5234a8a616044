"""Caught mails as files, one `.eml` each: on disk before the sender gets its answer."""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

ENVELOPE_FROM = "X-Envelope-From"
ENVELOPE_TO = "X-Envelope-To"


@dataclass(frozen=True)
class Attachment:
    """One attached file."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class Summary:
    """What the list shows of a mail. `recipients` are the envelope's: who would have received it."""

    id: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    message_id: str
    received: datetime


@dataclass(frozen=True)
class Mail:
    """A mail in full."""

    summary: Summary
    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]


class MailStore:
    """The mailbox of one folder, used by one process.

    Args:
        folder: where the files are; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._index: dict[str, Summary] = {}
        for file in sorted(folder.glob("*.eml")):
            self._index[file.stem] = _summary(file.stem, _parse(file.read_bytes()))

    def add(self, sender: str, recipients: Sequence[str], content: bytes) -> str:
        """Keep a mail as it came over the wire; it survives a power cut once this returns. Gives its id."""
        mail_id = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        envelope = f"{ENVELOPE_FROM}: {_one_line(sender)}\r\n{ENVELOPE_TO}: {_one_line(', '.join(recipients))}\r\n"
        content = envelope.encode() + content
        unfinished = self._folder / f"{mail_id}.part"
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._folder / f"{mail_id}.eml")
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self._index[mail_id] = _summary(mail_id, _parse(content))
        return mail_id

    def find(self, recipient: str = "", subject: str = "", anything: str = "") -> Iterator[Summary]:
        """Mails, newest first, whose recipients and subject contain what is asked for, in upper or lower case.

        Args:
            recipient: part of a recipient's address.
            subject: part of the subject.
            anything: part of either.
        """
        recipient, subject, anything = recipient.casefold(), subject.casefold(), anything.casefold()
        for summary in sorted(self._index.values(), key=lambda each: each.id, reverse=True):
            to, about = " ".join(summary.recipients).casefold(), summary.subject.casefold()
            if recipient in to and subject in about and (anything in to or anything in about):
                yield summary

    def get(self, mail_id: str) -> Mail | None:
        """A mail in full; None when there is none of that id."""
        summary = self._index.get(mail_id)
        if summary is None:
            return None
        return _mail(summary, _parse((self._folder / f"{mail_id}.eml").read_bytes()))

    def clear(self) -> int:
        """Delete every mail; gives their number."""
        gone = list(self._index)
        for mail_id in gone:
            (self._folder / f"{mail_id}.eml").unlink(missing_ok=True)
            del self._index[mail_id]
        return len(gone)


def _parse(content: bytes) -> EmailMessage:
    return message_from_bytes(content, EmailMessage, policy=policy.default)


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _header(message: EmailMessage, name: str) -> str:
    """A header decoded for display; what the parser cannot make sense of is shown as it came."""
    for key, value in message.raw_items():
        if key.casefold() == name.casefold():
            try:
                return _one_line(str(message[name]))
            except (ValueError, IndexError, AttributeError, TypeError):
                return _one_line(str(value))
    return ""


def _summary(mail_id: str, message: EmailMessage) -> Summary:
    recipients = tuple(part.strip() for part in _header(message, ENVELOPE_TO).split(",") if part.strip())
    return Summary(
        id=mail_id,
        sender=_header(message, "From") or _header(message, ENVELOPE_FROM),
        recipients=recipients,
        subject=_header(message, "Subject"),
        message_id=_header(message, "Message-ID"),
        received=datetime.fromtimestamp(int(mail_id.partition("-")[0]) / 1e9, UTC),
    )


def _mail(summary: Summary, message: EmailMessage) -> Mail:
    text = html = None
    attachments: list[Attachment] = []
    for part in message.walk():
        if part.is_multipart():
            continue
        payload = part.get_payload(decode=True)
        content = payload if isinstance(payload, bytes) else b""
        kind, name = part.get_content_type(), part.get_filename()
        is_body = part.get_content_disposition() != "attachment" and name is None
        if is_body and kind == "text/plain" and text is None:
            text = _decoded(content, part)
        elif is_body and kind == "text/html" and html is None:
            html = _decoded(content, part)
        else:
            attachments.append(Attachment(name or f"part-{len(attachments) + 1}", kind, content))
    headers = tuple((name, _header(message, name)) for name in dict.fromkeys(message.keys()))
    return Mail(summary, headers, text, html, tuple(attachments))


def _decoded(content: bytes, part: EmailMessage) -> str:
    try:
        text = content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # An unknown character set.
        text = content.decode("utf-8", errors="replace")
    return text.replace("\r\n", "\n")
