"""SMTP sessions that are used for several mails (INT-002).

Connection, greeting, TLS and login cost more than the mail. So the session that took the last mail is kept for the next
one, one for each process. A session is replaced

    when it has taken `MAILS_A_SESSION` mails      many servers close a session after a hundred
    after `KEPT_SECONDS` without a mail            it is closed then, by a thread that ends with it
    when the server has closed it                  seen before it is used: an idle server sends nothing else
    after any fault                                of the server, or of the mail

A mail is sent again at once, on a new session, only where the kept one was lost before it took the sender's address. The
server has nothing of the mail then, so it cannot arrive twice. What is lost later is reported, as with a session for
each mail.
"""

import select
import smtplib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

KEPT_SECONDS: Final = 5.0
MAILS_A_SESSION: Final = 50
_CLOSING: Final = 421


class Session(smtplib.SMTP):
    """A session that remembers how the server greeted, which smtplib drops, and how far it has come.

    Attributes:
        mails: how many it has taken.
        took_sender: whether the server has accepted the sender of the mail under way.
    """

    greeting = ""
    mails = 0
    took_sender = False

    def connect(self, *where: Any, **options: Any) -> tuple[int, bytes]:
        """Connect, and keep the greeting."""
        code, text = super().connect(*where, **options)
        self.greeting = text.decode("latin-1")
        return code, text

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name the sender, and note whether the server accepts."""
        self.took_sender = False
        code, text = super().mail(sender, options)
        self.took_sender = code < 400
        return code, text

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed it, or is about to: to an idle session it sends nothing else."""
        if self.sock is None:
            return True
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        return bool(waiting.poll(0))

    def leave(self) -> None:
        """Say goodbye and close."""
        # The server has answered for every mail: a failed QUIT changes nothing.
        with suppress(smtplib.SMTPException, OSError):
            self.quit()
        self.close()


class SessionOverTls(Session, smtplib.SMTP_SSL):
    """The same with TLS from the first byte."""


class MailSessions:
    """Keeps one session between mails; used from several threads, each mail has a session for itself."""

    def __init__(self, connect: Callable[[], Session], kept_seconds: float = KEPT_SECONDS) -> None:
        """Keep what opens a session; it is logged in and ready for a mail."""
        self._connect = connect
        self._kept_seconds = kept_seconds
        self._lock = threading.Condition()
        self._kept: Session | None = None
        self._until = 0.0
        self._closer: threading.Thread | None = None

    def send(self, work: Callable[[Session], _T]) -> _T:
        """Return what `work` does with a session: it sends one mail, or raises.

        Raises:
            smtplib.SMTPException, OSError: from `work`, or of a session that cannot be opened.
        """
        session = self._taken()
        if session is not None:
            try:
                return self._sent(session, work)
            except (smtplib.SMTPException, OSError) as fault:
                if session.took_sender or not _is_lost(fault):
                    raise
        return self._sent(self._connect(), work)

    def close(self) -> None:
        """Close the session that is kept."""
        with self._lock:
            session, self._kept = self._kept, None
            self._lock.notify_all()
        if session is not None:
            session.leave()

    def _sent(self, session: Session, work: Callable[[Session], _T]) -> _T:
        try:
            done = work(session)
        except BaseException:
            session.leave()
            raise
        session.mails += 1
        self._keep(session)
        return done

    def _taken(self) -> Session | None:
        with self._lock:
            session, self._kept = self._kept, None
        if session is not None and session.is_closed:
            session.leave()
            return None
        return session

    def _keep(self, session: Session) -> None:
        with self._lock:
            if session.mails < MAILS_A_SESSION and self._kept is None:
                self._kept, self._until = session, time.monotonic() + self._kept_seconds
                if self._closer is None:
                    self._closer = threading.Thread(target=self._close_late, name="mail-session", daemon=True)
                    self._closer.start()
                return
        session.leave()

    def _close_late(self) -> None:
        """Wait until the session has been idle for long enough, close it, and end."""
        with self._lock:
            while (left := self._until - time.monotonic()) > 0:
                self._lock.wait(left)
            self._closer = None
            session, self._kept = self._kept, None
        if session is not None:
            session.leave()


def _is_lost(fault: Exception) -> bool:
    """Return whether a fault is the end of the session, and no word about the mail."""
    if isinstance(fault, smtplib.SMTPResponseException):
        return fault.smtp_code == _CLOSING
    return isinstance(fault, smtplib.SMTPServerDisconnected | OSError)
