"""PostgreSQL and Redis of docker-compose.yml let no client in without a password (NFR-004)."""

import shlex
import signal
from pathlib import Path

import pytest
import redis

from app.local.binaries import valkey_server
from app.local.process import LOOPBACK, choose_port, port_is_free, spawn, stop, tail, wait_until
from tests.unit.test_container_files import PASSWORDS, SERVICES

pytestmark = [pytest.mark.req("NFR-004.7", "DEV.2"), pytest.mark.security]


def test_redis_lets_no_client_in_without_the_password(tmp_path: Path) -> None:
    """Its command is run as it is, but on a port and in a folder of the test's own."""
    shell, option, script = SERVICES["redis"]["command"]
    assert (shell, option) == ("sh", "-c")
    (tmp_path / "valkey-server").symlink_to(valkey_server())
    port = choose_port()
    words = [shell, option, f"{script.replace('/tmp/', f'{tmp_path}/')} --bind {LOOPBACK} --port {port}"]  # noqa: S108
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **SERVICES["redis"]["environment"]}
    process = spawn(words, log=tmp_path / "log", env=environment, cwd=tmp_path)
    try:
        listens = wait_until(lambda: not port_is_free(port), seconds=60, alive=lambda: process.poll() is None)
        assert listens, tail(tmp_path / "log")
        for password in (None, "a guess"):
            stranger = redis.Redis(LOOPBACK, port, password=password)
            with stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
        with redis.Redis(LOOPBACK, port, password=PASSWORDS["REDIS_PASSWORD"]) as known:
            assert known.ping()
    finally:
        stop(process, signal.SIGTERM, 15)


def test_postgresql_has_a_password_and_trusts_no_client() -> None:
    database = SERVICES["db"]
    environment = database["environment"]
    assert environment["POSTGRES_PASSWORD"] == PASSWORDS["POSTGRES_PASSWORD"]
    # What the image does by itself; any other word here is written into pg_hba.conf for every address.
    assert environment.get("POSTGRES_HOST_AUTH_METHOD", "scram-sha-256") == "scram-sha-256"
    assert "--auth-host=scram-sha-256" in shlex.split(environment["POSTGRES_INITDB_ARGS"])
    for word in ("trust", "hba", "env_file"):
        assert word not in str(database)
