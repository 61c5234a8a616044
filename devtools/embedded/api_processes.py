"""The API processes of a system: one listening socket for all of them, and a warm one that takes the next free place.

The socket belongs to the supervisor. While a process is replaced, connections wait in its queue instead of being
refused, and any process that serves takes them.
"""

import socket
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from app.local.process import LOOPBACK
from devtools.embedded.child import Child, Supervised

BACKLOG = 2048
SPARE = "api-spare"

Start = Callable[[list[str | int], Path, int], Supervised]
"""Starts `articurated` with words, the path of its READY_FILE, and an open file that it inherits."""


class ApiProcesses:
    """Makes the children of the API.

    Args:
        port: loopback port to listen on.
        count: processes that serve.
        has_spare: whether one more is kept warm.
        start: starts a process.
        marks: folder for the files in which processes say how far they are.
        log: of all of them.
    """

    def __init__(self, port: int, count: int, *, has_spare: bool, start: Start, marks: Path, log: Path) -> None:
        self._port = port
        self._start = start
        self._marks = marks
        self._mark_of: dict[int, Path] = {}
        self._launches = 0
        self.children = [
            Child(name, self._launch, log, stage=2)
            for name in ("api", *(f"api-{number}" for number in range(2, count + 1)))
        ]
        spare = Child(SPARE, self._launch_spare, log, stage=2, spare=True) if has_spare else None
        for child in self.children:
            child.ready = self._look(child, "serving")
            child.stand_in = spare
        if spare is not None:
            spare.ready = self._look(spare, "ready")
            self.children.append(spare)

    @cached_property
    def _socket(self) -> socket.socket:
        """Bound when the first process starts; closed with this process."""
        return socket.create_server((LOOPBACK, self._port), backlog=BACKLOG)

    def _launch(self) -> Supervised:
        return self._begin([])

    def _launch_spare(self) -> Supervised:
        return self._begin(["--spare"])

    def _begin(self, words: list[str | int]) -> Supervised:
        self._launches += 1
        mark = self._marks / f"api-{self._launches}.ready"
        for file in (mark, mark.with_suffix(".serving")):
            file.unlink(missing_ok=True)
        descriptor = self._socket.fileno()
        process = self._start(["api", "--port", self._port, "--fd", descriptor, *words], mark, descriptor)
        self._mark_of[process.pid] = mark
        return process

    def _look(self, child: Child, stage: str) -> Callable[[], bool]:
        def look() -> bool:
            mark = self._mark_of.get(child.pid or 0)
            return mark is not None and mark.with_suffix(f".{stage}").exists()

        return look
