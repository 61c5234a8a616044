"""`return_review_overdue`: the time for a manager's decision has passed."""

from datetime import timedelta
from typing import Final, TypedDict

from app.core.enums import Channel, ReturnStatus
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Moment, about_return


class ReturnReviewOverdue(TypedDict):
    """At `expires_at` SYSTEM rejects the request."""

    order_number: str
    return_number: str
    customer_name: str | None
    reason: str
    requested_at: Moment
    hours_waiting: int
    expires_at: Moment


@about_return
def load(
    request: FactsRequest, returned: ReturnRequest, order: Order
) -> Addressed[ReturnReviewOverdue] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    if returned.status != ReturnStatus.REQUESTED:
        return NothingToSend("the return was reviewed meanwhile")
    waiting = request.clock() - returned.created_at
    expires_at = returned.created_at + timedelta(days=request.settings.return_expiry_days)
    facts: ReturnReviewOverdue = {
        "order_number": order.order_number,
        "return_number": returned.return_number,
        "customer_name": order.customer_name,
        "reason": returned.reason,
        "requested_at": request.shop_time.local(returned.created_at),
        "hours_waiting": int(waiting.total_seconds() // 3600),
        "expires_at": request.shop_time.local(expires_at),
    }
    return request.to_staff(facts, order.id)


KIND: Final[Kind[ReturnReviewOverdue]] = Kind(
    job=JobKind.NOTIFY_RETURN_REVIEW_OVERDUE,
    audience=Audience.MANAGERS,
    facts=ReturnReviewOverdue,
    load=load,
    subject="Overdue: return for order {{ order_number }} still awaits review",
    sample={
        "order_number": sample_parts.ORDER,
        "return_number": sample_parts.RETURN,
        "customer_name": sample_parts.CUSTOMER,
        "reason": sample_parts.REASON,
        "requested_at": "2026-11-26T09:12:00Z",
        "hours_waiting": 25,
        "expires_at": "2026-12-03T09:12:00Z",
    },
    short={Channel.CHAT: frozenset({"return_number", "order_number", "hours_waiting", "expires_at"})},
)
