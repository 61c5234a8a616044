"""`credit_note`: a credit note is issued."""

from decimal import Decimal
from typing import Final

from app.models.payment import Refund
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import (
    WithDocument,
    document_facts,
    document_file,
    issued_document,
    return_of,
    to_customer,
)


class CreditNoteIssued(WithDocument):
    """`return_number` when it is for a return."""

    credit_note_number: str
    invoice_number: str
    return_number: str | None


async def load(request: FactsRequest) -> Addressed[CreditNoteIssued] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    found = await issued_document(request)
    if found is None:
        return NothingToSend("not issued")
    document, order = found
    returned = await return_of(request.session, await request.session.get(Refund, document.refund_id))
    facts: CreditNoteIssued = {
        **document_facts(document, order),
        "credit_note_number": document.number,
        "invoice_number": document.view["refers_to"],
        "return_number": returned.return_number if returned is not None else None,
    }
    return to_customer(order, facts, document_file(document))


KIND: Final[Kind[CreditNoteIssued]] = Kind(
    job=JobKind.NOTIFY_CREDIT_NOTE,
    audience=Audience.CUSTOMER,
    facts=CreditNoteIssued,
    load=load,
    subject="Your credit note {{ credit_note_number }}",
    sample={
        **sample_parts.GREETING,
        "return_number": sample_parts.RETURN,
        "credit_note_number": "CN-2026-000017",
        "invoice_number": sample_parts.INVOICE,
        "issued_on": "2026-12-03",
        "currency": "EUR",
        "total": Decimal("153.20"),
        "link": None,
        "link_until": None,
    },
    is_limited=False,
)
