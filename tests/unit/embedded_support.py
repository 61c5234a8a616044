"""A supervisor over small children, run as a process of its own: `python -m tests.unit.embedded_support FOLDER`.

`FOLDER/children.json` says what to run. Each child is a few lines of Python that get FOLDER and their own name as
`folder` and `name`; `ready()` makes the mark that the supervisor waits for.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from app.local.process import EmbeddedError, Process, spawn
from devtools.embedded import supervisor as supervisor_module
from devtools.embedded.child import Child
from devtools.embedded.supervisor import Supervisor

Specification: TypeAlias = dict[str, Any]
WATCHDOG_SECONDS = 120.0
PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def ready(): (folder / f"{name}.ready").touch()
def note(word): (folder / "notes").open("a").write(f"{word}\\n")
"""
IDLE = "ready(); time.sleep(600)"
POLITE = """
def end(*_):
    note(f"end {name}")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note(f"start {name}")
ready()
while True: time.sleep(600)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); ready(); time.sleep(600)"
PARENT = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / f"{name}.grandchild").write_text(str(child.pid))
ready()
time.sleep(600)
"""


class Announcer:
    """Prints what the supervisor reports."""

    def started(self, child: Child, _seconds: float) -> None:
        """One line: started NAME PID."""
        tell(f"started {child.name} {child.pid}")

    def say(self, line: str) -> None:
        """One line: said WHAT."""
        tell("said " + line.replace("\n", " | "))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    folder = Path(sys.argv[1])
    specification = json.loads((folder / "children.json").read_text())
    for name, value in specification["constants"].items():
        setattr(supervisor_module, name, value)

    def child(name: str, code: str, **settings: Any) -> Child:
        mark = folder / f"{name}.ready"

        def launch() -> Process:
            mark.unlink(missing_ok=True)
            return spawn([sys.executable, "-c", PRELUDE + code, folder, name], log=folder / f"{name}.log")

        return Child(name, launch, folder / f"{name}.log", mark.exists, **settings)

    reporter = Announcer()
    stand_ins = {each["name"]: each.pop("stand_in", None) for each in specification["children"]}
    children = {each["name"]: child(**each) for each in specification["children"]}
    for name, stand_in in stand_ins.items():
        children[name].stand_in = children.get(stand_in)
    runner = Supervisor(
        list(children.values()),
        reporter=reporter,
        stop_order=specification["stop_order"],
        on_change=lambda: tell("changed"),
    )
    try:
        runner.run(lambda: tell("ready"))
    except EmbeddedError as fault:
        reporter.say(str(fault))
        return 1
    return 0


class Supervised:
    """The test's side of the program."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.pids: dict[str, int] = {}
        self.lines: list[str] = []

    def until(self, start: str) -> str:
        """Read lines up to one that starts like this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith("started "):
                _, name, pid = line.split()
                if pid != "None":
                    self.pids[name] = int(pid)
            if line.startswith(start):
                return line.strip()
        raise AssertionError(f"no {start!r} in {self.lines}")

    def rest(self) -> int:
        """Read on until the program ends; gives its exit code."""
        assert self.process.stdout is not None
        self.lines += [line.strip() for line in self.process.stdout]
        return self.process.wait()

    @property
    def notes(self) -> list[str]:
        """What the children noted, in order."""
        return (self.folder / "notes").read_text().splitlines()

    def grandchild(self, name: str) -> int:
        """Process id of what the child called `name` started."""
        return int((self.folder / f"{name}.grandchild").read_text())


@contextmanager
def supervised(
    folder: Path, *children: Specification, stop_order: tuple[str, ...] = (), **constants: float
) -> Iterator[Supervised]:
    """Run children under a supervisor; it is ended afterwards in every case."""
    specification = {"children": children, "stop_order": stop_order, "constants": constants}
    (folder / "children.json").write_text(json.dumps(specification))
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.embedded_support", str(folder)], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(WATCHDOG_SECONDS, program.kill)
    watchdog.start()
    try:
        yield Supervised(program, folder)
    finally:
        watchdog.cancel()
        watchdog.join()
        program.terminate()
        if program.stdout is not None:
            program.stdout.close()
        program.wait()


if __name__ == "__main__":
    sys.exit(main())
