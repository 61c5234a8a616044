"""The frame of the `articurated` command: quick to load, and faults of the user answered in one message."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT, Settings
from tests.databases import TestServers


def run(*words: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment without any configuration but `given`."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment = kept | {"PYTHONPATH": str(ROOT)} | given
    return subprocess.run(
        [sys.executable, *words], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


def test_listing_the_commands_loads_no_framework() -> None:
    heavy = {"fastapi", "sqlalchemy", "celery", "psycopg", "rich", "uvicorn", "pydantic", "app.config"}
    found = run("-c", "import sys, app.cli.main; print(*sys.modules)")
    assert found.returncode == 0, found.stderr
    assert heavy.isdisjoint(found.stdout.split())


@pytest.mark.parametrize(
    "command", [("up", "--json"), ("demo", "--keep"), ("seed",), ("gateway",), ("mail", "preview")]
)
def test_without_devtools_each_of_its_verbs_says_so_and_the_others_work(command: tuple[str, ...]) -> None:
    without = "import sys; sys.modules['devtools'] = None; from app.cli.main import main; main()"
    found = run("-c", without, *command)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f"articurated: `{command[0]}` is for development and needs the folder devtools of a checkout,"
        " which is not here.\n"
    )
    listed = run("-c", without, "--help")
    assert listed.returncode == 0
    assert " migrate " in listed.stdout
    assert " demo " not in listed.stdout


@pytest.mark.req("NFR-005.3")
@pytest.mark.parametrize("command", [("up", "--json"), ("api",), ("gateway",)])
def test_a_wrong_configuration_is_one_message_and_exit_code_2(command: tuple[str, ...], tmp_path: Path) -> None:
    given = {"ENVIRONMENT": "stage", "ARTICURATED_DATA_DIR": str(tmp_path / "data")}
    found = run("-m", "app", *command, **given)
    assert found.returncode == 2
    assert found.stdout == ""
    assert "ENVIRONMENT" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_that_is_taken_is_one_message_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = run("-m", "app", "up", "--json", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert found.returncode == 1
    assert found.stderr.startswith(f"articurated: port {port} is in use")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://app:s3cret@127.0.0.1:1/none"),
        ("REDIS_URL", "redis://:s3cret@127.0.0.1:1/0"),
        ("REDIS_URL", "unix://:s3cret@/nowhere/redis.sock"),
    ],
)
def test_a_given_server_that_is_not_there_is_reported_before_anything_starts(
    variable: str, url: str, tmp_path: Path
) -> None:
    found = run("-m", "app", "up", "--json", "--port", "0", "--data-dir", str(tmp_path / "data"), **{variable: url})
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert f"named by {variable}, cannot be used" in found.stderr
    assert "s3cret" not in found.stderr
    assert [file.name for file in (tmp_path / "data" / "logs").glob("*.log") if file.name != "supervisor.log"] == []


def test_a_part_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path: Path, servers: TestServers) -> None:
    """The schema cannot be brought up to date: the role that the application is to take on is the login itself."""
    given = {"DATABASE_URL": servers.app_url, "REDIS_URL": servers.redis_url, "DATABASE_ROLE": "pg_monitor"}
    found = run("-m", "app", "up", "--json", "--port", "0", "--data-dir", str(tmp_path / "data"), **given)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "articurated: migrate did not start" in found.stderr
    assert not (tmp_path / "data" / "stack.json").exists()
