"""Invoices over HTTP: the bytes that were issued, their record, and nothing before there is one (INT-003, INT-004)."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import select

from app.api.http import file_transfer
from app.api.v1.orders import prefers_json
from app.composition import Services
from app.config import Settings
from app.models.job import Job
from app.schemas.operations import InvoiceRecord
from app.services.documents.invoices import InvoiceService
from app.services.jobs import leases
from app.services.jobs.service import JobKind
from app.utils.document_fonts import Unprintable
from app.utils.documents import DocumentView
from app.utils.storage import Storage, storage_for
from tests.integration.conftest import error_of, new_order

pytestmark = pytest.mark.req("INT-003", "INT-004", "REQ-005")


class PlainRenderer:
    """Draws a document that is as good as any other for those who only pass it on."""

    def render(self, view: DocumentView) -> bytes:
        """Return the document."""
        return f"%PDF-1.7 {view}".encode()

    def unprintable(self, view: DocumentView) -> tuple[Unprintable, ...]:
        """Find nothing."""
        del view
        return ()


@pytest.fixture
def invoices(services: Services) -> InvoiceService:
    """The service as a worker has it, on the storage that the API reads."""
    made = InvoiceService(
        services.database, PlainRenderer(), storage_for(services.settings), services.settings, services.clock
    )
    services.__dict__["invoices"] = made
    return made


async def issue(services: Services, order: dict[str, Any]) -> None:
    """Do the job that the shipment made due."""
    async with services.database.transaction() as session:
        due = select(Job.id).where(Job.kind == JobKind.ISSUE_INVOICE, Job.entity_id == UUID(order["id"]))
        job_id = (await session.execute(due)).scalar_one()
    claim = await leases.claim(services.database, job_id, "test-worker", timedelta(minutes=1))
    assert claim is not None
    await services.invoices.issue(claim)


async def test_there_is_none_before_it_is_issued(api: httpx2.AsyncClient, invoices: InvoiceService) -> None:
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    for accept in ("*/*", "application/json"):
        response = await api.get(f"/api/v1/orders/{order['id']}/invoice", headers={"Accept": accept})
        assert response.status_code == 404
        assert error_of(response)["code"] == "NOT_FOUND"
        assert "no invoice yet" in error_of(response)["message"]


@pytest.mark.req("INT-004.4", "REQ-004.2")
async def test_the_pdf_and_its_record(api: httpx2.AsyncClient, services: Services, invoices: InvoiceService) -> None:
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    await issue(services, order)
    url = f"/api/v1/orders/{order['id']}/invoice"
    pdf = await api.get(url)
    assert pdf.status_code == 200
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.headers["vary"] == "Accept"
    described = await api.get(url, headers={"Accept": "application/json"})
    record = InvoiceRecord.model_validate(described.json())
    assert record.sha256 == hashlib.sha256(pdf.content).hexdigest()
    assert record.size == len(pdf.content)
    assert pdf.headers["content-disposition"] == f'inline; filename="{record.number}.pdf"'
    assert described.json()["issued_at"].endswith("Z")
    assert (await api.get(record.link)).content == pdf.content
    headed = await api.head(url)
    assert (headed.status_code, headed.content) == (200, b"")


@pytest.mark.req("NFR-004")
async def test_the_pdf_goes_out_in_pieces_within_the_bounds_of_all_files(
    api: httpx2.AsyncClient, services: Services, invoices: InvoiceService, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    await issue(services, order)

    async def whole(_storage: Storage, _key: str) -> bytes:
        raise AssertionError("read into memory as a whole")

    monkeypatch.setattr(Storage, "get", whole)
    url = f"/api/v1/orders/{order['id']}/invoice"
    assert (await api.get(url)).content.startswith(b"%PDF-")
    assert file_transfer.places.taken == 0
    monkeypatch.setattr(file_transfer.places, "taken", file_transfer.TRANSFERS_AT_ONCE)
    refused = await api.get(url)
    assert (refused.status_code, error_of(refused)["code"]) == (503, "SERVICE_UNAVAILABLE")


@pytest.mark.req("INT-004.2")
async def test_a_pdf_that_was_altered_is_not_given_out(
    api: httpx2.AsyncClient, services: Services, invoices: InvoiceService, settings: Settings
) -> None:
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    await issue(services, order)
    [stored] = (settings.storage_path / "invoices").glob("*.pdf")
    stored.write_bytes(stored.read_bytes() + b" ")
    response = await api.get(f"/api/v1/orders/{order['id']}/invoice")
    assert (response.status_code, error_of(response)["code"]) == (500, "INTERNAL_ERROR")
    assert b"%PDF-" not in response.content


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("", False),
        ("*/*", False),
        ("application/pdf", False),
        ("application/json", True),
        ("text/html, application/json;q=0.9", True),
        ("application/json, application/pdf", False),
    ],
)
def test_the_accept_header_decides(accept: str, *, is_json: bool) -> None:
    assert prefers_json(accept) is is_json
