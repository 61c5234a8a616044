"""A session that is kept for the next mail: bounded, replaced when it is lost, and no mail lost or sent twice by it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from app.config import Settings
from app.utils import mail_sessions
from app.utils.email_sender import EmailSender, MailRejected, MailUnavailable
from app.utils.mail_sessions import MailSessions
from tests.factories import mail_message

pytestmark = pytest.mark.req("REQ-006", "INT-002")
MAIL = mail_message(recipient="eleonore@example.com", text="Bonjour.\n", html="<p>Bonjour.</p>")


@dataclass
class Server:
    """A server that does as it is asked.

    Attributes:
        commands: of each session, in order; `.` is the end of a mail.
        close_before: (session, command, how often it came before) at which it closes without an answer.
        close_after: the same, after the answer.
        answers: command → what is answered instead of 250.
    """

    port: int = 0
    commands: list[list[str]] = field(default_factory=list)
    close_before: tuple[int, str, int] | None = None
    close_after: tuple[int, str, int] | None = None
    answers: dict[tuple[int, str, int], bytes] = field(default_factory=dict)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def mails(self) -> int:
        """How many it has taken, and may have delivered."""
        return sum(session.count(".") for session in self.commands)

    def serve(self, listening: socket.socket) -> None:
        """Take sessions until the socket is closed."""
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.sockets.append(connection)
            self.commands.append([])
            threading.Thread(target=self._session, args=(connection, len(self.commands) - 1), daemon=True).start()

    def _session(self, connection: socket.socket, number: int) -> None:
        said = self.commands[number]
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 test ESMTP\r\n")
            in_data = False
            for line in lines:
                if in_data and line != b".\r\n":
                    continue
                verb = "." if in_data else line[:4].decode().strip().upper()
                at = (number, verb, said.count(verb))
                said.append(verb)
                if at == self.close_before:
                    return
                in_data = verb == "DATA"
                answer = self.answers.get(at, b"354 go on" if in_data else b"250 ok")
                if not answer.startswith((b"2", b"3")):
                    in_data = False
                connection.sendall(answer + b"\r\n")
                if verb == "QUIT" or at == self.close_after:
                    return


@contextmanager
def running() -> Iterator[tuple[Server, EmailSender]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(port=listening.getsockname()[1])
        threading.Thread(target=server.serve, args=(listening,), daemon=True).start()
        settings = Settings(_env_file=None, smtp_host="127.0.0.1", smtp_port=server.port, smtp_timeout_seconds=3)
        sender = EmailSender(settings)
        try:
            yield server, sender
        finally:
            sender.close()
            listening.shutdown(socket.SHUT_RDWR)


def send(sender: EmailSender, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(sender.send(MAIL))


def test_mails_one_after_another_share_a_session() -> None:
    with running() as (server, sender):
        send(sender, 3)
        assert len(server.commands) == 1
        assert server.mails == 3
        assert "QUIT" not in server.commands[0]
        sender.close()
    assert server.commands[0][-1] == "QUIT"


def test_a_session_takes_a_bounded_number_of_mails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_sessions, "MAILS_A_SESSION", 2)
    with running() as (server, sender):
        send(sender, 5)
        assert [session.count(".") for session in server.commands] == [2, 2, 1]
        assert [session[-1] for session in server.commands[:2]] == ["QUIT", "QUIT"]


def test_a_session_without_a_mail_is_closed_after_some_seconds() -> None:
    with running() as (server, sender):
        sender._sessions._kept_seconds = 0.2
        send(sender, 2)
        deadline = time.monotonic() + 5
        while "QUIT" not in server.commands[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.commands[0][-1] == "QUIT"
        assert sender._sessions._kept is None
        send(sender)
        assert (len(server.commands), server.mails) == (2, 3)


def test_a_session_that_the_server_closed_is_replaced_before_it_is_used() -> None:
    with running() as (server, sender):
        server.close_after = (0, ".", 0)
        send(sender)
        server.sockets[0].close()
        time.sleep(0.1)
        send(sender)
        assert [session.count("MAIL") for session in server.commands] == [1, 1]
        assert server.mails == 2


@pytest.mark.parametrize("how", ["closed", "421"])
def test_a_session_that_is_lost_before_it_took_the_sender_is_replaced_at_once(how: str) -> None:
    with running() as (server, sender):
        if how == "closed":
            server.close_before = (0, "MAIL", 1)
        else:
            server.answers[0, "MAIL", 1] = b"421 too many mails"
        send(sender, 2)
        assert server.mails == 2
        assert len(server.commands) == 2


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "."])
def test_what_is_lost_later_is_reported_and_not_sent_again(verb: str) -> None:
    """After the end of a mail the server may have it: only the job's next try may send it again."""
    with running() as (server, sender):
        server.close_before = (0, verb, 1)
        send(sender)
        with pytest.raises(MailUnavailable):
            send(sender)
        assert len(server.commands) == 1
        send(sender)
        assert len(server.commands) == 2, "a session with a fault is not kept"


def test_a_new_session_that_is_lost_is_not_tried_again() -> None:
    with running() as (server, sender):
        server.close_before = (0, "MAIL", 0)
        with pytest.raises(MailUnavailable):
            send(sender)
        assert len(server.commands) == 1


def test_a_refusal_is_the_mails_own_and_ends_the_session() -> None:
    with running() as (server, sender):
        server.answers[0, "RCPT", 1] = b"550 unknown"
        send(sender)
        with pytest.raises(MailRejected):
            send(sender)
        send(sender)
        assert [session.count(".") for session in server.commands] == [1, 1]


async def test_mails_at_once_have_a_session_each_and_one_is_kept() -> None:
    with running() as (server, sender):
        await asyncio.gather(*(sender.send(MAIL) for _ in range(4)))
        assert server.mails == 4
        await asyncio.sleep(0.1)
        assert sum("QUIT" not in session for session in server.commands) == 1


def test_nothing_is_kept_when_nothing_was_sent() -> None:
    def refuse() -> mail_sessions.Session:
        raise OSError("away")

    sessions = MailSessions(refuse)
    with pytest.raises(OSError, match="away"):
        sessions.send(lambda session: session.noop())
    sessions.close()
