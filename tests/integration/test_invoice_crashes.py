"""A document job whose worker is killed, freezes or is followed by another release: one document, of known bytes (REQ-004).

A storage whose call raises plays a process that is killed there: nothing after the call is carried out.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.services.documents.invoices import DocumentKeyTakenError, InvoiceService
from app.services.jobs.service import Claim, JobKind, LeaseLostError
from app.services.orders.service import OrderService
from app.utils.clock import utc_now
from app.utils.documents import DocumentView
from app.utils.storage import Storage, StorageError, storage_for
from tests.integration.jobs_support import (
    FakeRenderer,
    claim_for,
    execute,
    job,
    order_in,
    refund_of,
    rows,
    settle,
)

pytestmark = pytest.mark.req("REQ-004")

Issue = Callable[[InvoiceService, Claim], Awaitable[None]]


class NextRelease(FakeRenderer):
    """Draws the same views in another way, as after an upgrade of Typst or of the template."""

    def render(self, view: DocumentView) -> bytes:
        """Return other bytes than the release before."""
        return super().render(view) + b", redesigned"


class DyingStorage(Storage):
    """Fails at the put of a document, before or after the bytes are kept."""

    def __init__(self, settings: Settings, when: str) -> None:
        super().__init__(storage_for(settings)._store, settings.storage_path)
        self._when = when

    async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
        """Keep the bytes, or not; do not return."""
        is_document = key.startswith("invoices/")
        if self._when == "after" or not is_document:
            await super().put_new(key, data, content_type, disposition)
        if is_document:
            raise StorageError("died here")


async def document(database: Database) -> Any:
    [found] = await rows(database, "SELECT * FROM invoices")
    return found


async def shipped(database: Database, orders: OrderService, admin: Actor) -> Claim:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    return await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)


async def refunded(database: Database, orders: OrderService, admin: Actor) -> Claim:
    order = await order_in(orders, admin, OrderStatus.CANCELLED)
    refund = await refund_of(database, order["id"])
    await settle(database, refund.id)
    return await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE)


async def assert_issued(database: Database, settings: Settings, held: Claim, content: bytes) -> None:
    """The one document is issued with these bytes, which are what is stored; its job is done."""
    issued = await document(database)
    assert (issued.state, issued.number_in_year) == ("ISSUED", 1)
    assert await storage_for(settings).get(issued.storage_key) == content
    assert (issued.sha256, issued.size_bytes) == (hashlib.sha256(content).digest(), len(content))
    assert (await job(database, held.job_id)).state == "SUCCEEDED"
    assert len(await rows(database, "SELECT 1 FROM jobs WHERE kind IN ('notify.invoice', 'notify.credit_note')")) == 1


@pytest.mark.req("INT-004.2", "REQ-004.10")
@pytest.mark.parametrize("next_release", [FakeRenderer, NextRelease])
@pytest.mark.parametrize(
    ("due", "issue"), [(shipped, InvoiceService.issue), (refunded, InvoiceService.issue_credit_note)]
)
async def test_what_was_stored_before_a_crash_is_kept(
    database: Database,
    orders: OrderService,
    settings: Settings,
    admin: Actor,
    due: Callable[..., Awaitable[Claim]],
    issue: Issue,
    next_release: type[FakeRenderer],
) -> None:
    """Killed between storing and committing: the next try, of any release, finds the bytes and issues them."""
    held = await due(database, orders, admin)
    first = FakeRenderer()
    with pytest.raises(StorageError):
        await issue(InvoiceService(database, first, DyingStorage(settings, "after"), settings), held)
    assert (await document(database)).state == "NUMBERED"
    await issue(InvoiceService(database, next_release(), storage_for(settings), settings), held)
    await assert_issued(database, settings, held, first.render(first.drawn[0]))


@pytest.mark.req("INT-004.2")
async def test_what_was_never_stored_is_drawn_by_the_next_release(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    held = await shipped(database, orders, admin)
    with pytest.raises(StorageError):
        await InvoiceService(database, FakeRenderer(), DyingStorage(settings, "before"), settings).issue(held)
    second = NextRelease()
    await InvoiceService(database, second, storage_for(settings), settings).issue(held)
    await assert_issued(database, settings, held, second.render(second.drawn[0]))


@pytest.mark.req("INT-004.2", "REQ-004.10")
async def test_a_put_that_arrives_late_is_adopted(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    """The first release's bytes come to rest after the next release drew its own, a moment before those."""
    held = await shipped(database, orders, admin)
    first = FakeRenderer()
    with pytest.raises(StorageError):
        await InvoiceService(database, first, DyingStorage(settings, "before"), settings).issue(held)
    late = first.render(first.drawn[0])

    class OvertakenStorage(Storage):
        async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
            await super().put_new(key, late, content_type, disposition)
            await super().put_new(key, data, content_type, disposition)

    overtaken = OvertakenStorage(storage_for(settings)._store, settings.storage_path)
    await InvoiceService(database, NextRelease(), overtaken, settings).issue(held)
    await assert_issued(database, settings, held, late)


@pytest.mark.req("INT-004.2")
async def test_another_document_under_the_key_is_never_given_out(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    """As after a database was set back: the number comes again, the bucket still has the other customer's file."""
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    key = f"invoices/{order['order_number']}_{utc_now():%Y%m%d}.pdf"
    await storage_for(settings).put_new(key, b"SOMEBODY ELSE'S INVOICE", "application/pdf")
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    for renderer in (FakeRenderer(), NextRelease()):
        with pytest.raises(DocumentKeyTakenError) as refusal:
            await InvoiceService(database, renderer, storage_for(settings), settings).issue(held)
        assert refusal.value.retryable is False
    numbered = await document(database)
    assert (numbered.state, numbered.sha256) == ("NUMBERED", None)


@pytest.mark.req("INT-004.2")
async def test_the_database_refuses_to_issue_bytes_that_were_not_rendered(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    held = await shipped(database, orders, admin)
    with pytest.raises(StorageError):
        await InvoiceService(database, FakeRenderer(), DyingStorage(settings, "after"), settings).issue(held)
    with pytest.raises(IntegrityError, match="ck_invoices_drawn"):
        await execute(
            database,
            "UPDATE invoices SET state = 'ISSUED', sha256 = sha256('x'), size_bytes = 1, issued_at = now()",
        )


async def test_a_worker_without_its_lease_neither_numbers_nor_issues(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    zombie = await shipped(database, orders, admin)
    await execute(database, "UPDATE jobs SET fence = fence + 1 WHERE id = :id", id=zombie.job_id)
    with pytest.raises(LeaseLostError):
        await InvoiceService(database, FakeRenderer(), storage_for(settings), settings).issue(zombie)
    assert await rows(database, "SELECT 1 FROM invoices") == []


async def test_a_worker_that_lost_its_lease_after_rendering_stores_nothing(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, owner_connection: psycopg.Connection
) -> None:
    zombie = await shipped(database, orders, admin)

    class FreezingRenderer(FakeRenderer):
        def render(self, view: DocumentView) -> bytes:
            owner_connection.execute("UPDATE jobs SET fence = fence + 1 WHERE id = %s", (zombie.job_id,))
            return super().render(view)

    storage = storage_for(settings)
    with pytest.raises(LeaseLostError):
        await InvoiceService(database, FreezingRenderer(), storage, settings).issue(zombie)
    assert not await storage.exists((await document(database)).storage_key)


async def test_a_worker_that_lost_its_lease_after_storing_commits_nothing(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    zombie = await shipped(database, orders, admin)

    class FreezingStorage(Storage):
        async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
            await super().put_new(key, data, content_type, disposition)
            await execute(database, "UPDATE jobs SET fence = fence + 1 WHERE id = :id", id=zombie.job_id)

    freezing = FreezingStorage(storage_for(settings)._store, settings.storage_path)
    with pytest.raises(LeaseLostError):
        await InvoiceService(database, FakeRenderer(), freezing, settings).issue(zombie)
    assert (await document(database)).state == "NUMBERED"
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind = 'notify.invoice'") == []
    assert await rows(database, "SELECT 1 FROM events WHERE type = 'invoice.issued'") == []
