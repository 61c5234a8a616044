"""`refund_processed`: the money has moved."""

from decimal import Decimal
from typing import Final

from app.core.enums import Channel, RefundState
from app.models.payment import Refund
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import GONE, Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import (
    Amount,
    Day,
    Inspection,
    ToCustomer,
    greeting,
    inspection,
    order_of,
    return_of,
    to_customer,
)


class RefundProcessed(ToCustomer, Inspection):
    """`return_number` when it is for a return."""

    return_number: str | None
    currency: str
    amount: Amount
    transaction_id: str
    payment_method: str | None
    processed_on: Day


async def load(request: FactsRequest) -> Addressed[RefundProcessed] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    refund = await request.session.get(Refund, request.claim.entity_id)
    if refund is None or refund.state != RefundState.SUCCEEDED or refund.gateway_refund_id is None:
        return NothingToSend("the money has not moved")
    order = await order_of(request.database, refund.order_id)
    if order is None:
        return GONE
    returned = await return_of(request.session, refund)
    facts: RefundProcessed = {
        **greeting(order),
        **inspection(returned, order),
        "return_number": returned.return_number if returned is not None else None,
        "currency": refund.currency,
        "amount": refund.amount,
        "transaction_id": refund.gateway_refund_id,
        "payment_method": order.payment_method,
        "processed_on": request.shop_time.day(refund.succeeded_at or refund.updated_at),
    }
    return to_customer(order, facts)


KIND: Final[Kind[RefundProcessed]] = Kind(
    job=JobKind.NOTIFY_REFUND_PROCESSED,
    audience=Audience.CUSTOMER,
    facts=RefundProcessed,
    load=load,
    subject="Your refund of {{ amount | money(currency) }} is on its way",
    sample={
        **sample_parts.GREETING,
        "return_number": sample_parts.RETURN,
        "inspected": sample_parts.INSPECTED,
        "deduction_amount": Decimal("20.00"),
        "deduction_reason": "The vase came back with a chipped rim.",
        "currency": "EUR",
        "amount": Decimal("153.20"),
        "transaction_id": "re_7d41c09be2",
        "payment_method": "credit_card",
        "processed_on": "2026-12-03",
    },
    short={Channel.SMS: frozenset({"order_number", "amount", "currency"})},
    is_limited=False,
)
