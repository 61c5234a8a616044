"""What the supervision writes, where, and what happens when it cannot be written."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from devtools.embedded.child import Child
from devtools.embedded.console import ConsoleReporter
from devtools.embedded.stack import StackInfo

INFO = StackInfo(
    ready=True,
    api="http://127.0.0.1:1",
    docs="http://127.0.0.1:1/docs",
    database_url="postgresql://app:secret@127.0.0.1:2/x",
    owner_database_url=None,
    redis_url="redis://:secret@127.0.0.1:3/0",
    mail=None,
    mail_smtp=None,
    gateway="http://127.0.0.1:4",
    api_key="dev-api-key",
    data_dir="/data [folder]",
    pids={},
)


def never() -> None:
    raise AssertionError("not to be started")


def tell_everything(reporter: ConsoleReporter) -> None:
    part = Child("worker", never, Path("log"))  # type: ignore[arg-type]
    reporter.starting(Path("/data"))
    reporter.started(part, 1.25)
    reporter.ready(INFO)
    reporter.say("worker ended (killed by SIGKILL): [again]")
    part.restarts = 1
    reporter.started(part, 0.5)
    reporter.stopped(2)


def test_a_person_sees_ticks_and_addresses_but_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell_everything(ConsoleReporter(tmp_path / "logs" / "supervisor.log", quiet=False))
    out, told = capsys.readouterr()
    assert out == ""
    for expected in (
        "✓ worker 1.2 s",
        "http://127.0.0.1:1/docs",
        "dev-api-key",
        "[again]",
        "/data [folder]",
        "again 0.5 s",
    ):
        assert expected in told
    assert "secret" not in told
    assert "Mailbox" not in told


def test_who_asked_for_json_sees_nothing_and_the_log_has_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "supervisor.log"
    tell_everything(ConsoleReporter(log, quiet=True))
    assert capsys.readouterr() == ("", "")
    lines = log.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "starting over /data",
        "worker ready after 1.2 s pid None",
        "ready",
        "worker ended (killed by SIGKILL): [again]",
        "worker ready again after 0.5 s pid None",
        "stopped in 2.0 s",
    ]
    assert log.parent.stat().st_mode & 0o077 == 0


class ClosedTerminal(io.StringIO):
    """A terminal whose window was closed."""

    def write(self, _text: str) -> int:
        """Refuse, as the kernel does."""
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_and_a_full_disk_do_not_end_the_supervision(tmp_path: Path) -> None:
    reporter = ConsoleReporter(tmp_path / "supervisor.log", quiet=False)
    reporter._console = Console(file=ClosedTerminal())
    tell_everything(reporter)
    assert "the terminal is gone (Input/output error)" in (tmp_path / "supervisor.log").read_text()
    reporter._log = Path("/dev/full")
    reporter.say("nobody hears this")
