"""What a person sees of the supervisor: one line per part, the addresses at the end."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from devtools.embedded.child import Child

if TYPE_CHECKING:
    from devtools.embedded.stack import StackInfo

TITLES = {
    "postgres": "PostgreSQL",
    "redis": "Valkey",
    "migrate": "database schema",
    "mail": "mail catcher",
    "gateway": "payment gateway (mock)",
    "api": "API",
    "relay": "relay",
    "worker": "worker",
    "beat": "beat",
    "backup": "backups",
}


class ConsoleReporter:
    """Writes everything to a log file, and to a terminal with ticks unless `quiet`."""

    def __init__(self, log: Path, *, quiet: bool) -> None:
        self._log = log
        self._console = None if quiet else Console(stderr=True, highlight=False, soft_wrap=True)
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def started(self, child: Child, seconds: float) -> None:
        """A child is ready, for the first time or again."""
        title, again = TITLES.get(child.name, child.name), "again " if child.restarts else ""
        process = "" if child.once else f" pid {child.pid}"
        self._write(f"{child.name} ready {again}after {seconds:.1f} s{process}")
        self._show(f"  [green]✓[/] {escape(title)} [dim]{again}{seconds:.1f} s[/]")

    def say(self, line: str) -> None:
        """Something worth a line."""
        self._write(line)
        self._show(f"  [yellow]![/] {escape(line)}")

    def fail(self, line: str) -> None:
        """The start has failed: for the log alone; the error says it to the caller."""
        self._write(line)

    def starting(self, data_dir: Path) -> None:
        """The system is about to start."""
        self._write(f"starting over {data_dir}")
        self._show(f"[bold]ArtiCurated[/] starts over [dim]{escape(str(data_dir))}[/]")

    def ready(self, info: "StackInfo") -> None:
        """Everything runs: where to look."""
        self._write("ready")
        rows = {
            "API": info.api,
            "API docs": info.docs,
            "Health": f"{info.api}/api/v1/health",
            "Mailbox": info.mail,
            "Payment gateway": info.gateway,
            "API key": f"{info.api_key}  [dim](header X-API-Key; development, role admin)[/]" if info.api_key else None,
            "Data and logs": escape(info.data_dir),
        }
        self._show("\n[bold green]Ready.[/]")
        for title, value in rows.items():
            if value:
                self._show(f"  {title:<16} {value}")
        self._show("\n[dim]Ctrl-C stops everything; the data stays.[/]")

    def stopped(self, seconds: float) -> None:
        """Everything has ended."""
        self._write(f"stopped in {seconds:.1f} s")
        self._show(f"[green]✓[/] stopped [dim]{seconds:.1f} s[/]")

    def _show(self, line: str) -> None:
        """Print for a person; a terminal that was closed ends the printing, never the supervision."""
        if self._console is None:
            return
        try:
            self._console.print(line)
        except OSError as fault:
            self._console = None
            self._write(f"the terminal is gone ({fault.strerror}): this log goes on alone")

    def _write(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # A full disk costs the line; the supervision has to go on.
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {line}\n")
