"""`return_arrived`: the returned goods have arrived and are being inspected."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import (
    Amount,
    PickLine,
    ReturnToCustomer,
    about_return,
    return_greeting,
    returned_lines,
    to_customer,
)


class ReturnArrived(ReturnToCustomer):
    """The refund that was agreed may be zero."""

    refund_amount: Amount
    items: Sequence[PickLine]


@about_return
def load(request: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[ReturnArrived]:
    """Read the facts (see `Kind.load`)."""
    facts: ReturnArrived = {
        **return_greeting(returned, order),
        "refund_amount": returned.refund_amount,
        "items": returned_lines(returned, order, request.audience),
    }
    return to_customer(order, facts)


KIND: Final[Kind[ReturnArrived]] = Kind(
    job=JobKind.NOTIFY_RETURN_ARRIVED,
    audience=Audience.CUSTOMER,
    facts=ReturnArrived,
    load=load,
    subject="Your return for order {{ order_number }} has arrived",
    sample={
        **sample_parts.RETURN_GREETING,
        "refund_amount": Decimal("153.20"),
        "items": sample_parts.RETURNED,
    },
)
