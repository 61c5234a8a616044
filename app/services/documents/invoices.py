"""Invoices and credit notes: numbered without a gap, issued once (REQ-004).

A document is made in steps, for drawing and storing it in one transaction would hold the number series all the while:

    ask      the fonts whether they can show all of it, the storage which numbers it knows to be used
    number   the next number and the document's row, with all that it will say, commit together
    mark     the number, in the storage, which a restored database does not set back (`document_series`)
    draw     from that row alone; the drawing's hash is committed, under the fence, before a byte of it is sent
    store    under a key that is written once
    issue    hash, event, mail and the end of the job commit together, under the fence

What is left behind when the process is killed, and what the next try makes of it:

    before `number` commits   nothing; the number was not taken
    after it                  the row: it is reused, with its number, its date and its key; the mark is put if missing
    after drawing             a hash, of bytes that may never be stored: the next is noted beside it
    while storing             nothing, for a key gets its bytes at once or not at all
    after storing             the bytes: they are issued as they are if their hash was noted, even where another
                              release of ours would draw others
    before `issue` commits    as above; after it, the job is done
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, all_, any_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.config import Settings
from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import (
    CaseEntity,
    CaseKind,
    CaseState,
    DocumentKind,
    DocumentState,
    EntityType,
    OrderStatus,
    RefundState,
)
from app.database import Database
from app.models.case import Case
from app.models.invoice import Invoice
from app.models.order import Order
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.services import events
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_orders
from app.services.cases import service as case_service
from app.services.cases.service import open_case
from app.services.documents import series as document_series
from app.services.documents import store as document_store
from app.services.documents import views as document_views
from app.services.documents.links import FileKind, FileLinks, LinkView
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.document_fonts import Unprintable
from app.utils.documents import DocumentView
from app.utils.exceptions import NotFoundError, OrderNotFoundError
from app.utils.invoice_generator import DocumentRenderer
from app.utils.shop_time import ShopTime
from app.utils.storage import Storage, StorageKeyExists, StoredBytes

logger = structlog.get_logger(__name__)

_MAILS = {
    DocumentKind.INVOICE: JobKind.NOTIFY_INVOICE,
    DocumentKind.CREDIT_NOTE: JobKind.NOTIFY_CREDIT_NOTE,
}
_SHIPPED = {OrderStatus.SHIPPED, OrderStatus.DELIVERED}


class InvoiceRecordView(LinkView):
    """The record of an issued invoice, with a link to its PDF."""

    number: str
    order_id: UUID
    issued_at: datetime | None
    sha256: str
    size: int | None


class InvoiceNotIssuedError(Exception):
    """A credit note has to wait for the invoice that it refers to."""


class DocumentKeyTakenError(Exception):
    """Another document lies where this one belongs, as after a database was set back: a person has to look."""

    retryable = False


class UnprintableDocumentError(Exception):
    """No font can show what a document says: a case for a person, who corrects the text or adds a font.

    Attributes:
        faults: the fields and their characters.
    """

    retryable = False

    def __init__(self, faults: Sequence[Unprintable], entity: CaseEntity, entity_id: UUID, order_id: UUID) -> None:
        super().__init__(
            f"no font can show {'; '.join(map(str, faults))}."
            " Correct the text, or add a font (INVOICE_FONT_PATHS), then retry."
        )
        self.faults = faults
        self.entity = entity
        self.entity_id = entity_id
        self.order_id = order_id


class _NumberedMeanwhileError(Exception):
    """Another job gave this document its number while we waited for the series; ours goes back."""


_Number = Callable[[AsyncSession, Claim, date, int], Awaitable[Invoice | None]]
"""Numbers a document in the caller's transaction: the job, the date of issue, the highest number in use."""


class InvoiceService:
    """Issuing documents, and giving them out."""

    def __init__(
        self,
        database: Database,
        renderer: DocumentRenderer,
        storage: Storage,
        settings: Settings,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._renderer = renderer
        self._storage = storage
        self._settings = settings
        self._clock = clock
        self._shop_time = ShopTime.from_settings(settings)
        self._links = FileLinks.from_settings(settings, clock)
        self._used_numbers = document_series.UsedNumbers(database, storage)

    async def issue(self, claim: Claim) -> None:
        """Job `invoice.issue`, about an order: issue its invoice and finish the job.

        With `"mail": false` in the job's payload, as sample data has it, the customer gets no mail.

        Raises:
            UnprintableDocumentError: no font can show it; a case is open.
            DocumentNumberTakenError, DocumentKeyTakenError: a person has to look.
            RenderingError, StorageError: not this time.
            LeaseLostError: another worker has the job.
        """
        same = (Invoice.order_id == claim.entity_id) & (Invoice.kind == DocumentKind.INVOICE)
        await self._issue(claim, DocumentKind.INVOICE, same, self._number_invoice)

    async def issue_credit_note(self, claim: Claim) -> None:
        """Job `credit_note.issue`, about a refund: issue its credit note and finish the job.

        Raises:
            InvoiceNotIssuedError: the order was shipped and its invoice is still to be issued.
            UnprintableDocumentError, DocumentNumberTakenError, DocumentKeyTakenError, RenderingError, StorageError,
            LeaseLostError: as `issue`.
        """
        same = Invoice.refund_id == claim.entity_id
        await self._issue(claim, DocumentKind.CREDIT_NOTE, same, self._number_credit_note)

    async def _issue(self, claim: Claim, kind: DocumentKind, same: ColumnElement[bool], number: _Number) -> None:
        try:
            document = await self._numbered(claim, kind, same, number)
            if document is not None:
                await self._complete(claim, document)
        except UnprintableDocumentError as refusal:
            await self._open_case(kind, refusal)
            raise

    async def _numbered(
        self, claim: Claim, kind: DocumentKind, same: ColumnElement[bool], number: _Number
    ) -> Invoice | None:
        """Return the document with its number, or None where there is none to issue; the job is finished then."""
        async with self._database.transaction() as session:
            # A zombie takes no number, and of two workers with the same job one waits here for the other.
            await job_service.require_held(session, claim)
            document = await _find(session, same)
        if document is not None:
            return document
        issued_on = self._shop_time.day(self._clock())
        in_use = await self._used_numbers.highest(kind, issued_on.year)
        async with self._database.transaction() as session:
            await job_service.require_held(session, claim)
            return await _find(session, same) or await number(session, claim, issued_on, in_use)

    async def _open_case(self, kind: DocumentKind, refusal: UnprintableDocumentError) -> None:
        """Ask a person to decide: one open case a document, and another one if it was closed and nothing has changed."""
        named = "; ".join(map(str, refusal.faults))
        digest = hashlib.sha256(named.encode()).hexdigest()[:16]
        key = f"unprintable_document:{refusal.entity_id}:{digest}"
        async with self._database.transaction() as session:
            asked = (
                await session.execute(
                    select(Case.dedupe_key, Case.state).where(
                        Case.kind == CaseKind.UNPRINTABLE_DOCUMENT, Case.entity_id == refusal.entity_id
                    )
                )
            ).all()
            for earlier in asked:
                if earlier.state != CaseState.OPEN:
                    continue
                if earlier.dedupe_key.startswith(key):
                    return
                note = "Other characters are refused now; another case takes over."
                await case_service.supersede(session, earlier.dedupe_key, note, SYSTEM_JOB, self._clock())
            again = sum(earlier.dedupe_key.startswith(key) for earlier in asked)
            await open_case(
                session,
                CaseKind.UNPRINTABLE_DOCUMENT,
                entity_type=refusal.entity,
                entity_id=refusal.entity_id,
                order_id=refusal.order_id,
                evidence={
                    "document": kind,
                    "fields": [{"field": fault.field, "characters": fault.characters} for fault in refusal.faults],
                    "summary": named,
                },
                dedupe_key=f"{key}:{again + 1}" if again else key,
                at=self._clock(),
            )

    async def _number_invoice(
        self, session: AsyncSession, claim: Claim, issued_on: date, in_use: int
    ) -> Invoice | None:
        order = await _order(session, claim.entity_id)
        if order is None or order.status not in _SHIPPED:
            logger.warning("invoice.not_needed", status=order.status if order else None)
            await job_service.finish(session, claim)
            return None
        return await self._take_number(
            session,
            in_use,
            Invoice(
                kind=DocumentKind.INVOICE,
                order_id=order.id,
                issued_on=issued_on,
            ),
            lambda _: f"invoices/{order.order_number}_{issued_on:%Y%m%d}.pdf",
            lambda number: document_views.invoice_view(order, number, issued_on, self._settings),
        )

    async def _number_credit_note(
        self, session: AsyncSession, claim: Claim, issued_on: date, in_use: int
    ) -> Invoice | None:
        refund = await session.get(Refund, claim.entity_id)
        if refund is None or refund.state != RefundState.SUCCEEDED:
            logger.warning("credit_note.not_needed", state=refund.state if refund else None)
            await job_service.finish(session, claim)
            return None
        order = await _order(session, refund.order_id)
        if order is None:
            raise OrderNotFoundError(refund.order_id)
        returned = await session.get(ReturnRequest, refund.return_id) if refund.return_id else None
        invoice = await _find(session, Invoice.order_id == order.id, Invoice.kind == DocumentKind.INVOICE)
        if order.status in _SHIPPED and (invoice is None or invoice.state != DocumentState.ISSUED):
            raise InvoiceNotIssuedError(f"order {order.id} has no issued invoice")
        # An order that was cancelled before shipment never got an invoice: its own number is used instead.
        refers_to = invoice.number if invoice is not None else order.order_number
        return await self._take_number(
            session,
            in_use,
            Invoice(
                kind=DocumentKind.CREDIT_NOTE,
                order_id=order.id,
                refund_id=refund.id,
                refers_to_id=invoice.id if invoice is not None else None,
                issued_on=issued_on,
            ),
            lambda number: f"invoices/{order.order_number}_{issued_on:%Y%m%d}_{number}.pdf",
            lambda number: document_views.credit_note_view(
                order,
                refund,
                returned,
                number=number,
                issued_on=issued_on,
                refers_to=refers_to,
                settings=self._settings,
            ),
        )

    async def _take_number(
        self,
        session: AsyncSession,
        in_use: int,
        document: Invoice,
        key_of: Callable[[str], str],
        view_of: Callable[[str], DocumentView],
    ) -> Invoice:
        """Give the document the next number of its series and insert it; both commit together or not at all.

        The series' row stays locked until then, so no number is ever skipped, and none given twice. What no font can
        show gets no number.
        """
        now = self._clock()
        if faults := self._renderer.unprintable(view_of("0")):
            of_refund = document.refund_id is not None
            raise UnprintableDocumentError(
                faults,
                CaseEntity.REFUND if of_refund else CaseEntity.ORDER,
                document.refund_id or document.order_id,
                document.order_id,
            )
        same = (
            Invoice.refund_id == document.refund_id
            if document.refund_id is not None
            else (Invoice.order_id == document.order_id) & (Invoice.kind == document.kind)
        )
        try:
            async with session.begin_nested():
                kind, year = DocumentKind(document.kind), document.issued_on.year
                taken, number = await document_series.take(session, kind, year, in_use)
                await _require_none(session, same)
                document.id, document.created_at = uuid7(now), now
                document.state, document.version = DocumentState.NUMBERED, 1
                document.year, document.number_in_year = year, taken
                document.number = number
                document.storage_key = key_of(number)
                document.view = dict(view_of(number).to_json())
                session.add(document)
                await session.flush()
        except _NumberedMeanwhileError:
            found = await _find(session, same)
            if found is None:
                raise
            return found
        await _append_event(session, document, 1, "numbered", now)
        return document

    async def _complete(self, claim: Claim, document: Invoice) -> None:
        """Draw, store and issue a numbered document; finish the job."""
        content = b""
        if document.state != DocumentState.ISSUED:
            view = DocumentView.from_json(document.view)
            if faults := self._renderer.unprintable(view):
                raise UnprintableDocumentError(faults, CaseEntity.INVOICE, document.id, document.order_id)
            await self._used_numbers.mark(document)
            drawing = await asyncio.to_thread(self._renderer.render, view)
            await self._note_drawing(claim, document.id, drawing)
            content = await self._store(document, drawing)
        now = self._clock()
        mail = _MAILS[DocumentKind(document.kind)]
        async with self._database.transaction() as session:
            issued = await session.execute(
                update(Invoice)
                .where(Invoice.id == document.id, Invoice.state == DocumentState.NUMBERED)
                .values(
                    state=DocumentState.ISSUED,
                    version=Invoice.version + 1,
                    sha256=hashlib.sha256(content).digest(),
                    size_bytes=len(content),
                    issued_at=now,
                )
                .returning(Invoice.version)
            )
            if (version := issued.scalar_one_or_none()) is not None:
                await _append_event(session, document, version, "issued", now)
            if claim.payload.get("mail", True):
                await job_service.add(session, mail, document.id, f"{mail}:{document.id}")
            await job_service.finish(session, claim)
        logger.info("document.issued", number=document.number, size_bytes=len(content))

    async def _note_drawing(self, claim: Claim, document_id: UUID, drawing: bytes) -> None:
        """Commit the drawing's hash beside those of earlier tries, so that its bytes are recognised.

        Earlier ones stay: a zombie's put may still be under way.

        Raises:
            LeaseLostError: the job is another worker's; the drawing must not be stored.
        """
        digest = hashlib.sha256(drawing).digest()
        async with self._database.transaction() as session:
            await job_service.require_held(session, claim)
            await session.execute(
                update(Invoice)
                .where(
                    Invoice.id == document_id,
                    Invoice.state == DocumentState.NUMBERED,
                    literal(digest) != all_(Invoice.drawn_sha256),
                )
                .values(drawn_sha256=func.array_append(Invoice.drawn_sha256, digest))
            )

    async def _store(self, document: Invoice, drawing: bytes) -> bytes:
        """Store the drawing, unless an earlier try that was killed did so with its own; return what is stored.

        Raises:
            DocumentKeyTakenError: something else is under the key: it may be another customer's document.
        """
        try:
            await self._storage.put_new(document.storage_key, drawing, "application/pdf")
        except StorageKeyExists:
            stored = await self._storage.get(document.storage_key)
            if not await self._is_noted(document.id, stored):
                raise DocumentKeyTakenError(f"{document.storage_key} holds another document") from None
            logger.info("stored_document.found", number=document.number)
            return stored
        return drawing

    async def _is_noted(self, document_id: UUID, stored: bytes) -> bool:
        """Return whether these bytes, which must have been read before, are some try's drawing of the document."""
        noted = literal(hashlib.sha256(stored).digest()) == any_(Invoice.drawn_sha256)
        async with self._database.transaction() as session:
            return await _find(session, Invoice.id == document_id, noted) is not None

    async def record(self, order_id: UUID, actor: Actor) -> InvoiceRecordView:
        """Return the record of an order's invoice, with a link to its PDF that works for a while.

        Raises:
            As `issued`.
        """
        invoice = await self.issued(order_id, actor)
        return {
            "number": invoice.number,
            "order_id": invoice.order_id,
            "issued_at": invoice.issued_at,
            "sha256": (invoice.sha256 or b"").hex(),
            "size": invoice.size_bytes,
            **self._links.to(FileKind.INVOICES, invoice.id),
        }

    async def open(self, invoice: Invoice) -> StoredBytes:
        """Return the PDF of an invoice from `issued` in pieces, once all of them are found to be what was issued.

        Raises:
            DocumentAlteredError: what is stored is not what was issued.
            StorageError: it cannot be read now.
        """
        return await document_store.check_document(
            self._storage, invoice.number, invoice.storage_key, invoice.sha256 or b""
        )

    async def issued(self, order_id: UUID, actor: Actor) -> Invoice:
        """Return an order's invoice.

        Raises:
            OrderNotFoundError: there is no such order that this actor may see.
            NotFoundError: its invoice is still to be issued.
        """
        permissions.require(actor, Action.READ_ORDER)
        statement = (
            select(Order.id, Invoice)
            .outerjoin(
                Invoice,
                (Invoice.order_id == Order.id)
                & (Invoice.kind == DocumentKind.INVOICE)
                & (Invoice.state == DocumentState.ISSUED),
            )
            .where(Order.id == order_id, visible_orders(actor))
        )
        async with self._database.transaction() as session:
            row = (await session.execute(statement)).first()
        if row is None:
            raise OrderNotFoundError(order_id)
        invoice: Invoice | None = row[1]
        if invoice is None:
            raise NotFoundError(f"Order {order_id} has no invoice yet.", {"order_id": str(order_id)})
        return invoice


async def _find(session: AsyncSession, *conditions: ColumnElement[bool]) -> Invoice | None:
    return (await session.execute(select(Invoice).where(*conditions))).scalar_one_or_none()


async def _require_none(session: AsyncSession, condition: ColumnElement[bool]) -> None:
    if await _find(session, condition) is not None:
        raise _NumberedMeanwhileError


async def _order(session: AsyncSession, order_id: UUID) -> Order | None:
    statement = select(Order).where(Order.id == order_id).options(selectinload(Order.line_items))
    return (await session.execute(statement)).scalar_one_or_none()


async def _append_event(session: AsyncSession, document: Invoice, seq: int, what: str, at: datetime) -> None:
    facts = {"number": document.number, "order_id": str(document.order_id)}
    if document.refund_id is not None:
        facts["refund_id"] = str(document.refund_id)
    event_type = f"{document.kind.lower()}.{what}"
    await events.append(session, EntityType.INVOICE, document.id, seq, event_type, at, facts)
