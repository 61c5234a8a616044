"""Measure everything and write it into docs/performance.md: `python -m benchmarks.report_all`.

Each section of the page is written as soon as it is measured. A command that fails leaves its section as it was, and
makes the exit code 1.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from app.config import ROOT
from benchmarks import options
from benchmarks.builds import Build
from benchmarks.options import Options
from benchmarks.page import published, sections_of, with_section
from benchmarks.side_by_side import measure, older_build
from benchmarks.works import BenchmarkError, Work

RELEASED = "174bec7"
"""The build that this one is compared with."""
PAGE = ROOT / "docs" / "performance.md"
CHARTS = {"side-by-side": "performance.svg", "one-connection": "performance-one-connection.svg"}
COMPARISONS: Mapping[str, Callable[[Options], Options]] = {
    "side-by-side": lambda chosen: chosen,
    "one-connection": lambda chosen: replace(chosen, connections=1, works=[Work.TRANSITION, Work.READ]),
}
"""Section → how its options differ from the usual ones."""
COMMANDS: Mapping[str, Sequence[str]] = {
    "many-users": ["benchmarks.many_users"],
    "jobs": ["benchmarks.jobs"],
    "driver": ["benchmarks.driver"],
    "audit": ["benchmarks.audit"],
    "documents": ["benchmarks.documents"],
    "middleware": ["benchmarks.middleware"],
}
"""Section → module and arguments of the command whose tables it has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the sections that were asked for; return the exit code."""
    names = [*COMPARISONS, *COMMANDS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_all", description=__doc__)
    parser.add_argument("--against", default=RELEASED, metavar="REV", help=f"the other build (default {RELEASED})")
    parser.add_argument("--sections", nargs="+", choices=names, default=names, help="what to measure (default all)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write (default docs/performance.md)")
    parser.add_argument(
        "more", nargs="*", metavar="OPTION", help="after `--`: options of `python -m benchmarks` for the comparisons"
    )
    wanted = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    chosen = options.parse(["--against", wanted.against, *wanted.more])
    missing = set(wanted.sections) - set(sections_of(wanted.page.read_text(encoding="utf-8")))
    if missing:
        parser.error(f"{wanted.page} has no marks for: {', '.join(sorted(missing))}")
    failed = []
    compared = [name for name in wanted.sections if name in COMPARISONS]
    if compared:
        try:
            with older_build(chosen, console) as old:
                failed += [name for name in compared if not _compare(name, chosen, wanted.page, console, old)]
        except BenchmarkError as fault:
            console.print(f"✗ {fault}", markup=False)
            return 1
    failed += [name for name in wanted.sections if name in COMMANDS and not _run(name, wanted.page, console)]
    if failed:
        console.print(f"✗ not measured: {', '.join(failed)}", markup=False)
    return 1 if failed else 0


def _compare(name: str, chosen: Options, page: Path, console: Console, old: Build | None) -> bool:
    """Measure the builds beside each other and write a section with its chart; return whether all was as expected."""
    console.print(f"── {name}")
    try:
        report = measure(COMPARISONS[name](chosen), console, old)
    except BenchmarkError as fault:
        console.print(f"✗ {fault}", markup=False)
        return False
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    (images / CHARTS[name]).write_text(report.chart(), encoding="utf-8")
    _write(page, name, report.markdown(f"images/{CHARTS[name]}"))
    report.write(chosen.results)
    return not report.errors()


def _run(name: str, page: Path, console: Console) -> bool:
    """Run a command and write its section; return whether it succeeded."""
    console.print(f"── {name}")
    command = [sys.executable, "-m", *COMMANDS[name]]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    console.print(done.stdout, markup=False)
    content = published(done.stdout)
    if done.returncode or not content:
        return False
    _write(page, name, content)
    return True


def _write(page: Path, name: str, content: str) -> None:
    page.write_text(with_section(page.read_text(encoding="utf-8"), name, content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
