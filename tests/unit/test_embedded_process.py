"""Children, ports and small files of the embedded default."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.local import data_folder, guard, process
from app.local.data_folder import DataFolderInUseError, Ports, free_data_dir, is_in_use, locked, make_data_dir
from app.local.process import EmbeddedError
from devtools.embedded.janitor import end_groups

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listener() -> socket.socket:
    server = socket.socket()
    server.bind((process.LOOPBACK, 0))
    server.listen()
    return server


def test_a_child_writes_to_its_log_and_leads_a_session_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    child = process.spawn([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"], log=log)
    assert child.wait() == 0
    assert log.read_text() == "True\n"
    assert log.parent.stat().st_mode & 0o077 == 0


def test_output_through_a_pipe_leaves_the_log_to_errors(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    command = [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"]
    child = process.spawn(command, log=log, pipe_output=True)
    out, _ = child.communicate()
    assert (out, log.read_bytes()) == (b"out\n", b"err\n")


def test_a_child_ends_with_its_parent_in_every_case(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from app.local.process import spawn;"
        f"child = spawn({SLEEP!r}, log=pathlib.Path(sys.argv[1]));"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not is_gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert process.wait_until(lambda: is_gone(pid), seconds=30)


def test_the_guard_refuses_when_its_parent_is_gone_already() -> None:
    command = [sys.executable, "-I", guard.__file__, "1", "15", "-1", "-1", "echo", "ran"]
    found = subprocess.run(command, capture_output=True, check=False)
    assert found.returncode == 1
    assert found.stdout == b""


def test_the_user_is_changed_before_the_parent_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the user id clears the death signal: the other order would leave orphans."""
    done: list[str] = []
    monkeypatch.setattr(guard, "become", lambda uid, gid: done.append(f"become {uid}:{gid}"))
    monkeypatch.setattr(guard, "die_with_parent", lambda parent, signum: done.append(f"watch {parent} {signum}"))
    monkeypatch.setattr(os, "execvp", lambda file, argv: done.append(f"exec {file} {argv}"))
    guard.main(["77", "15", "1000", "1001", "echo", "hello"])
    assert done == ["become 1000:1001", "watch 77 15", "exec echo ['echo', 'hello']"]


def test_stop_ends_the_whole_group_and_kills_who_does_not_listen(tmp_path: Path) -> None:
    script = f"import subprocess, time; print(subprocess.Popen({STUBBORN!r}).pid, flush=True); time.sleep(600)"
    child = process.spawn([sys.executable, "-c", script], log=tmp_path / "log", pipe_output=True)
    assert child.stdout is not None
    said = sorted([child.stdout.readline(), child.stdout.readline()])
    grandchild = int(said[0])
    assert process.session_pids(child.pid) == [child.pid, grandchild]
    assert process.stop(child, signal.SIGTERM, 30) == -signal.SIGTERM
    child.stdout.close()
    assert process.wait_until(lambda: is_gone(grandchild), seconds=30)


def test_stop_kills_after_the_grace_time(tmp_path: Path) -> None:
    child = process.spawn(STUBBORN, log=tmp_path / "log", pipe_output=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert process.stop(child, signal.SIGTERM, 0.01) == -signal.SIGKILL
    child.stdout.close()


def test_left_groups_are_ended_by_their_own_signal_then_killed(tmp_path: Path) -> None:
    gentle = process.spawn(SLEEP, log=tmp_path / "gentle")
    stubborn = process.spawn(STUBBORN, log=tmp_path / "stubborn", pipe_output=True)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    end_groups({gentle.pid: signal.SIGINT, stubborn.pid: signal.SIGTERM, 2**22 - 1: signal.SIGTERM}, 0.01)
    assert gentle.wait() in {-signal.SIGINT, 1, -signal.SIGKILL}
    assert stubborn.wait() == -signal.SIGKILL
    stubborn.stdout.close()


def test_a_taken_port_is_refused_by_name_and_a_remembered_one_replaced() -> None:
    with listener() as taken:
        port = taken.getsockname()[1]
        assert process.accepts(port)
        assert not process.port_is_free(port)
        with pytest.raises(EmbeddedError, match=f"port {port} is in use"):
            process.choose_port(port)
        assert process.choose_port(remembered=port) != port


def test_free_ports_lie_below_the_range_of_client_ports() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(process.LOWEST_PORT <= process.choose_port() < max(first, process.LOWEST_PORT + 1000) for _ in range(20))


def test_a_part_keeps_its_port_from_run_to_run(tmp_path: Path) -> None:
    port = Ports(tmp_path).pick("api")
    assert Ports(tmp_path).pick("api") == port
    assert Ports(tmp_path).pick("mail") != port


def test_private_files_are_whole_and_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    assert process.read_state(path) == {}
    process.write_state(path, {"password": "one"})
    process.write_state(path, {"password": "two"})
    assert process.read_state(path) == {"password": "two"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_is_bounded_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 10)
        process.bound_log(log, limit=100)
        assert log.stat().st_size == 40
        process.bound_log(log, limit=30)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").read_bytes() == b"old\n" * 10
    process.bound_log(tmp_path / "absent.log")
    assert process.tail(log) == "new"
    assert process.tail(tmp_path / "absent.log") == ""


def test_one_system_at_a_time_over_a_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert not is_in_use(folder)
    with locked(folder):
        assert is_in_use(folder)
        with pytest.raises(DataFolderInUseError, match=rf"in use by process {os.getpid()}"), locked(folder):
            pytest.fail("held twice")
    assert not is_in_use(folder)
    with locked(folder):
        assert is_in_use(folder)


def test_a_free_data_folder_is_given_to_one_process_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with locked(tmp_path / "data-2"):
        assert free_data_dir(folder) == folder
        assert free_data_dir(folder) == tmp_path / "data-3"
        ask = "import sys, pathlib; from app.local.data_folder import free_data_dir; print(free_data_dir(pathlib.Path(sys.argv[1])))"
        asked = [subprocess.check_output([sys.executable, "-c", ask, folder], text=True).strip() for _ in range(2)]
        assert asked == [f"{folder}-4"] * 2  # The first of them ended, and with it its reservation.


def test_a_start_waits_for_the_rest_of_a_killed_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is still held by a helper, but the process named in it has ended: wait, and give up some time."""
    monkeypatch.setattr(data_folder, "LEAVING_SECONDS", 0.3)
    with locked(tmp_path / "data"):
        (tmp_path / "data" / "lock").write_text(str(2**22 - 1))
        with pytest.raises(DataFolderInUseError), locked(tmp_path / "data"):
            pytest.fail("held twice")


def test_a_data_folder_that_cannot_be_made_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be used"), locked(tmp_path / "file" / "data"):
        pytest.fail("a folder below a file")


def test_a_new_data_folder_is_closed_to_listing_and_an_old_one_left_alone(tmp_path: Path) -> None:
    make_data_dir(tmp_path / "deep" / "data")
    assert (tmp_path / "deep" / "data").stat().st_mode & 0o066 == 0
    (tmp_path / "mine").mkdir(mode=0o750)
    make_data_dir(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o750
