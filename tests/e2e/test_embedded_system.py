"""`articurated up`: the whole system under its supervisor, killed part by part and as a whole."""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from app.config import ROOT, Settings
from app.local.data_folder import is_in_use, running_connection
from app.local.process import wait_until
from devtools.embedded.run import RunningStack, running_stack
from devtools.embedded.stack import StackInfo, StackOptions, answers

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("embedded system")]
FOREVER = 90.0


@pytest.fixture(scope="module", autouse=True)
def _own_configuration() -> Iterator[None]:
    """The servers of the suite are not for these tests: they start their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="articurated ") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[RunningStack]:
    with running_stack(StackOptions(folder / "one", port=0)) as running:
        yield running


def processes_of(data_dir: Path) -> list[int]:
    """Every process whose environment or command line names this data folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        if str(data_dir).encode() in told and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def live(info: StackInfo) -> Callable[[], bool]:
    return lambda: answers(f"{info.api}/api/v1/health/live")


@pytest.mark.req("DEV.1")
def test_when_it_is_ready_every_part_works(system: RunningStack) -> None:
    info = system.info
    assert info.ready
    assert all(info.pids.values())
    assert len(info.pids["worker"]) > 1
    assert info.mail is not None
    assert info.gateway is not None
    assert answers(f"{info.mail}/api/messages")
    assert answers(f"{info.gateway}/health")
    answer = httpx2.get(f"{info.api}/api/v1/orders", headers={"X-API-Key": str(info.api_key)})
    assert answer.status_code == 200
    health = lambda: httpx2.get(f"{info.api}/api/v1/health").status_code == 200  # noqa: E731
    assert wait_until(health, seconds=FOREVER)


def test_the_application_does_not_hold_the_owners_password(system: RunningStack) -> None:
    owner = system.info.owner_database_url
    assert owner is not None
    password = owner.rpartition("@")[0].rpartition(":")[2].encode()
    for part in ("api", "worker", "relay", "beat", "gateway"):
        for pid in system.info.pids[part]:
            place = Path(f"/proc/{pid}")
            assert password not in (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
            assert f"articurated {part} of".encode() in (place / "cmdline").read_bytes()


def test_a_second_one_over_the_same_folder_is_refused_in_one_line(system: RunningStack) -> None:
    command = [sys.executable, "-m", "app", "up", "--json", "--port", "0", "--data-dir", system.info.data_dir]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert f"in use by process {system.process.pid}" in found.stderr


def test_other_commands_find_the_running_system(system: RunningStack) -> None:
    connection = running_connection(Path(system.info.data_dir))
    assert connection["DATABASE_URL"] == system.info.database_url
    assert connection["REDIS_URL"] == system.info.redis_url


@pytest.mark.req("DEV.1")
def test_the_demo_goes_through_the_running_system(system: RunningStack) -> None:
    """It gets its addresses alone; the folder says where its gateway is."""
    command = [sys.executable, "-m", "app", "demo", "--api", system.info.api, "--mail", str(system.info.mail)]
    environment = {**os.environ, "ARTICURATED_DATA_DIR": system.info.data_dir}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "All of it happened." in found.stdout


@pytest.mark.req("NFR-003")
def test_an_idle_connection_is_kept_for_longer_than_clients_keep_it(system: RunningStack) -> None:
    """A server that closes first resets, now and then, the request that a client is just sending."""
    pages = [f"{system.info.api}/api/v1/health/live", f"{system.info.gateway}/", f"{system.info.mail}/"]
    connections = []
    for page in pages:
        address = urlsplit(page)
        connection = http.client.HTTPConnection(address.netloc, timeout=10)
        connection.request("GET", address.path)
        connection.getresponse().read()
        connections.append((connection, address.path, connection.sock))
    time.sleep(6)  # five is what common clients keep one for, and what servers do by default
    for connection, path, used in connections:
        connection.request("GET", path)
        assert connection.getresponse().read()
        assert connection.sock is used
        connection.close()


@pytest.mark.req("NFR-003.4")
@pytest.mark.parametrize("part", ["gateway", "relay", "beat", "worker", "redis", "api", "postgres"])
def test_a_killed_part_is_healed(system: RunningStack, part: str) -> None:
    before = system.info.pids[part]
    # The first leads the others, except that no process of the API leads another.
    for pid in before if part == "api" else before[:1]:
        os.kill(pid, signal.SIGKILL)
    healed = lambda: bool(system.info.pids[part]) and not set(system.info.pids[part]) & set(before)  # noqa: E731
    assert wait_until(healed, seconds=FOREVER)
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    assert system.process.poll() is None
    if part == "postgres":
        with psycopg.connect(system.info.database_url) as connection:
            assert connection.execute("SELECT count(*) >= 0 FROM orders").fetchone() == (True,)
    assert wait_until(live(system.info), seconds=FOREVER)


@pytest.mark.req("NFR-003.4")
def test_while_the_api_is_killed_again_and_again_connections_wait_and_are_answered(system: RunningStack) -> None:
    for _ in range(4):
        before = system.info.pids["api"]
        assert before
        for pid in before:
            with suppress(ProcessLookupError):  # the list is of a moment ago
                os.kill(pid, signal.SIGKILL)
        # A connection of its own, made while none may serve: it is not refused.
        answer = httpx2.get(f"{system.info.api}/api/v1/health/live", timeout=FOREVER)
        assert answer.status_code == 200
        renewed = lambda: bool(system.info.pids["api"]) and not set(system.info.pids["api"]) & set(before)  # noqa: B023, E731
        assert wait_until(renewed, seconds=FOREVER)


@pytest.mark.req("NFR-002.1")
def test_two_run_side_by_side_and_one_that_is_killed_leaves_nothing(system: RunningStack, folder: Path) -> None:
    """The second one uses the servers of the first, as it would any it is given."""
    data_dir = folder / "two"
    given = {
        "DATABASE_URL": system.info.database_url,
        "DATABASE_ADMIN_URL": str(system.info.owner_database_url),
        "REDIS_URL": system.info.redis_url.removesuffix("/0") + "/7",
    }
    options = StackOptions(data_dir, port=0, api_workers=2, workers=1, environment=given)
    with running_stack(options) as second:
        info = second.info
        assert info.api != system.info.api
        assert info.pids["postgres"] == info.pids["redis"] == []
        assert len(info.pids["api"]) == 2
        assert live(info)()
        second.process.kill()
        assert wait_until(lambda: not processes_of(data_dir), seconds=FOREVER)
        assert wait_until(lambda: not is_in_use(data_dir), seconds=FOREVER)
    assert live(system.info)()


def test_ctrl_c_ends_everything_in_order_and_the_data_stays(system: RunningStack) -> None:
    """The last of this file: it ends the system of the others."""
    data_dir = Path(system.info.data_dir)
    with psycopg.connect(str(system.info.owner_database_url)) as connection:
        connection.execute("CREATE TABLE marked ()")
    system.process.send_signal(signal.SIGINT)
    assert system.process.wait(FOREVER) == 0
    assert processes_of(data_dir) == []
    assert not (data_dir / "stack.json").exists()
    assert not is_in_use(data_dir)
    log = (data_dir / "logs" / "postgres.log").read_text()
    assert log.rstrip().endswith("database system is shut down")
    with running_stack(StackOptions(data_dir, port=0)) as again:
        assert again.info.database_url == system._first.database_url
        with psycopg.connect(str(again.info.owner_database_url)) as connection:
            assert connection.execute("SELECT count(*) FROM marked").fetchone() == (0,)
        assert again.stop() == 0
