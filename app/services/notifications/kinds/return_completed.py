"""`return_completed`: the goods are inspected, and no money is paid back."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from app.core.enums import ReturnStatus
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import (
    Amount,
    Inspection,
    PickLine,
    ReturnToCustomer,
    about_return,
    inspection,
    return_greeting,
    returned_lines,
    to_customer,
)


class ReturnCompleted(ReturnToCustomer, Inspection):
    """What the inspection found."""

    currency: str
    items: Sequence[PickLine]
    restocking_fee: Amount


@about_return
def load(request: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[ReturnCompleted] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if returned.status != ReturnStatus.COMPLETED or returned.refund_amount > 0:
        return NothingToSend("the mail of the refund says it")
    facts: ReturnCompleted = {
        **return_greeting(returned, order),
        **inspection(returned, order),
        "currency": returned.currency,
        "items": returned_lines(returned, order, request.audience),
        "restocking_fee": returned.restocking_fee,
    }
    return to_customer(order, facts)


KIND: Final[Kind[ReturnCompleted]] = Kind(
    job=JobKind.NOTIFY_RETURN_COMPLETED,
    audience=Audience.CUSTOMER,
    facts=ReturnCompleted,
    load=load,
    subject="Your return {{ return_number }} is complete",
    sample={
        **sample_parts.RETURN_GREETING,
        "currency": "EUR",
        "items": sample_parts.RETURNED,
        "restocking_fee": Decimal("25.00"),
        "inspected": sample_parts.INSPECTED,
        "deduction_amount": Decimal("153.20"),
        "deduction_reason": "The vase came back in pieces.",
    },
)
