"""When a base backup is due, and what health says of backups that do not go on (NFR-003)."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.backup import schedule
from app.backup.errors import BackupError, LogLostError
from app.backup.repository import Repository
from app.backup.schedule import Schedule
from app.backup.source import Source
from app.config import Settings
from app.services.operations import backup_watch
from tests.unit.test_backup_files import made, store

pytestmark = pytest.mark.req("NFR-003.5")

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Done:
    """Takes the place of what reaches a server, and notes the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fault: BackupError | None = None
        monkeypatch.setattr(schedule, "back_up", self._back_up)
        monkeypatch.setattr(schedule, "collect", self._collect)
        monkeypatch.setattr(schedule, "prune", lambda *_: [])

    def _back_up(self, _source: Source, kept: Repository) -> Any:
        self.calls.append("base backup")
        kept.create("7000")
        return store(kept, made(f"{len(self.calls)}", f"{NOW:%Y-%m-%dT%H:%M:%SZ}", "0/2000028", "0/2000120"))

    def _collect(self, *_: Any) -> None:
        self.calls.append("log")
        if self.fault:
            raise self.fault


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    return Done(monkeypatch)


def of(root: Path, first_after: timedelta = timedelta()) -> Schedule:
    source = Source("postgresql://", Settings(_env_file=None), {})
    keep, every = timedelta(days=14), timedelta(hours=6)
    return Schedule(source, root, None, every=every, keep=keep, first_after=first_after, began=NOW)


def test_a_base_backup_every_six_hours_and_the_log_in_between(tmp_path: Path, done: Done) -> None:
    turns = of(tmp_path / "backups")
    for minutes in (0, 1, 359, 360):
        turns.turn(NOW + timedelta(minutes=minutes))
    assert done.calls == ["base backup", "log", "log", "base backup"]


def test_the_very_first_one_may_wait_and_nothing_is_made_before(tmp_path: Path, done: Done) -> None:
    turns = of(tmp_path / "backups", first_after=timedelta(minutes=10))
    turns.turn(NOW + timedelta(minutes=9))
    assert done.calls == []
    assert not (tmp_path / "backups").exists()
    turns.turn(NOW + timedelta(minutes=10))
    assert done.calls == ["base backup"]


def test_a_lost_log_is_answered_with_a_base_backup_at_once(tmp_path: Path, done: Done) -> None:
    turns = of(tmp_path / "backups")
    turns.turn(NOW)
    done.fault = LogLostError("the server no longer keeps the log")
    turns.turn(NOW)
    assert done.calls == ["base backup", "log", "base backup"]


def test_a_turn_that_fails_is_logged_and_the_next_one_tries_again(tmp_path: Path, done: Done) -> None:
    turns = of(tmp_path / "backups")
    turns.turn(NOW)
    done.fault = BackupError("the database cannot be reached")
    with capture_logs() as lines:
        turns.turn(NOW)
    assert [(line["event"], line["error"]) for line in lines] == [("backup.failed", "the database cannot be reached")]
    done.fault = None
    turns.turn(NOW)
    assert done.calls == ["base backup", "log", "log"]


@pytest.mark.parametrize(
    ("backup_age", "log_age", "fault"),
    [
        (timedelta(hours=6, minutes=59), timedelta(minutes=4), None),
        (timedelta(hours=7, minutes=1), timedelta(minutes=4), backup_watch.BackupTooOldError),
        (timedelta(hours=1), timedelta(minutes=6), backup_watch.BackupLogTooOldError),
        (timedelta(minutes=4), None, None),
        (timedelta(minutes=6), None, backup_watch.BackupLogTooOldError),
    ],
)
def test_backups_that_do_not_go_on_are_noticed(
    backup_age: timedelta, log_age: timedelta | None, fault: type[Exception] | None, tmp_path: Path
) -> None:
    status = {"last_backup_at": (NOW - backup_age).isoformat()}
    if log_age is not None:
        status["last_log_at"] = (NOW - log_age).isoformat()
    (tmp_path / "status.json").write_text(json.dumps(status))
    settings = Settings(_env_file=None, backup_path=tmp_path)
    assert backup_watch.repository_of(settings) == tmp_path
    if fault is None:
        backup_watch.require_current(backup_watch.times_of(tmp_path), settings, NOW)
    else:
        with pytest.raises(fault):
            backup_watch.require_current(backup_watch.times_of(tmp_path), settings, NOW)


def test_where_no_backups_are_known_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARTICURATED_DATA_DIR", raising=False)
    assert backup_watch.repository_of(Settings(_env_file=None)) is None
    monkeypatch.setenv("ARTICURATED_DATA_DIR", str(tmp_path))
    assert backup_watch.repository_of(Settings(_env_file=None)) is None
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "status.json").touch()
    assert backup_watch.repository_of(Settings(_env_file=None)) == tmp_path / "backups"
