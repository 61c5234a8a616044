"""The numbers of documents: one gapless series a kind and year (contract section 11)."""

from sqlalchemy import literal
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import DocumentKind
from app.models.invoice import InvoiceSeries

PREFIXES = {DocumentKind.INVOICE: "INV", DocumentKind.CREDIT_NOTE: "CN"}


async def take(session: AsyncSession, kind: DocumentKind, year: int) -> tuple[int, str]:
    """Take the next number in the caller's transaction; return it, plain and as printed (`INV-2026-000001`).

    The series stays locked until that transaction ends, and if it rolls back the number was never taken: so none is
    skipped and none given twice, and whatever else the transaction does had better be short.
    """
    statement = (
        pg_insert(InvoiceSeries)
        .values(kind=kind, year=year, last_number=literal(1))
        .on_conflict_do_update(
            index_elements=[InvoiceSeries.kind, InvoiceSeries.year],
            set_={"last_number": InvoiceSeries.last_number + 1},
        )
        .returning(InvoiceSeries.last_number)
    )
    number = int((await session.execute(statement)).scalar_one())
    return number, f"{PREFIXES[kind]}-{year}-{number:06d}"
