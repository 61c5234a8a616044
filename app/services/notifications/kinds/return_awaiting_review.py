"""`return_awaiting_review`: a return waits for a manager's decision."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final, TypedDict

from app.core.enums import ReturnStatus
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Amount, Moment, PickLine, about_return, returned_lines


class ReturnAwaitingReview(TypedDict):
    """The decision is due by `review_by`."""

    order_number: str
    return_number: str
    customer_name: str | None
    reason: str
    customer_notes: str | None
    currency: str
    order_total: Amount
    items: Sequence[PickLine]
    requested_at: Moment
    review_by: Moment


@about_return
def load(
    request: FactsRequest, returned: ReturnRequest, order: Order
) -> Addressed[ReturnAwaitingReview] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if returned.status != ReturnStatus.REQUESTED:
        return NothingToSend("the return was reviewed meanwhile")
    review_by = returned.created_at + timedelta(hours=request.settings.return_review_sla_hours)
    facts: ReturnAwaitingReview = {
        "order_number": order.order_number,
        "return_number": returned.return_number,
        "customer_name": order.customer_name,
        "reason": returned.reason,
        "customer_notes": returned.customer_notes,
        "currency": order.currency,
        "order_total": order.total_amount,
        "items": returned_lines(returned, order, request.audience),
        "requested_at": request.shop_time.local(returned.created_at),
        "review_by": request.shop_time.local(review_by),
    }
    return request.to_staff(facts, order.id)


KIND: Final[Kind[ReturnAwaitingReview]] = Kind(
    job=JobKind.NOTIFY_RETURN_AWAITING_REVIEW,
    audience=Audience.MANAGERS,
    facts=ReturnAwaitingReview,
    load=load,
    subject="Return to review: order {{ order_number }}",
    sample={
        "order_number": sample_parts.ORDER,
        "return_number": sample_parts.RETURN,
        "customer_name": sample_parts.CUSTOMER,
        "reason": sample_parts.REASON,
        "customer_notes": "I can send more photographs if they help.",
        "currency": "EUR",
        "order_total": Decimal("909.60"),
        "items": sample_parts.RETURNED,
        "requested_at": "2026-11-26T09:12:00Z",
        "review_by": "2026-11-27T09:12:00Z",
    },
)
