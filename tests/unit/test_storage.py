"""The storage port on a local folder and in memory: one writer wins, odd keys touch nothing, bytes are flushed."""

import asyncio
import io
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Settings
from app.utils import storage as storage_module
from app.utils.storage import (
    MAXIMUM_KEY_LENGTH,
    Storage,
    StorageError,
    StorageKeyExists,
    StorageKeyMissing,
    checked_key,
    storage_for,
)

pytestmark = pytest.mark.req("INT-004")

KEY = "invoices/ORD-2026-000001_20261122.pdf"
PDF = "application/pdf"
HOSTILE_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "../secret",
    "invoices/../../secret",
    "invoices/..",
    "..",
    ".",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a..b",
    ".hidden",
    ".staging/x",
    "invoices/.staging",
    "a\\b",
    "..\\a",
    "C:\\a",
    "C:/a",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a b",
    "a%2e%2e/b",
    "a#1",
    "a?b",
    "ä",
    "a\u2215b",
    "\uff0e\uff0e/a",
    "\ud800",
    "x" * (MAXIMUM_KEY_LENGTH + 1),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "with a space" / "storage"


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, folder: Path) -> Storage:
    return storage_for(Settings(_env_file=None, storage_type=request.param, storage_path=folder))


def _local(folder: Path) -> Storage:
    return storage_for(Settings(_env_file=None, storage_path=folder))


def _mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.req("INT-004.1")
async def test_what_is_stored_comes_back(storage: Storage) -> None:
    data = bytes(range(256)) * 1000

    assert not await storage.exists(KEY)
    await storage.put_new(KEY, data, PDF)

    assert await storage.exists(KEY)
    assert await storage.get(KEY) == data


async def test_nothing_is_a_file_too(storage: Storage) -> None:
    await storage.put_new(KEY, b"", PDF)

    assert await storage.get(KEY) == b""


@pytest.mark.req("INT-004.2")
async def test_a_key_is_never_overwritten(storage: Storage) -> None:
    await storage.put_new(KEY, b"first", PDF)

    with pytest.raises(StorageKeyExists):
        await storage.put_new(KEY, b"second", PDF)
    assert await storage.get(KEY) == b"first"


async def test_of_forty_writers_one_wins_and_its_bytes_stay_whole(storage: Storage) -> None:
    bodies = [bytes([number]) * 50_000 for number in range(40)]
    outcomes = await asyncio.gather(*(storage.put_new(KEY, body, PDF) for body in bodies), return_exceptions=True)

    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert len(winners) == 1
    assert all(isinstance(outcome, StorageKeyExists) for outcome in outcomes if outcome is not None)
    assert await storage.get(KEY) == bodies[winners[0]]


async def test_a_file_is_stored_as_bytes_are(storage: Storage, folder: Path) -> None:
    content = bytes(index % 251 for index in range(3_000_000))
    await storage.put_file(KEY, io.BytesIO(content), PDF)
    assert await storage.get(KEY) == content
    with pytest.raises(StorageKeyExists):
        await storage.put_file(KEY, io.BytesIO(b"another"), PDF)
    assert await storage.get(KEY) == content
    assert _files(folder) in ([], [folder / KEY])
    with pytest.raises(ValueError, match="a storage key"):
        await storage.put_file("../a", io.BytesIO(b"x"), PDF)


async def test_a_missing_key_is_distinguished(storage: Storage) -> None:
    with pytest.raises(StorageKeyMissing):
        await storage.get(KEY)


async def test_delete_frees_the_key_and_may_be_repeated(storage: Storage) -> None:
    await storage.put_new(KEY, b"first", PDF)
    await storage.delete(KEY)
    await storage.delete(KEY)

    assert not await storage.exists(KEY)
    await storage.put_new(KEY, b"second", PDF)
    assert await storage.get(KEY) == b"second"


async def test_a_folder_and_memory_have_no_address_of_their_own(storage: Storage) -> None:
    await storage.put_new(KEY, b"x", PDF, "attachment")

    assert await storage.signed_url(KEY, timedelta(seconds=60)) is None
    assert await storage.get(KEY) == b"x"


async def test_old_keys_below_a_prefix_are_listed(storage: Storage) -> None:
    for key in ("attachments/r/b.jpg", "attachments/r/a.jpg", "attachments/rr/c.jpg", KEY):
        await storage.put_new(key, b"x", PDF)

    now = datetime.now(UTC)
    found = await storage.list_old("attachments/r", now + timedelta(seconds=5))
    assert found == ["attachments/r/a.jpg", "attachments/r/b.jpg"]
    assert await storage.list_old("attachments/r", now - timedelta(seconds=60)) == []
    assert await storage.list_old("attachments/none", now) == []
    assert sorted(await storage.list_all("attachments/r")) == ["attachments/r/a.jpg", "attachments/r/b.jpg"]
    assert await storage.list_all("attachments/none") == []


@pytest.mark.security
@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=lambda key: ascii(key)[:20])
async def test_a_hostile_key_is_refused_by_every_verb_and_touches_nothing(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    storage = _local(tmp_path / "storage")

    now = datetime.now(UTC)
    for attempt in (
        storage.put_new(key, b"x", PDF),
        storage.get(key),
        storage.exists(key),
        storage.delete(key),
        storage.signed_url(key, timedelta(seconds=60)),
        storage.list_old(key, now),
        storage.list_all(key),
    ):
        with pytest.raises(ValueError, match="a storage key"):
            await attempt
    assert _files(tmp_path) == [tmp_path / "secret"]
    assert (tmp_path / "secret").read_bytes() == b"secret"


@pytest.mark.security
@settings(deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_an_accepted_key_stays_inside_any_folder(key: str) -> None:
    try:
        checked_key(key)
    except ValueError:
        return
    inside = Path("/store")
    assert Path(os.path.normpath(inside / key)).is_relative_to(inside)
    assert key.isascii()
    assert not any(part.startswith(".") for part in key.split("/"))


async def test_the_local_folder_is_private_and_holds_only_what_was_stored(folder: Path) -> None:
    storage = _local(folder)
    await storage.put_new(KEY, b"x", PDF)
    with pytest.raises(StorageKeyExists):
        await storage.put_new(KEY, b"y", PDF)

    assert _mode(folder) == 0o700
    assert _files(folder) == [folder / KEY]


async def test_another_process_sees_the_same_files(folder: Path) -> None:
    await _local(folder).put_new(KEY, b"x", PDF)

    assert await _local(folder).get(KEY) == b"x"


async def test_local_bytes_are_flushed_before_they_get_their_name_and_folders_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = _local(folder)
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        flushed.append((str(Path(f"/proc/self/fd/{handle}").readlink()), (folder / KEY).exists()))

    monkeypatch.setattr(os, "fsync", watched)
    await storage.put_new(KEY, b"x" * 100, PDF)

    staged, named = flushed[0]
    assert Path(staged).parent == folder / ".staging"
    assert named is False
    assert flushed[1:] == [(str(folder / "invoices"), True), (str(folder), True)]


async def test_leftovers_of_killed_writers_are_swept_once_they_are_old(folder: Path) -> None:
    _local(folder)
    staging = folder / ".staging"
    staging.mkdir()
    (staging / "old").write_bytes(b"x")
    (staging / "new").write_bytes(b"x")
    os.utime(staging / "old", (time.time() - 7200,) * 2)

    _local(folder)

    assert [path.name for path in staging.iterdir()] == ["new"]


async def test_a_folder_that_cannot_be_used_is_a_retryable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError) as caught:
        _local(tmp_path / "file" / "storage")
    assert caught.value.retryable
    assert caught.value.status == 503
    # The reason is for logs; what a caller over HTTP may read names no path.
    assert str(tmp_path) in str(caught.value)
    assert str(tmp_path) not in caught.value.message


async def test_a_write_that_fails_leaves_nothing_under_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = _local(folder)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        await storage.put_new(KEY, b"x", PDF)

    assert not await storage.exists(KEY)
    assert _files(folder) == []


@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_a_cloud_storage_without_a_bucket_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="STORAGE_BUCKET"):
        storage_for(Settings(_env_file=None, storage_type=kind))


@pytest.mark.req("INT-004.1")
@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_configuration_alone_chooses_a_cloud_storage(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "articurated")
    stores = {"s3": "S3Store", "gcs": "GCSStore", "azure": "AzureStore"}
    made: list[tuple[str, str]] = []
    for name in stores.values():
        real = getattr(storage_module, name)

        def record(bucket: str, real: Any = real, name: str = name, **options: Any) -> Any:
            made.append((name, bucket))
            return real(bucket, **options)

        monkeypatch.setattr(storage_module, name, record)

    storage_for(Settings(_env_file=None, storage_type=kind, storage_bucket="invoices"))

    assert made == [(stores[kind], "invoices")]
