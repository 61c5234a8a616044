"""When a process is killed or a part fails between the bytes of an attachment and its row: nothing is lost, nothing stays behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import IO, Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.composition import Services
from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.schemas.attachment import Upload
from app.services.documents.links import FileLinks
from app.services.returns.attachments import ORPHAN_AGE, PARTS, SEARCHED_AGE, AttachmentService
from app.services.returns.views import AttachmentView
from app.utils.exceptions import AttachmentNotAllowedError, ReturnNotFoundError
from app.utils.held_file import HeldFile
from app.utils.storage import Storage, StorageError, storage_for
from tests.conftest import MovableClock
from tests.files_support import JPEG, as_stored, backdate
from tests.integration.attachments_support import add, counted, kept_files, limited, return_of
from tests.integration.conftest import error_of

pytestmark = pytest.mark.req("REQ-002.8", "INT-004.3")


class Interrupted(Storage):
    """A storage that lets something happen between storing the bytes and recording them."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage._store, storage._folder)
        self.meanwhile: Any = None
        self.cannot_delete = False

    async def put_file(self, key: str, file: IO[bytes], content_type: str, disposition: str | None = None) -> None:
        """Store, then let it happen."""
        await super().put_file(key, file, content_type, disposition)
        if self.meanwhile is not None:
            await self.meanwhile()

    async def delete(self, key: str) -> None:
        """Delete, or fail to."""
        if self.cannot_delete:
            raise StorageError("away")
        await super().delete(key)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return limited(settings)


@pytest.fixture
async def returned(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """A return of the customer's, REQUESTED."""
    return await return_of(api, customer_id)


@pytest.fixture
def storage(settings: Settings) -> Interrupted:
    return Interrupted(storage_for(settings))


@pytest.fixture
def attachments(database: Database, storage: Interrupted, settings: Settings, clock: MovableClock) -> AttachmentService:
    return AttachmentService(database, storage, FileLinks.from_settings(settings, clock), settings, clock)


async def put(attachments: AttachmentService, returned: dict[str, Any], actor: Actor) -> tuple[AttachmentView, bool]:
    """Add a file without HTTP."""
    return_id = UUID(returned["id"])
    file = HeldFile.of(JPEG)
    try:
        async with attachments.prepared(return_id, Upload(file, "a.jpg", None), actor) as prepared:
            return await attachments.add(return_id, prepared, actor)
    finally:
        file.close()


@pytest.fixture
def long_ago(clock: MovableClock) -> None:
    """Set the clock back: sweeps go by the database's when that is earlier."""
    clock.advance(days=-500)


async def test_a_return_that_closes_meanwhile_takes_nothing_and_keeps_no_bytes(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    admin: Actor,
) -> None:
    async def reject() -> None:
        rejection = {"notes": "worn", "rejection_reason": "OTHER"}
        await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)

    storage.meanwhile = reject
    with pytest.raises(AttachmentNotAllowedError) as refusal:
        await put(attachments, returned, admin)
    assert refusal.value.details["reason"] == "RETURN_CLOSED"  # type: ignore[call-overload]
    assert kept_files(settings) == []


@pytest.mark.usefixtures("long_ago")
async def test_bytes_that_cannot_be_taken_back_are_left_for_the_sweep(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    clock: MovableClock,
    admin: Actor,
) -> None:
    """As after a crash between the bytes and their row: the caller gets his answer, the bytes go later."""

    async def add_the_same() -> None:
        storage.meanwhile = None
        storage.cannot_delete = True
        assert (await add(api, returned)).status_code == 201

    storage.meanwhile = add_the_same
    record, is_new = await put(attachments, returned, admin)
    storage.cannot_delete = False
    assert not is_new
    assert len(kept_files(settings)) == 2
    mine = UUID(returned["id"]).bytes[-1]
    backdate(settings.storage_path, clock.now)
    clock.advance(days=1)
    assert await attachments.remove_orphans(mine) == 0, "an upload may still be under way"
    clock.advance(seconds=ORPHAN_AGE.total_seconds())
    assert await attachments.remove_orphans((mine + 1) % PARTS) == 0, "another part's turn"
    assert await attachments.remove_orphans(mine) == 1
    assert [path.stem for path in kept_files(settings)] == [str(record["id"])]
    assert await attachments.remove_orphans(mine) == 0


@pytest.mark.usefixtures("long_ago")
async def test_a_return_is_looked_through_for_a_while_after_it_was_closed(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    clock: MovableClock,
) -> None:
    async def leave_bytes() -> int:
        await storage.put_new(f"attachments/{returned['id']}/{uuid4()}.jpg", JPEG, "image/jpeg")
        backdate(settings.storage_path, clock.now - ORPHAN_AGE * 2)
        return UUID(returned["id"]).bytes[-1]

    clock.advance(days=100)
    assert await attachments.remove_orphans(await leave_bytes()) == 1, "open, however old"
    rejection = {"notes": "worn", "rejection_reason": "OTHER"}
    assert (await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)).status_code == 200
    clock.advance(days=29)
    assert await attachments.remove_orphans(await leave_bytes()) == 1
    clock.advance(days=2)
    assert await attachments.remove_orphans(await leave_bytes()) == 0
    assert timedelta(hours=2 * PARTS) < SEARCHED_AGE - ORPHAN_AGE, "every part comes up twice"


async def test_a_commit_whose_answer_was_lost_keeps_its_bytes(
    database: Database,
    returned: dict[str, Any],
    attachments: AttachmentService,
    settings: Settings,
    owner_connection: psycopg.Connection,
    admin: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row may be there although the caller got an error: never a row without bytes."""
    transaction = database.transaction

    @asynccontextmanager
    async def unheard() -> AsyncIterator[AsyncSession]:
        async with transaction() as session:
            yield session
        raise ConnectionResetError

    monkeypatch.setattr(database, "transaction", unheard)
    with pytest.raises(ConnectionResetError):
        await put(attachments, returned, admin)
    row = owner_connection.execute("SELECT storage_key FROM attachments").fetchone()
    assert row is not None
    assert (settings.storage_path / row[0]).read_bytes() == as_stored(JPEG)[0]


async def test_the_sweep_spares_what_is_not_known_to_be_ours(
    database: Database, attachments: AttachmentService, storage: Interrupted, clock: MovableClock, settings: Settings
) -> None:
    """A storage that another database uses too, or that was filled by hand, loses nothing."""
    foreign = [
        f"attachments/{uuid4()}/{uuid4()}.jpg",
        "attachments/readme.txt",
        "attachments/a/b/c.jpg",
        "invoices/x.pdf",
    ]
    for key in foreign:
        await storage.put_new(key, b"x", "text/plain")
    backdate(settings.storage_path, clock.now - timedelta(days=400))
    assert sum([await attachments.remove_orphans(part) for part in range(PARTS)]) == 0
    assert sorted(str(path.relative_to(settings.storage_path)) for path in kept_files(settings)) == sorted(foreign)


async def test_a_storage_that_is_away_is_503_and_nothing_is_recorded(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    settings.storage_path.mkdir(parents=True)
    (settings.storage_path / "attachments").write_bytes(b"in the way")
    response = await add(api, returned)
    assert response.status_code == 503
    assert error_of(response)["code"] == "SERVICE_UNAVAILABLE"
    assert counted(owner_connection, "SELECT count(*) FROM attachments") == 0


async def test_the_service_itself_refuses_a_foreign_return(
    services: Services, returned: dict[str, Any], customer: Actor
) -> None:
    with pytest.raises(ReturnNotFoundError):
        await put(services.attachments, returned, customer)
