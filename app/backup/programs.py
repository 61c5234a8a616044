"""PostgreSQL's own programs: where they are, and running them as clients of a server (NFR-003)."""

import os
import re
import shutil
import subprocess  # nosec B404
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from sqlalchemy import make_url

from app.backup.errors import BackupError
from app.local.binaries import postgres_install
from app.local.process import EmbeddedError

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


def installation(major: int) -> Path:
    """Return the folder of an installation of PostgreSQL of a major version: it holds `bin`.

    Raises:
        BackupError: there is none on this machine.
    """
    for folder in _installations():
        if _major_of(folder / "bin" / "pg_basebackup") == major:
            return folder
    raise BackupError(f"PostgreSQL {major} is not installed here: install its server and client programs")


def _installations() -> Iterator[Path]:
    with suppress(EmbeddedError):
        yield postgres_install().resolve()
    if found := shutil.which("pg_basebackup"):
        yield Path(found).resolve().parent.parent
    if _DEBIAN.is_dir():
        yield from sorted(_DEBIAN.iterdir(), reverse=True)


def _major_of(program: Path) -> int | None:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 # nosec B603
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(said.stdout)
    return int(found[1]) if found else None


def local_environment() -> dict[str, str]:
    """Return the environment of a program of PostgreSQL that connects to no server."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def client_environment(url: str) -> dict[str, str]:
    """Return the environment in which a program of PostgreSQL connects as `url` says; no password is in its arguments."""
    address = make_url(url)
    given = {
        "PGHOST": address.host,
        "PGPORT": str(address.port or 5432),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGSSLMODE": str(address.query.get("sslmode", "")) or None,
        "PGSSLROOTCERT": str(address.query.get("sslrootcert", "")) or None,
    }
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PGPASSFILE") if name in os.environ}
    return {**inherited, "LC_ALL": "C", **{name: str(value) for name, value in given.items() if value}}


def run(program: Path, arguments: list[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run a program to its end; return what it said on standard error.

    Raises:
        BackupError: it failed, or took longer.
    """
    return _done(program, arguments, environment, seconds).stderr.decode(errors="replace")


def output_of(program: Path, arguments: list[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run a program to its end; return its standard output.

    Raises:
        BackupError: it failed, or took longer.
    """
    return _done(program, arguments, environment, seconds).stdout.decode(errors="replace")


def _done(
    program: Path, arguments: list[str], environment: Mapping[str, str], seconds: float
) -> "subprocess.CompletedProcess[bytes]":
    try:
        done = subprocess.run(  # noqa: S603 # nosec B603
            [program, *arguments], env=dict(environment), capture_output=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise BackupError(f"{program.name} did not end within {seconds:.0f} s") from None
    if done.returncode:
        raise BackupError(f"{program.name} failed: {_last_line(done.stderr.decode(errors='replace'))}")
    return done


@contextmanager
def streaming(
    program: Path, arguments: list[str], environment: Mapping[str, str], errors: IO[bytes]
) -> Iterator[IO[bytes]]:
    """Run a program and give its standard output while it runs.

    Args:
        errors: open file that gets its standard error.

    Raises:
        BackupError: it failed.
    """
    process = subprocess.Popen(  # noqa: S603 # nosec B603
        [program, *arguments], env=dict(environment), stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL
    )
    with process:
        try:
            # It is a pipe, as asked for above.
            yield cast("IO[bytes]", process.stdout)
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status:
        errors.seek(0)
        raise BackupError(f"{program.name} failed: {_last_line(errors.read().decode(errors='replace'))}")


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]
