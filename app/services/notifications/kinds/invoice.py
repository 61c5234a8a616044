"""`invoice`: the order's invoice is issued."""

from decimal import Decimal
from typing import Final

from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import WithDocument, document_facts, document_file, issued_document, to_customer


class InvoiceIssued(WithDocument):
    """The number and total of the attached invoice."""

    invoice_number: str


async def load(request: FactsRequest) -> Addressed[InvoiceIssued] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    found = await issued_document(request)
    if found is None:
        return NothingToSend("not issued")
    document, order = found
    facts: InvoiceIssued = {**document_facts(document, order), "invoice_number": document.number}
    return to_customer(order, facts, document_file(document))


KIND: Final[Kind[InvoiceIssued]] = Kind(
    job=JobKind.NOTIFY_INVOICE,
    audience=Audience.CUSTOMER,
    facts=InvoiceIssued,
    load=load,
    subject="Your invoice {{ invoice_number }}",
    sample={
        **sample_parts.GREETING,
        "invoice_number": sample_parts.INVOICE,
        "issued_on": "2026-11-22",
        "currency": "EUR",
        "total": Decimal("909.60"),
        "link": None,
        "link_until": None,
    },
    is_limited=False,
)
