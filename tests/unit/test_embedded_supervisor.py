"""The supervisor: order, readiness, healing, and an end without orphans, over small children of its own kind."""

import os
import signal
from pathlib import Path

from app.local.process import wait_until
from tests.unit.embedded_support import DEAF, IDLE, PARENT, POLITE, Specification, supervised
from tests.unit.test_embedded_process import is_gone

FOREVER = 60.0
DEAF_PARENT = PARENT.replace("import time", "import signal, time; signal.signal(15, signal.SIG_IGN)")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_stages_start_in_order_and_everything_ends_in_its_order(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "server", "code": POLITE},
        {"name": "schema", "code": "note('schema')", "stage": 1, "once": True},
        {"name": "api", "code": POLITE, "stage": 2},
        {"name": "beat", "code": POLITE, "stage": 3},
    ]
    with supervised(tmp_path, *children, stop_order=("beat", "api", "server")) as running:
        running.until("ready")
        assert running.notes == ["start server", "schema", "start api", "start beat"]
        running.process.terminate()
        assert running.rest() == 0
        assert running.notes[4:] == ["end beat", "end api", "end server"]
        assert all(is_gone(pid) for pid in running.pids.values())


def test_without_an_order_the_last_started_ends_first(tmp_path: Path) -> None:
    children: list[Specification] = [{"name": name, "code": POLITE, "stage": stage} for stage, name in enumerate("abc")]
    with supervised(tmp_path, *children) as running:
        running.until("ready")
        running.process.send_signal(signal.SIGINT)
        assert running.rest() == 0
        assert running.notes[3:] == ["end c", "end b", "end a"]


def test_a_killed_child_that_worked_is_started_again_at_once_however_often(tmp_path: Path) -> None:
    with supervised(tmp_path, {"name": "worker", "code": IDLE}, {"name": "other", "code": IDLE}) as running:
        running.until("ready")
        other = running.pids["other"]
        for _ in range(4):
            before = running.pids["worker"]
            kill(before)
            assert running.until("said") == "said worker ended (killed by SIGKILL): starting it again"
            running.until("changed")
            assert running.pids["worker"] != before
            assert not is_gone(running.pids["worker"])
        assert running.pids["other"] == other
        assert not is_gone(other)


def test_the_waits_of_a_child_that_does_not_become_ready_again_double(tmp_path: Path) -> None:
    works_at_the_first_and_the_fifth_start = """
starts = (folder / "starts").read_text().count("x") + 1 if (folder / "starts").exists() else 1
(folder / "starts").write_text("x" * starts)
if starts in (1, 5): ready(); time.sleep(600)
"""
    with supervised(tmp_path, {"name": "worker", "code": works_at_the_first_and_the_fifth_start}) as running:
        running.until("ready")
        kill(running.pids["worker"])
        assert running.until("said").endswith("starting it again")
        for wait in ("0.2", "0.4", "0.8"):
            assert running.until("said") == f"said worker ended (exit code 0): starting it again in {wait} s"
        running.until("changed")
        kill(running.pids["worker"])
        assert running.until("said").endswith("starting it again")
        assert running.until("said").endswith("in 0.2 s"), "it starts over with the first wait"


SERVES_WHEN_TOLD = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
ready()
signal.sigwait({signal.SIGUSR1})
note(f"promoted {os.getpid()}")
(folder / "api.ready").touch()
time.sleep(600)
"""


def test_a_spare_takes_the_place_of_a_child_and_another_one_is_started(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "api", "code": IDLE, "stand_in": "api-spare"},
        {"name": "api-spare", "code": SERVES_WHEN_TOLD, "spare": True},
    ]
    with supervised(tmp_path, *children) as running:
        running.until("ready")
        assert "started api-spare" not in " ".join(running.lines), "no process waits for it"
        for _ in range(3):
            running.until("started api-spare")
            spare = running.pids["api-spare"]
            (tmp_path / "api.ready").unlink()
            kill(running.pids["api"])
            running.until("changed")
            assert running.pids["api"] == spare
            assert running.notes[-1] == f"promoted {spare}"
        running.process.terminate()
        assert running.rest() == 0
        assert all(is_gone(pid) for pid in running.pids.values())


def test_a_child_waits_for_a_spare_that_is_about_to_be_ready(tmp_path: Path) -> None:
    slow = "note('starts')\nwhile not (folder / 'go').exists(): time.sleep(.02)\n" + SERVES_WHEN_TOLD
    children: list[Specification] = [
        {"name": "api", "code": IDLE, "stand_in": "api-spare"},
        {"name": "api-spare", "code": slow, "spare": True},
    ]
    with supervised(tmp_path, *children) as running:
        running.until("ready")
        assert wait_until((tmp_path / "notes").exists, seconds=FOREVER)
        (tmp_path / "api.ready").unlink()
        kill(running.pids["api"])
        running.until("said api ended")
        (tmp_path / "go").touch()
        running.until("started api-spare")
        running.until("changed")
        assert running.notes[-1] == f"promoted {running.pids['api']}"


def test_a_spare_that_cannot_start_costs_nothing_else(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "api", "code": IDLE, "stand_in": "api-spare"},
        {"name": "api-spare", "code": "sys.exit(3)", "spare": True},
    ]
    with supervised(tmp_path, *children) as running:
        running.until("said api-spare ended (exit code 3): starting it again in 0.2 s")
        before = running.pids["api"]
        kill(before)
        running.until("changed")
        assert running.pids["api"] != before


def test_a_child_that_ends_by_itself_later_on_is_healed_too(tmp_path: Path) -> None:
    once_then_stay = (
        "first = not (folder / 'was').exists(); (folder / 'was').touch(); ready(); time.sleep(.3 if first else 600)"
    )
    with supervised(tmp_path, {"name": "api", "code": once_then_stay}) as running:
        running.until("ready")
        assert running.until("said") == "said api ended (exit code 0): starting it again"
        running.until("changed")


def test_what_a_killed_child_had_started_is_ended_and_reaped(tmp_path: Path) -> None:
    with supervised(tmp_path, {"name": "api", "code": PARENT}) as running:
        running.until("ready")
        grandchild = running.grandchild("api")
        kill(running.pids["api"])
        running.until("changed")
        assert not Path(f"/proc/{grandchild}").exists()
        assert running.grandchild("api") != grandchild


def test_descendants_in_sessions_of_their_own_are_reaped(tmp_path: Path) -> None:
    """As PostgreSQL's: they end by themselves, and no other process would collect them."""
    code = """
import sys
pid = os.fork()
if pid == 0:
    os.setsid()
    (folder / "stray").write_text(str(os.getpid()))
    ready()
    parent = os.getppid()
    while os.getppid() == parent: time.sleep(.02)
    sys.exit(0)
time.sleep(600)
"""
    with supervised(tmp_path, {"name": "server", "code": code}) as running:
        running.until("ready")
        stray = int((tmp_path / "stray").read_text())
        kill(running.pids["server"])
        running.until("changed")
        assert wait_until(lambda: not Path(f"/proc/{stray}").exists(), seconds=FOREVER)


def test_ctrl_c_leaves_no_process_not_even_deaf_ones(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "deaf", "code": DEAF, "grace_seconds": 0.1},
        {"name": "api", "code": DEAF_PARENT},
    ]
    with supervised(tmp_path, *children) as running:
        running.until("ready")
        grandchild = running.grandchild("api")
        running.process.send_signal(signal.SIGINT)
        assert running.rest() == 0
        assert "said deaf did not end in time: killed" in running.lines
        assert not any(Path(f"/proc/{pid}").exists() for pid in [*running.pids.values(), grandchild])


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with supervised(tmp_path, {"name": "deaf", "code": DEAF, "grace_seconds": 3600}) as running:
        running.until("ready")
        pid = running.pids["deaf"]
        while not is_gone(pid):  # As often as somebody impatient would; one signal alone is not enough.
            running.process.send_signal(signal.SIGINT)
            wait_until(lambda: is_gone(pid), seconds=0.1)
        assert running.rest() == 0


def test_when_the_supervisor_is_killed_everything_ends(tmp_path: Path) -> None:
    children: list[Specification] = [{"name": "relay", "code": IDLE}, {"name": "api", "code": PARENT}]
    with supervised(tmp_path, *children) as running:
        running.until("ready")
        pids = [*running.pids.values(), running.grandchild("api")]
        running.process.kill()
        assert wait_until(lambda: all(is_gone(pid) for pid in pids), seconds=FOREVER)


def test_ctrl_c_while_parts_start_ends_those_that_run(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "server", "code": POLITE},
        {"name": "slow", "code": "time.sleep(600)", "stage": 1},
    ]
    with supervised(tmp_path, *children) as running:
        running.until("started server")
        running.process.send_signal(signal.SIGINT)
        assert running.rest() == 0
        assert "ready" not in running.lines
        assert running.notes == ["start server", "end server"]


def test_a_part_that_cannot_start_ends_the_start_and_shows_its_log(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "server", "code": POLITE},
        {"name": "api", "code": "sys.exit('no such table')", "stage": 1},
    ]
    with supervised(tmp_path, *children) as running:
        said = running.until("said")
        assert said.startswith("said api did not start (exit code 1)")
        assert said.endswith("no such table")
        assert running.rest() == 1
        assert running.notes == ["start server", "end server"]


def test_a_step_that_fails_ends_the_start(tmp_path: Path) -> None:
    children: list[Specification] = [
        {"name": "schema", "code": "sys.exit(3)", "once": True},
        {"name": "api", "code": IDLE, "stage": 1},
    ]
    with supervised(tmp_path, *children) as running:
        assert "schema did not start (exit code 3)" in running.until("said")
        assert running.rest() == 1
        assert not any(line.startswith("started") for line in running.lines)


def test_a_part_killed_while_it_starts_gets_another_try(tmp_path: Path) -> None:
    code = "first = not (folder / 'was').exists(); (folder / 'was').touch(); first and os.kill(os.getpid(), 9); " + IDLE
    with supervised(tmp_path, {"name": "api", "code": code}) as running:
        running.until("ready")
        assert any("killed by SIGKILL" in line for line in running.lines)


def test_a_part_that_never_gets_ready_is_restarted(tmp_path: Path) -> None:
    code = "first = not (folder / 'was').exists(); (folder / 'was').touch(); first and time.sleep(600); " + IDLE
    with supervised(tmp_path, {"name": "api", "code": code, "start_seconds": 3.0}) as running:
        running.until("ready")
        assert "said api is not ready after 3 s: restarting it" in running.lines


def test_a_part_that_keeps_dying_before_it_is_ready_ends_the_start(tmp_path: Path) -> None:
    with supervised(tmp_path, {"name": "api", "code": "os.kill(os.getpid(), 9)"}) as running:
        assert running.rest() == 1
        assert running.lines[-1].startswith("said api did not start (killed by SIGKILL)")


def test_a_full_disk_does_not_end_the_supervision(tmp_path: Path) -> None:
    """Its log cannot be opened when it is started again; once it can, it is."""
    with supervised(tmp_path, {"name": "worker", "code": IDLE}, LONGEST_DELAY_SECONDS=0.2) as running:
        running.until("ready")
        (tmp_path / "worker.log").unlink()
        (tmp_path / "worker.log").mkdir()
        kill(running.pids["worker"])
        running.until("said worker cannot be started now (Is a directory)")
        (tmp_path / "worker.log").rmdir()
        running.until("changed")
