"""`return_received`: the request for a return has come in."""

from collections.abc import Sequence
from typing import Final

from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import (
    PickLine,
    ReturnToCustomer,
    about_return,
    return_greeting,
    returned_lines,
    to_customer,
)


class ReturnReceived(ReturnToCustomer):
    """What the customer wants to send back."""

    items: Sequence[PickLine]


@about_return
def load(request: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[ReturnReceived]:
    """Read the facts (see `Kind.load`)."""
    facts: ReturnReceived = {
        **return_greeting(returned, order),
        "items": returned_lines(returned, order, request.audience),
    }
    return to_customer(order, facts)


KIND: Final[Kind[ReturnReceived]] = Kind(
    job=JobKind.NOTIFY_RETURN_RECEIVED,
    audience=Audience.CUSTOMER,
    facts=ReturnReceived,
    load=load,
    subject="We have your return request for order {{ order_number }}",
    sample={**sample_parts.RETURN_GREETING, "items": sample_parts.RETURNED},
)
