"""The numbers of documents: one gapless series a kind and year (REQ-004).

The database alone decides which number is next. The storage keeps a mark for each number that a document has got,
because it is not set back with the database: after a restore of yesterday's backup it still knows the numbers of today.
It is asked before a number is taken, without a transaction or a lock, and the series moves past what it holds.

    ask      the highest number in use, by database and storage
    take     the next one above it; number and document commit together
    mark     put under the number's key, only if nothing is there, before a byte of the document is stored

A process that is killed after `take` leaves a document that keeps its number; the next try marks it. A mark without a
document in the database is a number that a document of a lost database has: it is never given again.
"""

from collections.abc import Iterable

import structlog
from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import DocumentKind
from app.database import Database
from app.models.invoice import Invoice, InvoiceSeries
from app.utils.storage import Storage, StorageKeyExists

logger = structlog.get_logger(__name__)

PREFIXES = {DocumentKind.INVOICE: "INV", DocumentKind.CREDIT_NOTE: "CN"}


class DocumentNumberTakenError(Exception):
    """Another document has this one's number, as when two databases use one storage: a person has to look."""

    retryable = False


class UsedNumbers:
    """Which numbers are in use, by the marks in the storage."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._looked_through: set[tuple[DocumentKind, int]] = set()

    async def highest(self, kind: DocumentKind, year: int) -> int:
        """Return the number that the next one of the series has to be above; 0 where none is in use.

        All marks of a series are looked through when a process first needs it, and when the next number has a mark;
        otherwise one question is enough.

        Raises:
            StorageError: the storage cannot be asked now, so no number may be taken.
        """
        last = await self._last(kind, year)
        series = (kind, year)
        if series in self._looked_through and not await self._storage.exists(mark_key(kind, year, last + 1)):
            return last
        marked = highest_mark(await self._storage.list_all(_folder(kind, year)))
        if marked < last:
            await self._mark_last(kind, year, last)
        self._looked_through.add(series)
        if marked > await self._last(kind, year):
            logger.critical("series.advanced", kind=kind, year=year, database=last, storage=marked)
        return max(last, marked)

    async def mark(self, document: Invoice) -> None:
        """Note in the storage that the document has its number.

        Raises:
            DocumentNumberTakenError: another document has it.
            StorageError: not this time.
        """
        key = mark_key(DocumentKind(document.kind), document.year, document.number_in_year)
        owner = str(document.id).encode()
        try:
            await self._storage.put_new(key, owner, "text/plain")
        except StorageKeyExists:
            if await self._storage.get(key) != owner:
                raise DocumentNumberTakenError(f"{document.number} is the number of another document") from None

    async def _last(self, kind: DocumentKind, year: int) -> int:
        statement = select(InvoiceSeries.last_number).where(InvoiceSeries.kind == kind, InvoiceSeries.year == year)
        async with self._database.autocommit() as connection:
            return (await connection.execute(statement)).scalar_one_or_none() or 0

    async def _mark_last(self, kind: DocumentKind, year: int, last: int) -> None:
        """Mark the highest number of a series that was begun before there were marks: the marks then reach up to it."""
        statement = select(Invoice.__table__.c.id).where(
            Invoice.kind == kind, Invoice.year == year, Invoice.number_in_year == last
        )
        async with self._database.autocommit() as connection:
            owner = (await connection.execute(statement)).scalar_one_or_none()
        if owner is None:
            return
        try:
            await self._storage.put_new(mark_key(kind, year, last), str(owner).encode(), "text/plain")
        except StorageKeyExists:
            logger.info("series.marked", kind=kind, year=year, number=last)


async def take(session: AsyncSession, kind: DocumentKind, year: int, above: int = 0) -> tuple[int, str]:
    """Take the next number in the caller's transaction; return it, plain and as printed (`INV-2026-000001`).

    The series stays locked until that transaction ends, and if it rolls back the number was never taken: so none is
    skipped and none given twice, and the rest of the transaction has to be short.

    Args:
        session: of the transaction.
        kind, year: the series.
        above: a number that is in use, by `UsedNumbers.highest`; the one taken is higher.
    """
    statement = (
        pg_insert(InvoiceSeries)
        .values(kind=kind, year=year, last_number=literal(above + 1))
        .on_conflict_do_update(
            index_elements=[InvoiceSeries.kind, InvoiceSeries.year],
            set_={"last_number": func.greatest(InvoiceSeries.last_number, above) + 1},
        )
        .returning(InvoiceSeries.last_number)
    )
    number = int((await session.execute(statement)).scalar_one())
    return number, f"{PREFIXES[kind]}-{year}-{number:06d}"


def mark_key(kind: DocumentKind, year: int, number: int) -> str:
    """Return the key of a number's mark, such as `series/INV/2026/000123`."""
    return f"{_folder(kind, year)}/{number:06d}"


def highest_mark(keys: Iterable[str]) -> int:
    """Return the highest number among the keys of marks, 0 where there is none."""
    return max((int(key.rpartition("/")[2]) for key in keys), default=0)


def _folder(kind: DocumentKind, year: int) -> str:
    return f"series/{PREFIXES[kind]}/{year}"
