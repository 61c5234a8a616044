"""Incremental base backups, and what is left when a server is lost with its disk: on a server of the test's own."""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.backup import base, create, log
from app.backup.create import back_up, collect, mark
from app.backup.repository import Repository
from app.backup.restore import restore
from app.backup.source import Source
from app.backup.target import Target
from app.backup.verify import verify
from app.config import Settings
from app.local.postgres import SUPERUSER, EmbeddedPostgres
from tests import databases

pytestmark = [pytest.mark.req("NFR-003.5"), pytest.mark.xdist_group("backup")]

KEY = b"a key of the operator's, thirty-two or more"
PATIENCE = 120.0


@dataclass
class Shop:
    """A server, and a table that counts."""

    server: EmbeddedPostgres
    source: Source
    kept: Repository

    def write(self, text: str) -> None:
        """Commit a row."""
        with psycopg.connect(self.source.url, autocommit=True) as connection:
            connection.execute("INSERT INTO written (text) VALUES (%s)", [text])

    def execute(self, statement: str) -> None:
        """Carry out a statement as the superuser."""
        with psycopg.connect(self.source.url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture
def shop(tmp_path: Path, settings: Settings) -> Iterator[Shop]:
    """A durable server with the schema, and an empty repository."""
    server = EmbeddedPostgres(tmp_path / "data")
    try:
        server.start()
        databases.migrate(server.owner_url, server.app_url)
        url = str(server.known_login(SUPERUSER))
        source = Source(url, settings, {"secrets.json": server.home / "secrets.json"})
        shop = Shop(server, source, Repository(tmp_path / "backups", KEY))
        shop.execute("CREATE TABLE written (id bigserial PRIMARY KEY, text text, at timestamptz DEFAULT now())")
        yield shop
    finally:
        server.stop()


@contextmanager
def started(data_dir: Path) -> Iterator[psycopg.Connection[Any]]:
    """Run the database of a restored folder and connect to it."""
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
        with psycopg.connect(str(server.known_login(SUPERUSER)), autocommit=True) as connection:
            yield connection
    finally:
        server.stop()


def texts(connection: psycopg.Connection[Any]) -> list[str]:
    """Return what was written, in order."""
    return [text for (text,) in connection.execute("SELECT text FROM written ORDER BY id")]


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_point_after_the_second_incremental_backup_is_restored(
    shop: Shop, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    shop.write("before the full one")
    full = back_up(shop.source, shop.kept, said.append)
    assert said[0] == "copying the whole database (it is the first one)"
    shop.write("before the first incremental one")
    first = back_up(shop.source, shop.kept)
    shop.write("before the second incremental one")
    second = back_up(shop.source, shop.kept)
    assert [each.parent for each in (full, first, second)] == [None, full.id, first.id]
    assert second.bytes < full.bytes / 2
    shop.write("before the point")
    mark(shop.source, shop.kept, "here")
    shop.write("after the point")
    collect(shop.source, shop.kept)
    assert verify(shop.kept) == []

    said.clear()
    report = restore(shop.kept, Target.parse("here", shop.kept), tmp_path / "restored", settings, said.append)
    assert report.backup == second.id
    assert "combining the parts" in said
    assert sorted(path.name for path in (tmp_path / "restored" / "postgres").iterdir()) == ["cluster", "secrets.json"]
    with started(tmp_path / "restored") as connection:
        assert texts(connection) == [
            "before the full one",
            "before the first incremental one",
            "before the second incremental one",
            "before the point",
        ]

    assert back_up(shop.source, shop.kept, is_full=True).parent is None
    aged = Source(shop.source.url, settings.model_copy(update={"backup_full_every_days": 0}), {})
    assert back_up(aged, shop.kept).parent is None
    # What makes an incremental one impossible only shows when it is tried: a full one takes its place.
    monkeypatch.setattr(base, "_manifest_of", lambda *_: iter((b"no list of files",)))
    assert back_up(shop.source, shop.kept).parent is None
    monkeypatch.undo()
    shop.execute("ALTER SYSTEM SET summarize_wal = off")
    shop.server.stop()
    monkeypatch.setattr("app.local.postgres.DURABLE", {})
    shop.server.start()
    said.clear()
    assert back_up(shop.source, shop.kept, said.append).parent is None
    assert said[0] == "copying the whole database (summarize_wal is off on this server)"


def test_all_up_to_the_last_turn_survives_a_server_that_is_lost_with_its_disk(
    shop: Shop, tmp_path: Path, settings: Settings
) -> None:
    written: list[tuple[str, datetime]] = []
    ended = threading.Event()

    def write() -> None:
        number = 0
        with psycopg.connect(shop.source.url, autocommit=True) as connection:
            while not ended.is_set():
                number += 1
                # The moment is taken after the commit: all that is older has been committed.
                connection.execute("INSERT INTO written (text) VALUES (%s)", [str(number)])
                written.append((str(number), datetime.now(UTC)))
                time.sleep(0.005)

    def run() -> None:
        try:
            write()
        except psycopg.Error:
            ended.set()

    back_up(shop.source, shop.kept)
    writer = threading.Thread(target=run)
    writer.start()
    try:
        eventually("rows are written", lambda: len(written) > 100)
        began = datetime.now(UTC)
        eventually("the log is kept beyond them", lambda: _collected_up_to(shop, began + timedelta(seconds=1)))
        eventually("more is written", lambda: written[-1][1] > began + timedelta(seconds=2))
    finally:
        os.kill(int(shop.server.pid or 0), signal.SIGKILL)
        ended.set()
        writer.join()
    kept_until = datetime.fromisoformat(shop.kept.status()["last_log_at"])
    shop.server.stop()
    shutil.rmtree(tmp_path / "data")

    restore(shop.kept, Target(), tmp_path / "restored", settings)
    with started(tmp_path / "restored") as connection:
        found = texts(connection)
    older = [text for text, at in written if at <= kept_until]
    assert len(older) > 100
    assert found[: len(older)] == older
    assert found == [str(number + 1) for number in range(len(found))], "without a gap"
    assert 2 * log.TURN_SECONDS <= 60, "a turn has as long again before a minute is over"
    assert int(shop.kept.status()["rpo_seconds"]) >= 0


def _collected_up_to(shop: Shop, moment: datetime) -> bool:
    collect(shop.source, shop.kept)
    return datetime.fromisoformat(shop.kept.status()["last_log_at"]) >= moment


def test_the_log_is_collected_while_a_large_database_is_copied(
    shop: Shop, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(shop.source, shop.kept)
    before = set(shop.kept.segments())
    copy = base.copy

    def slow_copy(*words: Any) -> Any:
        done = copy(*words)
        for text in ("one", "two"):
            shop.write(text)
            known = set(shop.kept.segments())
            eventually(f"{text} is kept", lambda known=known: set(shop.kept.segments()) > known)  # type: ignore[misc]
        return done

    monkeypatch.setattr(create, "copy", slow_copy)
    monkeypatch.setattr(log, "TURN_SECONDS", 0.2)
    back_up(shop.source, shop.kept)
    assert len(set(shop.kept.segments()) - before) >= 2
    assert verify(shop.kept) == []
    with psycopg.connect(shop.source.url) as connection:
        slots = [name for (name,) in connection.execute("SELECT slot_name FROM pg_replication_slots")]
    assert slots == [shop.kept.slot], "what held the log for the copy is gone"


def test_a_server_that_archives_by_itself(shop: Shop, tmp_path: Path, settings: Settings) -> None:
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="articurated-test-") as name:
        arriving = Path(name)
        arriving.chmod(0o777)  # The server may run as another user than the test.
        shop.execute("ALTER SYSTEM SET archive_mode = on")
        shop.execute(f"ALTER SYSTEM SET archive_command = 'cp %p {arriving}/.%f && mv {arriving}/.%f {arriving}/%f'")
        shop.server.stop()
        shop.server.start()

        def bring() -> None:
            """Do what archive_command would, as the user that the repository belongs to."""
            while not ended.wait(0.05):
                for path in sorted(arriving.glob("[0-9A-F]*")):
                    if shop.kept.exists:
                        log.archive(shop.kept, path)
                        path.unlink()

        bringer = threading.Thread(target=bring)
        bringer.start()
        try:
            shop.write("before")
            back_up(shop.source, shop.kept)
            shop.write("between")
            assert back_up(shop.source, shop.kept).parent is not None
            shop.write("after")
            collect(shop.source, shop.kept)
        finally:
            ended.set()
            bringer.join()
    with psycopg.connect(shop.source.url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
    assert verify(shop.kept) == []
    restore(shop.kept, Target(), tmp_path / "restored", settings)
    with started(tmp_path / "restored") as connection:
        assert texts(connection) == ["before", "between", "after"]
