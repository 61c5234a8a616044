"""A full disk costs what could not be written, and no process (NFR-003)."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client.mmap_dict import MmapedDict
from sqlalchemy.exc import OperationalError

from app.config import ROOT
from app.core.counts_file import RETRY_SECONDS, CountsFile
from app.core.logging import LossyStream
from app.core.monitoring import LOG_LINES_DROPPED
from app.utils.disk import FULL_BYTES, LOW_BYTES, DiskSpace, LastSeen, disk_space, is_disk_full
from tests.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.req("NFR-003")

LONG_KEY = "k" * 2000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 1) as disk:
        yield disk


def in_file(path: Path) -> dict[str, float]:
    """Return what the collector of prometheus_client reads."""
    found = MmapedDict.read_all_values_from_file(str(path))
    return {key: value for key, value, _, _ in found}


def test_counts_are_where_the_collector_looks(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    counts = CountsFile(str(path))
    assert in_file(path) == {}
    assert counts.read_value("a") == (0.0, 0.0)
    for value in range(1, 4):
        counts.write_value("a", value, 0.0)
        counts.write_value(LONG_KEY, value * 10, 5.0)
    assert in_file(path) == {"a": 3.0, LONG_KEY: 30.0}
    counts.close()
    again = CountsFile(str(path))
    assert again.read_value(LONG_KEY) == (30.0, 5.0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_half_written_file_of_an_earlier_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    for content in (b"", b"\x40\0\0\0\0\0\0\0\x10"):
        path.write_bytes(content)
        CountsFile(str(path)).write_value("a", 1.0, 0.0)
        assert in_file(path) == {"a": 1.0}


def test_counts_of_a_full_disk_are_kept_and_written_later(disk: SmallDisk) -> None:
    now = [0.0]
    path = disk.folder / "counter_1.db"
    counts = CountsFile(str(path), lambda: now[0])
    counts.write_value("a", 1.0, 0.0)
    disk.fill()
    for number in range(3):
        counts.write_value(f"{number}{LONG_KEY}", 2.0, 0.0)
    assert [counts.is_current] == [False]
    counts.write_value("a", 3.0, 0.0)
    assert in_file(path)["a"] == 1.0
    disk.free()
    counts.write_value("a", 4.0, 0.0)
    assert [counts.is_current] == [False], "it does not try at every count"
    now[0] += RETRY_SECONDS
    counts.write_value("a", 5.0, 0.0)
    assert [counts.is_current] == [True]
    assert in_file(path) == {"a": 5.0, **{f"{number}{LONG_KEY}": 2.0 for number in range(3)}}


def test_a_process_that_starts_and_counts_on_a_full_disk_goes_on(disk: SmallDisk) -> None:
    """With the library's own memory-mapped files it ends with SIGBUS."""
    disk.fill()
    code = """
from app.core import exposition, monitoring
for number in range(200):
    monitoring.request_answered("GET", f"/{number}", 200, 0.01)
print(monitoring.REQUESTS.labels("GET", "/7", "200")._value.get(), len(exposition.of_api(None)) > 0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(disk.folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != -signal.SIGBUS
    assert (done.returncode, done.stdout) == (0, "1.0 True\n"), done.stderr


def test_log_lines_are_dropped_and_counted(disk: SmallDisk) -> None:
    before = LOG_LINES_DROPPED._value.get()
    log = disk.folder / "log"
    with log.open("a") as file:
        stream = LossyStream(file)
        stream.write('{"event":"first"}\n')
        disk.fill()
        for number in range(3):
            # Longer than the rest of the page that the first line began: a part of one of them fits.
            assert stream.write(json.dumps({"event": "lost", "number": number, "text": LONG_KEY}) + "\n")
        disk.free()
        stream.write('{"event":"last"}\n')
    lines = [line for line in log.read_text().splitlines() if line]
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    lost = 3 - sum(line["event"] == "lost" for line in whole)
    assert lost >= 1
    assert [line.get("lines") for line in whole if line["event"] == "log.lines_dropped"] == [lost]
    assert whole[-1]["event"] == "last"
    assert LOG_LINES_DROPPED._value.get() - before == lost


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file")), True),
        (OperationalError("INSERT", {}, psycopg.errors.AdminShutdown("ended")), False),
        (ValueError("no"), False),
    ],
)
def test_errors_that_say_that_a_disk_is_full(*, fault: Exception, expected: bool) -> None:
    assert is_disk_full(fault) is expected
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = fault
    assert is_disk_full(wrapped) is expected


def test_free_space_of_a_disk(disk: SmallDisk) -> None:
    space = disk_space(disk.folder / "not" / "made")
    assert space.mount == disk.folder
    assert (space.total_bytes, space.is_full) == (2**20, False)
    disk.fill()
    assert disk_space(disk.folder).is_full
    disk.free()
    assert not disk_space(disk.folder).is_full


@pytest.mark.parametrize(
    ("free", "total", "files", "low", "full"),
    [
        (LOW_BYTES, 2**40, True, False, False),
        (LOW_BYTES - 1, 2**40, True, True, False),
        (FULL_BYTES, 2**40, True, True, False),
        (FULL_BYTES - 1, 2**40, True, True, True),
        (2**39, 2**40, False, True, True),
        (20 * 2**20, 300 * 2**20, True, False, False),
        (14 * 2**20, 300 * 2**20, True, True, False),
    ],
)
def test_when_a_disk_is_low_or_full(*, free: int, total: int, files: bool, low: bool, full: bool) -> None:
    space = DiskSpace(Path("/"), free, total, files)
    assert (space.is_low, space.is_full) == (low, full)


def test_what_was_seen_is_forgotten() -> None:
    now = [100.0]
    seen = LastSeen(lambda: now[0])
    assert not seen.within(10)
    seen.note()
    now[0] += 9.9
    assert seen.within(10)
    now[0] += 0.1
    assert not seen.within(10)
