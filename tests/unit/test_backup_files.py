"""Files of a backup: whole or not there, unreadable without the key, and nothing in them can be changed unseen."""

import json
import os
import secrets
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.backup import create, log, repository, sealed
from app.backup.errors import BackupError
from app.backup.repository import Manifest, Point, Repository, parse_lsn, segment_name
from app.backup.sealed import CHUNK_BYTES, TAG_BYTES, Writer, read_file, write_file
from app.backup.target import Target, base_for
from app.backup.verify import verify

pytestmark = pytest.mark.req("NFR-003.5")

KEY = b"a key of the operator's, thirty-two or more"
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]


def pieces(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("name", ["a", "a.gz", "a.aes", "a.gz.aes"])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read(tmp_path: Path, name: str, size: int) -> None:
    data = secrets.token_bytes(size)
    stored = write_file(tmp_path, name, KEY, pieces(data))
    assert b"".join(read_file(tmp_path, name, KEY)) == data
    assert (stored.path, stored.size) == (name, (tmp_path / name).stat().st_size)
    assert stored.sha256 == sealed.sha256_of(tmp_path / name)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if name.endswith(".aes") and size > 16:
        assert data[:16] not in (tmp_path / name).read_bytes()


def test_two_files_with_one_content_differ(tmp_path: Path) -> None:
    for name in ("a.aes", "b.aes"):
        write_file(tmp_path, name, KEY, iter((b"the same",)))
    assert (tmp_path / "a.aes").read_bytes()[-8:] != (tmp_path / "b.aes").read_bytes()[-8:]


@pytest.mark.parametrize("position", [0, 10, 60, -1, CHUNK_BYTES + 100])
def test_a_changed_byte_is_noticed(tmp_path: Path, position: int) -> None:
    write_file(tmp_path, "a.aes", KEY, pieces(secrets.token_bytes(2 * CHUNK_BYTES)))
    content = bytearray((tmp_path / "a.aes").read_bytes())
    content[position] ^= 1
    (tmp_path / "a.aes").write_bytes(content)
    with pytest.raises(BackupError):
        list(read_file(tmp_path, "a.aes", KEY))


def test_chunks_cannot_be_left_out_or_reordered_nor_files_exchanged(tmp_path: Path) -> None:
    write_file(tmp_path, "a.aes", KEY, pieces(secrets.token_bytes(3 * CHUNK_BYTES)))
    whole = (tmp_path / "a.aes").read_bytes()
    head, chunk = len(sealed.MAGIC) + sealed.SALT_BYTES, CHUNK_BYTES + TAG_BYTES
    first, second, third = (whole[head + n * chunk : head + (n + 1) * chunk] for n in range(3))
    for content in (first + second, first, b"", second + first + third, first + third, first + second + third + third):
        (tmp_path / "a.aes").write_bytes(whole[:head] + content)
        with pytest.raises(BackupError):
            list(read_file(tmp_path, "a.aes", KEY))
    (tmp_path / "b.aes").write_bytes(whole)
    with pytest.raises(BackupError):
        list(read_file(tmp_path, "b.aes", KEY))
    (tmp_path / "a.aes").write_bytes(whole)
    assert sum(map(len, read_file(tmp_path, "a.aes", KEY))) == 3 * CHUNK_BYTES


def test_another_key_or_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_file(tmp_path, "a.aes", KEY, iter((b"x",)))
    with pytest.raises(BackupError, match="BACKUP_ENCRYPTION_KEY is another one"):
        list(read_file(tmp_path, "a.aes", KEY + b"!"))
    with pytest.raises(BackupError, match="set BACKUP_ENCRYPTION_KEY"):
        list(read_file(tmp_path, "a.aes", None))


def test_a_compressed_file_that_is_cut_short_or_damaged_is_noticed(tmp_path: Path) -> None:
    write_file(tmp_path, "a.gz", None, pieces(secrets.token_bytes(100_000)))
    whole = (tmp_path / "a.gz").read_bytes()
    for content in (whole[:-1], whole[:50_000], b"", whole[:100] + b"?" + whole[101:]):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(BackupError):
            list(read_file(tmp_path, "a.gz", None))


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_file(tmp_path, "a", None, broken())
    assert list(tmp_path.iterdir()) == []
    unfinished = Writer(tmp_path, "a", None)
    unfinished.write(b"half")
    assert not (tmp_path / "a").exists()
    unfinished.discard()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    block = secrets.token_bytes(CHUNK_BYTES)
    tracemalloc.start()
    try:
        write_file(tmp_path, "a.gz.aes", KEY, (block for _ in range(512)))
        assert sum(len(piece) for piece in read_file(tmp_path, "a.gz.aes", KEY)) == 512 * CHUNK_BYTES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


# --- the repository ----------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Repository:
    """A new repository in clear text."""
    found = Repository(tmp_path / "backups")
    found.create("7000")
    return found


def test_a_repository_belongs_to_one_database_and_stays_as_it_was_begun(tmp_path: Path, kept: Repository) -> None:
    again = Repository(kept.root)
    assert (again.exists, again.system, again.slot, again.is_encrypted) == (True, "7000", kept.slot, False)
    again.create("7000")
    with pytest.raises(BackupError, match="another database"):
        again.create("7001")
    with pytest.raises(BackupError, match="is not encrypted"):
        Repository(kept.root, KEY).create("7000")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(BackupError, match="not empty"):
        Repository(tmp_path / "other").create("7000")
    with pytest.raises(BackupError, match="holds no backups"):
        Repository(tmp_path / "none").require()
    Repository(tmp_path / "secret", KEY).create("7000")
    with pytest.raises(BackupError, match="set BACKUP_ENCRYPTION_KEY"):
        Repository(tmp_path / "secret").create("7000")


def test_a_segment_is_kept_once_and_never_replaced(tmp_path: Path, kept: Repository) -> None:
    segment = tmp_path / "000000010000000000000003"
    segment.write_bytes(b"log" * 1000)
    assert log.archive(kept, segment)
    assert not log.archive(kept, segment)
    segment.write_bytes(b"other" * 1000)
    with pytest.raises(BackupError, match="with another content"):
        log.archive(kept, segment)
    assert b"".join(kept.read(f"wal/{segment.name}.gz")) == b"log" * 1000
    assert list(kept.segments()) == [segment.name]


def test_a_line_that_a_crash_cut_short_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for number in range(2):
        repository.append_line(path, {"number": number})
    with path.open("ab") as file:
        file.write(b'{"number": 2, "half')
    assert [entry["number"] for entry in repository.read_lines(path)] == [0, 1]
    repository.append_line(path, {"number": 3})
    assert [entry["number"] for entry in repository.read_lines(path)] == [0, 1, 3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_positions_and_segments() -> None:
    assert parse_lsn("0/3000028") == 0x3000028
    assert parse_lsn("1A/FF") == (0x1A << 32) + 0xFF
    assert segment_name(1, parse_lsn("0/3000028")) == "000000010000000000000003"
    assert segment_name(2, parse_lsn("1/FF000000")) == "0000000200000001000000FF"
    assert segment_name(0xAB, parse_lsn("2/0")) == "000000AB0000000200000000"


def made(name: str, finished: str, start: str, stop: str, timeline: int = 1) -> Manifest:
    return Manifest(
        id=name,
        started_at=finished,
        finished_at=finished,
        postgres="18.6",
        timeline=timeline,
        start_lsn=start,
        stop_lsn=stop,
        database="articurated_orders",
        superuser="postgres",
        documents=0,
    )


def store(kept: Repository, manifest: Manifest) -> Manifest:
    """Keep a backup with one file."""
    stored = kept.store(f"backups/{manifest.id}/base.tar.gz", iter((b"tar",)))
    whole = replace(manifest, files=[stored])
    kept.finish(whole)
    return whole


@pytest.fixture
def three(kept: Repository) -> list[Manifest]:
    """Three backups, six hours apart."""
    return [
        store(kept, made("1", "2026-11-01T00:00:00Z", "0/2000028", "0/2000120")),
        store(kept, made("2", "2026-11-01T06:00:00Z", "0/5000028", "0/5000120")),
        store(kept, made("3", "2026-11-01T12:00:00Z", "0/9000028", "0/9000120")),
    ]


def test_the_newest_backup_before_the_target_is_taken(kept: Repository, three: list[Manifest]) -> None:
    def base(target: Target) -> str:
        return base_for(kept, target).id

    def at(text: str) -> Target:
        return Target(time=datetime.fromisoformat(text))

    def point(lsn: str, moment: str, timeline: int = 1) -> Target:
        return Target(point=Point("p", lsn, timeline, moment))

    assert base(Target()) == "3"
    assert base(at("2026-11-01T06:00:00Z")) == "2"
    assert base(at("2026-11-01T05:59:59Z")) == "1"
    assert base(at("2026-11-01T07:30:00+02:00")) == "1"
    assert base(point("0/5000120", "2026-11-01T07:00:00Z")) == "2"
    assert base(point("0/500011F", "2026-11-01T07:00:00Z")) == "1"
    assert base(point("0/9000500", "2026-11-01T08:00:00Z")) == "2"
    with pytest.raises(BackupError, match="no base backup from before"):
        base(point("0/9000500", "2026-11-01T13:00:00Z", 2))
    with pytest.raises(BackupError, match="no base backup from before"):
        base(at("2026-10-31T23:59:59Z"))


def test_targets_are_named_in_three_ways(kept: Repository) -> None:
    point = Point("before", "0/3", 1, "2026-11-01T00:00:00Z")
    kept.keep_point(point)
    assert Target.parse("latest", kept) == Target()
    assert Target.parse("before", kept) == Target(point=point)
    moment = datetime(2026, 11, 23, 13, tzinfo=UTC)
    assert Target.parse("2026-11-23T14:00:00+01:00", kept).time == moment
    assert Target.parse("2026-11-23T13:00:00Z", kept).time == moment
    with pytest.raises(BackupError, match="needs its time zone"):
        Target.parse("2026-11-23T13:00:00", kept)
    with pytest.raises(BackupError, match="known: before"):
        Target.parse("after", kept)


def test_old_backups_go_and_the_log_that_only_they_need(
    tmp_path: Path, kept: Repository, three: list[Manifest]
) -> None:
    for number in range(2, 11):
        segment = tmp_path / segment_name(1, number * repository.SEGMENT_BYTES)
        segment.write_bytes(bytes([number]))
        log.archive(kept, segment)
    (kept.root / "backups" / "unfinished").mkdir()
    (kept.root / "backups" / "unfinished" / "base.tar.gz").touch()
    assert verify(kept) == []
    assert create.prune(kept, timedelta(days=36_500)) == []
    assert create.prune(kept, timedelta()) == ["1"]
    assert [backup.id for backup in kept.backups()] == ["2", "3"], "the newest two stay at any age"
    assert min(kept.segments()) == three[1].first_segment
    assert len(list((kept.root / "wal").iterdir())) == len(kept.segments()) == 6
    assert not (kept.root / "backups" / "unfinished").exists()
    assert verify(kept) == []


def test_what_an_incremental_one_goes_back_to_stays_with_it(kept: Repository) -> None:
    def backup(number: int, parent: int | None) -> None:
        hour, position = f"2026-11-01T{number:02}:00:00Z", f"0/{number}000028"
        follows = None if parent is None else str(parent)
        store(kept, replace(made(str(number), hour, position, position), parent=follows))

    for number, parent in ((1, None), (2, 1), (3, None), (4, 3), (5, 4), (6, 5)):
        backup(number, parent)
    assert [each.id for each in kept.chain(kept.backups()[-1])] == ["3", "4", "5", "6"]
    assert create.prune(kept, timedelta()) == ["1", "2"]
    backup(7, None)
    assert create.prune(kept, timedelta()) == [], "6 is one of the newest two, and needs 3 to 5"
    backup(8, 7)
    assert create.prune(kept, timedelta()) == ["3", "4", "5", "6"]
    kept.discard(kept.backups()[0])
    with pytest.raises(BackupError, match="backup 8 is incremental, and 7, which it follows, is missing"):
        kept.chain(kept.backups()[0])
    assert "backup 8 is incremental, and 7, which it follows, is missing" in verify(kept)


def test_how_much_could_have_been_lost_is_measured(tmp_path: Path, kept: Repository) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for number, age in ((2, 300), (3, 40), (4, 200)):
        segment = tmp_path / segment_name(1, number * repository.SEGMENT_BYTES)
        segment.write_bytes(bytes([number]))
        moment = now.timestamp() - age
        os.utime(segment, (moment, moment))
        log.archive(kept, segment)
    status = kept.status()
    assert datetime.fromisoformat(status["last_log_at"]) == now - timedelta(seconds=40), "never set back"
    assert int(status["rpo_seconds"]) >= 300


def test_verify_names_what_is_missing_or_damaged(tmp_path: Path, kept: Repository, three: list[Manifest]) -> None:
    for number in (2, 3, 5):
        segment = tmp_path / segment_name(1, number * repository.SEGMENT_BYTES)
        segment.write_bytes(bytes([number]))
        log.archive(kept, segment)
    assert [fault for fault in verify(kept) if "backup 1" in fault] == [
        "backup 1: 000000010000000000000004 of the log is missing, so nothing later than that can be restored from it"
    ]
    kept.keep_document("invoices/1.pdf", sealed.sha256_of(tmp_path / segment.name), bytes([5]))
    (kept.root / "documents" / "invoices" / "1.pdf").write_bytes(b"?")
    (kept.root / three[1].files[0].path).unlink()
    faults = verify(kept, deep=False)
    assert "documents/invoices/1.pdf is not what was written" in faults
    assert "backups/2/base.tar.gz is missing" in faults


def test_the_key_shows_that_a_document_is_another_one(tmp_path: Path) -> None:
    kept = Repository(tmp_path / "backups", KEY)
    kept.create("7000")
    store(kept, made("1", "2026-11-01T00:00:00Z", "0/2000028", "0/2000120"))
    kept.keep_document("a.pdf", "0" * 64, b"not what its hash says")
    assert verify(kept) == ["documents/a.pdf.aes holds something else than what was kept"]
    assert verify(kept, deep=False) == []
    assert any("BACKUP_ENCRYPTION_KEY" in fault for fault in verify(Repository(kept.root, KEY + b"!")))
