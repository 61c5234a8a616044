"""A number that the storage knows to be used is never given again, even after the database was lost (REQ-004)."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import DocumentKind, OrderStatus
from app.database import Database
from app.services.documents.invoices import InvoiceService
from app.services.documents.series import DocumentNumberTakenError, UsedNumbers, mark_key
from app.services.jobs.service import Claim, JobKind
from app.services.orders.service import OrderService
from app.utils.storage import Storage, StorageError, storage_for
from tests.conftest import MovableClock
from tests.integration.jobs_support import FakeRenderer, claim_for, execute, job, order_in, rows

pytestmark = pytest.mark.req("REQ-004", "REQ-004.10")


class Watched(Storage):
    """A storage that calls a hook before each call, with its name and key."""

    def __init__(self, settings: Settings, hook: Callable[[str, str], None]) -> None:
        super().__init__(storage_for(settings)._store, settings.storage_path)
        self._hook = hook

    async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
        """Store."""
        self._hook("put", key)
        await super().put_new(key, data, content_type, disposition)

    async def exists(self, key: str) -> bool:
        """Ask for one key."""
        self._hook("exists", key)
        return await super().exists(key)

    async def list_all(self, prefix: str) -> list[str]:
        """Ask for all."""
        self._hook("list", prefix)
        return await super().list_all(prefix)


class Shop:
    """Ships orders and issues their invoices."""

    def __init__(self, database: Database, settings: Settings, orders: OrderService, admin: Actor) -> None:
        self.database, self.settings, self.orders, self.admin = database, settings, orders, admin
        self.storage = storage_for(settings)

    def service(self, storage: Storage | None = None) -> InvoiceService:
        """Return the service of a process that was just started."""
        return InvoiceService(self.database, FakeRenderer(), storage or self.storage, self.settings)

    async def shipped(self) -> Claim:
        """Return the claim on the invoice job of a new order."""
        order = await order_in(self.orders, self.admin, OrderStatus.SHIPPED)
        return await claim_for(self.database, order["id"], JobKind.ISSUE_INVOICE)

    async def issue(self, service: InvoiceService) -> None:
        """Issue the invoice of a new order."""
        await service.issue(await self.shipped())

    async def numbers(self) -> list[int]:
        """Return the numbers given, in their order."""
        return [
            row.number_in_year for row in await rows(self.database, "SELECT * FROM invoices ORDER BY created_at, id")
        ]

    async def used_elsewhere(self, *numbers: int) -> None:
        """Mark numbers as a database did that is lost."""
        for number in numbers:
            await self.storage.put_new(self.key(number), str(uuid4()).encode(), "text/plain")

    def key(self, number: int) -> str:
        """Return the key of a number's mark this year."""
        return mark_key(DocumentKind.INVOICE, self.year, number)

    year = 0


@pytest.fixture
def shop(database: Database, settings: Settings, orders: OrderService, admin: Actor, clock: MovableClock) -> Shop:
    made = Shop(database, settings, orders, admin)
    made.year = clock.now.year
    return made


async def test_each_number_has_a_mark_that_names_its_document(shop: Shop) -> None:
    service = shop.service()
    await shop.issue(service)
    await shop.issue(service)
    for row in await rows(shop.database, "SELECT id, number_in_year FROM invoices"):
        assert await shop.storage.get(shop.key(row.number_in_year)) == str(row.id).encode()
    assert await shop.numbers() == [1, 2]


async def test_after_a_restore_the_series_moves_past_what_the_storage_holds(shop: Shop) -> None:
    await shop.issue(shop.service())
    await shop.used_elsewhere(2, 3, 7)
    restarted = shop.service()
    await shop.issue(restarted)
    await shop.issue(restarted)
    assert await shop.numbers() == [1, 8, 9]
    [series] = await rows(shop.database, "SELECT last_number FROM invoice_series")
    assert series.last_number == 9


async def test_a_process_that_was_not_restarted_notices_it_too(shop: Shop) -> None:
    service = shop.service()
    await shop.issue(service)
    await shop.used_elsewhere(2, 3)
    await shop.issue(service)
    assert await shop.numbers() == [1, 4]


async def test_many_at_once_after_a_restore_get_a_number_each_without_a_gap(shop: Shop) -> None:
    await shop.used_elsewhere(1, 2, 3)
    claims = [await shop.shipped() for _ in range(6)]
    await asyncio.gather(*(shop.service().issue(claim) for claim in claims))
    assert sorted(await shop.numbers()) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("step", ["before the mark", "after the mark"])
async def test_a_try_that_is_killed_around_the_mark_keeps_its_number(shop: Shop, step: str) -> None:
    def die(call: str, key: str) -> None:
        if call == "put" and key.startswith("series/" if step == "before the mark" else "invoices/"):
            raise StorageError("died here")

    claim = await shop.shipped()
    with pytest.raises(StorageError):
        await shop.service(Watched(shop.settings, die)).issue(claim)
    assert await shop.numbers() == [1]
    other = shop.service()
    await shop.issue(other)
    await other.issue(claim)
    assert await shop.numbers() == [1, 2]
    assert (await job(shop.database, claim.job_id)).state == "SUCCEEDED"
    states = await rows(shop.database, "SELECT state FROM invoices")
    assert [row.state for row in states] == ["ISSUED", "ISSUED"]


async def test_a_storage_that_cannot_be_asked_takes_no_number(shop: Shop) -> None:
    def fail(call: str, _: str) -> None:
        if call in {"exists", "list"}:
            raise StorageError("away")

    claim = await shop.shipped()
    with pytest.raises(StorageError):
        await shop.service(Watched(shop.settings, fail)).issue(claim)
    assert await shop.numbers() == []
    assert await rows(shop.database, "SELECT 1 FROM invoice_series") == []


async def test_no_transaction_is_open_while_the_storage_is_asked(shop: Shop) -> None:
    asked: list[str] = []

    def idle(call: str, _: str) -> None:
        asked.append(call)
        assert shop.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    service = shop.service(Watched(shop.settings, idle))
    await shop.issue(service)
    await shop.issue(service)
    # Looked through once a process, then one question for each document.
    assert asked == ["list", "put", "put", "exists", "put", "put"]


async def test_a_number_that_another_database_took_meanwhile_is_not_issued(shop: Shop) -> None:
    async def stranger() -> None:
        await shop.used_elsewhere(1)

    class Late(Storage):
        async def list_all(self, prefix: str) -> list[str]:
            found = await super().list_all(prefix)
            await stranger()
            return found

    claim = await shop.shipped()
    late = Late(shop.storage._store, shop.settings.storage_path)
    with pytest.raises(DocumentNumberTakenError, match="is the number of another document"):
        await shop.service(late).issue(claim)
    [document] = await rows(shop.database, "SELECT state, storage_key FROM invoices")
    assert document.state == "NUMBERED"
    assert not await shop.storage.exists(document.storage_key)


async def test_a_series_begun_before_there_were_marks_is_marked_up_to_its_last_number(shop: Shop) -> None:
    service = shop.service()
    for _ in range(3):
        await shop.issue(service)
    for number in (1, 2, 3):
        await shop.storage.delete(shop.key(number))
    assert await UsedNumbers(shop.database, shop.storage).highest(DocumentKind.INVOICE, shop.year) == 3
    assert not await shop.storage.exists(shop.key(2))
    assert await shop.storage.exists(shop.key(3))
    await execute(shop.database, "SELECT 1")
    assert await UsedNumbers(shop.database, shop.storage).highest(DocumentKind.CREDIT_NOTE, shop.year) == 0
