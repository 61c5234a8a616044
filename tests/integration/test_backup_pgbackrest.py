"""Backups by pgBackRest: a real one, on a PostgreSQL 15 of the test's own, restored to a point and to a time."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.backup.create import back_up, collect, mark, prune
from app.backup.errors import BackupError
from app.backup.pgbackrest import chosen
from app.backup.repository import Repository
from app.backup.restore import restore
from app.backup.source import Source
from app.backup.target import Target
from app.backup.verify import verify
from app.config import Settings
from app.local.postgres import SUPERUSER
from app.local.process import wait_until
from tests import databases
from tests.integration.test_upgrade_postgresql import OLD_INSTALL, OldPostgres

pytestmark = [pytest.mark.req("NFR-003.5"), pytest.mark.xdist_group("backup")]

needs_it = pytest.mark.skipif(
    shutil.which("pgbackrest") is None or not (OLD_INSTALL / "bin" / "postgres").exists(),
    reason=f"needs pgbackrest on PATH and a PostgreSQL 15 in {OLD_INSTALL}",
)


@pytest.fixture
def source(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A server whose archive_command is pgBackRest's, and the stanza for it."""
    with tempfile.TemporaryDirectory(prefix="articurated-pgbackrest-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for kind in ("repository", "log", "lock"):
            (folder / kind).mkdir()
            (folder / kind).chmod(0o777)  # The server may run as another user than the test.
        server = OldPostgres(folder / "data", durable=False)
        try:
            server.start()
            url = str(server.known_login(SUPERUSER))
            config = folder / "pgbackrest.conf"
            config.write_text(
                f"[global]\nrepo1-path={folder}/repository\nrepo1-retention-full=2\nlog-path={folder}/log\n"
                f"lock-path={folder}/lock\nlog-level-file=off\nstart-fast=y\ncompress-level=1\n"
                f"[shop]\npg1-path={server.cluster}\npg1-port={server.port}\npg1-user={SUPERUSER}\n"
            )
            for variable, value in {
                "PGBACKREST_CONFIG": str(config),
                "PGHOST": "127.0.0.1",
                "PGPASSWORD": str(psycopg.conninfo.conninfo_to_dict(url)["password"]),
            }.items():
                monkeypatch.setenv(variable, value)
            push = f"pgbackrest --config={config} --stanza=shop archive-push %p"
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET archive_mode = on")
                connection.execute(f"ALTER SYSTEM SET archive_command = '{push}'".encode())
            server.stop()
            # pgBackRest compares the server's data folder with its own configuration: it has to be known by its name.
            (folder / "data").chmod(0o711)
            server.launch()
            assert wait_until(server.ready, seconds=60)
            _run_as_the_server_does(server, folder, monkeypatch)
            subprocess.run(["pgbackrest", "--stanza=shop", "stanza-create"], check=True, capture_output=True, cwd="/")
            databases.migrate(server.owner_url, server.app_url)
            ours = settings.model_copy(update={"backup_engine": "pgbackrest", "backup_pgbackrest_stanza": "shop"})
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE TABLE written (id bigserial PRIMARY KEY, text text)")
            yield Source(url, ours, {})
        finally:
            server.stop()


def _run_as_the_server_does(server: OldPostgres, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a pgbackrest on PATH whose files the server's user can read, as if one user ran both."""
    if server._identity is None:
        return
    command = folder / "bin" / "pgbackrest"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\n{shutil.which("pgbackrest")} "$@"\nstatus=$?\n'
        f'if [ "$(id -u)" = 0 ]; then chown -R {server._identity.name} {folder}/repository; fi\nexit $status\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")


def write(source: Source, text: str) -> str:
    """Commit a row; return the moment after it."""
    with psycopg.connect(source.url, autocommit=True) as connection:
        connection.execute("INSERT INTO written (text) VALUES (%s)", [text])
        return str(connection.execute("SELECT clock_timestamp()").fetchone()[0].isoformat())  # type: ignore[index]


def texts(data_dir: Path) -> list[Any]:
    """Start what was restored; return what was written."""
    server = OldPostgres(data_dir)
    server.prepare_home()
    # Its passwords are those of the server that was backed up, so it is asked through a socket of its own.
    with tempfile.TemporaryDirectory(prefix="articurated-socket-") as meeting:
        Path(meeting).chmod(0o777)
        access = Path(meeting, "hba")
        access.write_text("local all all trust\n")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": meeting,
            "port": "5432",
            "hba_file": str(access),
            "archive_mode": "off",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        server.process = server.run_program("postgres", "-D", server.cluster, *words)
        try:
            where = f"postgresql://{SUPERUSER}@/articurated_orders?host={meeting}&port=5432"
            assert wait_until(lambda: _answers(where), seconds=60)
            with psycopg.connect(where) as connection:
                return [text for (text,) in connection.execute("SELECT text FROM written ORDER BY id")]
        finally:
            server.stop()


def _answers(where: str) -> bool:
    try:
        psycopg.connect(where).close()
    except psycopg.OperationalError:
        return False
    return True


@needs_it
def test_a_point_and_a_time_after_an_incremental_backup(source: Source, tmp_path: Path) -> None:
    kept, engine = Repository(tmp_path / "backups"), chosen(source.settings)
    write(source, "before the full one")
    full = back_up(source, kept)
    write(source, "before the incremental one")
    second = back_up(source, kept)
    assert str(full.label).endswith("F")
    assert str(second.label).startswith(str(full.label))
    assert full.bytes > second.bytes > 0
    moment = write(source, "before the time")
    write(source, "before the point")
    mark(source, kept, "here")
    write(source, "after the point")
    collect(source, kept)
    assert kept.segments() == {}
    with psycopg.connect(source.url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
    assert verify(kept, engine=engine) == []

    expected = ["before the full one", "before the incremental one", "before the time", "before the point"]
    for to, rows in (("here", expected), (moment, expected[:3]), ("latest", [*expected, "after the point"])):
        folder = tmp_path / to.replace(":", "-")
        report = restore(kept, Target.parse(to, kept), folder, source.settings)
        assert report.backup == second.id
        assert texts(folder) == rows

    with pytest.raises(BackupError, match="set BACKUP_ENGINE"):
        restore(kept, Target(), tmp_path / "without", Settings(_env_file=None))
    assert verify(kept) == [
        "pgBackRest keeps backups of this repository: set BACKUP_ENGINE and BACKUP_PGBACKREST_STANZA"
    ]
    for _ in range(2):
        back_up(source, kept, is_full=True)
    assert prune(kept, timedelta(), engine) == [full.id, second.id], "as its own retention has it"
    assert verify(kept, engine=engine) == []


def test_what_is_missing_for_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(Settings(_env_file=None)) is None
    settings = Settings(_env_file=None, backup_engine="pgbackrest")
    with pytest.raises(BackupError, match="BACKUP_PGBACKREST_STANZA"):
        chosen(settings)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackupError, match="not on PATH"):
        chosen(settings.model_copy(update={"backup_pgbackrest_stanza": "shop"}))
