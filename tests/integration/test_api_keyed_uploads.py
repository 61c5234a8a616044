"""Uploads under an `Idempotency-Key`: the storage has its say before the transaction that keeps the answer begins."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from app.composition import Services
from app.config import Settings
from app.database import Database
from app.main import create_app
from app.services.returns.attachments import ORPHAN_AGE
from app.utils.held_file import HeldFile
from app.utils.storage import Storage, storage_for
from tests.conftest import MovableClock
from tests.databases import TestServers
from tests.files_support import JPEG, PDF, backdate, photo
from tests.integration.conftest import API_KEY, TO_DELIVERED, error_of, new_order, new_return

pytestmark = pytest.mark.req("REQ-002.8", "REQ-005", "INT-004.3", "NFR-003")

REJECTION = {"notes": "worn", "rejection_reason": "OTHER"}


class Watched(Storage):
    """A storage that notes what it is asked for and lets something happen before it answers."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage._store, storage._folder)
        self.asked: list[str] = []
        self.meanwhile: Callable[[str], Awaitable[None]] | None = None

    async def put_file(self, key: str, file: IO[bytes], content_type: str, disposition: str | None = None) -> None:
        """Store, then let it happen."""
        await super().put_file(key, file, content_type, disposition)
        await self._note("put")

    async def delete(self, key: str) -> None:
        """Delete, then let it happen."""
        await super().delete(key)
        await self._note("delete")

    async def _note(self, operation: str) -> None:
        self.asked.append(operation)
        if self.meanwhile is not None:
            await self.meanwhile(operation)


@pytest.fixture
def storage(settings: Settings, services: Services) -> Watched:
    watched = Watched(storage_for(settings))
    services.storage = watched
    return watched


@pytest.fixture
async def returned(api: httpx2.AsyncClient) -> dict[str, Any]:
    """A return, REQUESTED."""
    return await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])


async def add(
    client: httpx2.AsyncClient, returned: dict[str, Any], content: bytes = JPEG, *, key: str | None = "k"
) -> httpx2.Response:
    """Upload a file, under a key or without one."""
    headers = {"Idempotency-Key": key} if key is not None else {}
    files = {"file": ("crack.jpg", content, "image/jpeg")}
    return await client.post(f"/api/v1/returns/{returned['id']}/attachments", files=files, headers=headers)


async def reject(client: httpx2.AsyncClient, returned: dict[str, Any]) -> None:
    assert (await client.patch(f"/api/v1/returns/{returned['id']}/reject", json=REJECTION)).status_code == 200


def kept_files(settings: Settings) -> list[Path]:
    """Return every file in the storage, staged ones too."""
    return [path for path in settings.storage_path.rglob("*") if path.is_file()]


def count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


# --- a storage that hangs --------------------------------------------------------------------------------------------


@pytest.fixture
async def narrow(settings: Settings, services: Services) -> AsyncIterator[tuple[Watched, httpx2.AsyncClient]]:
    """A watched storage, and a client of an application that has one connection to the database."""
    database = Database(settings, pool_size=1)
    mine = Services(settings, database, services.clock)
    watched = Watched(storage_for(settings))
    mine.storage = watched
    transport = httpx2.ASGITransport(app=create_app(settings, mine))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": API_KEY}
    ) as client:
        yield watched, client
    await mine.close()


@pytest.mark.parametrize("key", [None, "k"], ids=["without a key", "with a key"])
@pytest.mark.parametrize("operation", ["put", "delete"])
async def test_while_the_storage_hangs_the_database_is_free(
    api: httpx2.AsyncClient,
    narrow: tuple[Watched, httpx2.AsyncClient],
    returned: dict[str, Any],
    settings: Settings,
    operation: str,
    key: str | None,
) -> None:
    storage, client = narrow
    hangs, goes_on = asyncio.Event(), asyncio.Event()

    async def hang(asked: str) -> None:
        if asked == operation:
            hangs.set()
            await goes_on.wait()
        elif operation == "delete":
            await reject(api, returned)  # so the bytes have to be taken back

    storage.meanwhile = hang
    upload = asyncio.create_task(add(client, returned, key=key))
    await hangs.wait()
    assert (await client.get(f"/api/v1/orders/{returned['order_id']}")).status_code == 200
    goes_on.set()
    assert (await upload).status_code == (201 if operation == "put" else 409)
    assert len(kept_files(settings)) == (1 if operation == "put" else 0)


# --- sent again ------------------------------------------------------------------------------------------------------


async def test_sent_again_it_is_not_stored_again(
    api: httpx2.AsyncClient, storage: Watched, returned: dict[str, Any], settings: Settings
) -> None:
    answers = [await add(api, returned) for _ in range(3)]
    await reject(api, returned)
    answers.append(await add(api, returned))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert ["idempotency-replayed" in answer.headers for answer in answers] == [False, True, True, True]
    assert storage.asked == ["put"]
    assert len(kept_files(settings)) == 1


async def test_sent_again_its_photo_is_not_cleaned_again_and_its_file_is_closed(
    api: httpx2.AsyncClient, services: Services, returned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    closed: list[int] = []
    clean, close = services.attachments._photos.clean, HeldFile.close

    async def count_cleaned(file: Any, kind: Any, field: str) -> Any:
        cleaned.append(field)
        return await clean(file, kind, field)

    def count_closed(file: HeldFile) -> None:
        closed.append(id(file))
        close(file)

    monkeypatch.setattr(services.attachments._photos, "clean", count_cleaned)
    first = await add(api, returned)
    monkeypatch.setattr(HeldFile, "close", count_closed)
    again = await add(api, returned)
    assert (again.status_code, again.content) == (201, first.content)
    assert "idempotency-replayed" in again.headers
    assert cleaned == ["file"]
    assert len(closed) == 1
    other = await add(api, returned, photo(1))
    assert error_of(other)["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert cleaned == ["file"]
    assert len(closed) == 2


async def test_what_is_refused_is_not_stored_and_refused_again(
    api: httpx2.AsyncClient, storage: Watched, returned: dict[str, Any], owner_connection: psycopg.Connection
) -> None:
    await reject(api, returned)
    first, again = [await add(api, returned) for _ in range(2)]
    assert error_of(first)["details"]["reason"] == "RETURN_CLOSED"
    assert (again.status_code, again.content) == (409, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert count(owner_connection, "idempotency_keys") == 1
    unreadable = await add(api, returned, b"words", key="another")
    assert unreadable.status_code == 415
    assert count(owner_connection, "idempotency_keys") == 1
    assert storage.asked == []


async def test_under_the_key_of_another_request_its_bytes_are_taken_back(
    api: httpx2.AsyncClient, storage: Watched, returned: dict[str, Any], settings: Settings
) -> None:
    first = (await add(api, returned)).json()
    other = await add(api, returned, photo(1))
    assert error_of(other)["code"] == "IDEMPOTENCY_KEY_REUSED"
    [kept] = kept_files(settings)
    assert kept.stem == first["id"]


# --- two at once -----------------------------------------------------------------------------------------------------


async def test_a_copy_that_was_faster_is_answered_for_both(
    api: httpx2.AsyncClient, storage: Watched, returned: dict[str, Any], settings: Settings
) -> None:
    copies: list[httpx2.Response] = []

    async def send_the_same(_: str) -> None:
        storage.meanwhile = None
        copies.append(await add(api, returned))

    storage.meanwhile = send_the_same
    slow = await add(api, returned)
    [fast] = copies
    assert (fast.status_code, slow.status_code) == (201, 201)
    assert slow.content == fast.content
    assert ("idempotency-replayed" in fast.headers, "idempotency-replayed" in slow.headers) == (False, True)
    [kept] = kept_files(settings)
    assert kept.stem == fast.json()["id"]


async def test_a_copy_beside_one_that_is_being_recorded_leaves_no_bytes(
    api: httpx2.AsyncClient,
    services: Services,
    storage: Watched,
    returned: dict[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[httpx2.Response] = []
    add_prepared = services.attachments.add

    async def slowly(*values: Any) -> Any:
        monkeypatch.setattr(services.attachments, "add", add_prepared)
        # Its own context, as that of another request: it is no part of this one's unit of work.
        copies.append(await asyncio.create_task(add(api, returned), context=Context()))
        return await add_prepared(*values)

    monkeypatch.setattr(services.attachments, "add", slowly)
    first = await add(api, returned)
    assert first.status_code == 201
    assert error_of(copies[0])["code"] == "IDEMPOTENCY_KEY_IN_USE"
    assert storage.asked == ["put", "put", "delete"]
    [kept] = kept_files(settings)
    assert kept.stem == first.json()["id"]


async def test_of_many_copies_at_once_one_is_kept(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    answers = await asyncio.gather(*(add(api, returned) for _ in range(20)))
    made = {answer.content for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    busy = [error_of(answer)["code"] for answer in answers if answer.status_code != 201]
    assert set(busy) <= {"IDEMPOTENCY_KEY_IN_USE"}
    assert count(owner_connection, "attachments") == len(kept_files(settings)) == 1


async def test_a_return_that_closes_during_an_upload_refuses_it_permanently_and_keeps_no_bytes(
    api: httpx2.AsyncClient, storage: Watched, returned: dict[str, Any], settings: Settings
) -> None:
    async def close(operation: str) -> None:
        if operation == "put":
            await reject(api, returned)

    storage.meanwhile = close
    first, again = [await add(api, returned, PDF) for _ in range(2)]
    assert error_of(first)["details"]["reason"] == "RETURN_CLOSED"
    assert again.content == first.content
    assert storage.asked == ["put", "delete"]
    assert kept_files(settings) == []


# --- when something dies ---------------------------------------------------------------------------------------------


@pytest.fixture
def long_ago(clock: MovableClock) -> None:
    """Set the clock back: sweeps go by the database's when that is earlier."""
    clock.advance(days=-30)


@pytest.mark.usefixtures("long_ago")
async def test_bytes_whose_commit_failed_are_left_for_the_sweep(
    api: httpx2.AsyncClient,
    services: Services,
    database: Database,
    servers: TestServers,
    storage: Watched,
    returned: dict[str, Any],
    settings: Settings,
    clock: MovableClock,
) -> None:
    """Whether it failed or only its answer was lost is unknown: the bytes may have their row."""
    broken: list[int] = []

    def cut(connection: Any) -> None:
        if not broken:
            broken.append(connection.connection.dbapi_connection.driver_connection.info.backend_pid)
            with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", broken)

    event.listen(database.engine.sync_engine, "commit", cut)
    assert (await add(api, returned)).status_code == 503
    assert len(kept_files(settings)) == 1
    retried = await add(api, returned)
    assert retried.status_code == 201
    assert "idempotency-replayed" not in retried.headers
    assert storage.asked == ["put", "put"]
    backdate(settings.storage_path, clock.now)
    clock.advance(seconds=ORPHAN_AGE.total_seconds() + 60)
    assert await services.attachments.remove_orphans(UUID(returned["id"]).bytes[-1]) == 1
    assert [path.stem for path in kept_files(settings)] == [retried.json()["id"]]


async def test_bytes_that_no_row_was_written_for_are_always_removed(
    api: httpx2.AsyncClient,
    services: Services,
    storage: Watched,
    returned: dict[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(services.idempotency, "once", fail)
    with capture_logs():
        assert (await add(api, returned, key=str(uuid4()))).status_code == 500
    assert storage.asked == ["put", "delete"]
    assert kept_files(settings) == []
