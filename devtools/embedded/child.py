"""One supervised process, as data; `supervisor` moves it from phase to phase."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Protocol, TypeAlias

from app.local.process import Process
from devtools.embedded.forked import ForkedProcess

Supervised: TypeAlias = Process | ForkedProcess
"""A running process: a program of its own, or a copy of the supervisor."""

FIRST_DELAY_SECONDS = 0.2
PROMOTION_SIGNAL = signal.SIGUSR1
"""Sent to a spare that is to take the place of another process."""


class Phase(Enum):
    """Where a child is in its life."""

    NEW = auto()
    STARTING = auto()
    RUNNING = auto()
    WAITING = auto()
    DONE = auto()


@dataclass
class Child:
    """One supervised process.

    Attributes:
        name: short and unique, also the name of its log.
        launch: starts it without waiting.
        log: file its output goes to.
        ready: whether it does its work; asked only while it starts.
        first_launch: for the first start instead of `launch`; returns when the child is ready.
        stage: children of one stage start together, after all of the stage before are ready.
        once: runs to completion, and the next stage waits for that.
        stop_signal: asks it to end in an orderly way.
        grace_seconds: time for that, then it is killed.
        start_seconds: time to become ready.
        spare: is started once all others serve, and takes the place of one that ends.
        stand_in: the spare that takes its place.
    """

    name: str
    launch: Callable[[], Supervised]
    log: Path
    ready: Callable[[], bool] = lambda: True
    first_launch: Callable[[], Supervised] | None = None
    stage: int = 0
    once: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0
    start_seconds: float = 90.0
    spare: bool = False
    stand_in: "Child | None" = None
    phase: Phase = field(default=Phase.NEW, init=False)
    process: Supervised | None = field(default=None, init=False)
    since: float = field(default=0.0, init=False)
    delay: float = field(default=FIRST_DELAY_SECONDS, init=False)
    restarts: int = field(default=0, init=False)
    was_ready: bool = field(default=False, init=False)

    @property
    def part(self) -> str:
        """What it is a process of: `api` for api, api-2 and api-spare."""
        return self.name.partition("-")[0]

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None


class Reporter(Protocol):
    """Hears what happens, for people and logs."""

    def started(self, child: Child, seconds: float) -> None:
        """A child is ready, for the first time or again."""

    def say(self, line: str) -> None:
        """Something worth a line."""
