"""The invoices and credit notes of sample data: issued as the product issues them, without mail."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Row, text

from app.config import Settings
from app.database import Database
from app.services.documents.invoices import InvoiceService
from app.services.jobs import leases
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.utils.clock import utc_now
from app.utils.invoice_generator import DocumentRenderer, renderer_for
from app.utils.storage import storage_for

OWNER = "articurated-seed"
LEASE = timedelta(minutes=5)
ISSUED_AFTER = timedelta(seconds=20)
"""How long after the parcel or the refund a sample's document is issued."""

# Invoices first, since a credit note refers to one, each kind in the order of its dates.
_DUE = text("""
    SELECT j.id, j.kind, j.dedupe_key, coalesce(o.shipped_at, r.succeeded_at) AS caused_at
    FROM jobs j
    LEFT JOIN orders o ON o.id = j.entity_id AND j.kind = 'invoice.issue'
    LEFT JOIN refunds r ON r.id = j.entity_id AND j.kind = 'credit_note.issue'
    WHERE j.state = 'PENDING' AND j.kind IN ('invoice.issue', 'credit_note.issue') AND j.payload @> '{"mail": false}'
    ORDER BY j.kind DESC, caused_at, j.id
""")


async def issue(
    settings: Settings, *, renderer: DocumentRenderer | None = None, on_progress: Callable[[int, int], None]
) -> int:
    """Issue the documents that `seed` made due and return how many; they have the dates of their parcels and refunds.

    A worker may do some of them meanwhile. What an error leaves behind is issued by the workers later, with that day's
    date.

    Args:
        settings: name database, storage and renderer.
        renderer: to draw with, in place of that of the settings.
        on_progress: called with how many are done and how many there are.

    Raises:
        RenderingError, StorageError: a document cannot be drawn or stored.
    """
    database = Database(settings, OWNER, pool_size=2)
    moment = _Moment()
    invoices = InvoiceService(
        database, renderer or renderer_for(settings), storage_for(settings), settings, clock=lambda: moment.at
    )
    issued = 0
    try:
        async with database.autocommit() as connection:
            due = (await connection.execute(_DUE)).all()
        for done, job in enumerate(due):
            on_progress(done, len(due))
            moment.at = min(job.caused_at + ISSUED_AFTER, utc_now())
            issued += await _issue(database, invoices, job)
        on_progress(len(due), len(due))
    finally:
        await database.close()
    return issued


class _Moment:
    """The time at which the document in hand is issued."""

    at: datetime


async def _issue(database: Database, invoices: InvoiceService, job: Row[*tuple[object, ...]]) -> bool:
    """Do one job; return False when a worker has it."""
    async with database.transaction() as session:
        await job_service.make_due_now(session, job.dedupe_key)
    claim = await leases.claim(database, job.id, OWNER, LEASE)
    if claim is None:
        return False
    if claim.kind is JobKind.ISSUE_INVOICE:
        await invoices.issue(claim)
    else:
        await invoices.issue_credit_note(claim)
    return True
