"""Copies of the supervisor: what they get, what they leave behind, how they end."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.config import ROOT
from app.core.counts_file import CountsFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes begin as copies on Linux alone")

PRELUDE = """
import atexit, os, pathlib, signal, socket, sys, time
from devtools.embedded.forked import fork
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
def run(**more):
    return fork(["part", "a word"], title="articurated part of x", log=folder / "log", environment=ENVIRONMENT, **more)
ENVIRONMENT = {"ONLY": "this"}
"""


def parent(folder: Path, part: str, code: str) -> str:
    """Run code in a process that forks, with `part` as the module of its copies; return what it printed."""
    (folder / "part.py").write_text(textwrap.dedent(part))
    found = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_copy_gets_its_words_its_environment_and_a_session_of_its_own(tmp_path: Path) -> None:
    part = """
        import os, sys
        print(__name__, sys.argv[1:], dict(os.environ), os.getsid(0) == os.getpid(), sys.stdin.read())
        print(open("/proc/self/cmdline").read().rstrip("\\0"), open("/proc/self/comm").read().strip())
    """
    assert parent(tmp_path, part, "print(run().wait())") == "0\n"
    assert (tmp_path / "log").read_text().splitlines() == [
        "__main__ ['a word'] {'ONLY': 'this'} True ",
        "articurated part of x part",
    ]
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


def test_a_copy_keeps_no_file_signal_or_exit_function_of_the_supervisor(tmp_path: Path) -> None:
    part = """
        import os, pathlib, signal
        files = {int(each.name) for each in pathlib.Path("/proc/self/fd").iterdir()}
        kept = [each for each in files if each > 2 and os.path.exists(f"/proc/self/fd/{each}")]
        print(kept == [int(os.environ["KEEP"])], signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1))
    """
    code = """
        atexit.register(lambda: print("the supervisor ends", flush=True))
        signal.signal(signal.SIGTERM, lambda *_: None)
        other, kept = socket.socket(), socket.socket()
        ENVIRONMENT["KEEP"] = str(kept.fileno())
        print(run(pass_fds=[kept.fileno()]).wait(), flush=True)
    """
    assert parent(tmp_path, part, code) == "0\nthe supervisor ends\n"
    assert (tmp_path / "log").read_text() == "True True\nset() -1\n"


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no database')", 1, "no database"),
        ("raise ValueError('a fault')", 1, "ValueError: a fault"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import atexit; atexit.register(print, 'its own end')", 0, "its own end"),
        (
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()",
            0,
            "done",
        ),
    ],
)
def test_how_a_copy_ends_is_how_a_program_ends(tmp_path: Path, part: str, status: int, said: str) -> None:
    assert parent(tmp_path, part, "process = run(); print(process.wait(), process.poll())") == f"{status} {status}\n"
    assert said in (tmp_path / "log").read_text()


def test_a_copy_is_stopped_waited_for_and_forgets(tmp_path: Path) -> None:
    part = "import sys, time; print(sys.modules['app.config'].SECRET, flush=True); time.sleep(60)"
    code = """
        import subprocess
        import app.config
        app.config.SECRET = "a secret"
        process = run(forget=lambda: setattr(app.config, "SECRET", "forgotten"))
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            print(process.poll(), app.config.SECRET)
        process.send_signal(signal.SIGTERM)
        print(process.wait(10))
        process.kill()
    """
    assert parent(tmp_path, part, code) == "None a secret\n-15\n"
    assert (tmp_path / "log").read_text() == "forgotten\n"


def test_a_copy_ends_with_the_supervisor(tmp_path: Path) -> None:
    part = "import time; time.sleep(60)"
    pid = int(parent(tmp_path, part, "print(run().pid, flush=True); os._exit(0)"))
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        signal.sigtimedwait([], 0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it went on")


def test_a_copy_leaves_the_counts_of_the_other_process_alone(tmp_path: Path) -> None:
    """The number of a closed descriptor may belong to another file by the time the library closes it."""
    counts = CountsFile(str(tmp_path / "counter_1.db"))
    counts.write_value("k", 1.0, 0.0)
    before = (tmp_path / "counter_1.db").read_bytes()
    pid = os.fork()
    if pid == 0:
        try:
            is_current = counts.is_current
            counts.write_value("k", 2.0, 0.0)
            counts.close()
            os._exit(int(is_current))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert counts.is_current
    assert (tmp_path / "counter_1.db").read_bytes() == before
    counts.close()
