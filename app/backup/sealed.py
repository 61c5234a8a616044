"""Files of a backup: compressed, encrypted when there is a key, written whole or not at all, in constant memory.

An encrypted file is a magic number, a salt, and chunks of AES-256-GCM, each with its tag. The key of each file is derived
from the configured one and the salt (HKDF, RFC 5869). The nonce of a chunk is its number and whether it is the last, and
the name of the file is authenticated with it: chunks cannot be reordered, files neither cut short nor exchanged. This is
the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár (2015), which age and Tink use too.
"""

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.backup.errors import BackupError

MAGIC = b"ACBK\x01\n"
SALT_BYTES = 32
CHUNK_BYTES = 65_536
TAG_BYTES = 16
_GZIP = zlib.MAX_WBITS | 16
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as it is in the repository.

    Attributes:
        path: relative to the repository.
        size: bytes on disk.
        sha256: of these bytes, in hexadecimal.
    """

    path: str
    size: int
    sha256: str


class _Sink(Protocol):
    def write(self, data: bytes) -> None:
        """Take bytes."""

    def finish(self) -> None:
        """Take no more."""


class _File:
    """The bytes that go to disk, counted and hashed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)
        self.hash.update(data)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


class _Encrypt:
    def __init__(self, sink: _Sink, key: bytes, name: str) -> None:
        self._sink = sink
        salt = secrets.token_bytes(SALT_BYTES)
        self._cipher = _cipher(key, salt)
        self._name = name.encode()
        self._pending = b""
        self._number = 0
        sink.write(MAGIC + salt)

    def write(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) > CHUNK_BYTES:  # A full one stays: it may be the last.
            self._put(self._pending[:CHUNK_BYTES], is_last=False)
            self._pending = self._pending[CHUNK_BYTES:]

    def finish(self) -> None:
        self._put(self._pending, is_last=True)
        self._sink.finish()

    def _put(self, data: bytes, *, is_last: bool) -> None:
        self._sink.write(self._cipher.encrypt(_nonce(self._number, is_last=is_last), data, self._name))
        self._number += 1


class _Compress:
    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)

    def write(self, data: bytes) -> None:
        self._sink.write(self._stream.compress(data))

    def finish(self) -> None:
        self._sink.write(self._stream.flush())
        self._sink.finish()


class Writer:
    """Writes one file of a repository; it has its name once `commit` returns, and nothing is there before.

    Args:
        root: the repository.
        path: the file's path below it; its suffixes say how it is written, `.gz` and `.aes`.
        key: configured key, needed for `.aes`.
    """

    def __init__(self, root: Path, path: str, key: bytes | None) -> None:
        self._path = path
        self._target = root / path
        self._target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}")
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._file = _File(self._raw)
        sink: _Sink = self._file
        if path.endswith(".aes"):
            sink = _Encrypt(sink, _required(key), path)
        if path.removesuffix(".aes").endswith(".gz"):
            sink = _Compress(sink)
        self._sink = sink

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._sink.write(data)

    def commit(self) -> Stored:
        """Flush everything to disk and give the file its name."""
        self._sink.finish()
        self._raw.close()
        self._temporary.replace(self._target)
        sync_folder(self._target.parent)
        return Stored(self._path, self._file.size, self._file.hash.hexdigest())

    def discard(self) -> None:
        """Leave nothing behind."""
        self._raw.close()
        with suppress(FileNotFoundError):
            self._temporary.unlink()


def write_file(root: Path, path: str, key: bytes | None, content: Iterator[bytes]) -> Stored:
    """Write all of `content` (see `Writer`)."""
    writer = Writer(root, path, key)
    try:
        for data in content:
            writer.write(data)
        return writer.commit()
    except BaseException:
        writer.discard()
        raise


def read_file(root: Path, path: str, key: bytes | None) -> Iterator[bytes]:
    """Yield what a file of a repository holds, decrypted and decompressed.

    Raises:
        BackupError: the file is damaged, was exchanged, or the key is another one.
    """
    content = blocks(root / path)
    if path.endswith(".aes"):
        content = _decrypted(root / path, path, _required(key))
    if path.removesuffix(".aes").endswith(".gz"):
        content = _decompressed(content, path)
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for data in blocks(path):
        digest.update(data)
    return digest.hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes."""
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decrypted(file_path: Path, name: str, key: bytes) -> Iterator[bytes]:
    with file_path.open("rb") as file:
        header = file.read(len(MAGIC) + SALT_BYTES)
        if len(header) < len(MAGIC) + SALT_BYTES or not header.startswith(MAGIC):
            raise BackupError(f"{name} is no encrypted file of a backup")
        cipher = _cipher(key, header[len(MAGIC) :])
        number, chunk = 0, file.read(CHUNK_BYTES + TAG_BYTES)
        while True:
            following = file.read(CHUNK_BYTES + TAG_BYTES)
            try:
                yield cipher.decrypt(_nonce(number, is_last=not following), chunk, name.encode())
            except InvalidTag:
                raise BackupError(
                    f"{name} cannot be decrypted: it is damaged, or BACKUP_ENCRYPTION_KEY is another one"
                ) from None
            if not following:
                return
            number, chunk = number + 1, following


def _decompressed(content: Iterator[bytes], name: str) -> Iterator[bytes]:
    stream = zlib.decompressobj(_GZIP)
    try:
        for data in content:
            rest = data
            while rest:
                yield stream.decompress(rest, CHUNK_BYTES)
                rest = stream.unconsumed_tail
        yield stream.flush()
    except zlib.error:
        raise BackupError(f"{name} is damaged") from None
    if not stream.eof:
        raise BackupError(f"{name} is cut short")


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"articurated backup file").derive(key))


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _required(key: bytes | None) -> bytes:
    if key is None:
        raise BackupError("this backup is encrypted: set BACKUP_ENCRYPTION_KEY")
    return key
