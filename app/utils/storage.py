"""bytes ↔ key: invoices and photos in a local folder, memory, S3, GCS or Azure, by configuration (INT-004).

One thin port over obstore. A key is written once and never overwritten: of several writers one wins, and the others
learn that the key is taken. After a time-out a writer may even meet its own first attempt, so a writer that learns
`StorageKeyExists` reads the key and adopts it if the bytes are its own.

obstore's local store gives names atomically (it links a finished file into place), but never asks the disk to keep
anything: after a power cut a name could lead to an empty file. Here the bytes are therefore flushed before they
get their name, and the folders afterwards.
"""

import asyncio
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from app.config import Settings
from app.utils.exceptions import ServiceUnavailableError
from app.utils.observers import observed_storage

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

logger = structlog.get_logger(__name__)

MAXIMUM_KEY_LENGTH: Final = 512
PIECE_BYTES: Final = 65_536
_FILES_AT_ONCE: Final = 2
_COPY_BYTES: Final = 1_048_576
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAGING: Final = ".staging"
_STAGING_KEPT_SECONDS: Final = 3600
_CLIENT: Final["ClientConfig"] = {"timeout": "20s", "connect_timeout": "5s"}
_RETRY: Final["RetryConfig"] = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


class StorageError(ServiceUnavailableError):
    """The storage cannot be reached or used just now; try again later.

    Attributes:
        reason: what went wrong, for logs and job rows; a caller over HTTP sees only the message.
    """

    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__("The document storage cannot be used just now.")
        self.reason = reason

    def __str__(self) -> str:
        """Return message and reason."""
        return f"{self.message} ({self.reason})"


class StorageKeyExists(Exception):  # noqa: N818 - named for the fact; often the success of an earlier attempt
    """Something is stored under the key already; it was left as it is."""

    retryable = False


class StorageKeyMissing(Exception):  # noqa: N818 - named for the fact
    """Nothing is stored under the key."""

    retryable = False


_OUTCOMES: Final = {StorageKeyExists: "exists", StorageKeyMissing: "missing", StorageError: "failed"}


class Storage:
    """Bytes under keys such as `invoices/ORD-2026-000001_20261122.pdf`.

    A key is one to 512 ASCII letters, digits, `.`, `_`, `-` in segments divided by `/`, no segment starting with a
    dot; anything else is a ValueError, raised before anything is touched.

    Args:
        store: where the bytes go.
        folder: the folder of a local store, whose files are flushed to disk.
    """

    def __init__(self, store: "ObjectStore", folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder
        self._turns = asyncio.Semaphore(_FILES_AT_ONCE)

    @observed_storage("put", _OUTCOMES)
    async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
        """Store bytes under a key that is free; when this returns, they are kept.

        Args:
            key: see the class.
            data: all of it.
            content_type: kept with the object where the storage can.
            disposition: Content-Disposition that the storage itself is to answer with, likewise.

        Raises:
            StorageKeyExists: the key is taken; it may be an earlier attempt of the same work.
            StorageError: it could not be stored, or whether it was is unknown.
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        if self._folder is not None:
            await self._put_local(self._folder, key, data)
            return
        await self._put_cloud(key, data, content_type, disposition)

    async def _put_cloud(self, key: str, data: bytes, content_type: str, disposition: str | None) -> None:
        # The memory store keeps attributes too; only the local one refuses them.
        attributes: Attributes = {"Content-Type": content_type}
        if disposition is not None:
            attributes["Content-Disposition"] = disposition
        with _translated(key):
            await obstore.put_async(
                self._store,
                key,
                data,
                attributes=attributes,
                mode="create",
                use_multipart=False,
            )

    @observed_storage("put", _OUTCOMES)
    async def put_file(self, key: str, file: IO[bytes], content_type: str, disposition: str | None = None) -> None:
        """Store a file under a key that is free, as `put_new` does.

        A local folder gets it piece by piece. A cloud takes it in one request, which alone can refuse a key that is
        taken: so many at once as there are turns are in memory.

        Args:
            key, content_type, disposition: as for `put_new`.
            file: at its first byte; read to its end.

        Raises:
            StorageKeyExists, StorageError, ValueError: as `put_new`.
        """
        checked_key(key)
        if self._folder is not None:
            await self._put_local(self._folder, key, file)
            return
        async with self._turns:
            data = await asyncio.to_thread(file.read)
            await self._put_cloud(key, data, content_type, disposition)

    @observed_storage("get", _OUTCOMES)
    async def get(self, key: str) -> bytes:
        """Return the bytes under a key.

        Raises:
            StorageKeyMissing: there are none.
            StorageError: they cannot be read now.
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        with _translated(key):
            answer = await obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())

    async def stream(self, key: str) -> "StoredBytes":
        """Return the size of what is under a key, and its bytes in pieces; they are read as they are asked for.

        Raises:
            StorageKeyMissing: there is nothing.
            StorageError: it cannot be read now; the pieces raise it too.
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        with _translated(key):
            answer = await obstore.get_async(self._store, key)
        return StoredBytes(answer.meta["size"], _pieces(key, answer))

    @observed_storage("exists", _OUTCOMES)
    async def exists(self, key: str) -> bool:
        """Return whether something is stored under a key.

        Raises:
            StorageError: it cannot be found out now.
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        try:
            with _translated(key):
                await obstore.head_async(self._store, key)
        except StorageKeyMissing:
            return False
        return True

    @observed_storage("list", _OUTCOMES)
    async def list_all(self, prefix: str) -> list[str]:
        """Return all keys below `prefix`; none where there is no such prefix.

        Raises:
            StorageError: the storage cannot be asked now.
            ValueError: the prefix is not acceptable.
        """
        checked_key(prefix)
        keys: list[str] = []
        with _translated(prefix):
            async for batch in obstore.list(self._store, prefix):
                keys += [entry["path"] for entry in batch]
        return keys

    @observed_storage("delete", _OUTCOMES)
    async def delete(self, key: str) -> None:
        """Remove what is under a key; a free key is fine.

        Raises:
            StorageError: it cannot be removed now.
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except StorageKeyMissing:
            return

    async def signed_url(self, key: str, lifetime: timedelta) -> str | None:
        """Return an address at which the storage itself gives out what is under a key, to every holder.

        Returns:
            the address, or None where there is none: a folder and memory have no server, and not all credentials of a
            cloud can sign.

        Raises:
            ValueError: the key is not acceptable.
        """
        checked_key(key)
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return None
        try:
            return await obstore.sign_async(self._store, "GET", key, lifetime)
        except BaseError as fault:
            logger.warning("storage_link.not_signed", error=_first_line(fault))
            return None

    async def list_old(self, prefix: str, before: datetime) -> list[str]:
        """Return the keys below `prefix` whose bytes were stored before a moment.

        Args:
            prefix: the first segments of the keys, e.g. `attachments`; all that is below it is looked through.

        Raises:
            StorageError: the storage cannot be asked now.
            ValueError: the prefix is not acceptable.
        """
        checked_key(prefix)
        with _translated(prefix):
            found = await obstore.list(self._store, prefix).collect_async()
            return sorted(entry["path"] for entry in found if entry["last_modified"] < before)

    async def _put_local(self, folder: Path, key: str, data: bytes | IO[bytes]) -> None:
        staged = f"{_STAGING}/{uuid.uuid4().hex}"
        with _translated(key):
            try:
                if isinstance(data, bytes):
                    await obstore.put_async(self._store, staged, data, use_multipart=False)
                else:
                    await asyncio.to_thread(_copy, data, folder / staged)
                await asyncio.to_thread(_flush, folder / staged)
                await obstore.rename_async(self._store, staged, key, overwrite=False)
            finally:
                await asyncio.to_thread((folder / staged).unlink, missing_ok=True)
            await asyncio.to_thread(_flush_folders, folder, key)


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What is under a key.

    Attributes:
        size: in bytes.
        pieces: all of it, of about `PIECE_BYTES` each; to be gone through once.
    """

    size: int
    pieces: AsyncIterator[bytes]


async def _pieces(key: str, answer: "obstore.GetResult") -> AsyncIterator[bytes]:
    with _translated(key):
        async for piece in answer.stream(PIECE_BYTES):
            yield bytes(piece)


def checked_key(key: str) -> str:
    """Return the key if it is acceptable (see `Storage`).

    Raises:
        ValueError: it is not; the message does not repeat it.
    """
    if not 0 < len(key) <= MAXIMUM_KEY_LENGTH:
        raise ValueError(f"a storage key has 1 to {MAXIMUM_KEY_LENGTH} characters, got {len(key)}")
    if ".." in key or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise ValueError("a storage key is made of letters, digits, '.', '_', '-' and single '/'")
    return key


def storage_for(settings: Settings) -> Storage:
    """Return the storage that `STORAGE_TYPE` names.

    Credentials and region that the settings leave out are taken from the cloud's own usual sources. A local folder is
    created with mode 0700 if need be; memory starts empty and is this process's alone.

    Raises:
        StorageError: the local folder cannot be made.
        ValueError: no bucket is named for a cloud storage.
    """
    if settings.storage_type == "local":
        return _local_storage(settings.storage_path)
    if settings.storage_type == "memory":
        return Storage(MemoryStore())
    bucket = settings.storage_bucket or (settings.aws_s3_bucket if settings.storage_type == "s3" else None)
    if not bucket:
        raise ValueError(f"STORAGE_TYPE={settings.storage_type} needs STORAGE_BUCKET")
    if settings.storage_type == "s3":
        return Storage(_s3_store(settings, bucket))
    if settings.storage_type == "gcs":
        return Storage(GCSStore(bucket, client_options=_CLIENT, retry_config=_RETRY))
    return Storage(AzureStore(bucket, client_options=_CLIENT, retry_config=_RETRY))


def _local_storage(folder: Path) -> Storage:
    folder = folder.absolute()
    with _translated(str(folder)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder / _STAGING)
        return Storage(LocalStore(folder), folder)


def _s3_store(settings: Settings, bucket: str) -> S3Store:
    secret = settings.aws_secret_access_key
    given = {
        "access_key_id": settings.aws_access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
        "region": settings.aws_region,
        "endpoint": settings.aws_endpoint_url,
    }
    plain = (settings.aws_endpoint_url or "").startswith("http://")
    return S3Store(
        bucket,
        config={name: value for name, value in given.items() if value},  # type: ignore[arg-type]
        client_options={**_CLIENT, "allow_http": plain},
        retry_config=_RETRY,
    )


def _sweep(staging: Path) -> None:
    """Remove what writers that were killed left behind."""
    if not staging.is_dir():
        return
    for leftover in staging.iterdir():
        if leftover.stat().st_mtime < time.time() - _STAGING_KEPT_SECONDS:
            leftover.unlink(missing_ok=True)


def _copy(file: IO[bytes], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(file, target, _COPY_BYTES)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folders(folder: Path, key: str) -> None:
    """Flush each folder from the key's own up to the storage's, as each may be new."""
    for parent in Path(key).parents:
        _flush(folder / parent)


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    try:
        yield
    except AlreadyExistsError:
        raise StorageKeyExists(subject) from None
    except FileNotFoundError:
        raise StorageKeyMissing(subject) from None
    except (BaseError, OSError) as fault:
        raise StorageError(_first_line(fault)) from fault


def _first_line(fault: Exception) -> str:
    # obstore appends a structural dump to its one-line messages.
    return (str(fault).splitlines() or [type(fault).__name__])[0]
