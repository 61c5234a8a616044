"""`return_rejected`: the return is rejected."""

from typing import Final

from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import ReturnToCustomer, about_return, return_greeting, to_customer


class ReturnRejected(ReturnToCustomer):
    """`category` is a RejectionReason value, `notes` are the manager's."""

    category: str
    notes: str | None


@about_return
def load(_: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[ReturnRejected] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if returned.rejection_reason is None:
        return NothingToSend("the return is not rejected")
    facts: ReturnRejected = {
        **return_greeting(returned, order),
        "category": returned.rejection_reason,
        "notes": returned.manager_notes,
    }
    return to_customer(order, facts)


KIND: Final[Kind[ReturnRejected]] = Kind(
    job=JobKind.NOTIFY_RETURN_REJECTED,
    audience=Audience.CUSTOMER,
    facts=ReturnRejected,
    load=load,
    subject="About your return for order {{ order_number }}",
    sample={
        **sample_parts.RETURN_GREETING,
        "category": "DAMAGE_NOT_COVERED",
        "notes": "The photographs show wear from the dishwasher.\nThe care card asks for washing by hand.",
    },
)
