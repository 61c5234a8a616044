"""Sending files: the number at once, readers who stall, and a storage that fails halfway (NFR-004)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.api.http import file_transfer
from app.api.http.file_transfer import FileTransfer
from app.utils.exceptions import ServiceUnavailableError
from app.utils.storage import StorageError, StoredBytes

pytestmark = [pytest.mark.req("INT-004.4", "NFR-004"), pytest.mark.security]

SCOPE = {"type": "http", "method": "GET", "path": "/api/v1/files/attachments/x", "headers": []}


def stored(*pieces: bytes, fault: Exception | None = None) -> StoredBytes:
    async def given() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if fault is not None:
            raise fault

    return StoredBytes(sum(map(len, pieces)) + (fault is not None), given())


def transfer(source: str | StoredBytes) -> FileTransfer:
    async def opened() -> str | StoredBytes:
        return source

    return FileTransfer(opened, {"Content-Disposition": "inline"}, "image/png")


class Client:
    """A client that takes what is sent, until it stops reading."""

    def __init__(self, reads: int = 1000) -> None:
        self.reads = reads
        self.messages: list[Any] = []
        self.stopped = asyncio.Event()

    async def receive(self) -> Any:
        """Nothing is read of a request for a file."""
        raise AssertionError

    async def send(self, message: Any) -> None:
        """Take a message; do not return once it has taken its number."""
        if len(self.messages) == self.reads:
            self.stopped.set()
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        """All bytes that were taken."""
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def is_complete(self) -> bool:
        """Whether the answer came to its end."""
        return self.messages[-1]["type"] == "http.response.body" and not self.messages[-1].get("more_body", False)


async def test_a_file_goes_out_in_pieces_with_its_length() -> None:
    client = Client()
    await transfer(stored(b"abc", b"de"))(SCOPE, client.receive, client.send)
    assert client.body == b"abcde"
    assert client.is_complete
    headers = dict(client.messages[0]["headers"])
    assert headers[b"content-length"] == b"5"
    assert [message.get("body") for message in client.messages[1:]] == [b"abc", b"de", b""]


async def test_a_head_request_reads_nothing_of_it() -> None:
    client = Client()
    await transfer(stored(fault=StorageError("not to be read")))(
        {**SCOPE, "method": "HEAD"}, client.receive, client.send
    )
    assert client.body == b""
    assert client.is_complete


async def test_readers_who_stall_hold_so_many_places_and_lose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_transfer, "TRANSFERS_AT_ONCE", 3)
    monkeypatch.setattr(file_transfer, "STALL_SECONDS", 0.05)
    stalled = [Client(reads=2) for _ in range(3)]
    tasks = [asyncio.create_task(transfer(stored(b"a", b"b"))(SCOPE, one.receive, one.send)) for one in stalled]
    await asyncio.gather(*(one.stopped.wait() for one in stalled))
    late = Client()
    with pytest.raises(ServiceUnavailableError):
        await transfer(stored(b"a"))(SCOPE, late.receive, late.send)
    assert late.messages == []
    with capture_logs() as logs:
        await asyncio.gather(*tasks)
    assert [entry["event"] for entry in logs] == ["file_transfer.stalled"] * 3
    assert not any(one.is_complete for one in stalled)
    await transfer(stored(b"a"))(SCOPE, late.receive, late.send)
    assert late.is_complete
    assert file_transfer.places.taken == 0


async def test_one_that_takes_too_long_in_all_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_transfer, "TRANSFER_SECONDS", 0.05)
    client = Client(reads=2)
    await transfer(stored(b"a", b"b"))(SCOPE, client.receive, client.send)
    assert not client.is_complete

    async def never() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ServiceUnavailableError):
        await FileTransfer(never, {}, "image/png")(SCOPE, client.receive, client.send)


async def test_a_storage_that_fails_halfway_leaves_the_answer_unfinished() -> None:
    client = Client()
    with capture_logs() as logs:
        await transfer(stored(b"abc", fault=StorageError("gone")))(SCOPE, client.receive, client.send)
    assert client.body == b"abc"
    assert not client.is_complete
    assert [entry["event"] for entry in logs] == ["file_transfer.broken_off"]
