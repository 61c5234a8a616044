"""A PostgreSQL of the operator's own is backed up by a login that may no more than that, and restored."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from app.backup.create import back_up, collect, mark
from app.backup.errors import BackupError, LogLostError
from app.backup.repository import Repository
from app.backup.restore import restore
from app.backup.source import Source
from app.backup.target import Target
from app.backup.verify import verify
from app.config import Settings
from app.utils.clock import utc_now, uuid7
from tests.databases import TestServers, url_of

pytestmark = [pytest.mark.req("NFR-003.5"), pytest.mark.xdist_group("backup")]


@pytest.fixture
def login(servers: TestServers, settings: Settings) -> Iterator[str]:
    """A role with the rights that the documentation names, and no other."""
    if servers.given:
        pytest.skip("needs a server whose pg_hba.conf lets a new login replicate")
    name = f"backup_{uuid7(utc_now()).hex[-8:]}"
    database = str(make_url(settings.database_url).database)
    with psycopg.connect(url_of(servers.superuser_url, database), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'secret' IN ROLE pg_read_all_data".encode())
        for function in ("pg_switch_wal()", "pg_create_restore_point(text)"):
            connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {name}".encode())
        url = make_url(servers.superuser_url).set(username=name, password="secret", database=database)
        yield url.render_as_string(hide_password=False)
        slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE %s"
        connection.execute(slots, ["articurated_backup_%"])
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


def test_a_given_server(
    login: str, servers: TestServers, settings: Settings, clean_database: None, tmp_path: Path
) -> None:
    kept = Repository(tmp_path / "backups")
    source = Source(login, settings, {})
    with pytest.raises(BackupError, match="holds no backups"):
        mark(source, kept, "early")
    made = back_up(source, kept)
    assert [file.path for file in made.files] == [f"backups/{made.id}/base.tar.gz"]
    mark(source, kept, "here")
    with pytest.raises(BackupError, match="1 to 63 letters"):
        mark(source, kept, "no such; name")
    assert verify(kept) == []
    said: list[str] = []
    report = restore(Repository(kept.root), Target.parse("here", kept), tmp_path / "restored", settings, said.append)
    assert report.backup == made.id
    assert report.missing_documents == []
    assert said[0] == "unpacking the database"
    assert (tmp_path / "restored" / "postgres" / "cluster" / "PG_VERSION").exists()
    assert not (tmp_path / "restored" / "postgres" / "secrets.json").exists()
    with psycopg.connect(servers.superuser_url, autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [kept.slot])
    with pytest.raises(LogLostError):
        collect(source, kept)


def test_a_restore_that_fails_leaves_nothing(login: str, settings: Settings, tmp_path: Path) -> None:
    kept = Repository(tmp_path / "backups")
    made = back_up(Source(login, settings, {}), kept)
    archive = kept.root / made.files[0].path
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(BackupError, match="cut short"):
        restore(kept, Target(), tmp_path / "restored", settings)
    assert list((tmp_path / "restored").iterdir()) == []


def test_what_cannot_be_reached_is_said_without_a_password(settings: Settings, tmp_path: Path) -> None:
    source = Source("postgresql://backup:s3cret@127.0.0.1:1/shop", settings, {})
    with pytest.raises(BackupError, match="cannot be reached") as caught:
        back_up(source, Repository(tmp_path / "backups"))
    assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "backups").exists()
