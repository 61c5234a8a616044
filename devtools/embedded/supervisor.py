"""Starts children in order, restarts what ends, stops everything in order.

One thread, one loop: the kernel ties each child's life to the thread that started it (see `guard`). The loop
sleeps on a pipe that signals write to, so that a death or a Ctrl-C is seen at once and idling costs nothing.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from app.local.guard import adopt_orphans
from app.local.process import EmbeddedError, bound_log, kill_group, tail
from devtools.embedded.child import FIRST_DELAY_SECONDS, PROMOTION_SIGNAL, Child, Phase, Reporter, Supervised
from devtools.embedded.janitor import Janitor

LONGEST_DELAY_SECONDS = 5.0
READY_POLL_SECONDS = 0.05
IDLE_POLL_SECONDS = 1.0
LOG_CHECK_SECONDS = 30.0
START_ATTEMPTS = 3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Runs children until a signal asks it to stop.

    Args:
        children: in start order.
        stop_order: names of children in the order they end; the others follow, last started first.
        reporter: hears what happens.
        lock: open file of the data folder's lock, or -1.
        on_change: called after a child was healed, when process ids have changed.

    Attributes:
        asked_at: monotonic time of the first signal that asked to stop.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        reporter: Reporter,
        stop_order: Sequence[str] = (),
        lock: int = -1,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.children = list(children)
        self._stop_order = list(stop_order)
        self._reporter = reporter
        self._lock = lock
        self._on_change = on_change
        self.asked_at: float | None = None
        self._stopping = 0
        self._wake = -1
        self._logs_checked = 0.0
        self._is_up = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, supervise until SIGINT, SIGTERM or SIGHUP, end everything.

        Raises:
            EmbeddedError: a child could not be started; the others have ended.
        """
        adopt_orphans()
        with self._signals():
            self._janitor = Janitor(self._lock)
            try:
                self._start_all()
                if not self._stopping:
                    on_ready()
                self._is_up = True
                while not self._stopping:
                    self._tick()
                    self._sleep()
            finally:
                self._stop_all()
                self._janitor.close()

    # --- start and heal ---------------------------------------------------------------------------------

    def _start_all(self) -> None:
        for stage in sorted({child.stage for child in self.children}):
            members = [child for child in self.children if child.stage == stage and not child.spare]
            for child in members:
                if self._stopping:
                    return
                self._launch(child)
            while not self._stopping:
                self._tick()
                if all(child.phase is (Phase.DONE if child.once else Phase.RUNNING) for child in members):
                    break
                self._sleep()

    def _launch(self, child: Child) -> None:
        first = child.phase is Phase.NEW
        child.since = time.monotonic()
        child.phase = Phase.STARTING
        child.process = (child.first_launch if first and child.first_launch else child.launch)()
        self._janitor.add(child.process.pid, child.stop_signal)
        if first and child.first_launch:
            self._note_ready(child)

    def _launch_again(self, child: Child) -> None:
        """Heal a child; a machine that has no process to spare now may have one later."""
        spare = child.stand_in
        if spare is not None and spare.phase is Phase.RUNNING and spare.pid is not None:
            self._promote(spare, child)
            return
        if spare is not None and spare.phase is Phase.STARTING and self._may_wait(child):
            child.phase, child.since = Phase.WAITING, time.monotonic() + READY_POLL_SECONDS
            return
        try:
            self._launch(child)
        except OSError as fault:
            self._reporter.say(f"{child.name} cannot be started now ({fault.strerror})")
            child.phase, child.since = Phase.WAITING, time.monotonic() + LONGEST_DELAY_SECONDS

    def _promote(self, spare: Child, child: Child) -> None:
        """Give the process of a spare to a child; another spare is started later."""
        child.process, spare.process = spare.process, None
        child.phase, child.since, spare.phase = Phase.STARTING, time.monotonic(), Phase.NEW
        if child.process is not None:
            child.process.send_signal(PROMOTION_SIGNAL)

    def _may_wait(self, child: Child) -> bool:
        """Whether a child is the one that the starting spare is for: it has a head start on a new process."""
        waiting = (other for other in self.children if other is not child and other.stand_in is child.stand_in)
        return not any(other.phase is Phase.WAITING for other in waiting)

    def _start_spares(self) -> None:
        """Start each spare once all processes that it can replace serve: before, it would slow their start."""
        for spare in self.children:
            if spare.spare and spare.phase is Phase.NEW and self._is_up and not self._stopping:
                served = [child for child in self.children if child.stand_in is spare]
                if all(child.phase is Phase.RUNNING for child in served):
                    self._launch_again(spare)

    def _tick(self) -> None:
        """Look at every child once, and do what its phase asks for."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None or self._stopping:
                continue
            if child.phase in {Phase.STARTING, Phase.RUNNING} and child.process.poll() is not None:
                self._note_end(child)
            elif child.phase is Phase.STARTING and not child.once and child.ready():
                self._note_ready(child)
            elif child.phase is Phase.STARTING and now - child.since > child.start_seconds:
                self._reporter.say(f"{child.name} is not ready after {child.start_seconds:.0f} s: restarting it")
                child.process.kill()
            elif child.phase is Phase.WAITING and now >= child.since:
                self._launch_again(child)
        self._start_spares()
        self._reap_adopted()
        if now - self._logs_checked > LOG_CHECK_SECONDS:
            self._logs_checked = now
            for child in self.children:
                self._try(f"the log of {child.name} cannot be bounded", partial(bound_log, child.log))

    def _note_ready(self, child: Child) -> None:
        child.phase, child.was_ready = Phase.RUNNING, True
        self._reporter.started(child, time.monotonic() - child.since)
        child.since = time.monotonic()
        if child.restarts and not child.spare:
            self._try("the new process ids cannot be noted", self._on_change)

    def _try(self, consequence: str, action: Callable[[], None]) -> None:
        """Do what a full disk may forbid, and say so when it does: the supervision goes on."""
        try:
            action()
        except OSError as fault:
            self._reporter.say(f"{consequence} ({fault.strerror})")

    def _note_end(self, child: Child) -> None:
        """A child ended: done when it was to, healed when it was up, else the whole start has failed."""
        status = self._bury(child)
        if child.once and status == 0:
            child.phase = Phase.DONE
            self._reporter.started(child, time.monotonic() - child.since)
            return
        # A status of its own making says that it cannot work; a signal from outside is worth another try.
        is_vital = not child.was_ready and not child.spare
        if child.once or (is_vital and (status >= 0 or child.restarts >= START_ATTEMPTS)):
            end = tail(child.log)
            raise EmbeddedError(f"{child.name} did not start ({_reason(status)}); {child.log} ends:\n{end}")
        child.restarts += 1
        if child.phase is Phase.RUNNING:
            # It worked: what ended it came from outside, and its work waits.
            child.delay = FIRST_DELAY_SECONDS
            self._reporter.say(f"{child.name} ended ({_reason(status)}): starting it again")
            self._launch_again(child)
            return
        self._reporter.say(f"{child.name} ended ({_reason(status)}): starting it again in {child.delay:.1f} s")
        child.phase, child.since = Phase.WAITING, time.monotonic() + child.delay
        child.delay = min(child.delay * 2, LONGEST_DELAY_SECONDS)

    def _bury(self, child: Child) -> int:
        """End what is left of an ended child's group, so that its successor finds its port free.

        Returns:
            Its exit status.
        """
        if child.process is None:
            return 0
        status = child.process.wait()
        kill_group(child.process.pid)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-child.process.pid, 0)
        self._janitor.remove(child.process.pid)
        return status

    def _reap_adopted(self) -> None:
        """Reap ended processes that became ours when the child that had started them ended."""
        own = {child.process.pid for child in self.children if child.process} | {self._janitor.pid}
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in own:  # Its own turn to be noticed comes first.
                    return
                os.waitpid(ended.si_pid, 0)

    # --- stop -------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        rank = {name: place for place, name in enumerate(self._stop_order)}
        last_started_first = self.children[::-1]
        for child in sorted(last_started_first, key=lambda each: rank.get(each.part, len(rank))):
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(child.stop_signal)
                self._await_end(child, child.process)
            self._bury(child)

    def _await_end(self, child: Child, process: Supervised) -> None:
        """Wait for the end of a child; kill it after its grace time, or at a second Ctrl-C."""
        asked, deadline = max(self._stopping, 1), time.monotonic() + child.grace_seconds
        while process.poll() is None:
            if time.monotonic() > deadline or self._stopping > asked:
                self._reporter.say(f"{child.name} did not end in time: killed")
                process.kill()
                return
            self._sleep(READY_POLL_SECONDS)

    # --- signals ----------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals wake the loop while it runs; put back afterwards what was there before."""
        self._wake, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        handlers = {signum: signal.signal(signum, self._ask_to_stop) for signum in STOP_SIGNALS}
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            os.close(self._wake)
            os.close(writer)

    def _ask_to_stop(self, _signum: int, _frame: object) -> None:
        self._stopping += 1
        self.asked_at = self.asked_at or time.monotonic()

    def _sleep(self, seconds: float | None = None) -> None:
        """Sleep until a signal comes; briefly while a child starts or is about to."""
        if seconds is None:
            seconds = IDLE_POLL_SECONDS
            for child in self.children:
                if child.phase is Phase.STARTING:
                    seconds = READY_POLL_SECONDS
                elif child.phase is Phase.WAITING:
                    seconds = min(seconds, max(child.since - time.monotonic(), 0.0))
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)


def _reason(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit code {status}"
