"""What a start costs: the CPU time of `import app.main`, and CPU and wall time until `articurated up` is ready.

`python -m benchmarks.start --beside CHECKOUT` measures another checkout in turns with this one, and prints the ratios of
the medians. CPU time is what other work on the machine disturbs least.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.config import ROOT
from benchmarks import cpu
from benchmarks.memory import system

Measure = Callable[[Path], dict[str, float]]


def of_import(checkout: Path) -> dict[str, float]:
    """Return the CPU seconds of a process that imports the API and does nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [checkout / ".venv/bin/python", "-c", "import app.main"], env=environment, cwd=folder, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"import app.main, CPU s": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}


def of_up(checkout: Path) -> dict[str, float]:
    """Return wall and CPU seconds of `articurated up` over an empty folder, until it is ready, with all its processes."""
    began = time.monotonic()
    with system(checkout, []) as running:
        wall = time.monotonic() - began
        return {"up, wall s": wall, "up, CPU s": cpu.seconds_of(running.pid)}


def compare(checkouts: Sequence[Path], measures: Sequence[Measure], rounds: int) -> None:
    """Measure all checkouts in turns, after a round that does not count, and print medians and ratios."""
    for measure in measures:
        found: list[list[dict[str, float]]] = [[] for _ in checkouts]
        for number in range(rounds + 1):
            for samples, checkout in zip(found, checkouts, strict=True):
                sample = measure(checkout)
                if number:
                    samples.append(sample)
        for name in found[0][0]:
            medians = [statistics.median(sample[name] for sample in samples) for samples in found]
            ratio = f"  ratio {medians[-1] / medians[0]:.2f}" if len(medians) > 1 else ""
            print(f"{name}: {', '.join(f'{median:.2f}' for median in medians)}{ratio}", flush=True)


def main() -> None:
    """Measure what the options say, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout, with an environment of its own; it comes first")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--import-only", action="store_true", help="leave the system out")
    options = parser.parse_args()
    if not cpu.available():
        sys.exit("this system has no /proc")
    checkouts = [checkout.resolve() for checkout in (options.beside, ROOT) if checkout]
    compare(checkouts, [of_import] if options.import_only else [of_import, of_up], options.rounds)


if __name__ == "__main__":
    main()
