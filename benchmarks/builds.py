"""The builds that are measured: this checkout, and another revision in a checkout and an environment of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.config import ROOT
from app.local.data_folder import default_data_dir, make_data_dir
from benchmarks.works import BenchmarkError


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build of the application, used through its command line and its API only.

    Attributes:
        label: what reports call it.
        root: its checkout.
        python: interpreter of its environment.
    """

    label: str
    root: Path
    python: Path

    def command(self, *words: str) -> list[str]:
        """Return the command line of its `articurated`."""
        return [str(self.python), "-P", "-m", "app", *words]

    def run(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
        """Run its `articurated` to the end and return what it wrote to standard output.

        Args:
            words: verb and arguments.
            environment: the whole environment of the process.
            folder: working folder: one without an `.env`.

        Raises:
            BenchmarkError: it ended with another code than 0.
        """
        done = subprocess.run(
            self.command(*words), env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr or done.stdout)[-2000:]
            raise BenchmarkError(f"`articurated {' '.join(words)}` of {self.label} failed:\n{said}")
        return done.stdout


THIS = Build(label="this build", root=ROOT, python=Path(sys.executable))


@contextmanager
def checked_out(revision: str) -> Iterator[Build]:
    """Check a revision out, make its environment from its own lock, and take both away at the end.

    The checkout is a worktree of this repository, in the data folder. Its environment is made by its own `./dev setup`,
    with the interpreter below this environment, and with this checkout's uv when it has the version that it wants. Call
    this from the main thread.

    Args:
        revision: anything that names a commit: `174bec7`, a tag, `HEAD`.

    Raises:
        BenchmarkError: there is no such commit, or its environment could not be made.
    """
    commit = _git("rev-parse", "--verify", "--short", f"{revision}^{{commit}}")
    base = default_data_dir()
    make_data_dir(base)
    with TemporaryDirectory(prefix="checkout-", dir=base) as folder:
        root = Path(folder, "checkout")
        _git("worktree", "add", "--detach", "--quiet", str(root), commit)
        # SIGTERM would end the process at once, and leave a worktree in the repository.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            _make_environment(root)
            yield Build(label=commit, root=root, python=root / ".venv" / "bin" / "python")
        finally:
            signal.signal(signal.SIGTERM, before)
            _git("worktree", "remove", "--force", str(root))


def _make_environment(root: Path) -> None:
    tools = root / ".tools"
    tools.mkdir()
    for uv in (ROOT / ".tools").glob("uv-*"):
        if (uv / "bin").is_dir():
            (tools / uv.name).symlink_to(uv, target_is_directory=True)
    interpreter = str(getattr(sys, "_base_executable", sys.executable))
    environment = {**os.environ, "PYTHON": interpreter}
    done = subprocess.run(
        [str(root / "dev"), "setup"], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"`./dev setup` failed in the checkout:\n{done.stderr[-2000:]}")


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise BenchmarkError("git is needed to check out another build")
    done = subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"`git {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()
