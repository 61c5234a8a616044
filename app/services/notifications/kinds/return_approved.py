"""`return_approved`: a manager approved the return."""

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
from app.utils.documents import seller_party


class ReturnApproved(ReturnToCustomer):
    """The conditions, and how to send it back; `notes` are the manager's."""

    currency: str
    items: Sequence[PickLine]
    restocking_fee: Amount
    refund_amount: Amount
    notes: str | None
    return_address: Sequence[str]


@about_return
def load(request: FactsRequest, returned: ReturnRequest, order: Order) -> Addressed[ReturnApproved]:
    """Read the facts (see `Kind.load`)."""
    shop = seller_party(request.settings)
    facts: ReturnApproved = {
        **return_greeting(returned, order),
        "currency": returned.currency,
        "items": returned_lines(returned, order, request.audience),
        "restocking_fee": returned.restocking_fee,
        "refund_amount": returned.refund_amount,
        "notes": returned.manager_notes,
        "return_address": [shop.name, *shop.lines],
    }
    return to_customer(order, facts)


KIND: Final[Kind[ReturnApproved]] = Kind(
    job=JobKind.NOTIFY_RETURN_APPROVED,
    audience=Audience.CUSTOMER,
    facts=ReturnApproved,
    load=load,
    subject="Your return for order {{ order_number }} is approved",
    sample={
        **sample_parts.RETURN_GREETING,
        "currency": "EUR",
        "items": sample_parts.RETURNED,
        "restocking_fee": Decimal("25.00"),
        "refund_amount": Decimal("153.20"),
        "notes": "Please use the original box: the vase travels best in it.",
        "return_address": ("ArtiCurated Returns", "8 Quai de la Loire", "75019 Paris", "France"),
    },
)
