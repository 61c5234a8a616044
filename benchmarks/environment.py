"""Where and how a measurement was made."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from app.config import ROOT
from benchmarks import pgbench
from benchmarks.servers import Target

DURABLE_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")
OTHER_SETTINGS = ("shared_buffers", "max_wal_size")


def describe(target: Target, pgbench_binary: Path) -> dict[str, Any]:
    """Return the facts that a reader needs to judge the figures."""
    with psycopg.connect(target.owner_url) as connection:
        settings = {
            name: str((connection.execute(f"SHOW {name}".encode()).fetchone() or ("",))[0])
            for name in ("server_version", *DURABLE_SETTINGS, *OTHER_SETTINGS)
        }
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "system": platform.platform(terse=True),
        "file_system": _file_system(target.folder),
        "python": platform.python_version(),
        "postgresql": settings.pop("server_version").split()[0],
        "pgbench": pgbench.version_of(pgbench_binary),
        "settings": settings,
        "durable": all(settings[name] == "on" for name in DURABLE_SETTINGS),
    }


def commit() -> str:
    """Return the commit that was measured, with a plus when files differ from it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"

    def ask(*words: str) -> str:
        return subprocess.run(
            [git, "--no-optional-locks", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = ask(
        "status", "--porcelain", "--untracked-files=no", "--", "app", "devtools", "alembic", "requirements.txt"
    )
    return (ask("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _file_system(folder: Path) -> str:
    """Return the type of the file system under a folder: on one in memory, durable settings cost nothing."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except FileNotFoundError:
        return "unknown"
    under = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(under, default=("", "unknown"), key=lambda mount: len(mount[0]))[1]
