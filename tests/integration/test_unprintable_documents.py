"""A document that no font can show is refused before it gets a number; a person decides (REQ-004)."""

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.composition import Ports
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.services.cases.service import CaseService
from app.services.documents.invoices import InvoiceService, UnprintableDocumentError
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.tasks.runner import Verdict
from app.tasks.worker_services import WorkerServices
from app.utils.document_fonts import DocumentFonts
from app.utils.invoice_generator import TEMPLATES
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.integration.jobs_support import FakeRenderer, claim_for, job_of, order_in, refund_of, rows, settle

pytestmark = pytest.mark.req("REQ-004", "REQ-004.11")

NAME = "𠀂 Wu"  # CJK extension B, in no national standard


class WithoutThai(FakeRenderer):
    """Draws with the fonts of a machine that lost one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        shutil.copytree(TEMPLATES / "fonts", folder / "fonts")
        (folder / "fonts" / "NotoSansThai-Regular.ttf").unlink()
        self.fonts = DocumentFonts(folder / "fonts")


async def cases(database: Database) -> list[Any]:
    return await rows(database, "SELECT * FROM cases ORDER BY id")


async def test_it_ends_as_a_case_and_a_dead_letter_and_takes_no_number(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, clock: MovableClock
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name=NAME)
    bench = WorkerServices(settings, database=database, clock=clock, ports=Ports(renderer=FakeRenderer()))
    verdict = await bench.runner("tester").run(await job_of(database, order["id"], JobKind.ISSUE_INVOICE))

    assert verdict is Verdict.DEAD_LETTERED
    [case] = await cases(database)
    assert (case.kind, case.entity_type, case.entity_id) == ("UNPRINTABLE_DOCUMENT", "ORDER", order["id"])
    assert case.order_id == order["id"]
    assert case.evidence["document"] == "INVOICE"
    named = {fault["field"]: fault["characters"] for fault in case.evidence["fields"]}
    assert set(named.values()) == {"𠀂"}
    assert "bill_to.name" in named
    [letter] = await rows(database, "SELECT error FROM dead_letters")
    assert "bill_to.name: U+20002" in letter.error
    assert "INVOICE_FONT_PATHS" in letter.error
    assert await rows(database, "SELECT 1 FROM invoices") == []
    assert await rows(database, "SELECT 1 FROM invoice_series") == []
    assert await rows(database, "SELECT 1 FROM jobs WHERE kind = 'notify.case'")


async def test_the_same_refusal_opens_one_case_and_the_next_document_leaves_no_gap(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    service = InvoiceService(database, FakeRenderer(), storage_for(settings), settings)
    refused = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name=NAME)
    held = await claim_for(database, refused["id"], JobKind.ISSUE_INVOICE)
    for _ in range(2):
        with pytest.raises(UnprintableDocumentError):
            await service.issue(held)
    assert len(await cases(database)) == 1
    for _ in range(2):
        order = await order_in(orders, admin, OrderStatus.SHIPPED)
        await service.issue(await claim_for(database, order["id"], JobKind.ISSUE_INVOICE))
    assert [row.number_in_year for row in await rows(database, "SELECT * FROM invoices ORDER BY number")] == [1, 2]


async def test_a_document_that_is_still_refused_has_a_case_again(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, clock: MovableClock
) -> None:
    service = InvoiceService(database, FakeRenderer(), storage_for(settings), settings)
    refused = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name=NAME)
    held = await claim_for(database, refused["id"], JobKind.ISSUE_INVOICE)
    for number in range(1, 4):
        for _ in range(2):
            with pytest.raises(UnprintableDocumentError):
                await service.issue(held)
        found = await cases(database)
        assert [case.state for case in found] == ["CLOSED"] * (number - 1) + ["OPEN"], "one is open at a time"
        assert found[-1].evidence == found[0].evidence
        await CaseService(database, clock).close(found[-1].id, admin, "a font was installed", "ADD_FONT")


async def test_other_characters_take_the_place_of_the_open_case(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, tmp_path: Path
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name=f"สมชาย {NAME}")
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    for renderer in (WithoutThai(tmp_path), FakeRenderer()):
        with pytest.raises(UnprintableDocumentError):
            await InvoiceService(database, renderer, storage_for(settings), settings).issue(held)
    first, second = await cases(database)
    assert (first.state, first.action, first.closed_by) == ("CLOSED", "SUPERSEDED", None)
    assert (second.state, second.evidence == first.evidence) == ("OPEN", False)


async def test_with_a_font_added_the_same_job_issues_it(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, tmp_path: Path
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name="สมชาย ใจดี")
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    storage = storage_for(settings)
    with pytest.raises(UnprintableDocumentError):
        await InvoiceService(database, WithoutThai(tmp_path), storage, settings).issue(held)
    await InvoiceService(database, FakeRenderer(), storage, settings).issue(held)
    [document] = await rows(database, "SELECT state, number_in_year FROM invoices")
    assert (document.state, document.number_in_year) == ("ISSUED", 1)


async def test_a_credit_note_is_refused_for_its_refund(
    database: Database, orders: OrderService, settings: Settings, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.CANCELLED, customer_name=NAME)
    refund = await refund_of(database, order["id"])
    await settle(database, refund.id)
    service = InvoiceService(database, FakeRenderer(), storage_for(settings), settings)
    with pytest.raises(UnprintableDocumentError):
        await service.issue_credit_note(await claim_for(database, refund.id, JobKind.ISSUE_CREDIT_NOTE))
    [case] = await cases(database)
    assert (case.entity_type, case.entity_id, case.order_id) == ("REFUND", refund.id, order["id"])


async def test_a_document_that_has_its_number_already_waits_for_the_font(
    database: Database, orders: OrderService, settings: Settings, admin: Actor, tmp_path: Path
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_name="สมชาย ใจดี")
    held = await claim_for(database, order["id"], JobKind.ISSUE_INVOICE)
    storage = storage_for(settings)
    broken = FakeRenderer(RuntimeError("no memory"))
    with pytest.raises(RuntimeError):
        await InvoiceService(database, broken, storage, settings).issue(held)
    with pytest.raises(UnprintableDocumentError):
        await InvoiceService(database, WithoutThai(tmp_path), storage, settings).issue(held)
    [document] = await rows(database, "SELECT id, state, storage_key FROM invoices")
    [case] = await cases(database)
    assert document.state == "NUMBERED"
    assert (case.entity_type, UUID(str(case.entity_id))) == ("INVOICE", document.id)
    assert not await storage.exists(document.storage_key)
