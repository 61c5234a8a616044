"""`gateway_event`: the gateway reports what changes a payment or refund, and the system acts on it by itself."""

from decimal import Decimal
from typing import Final, TypedDict

from sqlalchemy import select

from app.core.enums import Channel, WebhookOutcome
from app.models.order import Order
from app.models.payment import GatewayEvent, Payment, Refund
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import GONE, Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Amount, Moment


class GatewayEventAlert(TypedDict):
    """What the gateway reported, and what was expected of that payment or refund.

    `order_number` is None where no known order is meant, an amount where one side has none.
    """

    event_id: str
    event_type: str
    outcome: WebhookOutcome
    order_number: str | None
    reference: str
    gateway_id: str
    reported: Amount | None
    reported_currency: str
    expected: Amount | None
    expected_currency: str
    received_at: Moment


async def load(request: FactsRequest) -> Addressed[GatewayEventAlert] | NothingToSend:
    """Read the facts (see `Kind.load`); the job's payload has `event_id`, `gateway_id`, `amount` and `currency`."""
    alert = request.claim.payload
    event = await request.session.get(GatewayEvent, str(alert.get("event_id", "")))
    if event is None:
        return GONE
    ours = (
        select(Payment.order_id, Payment.amount, Payment.currency)
        .where(Payment.order_id == event.reference)
        .union_all(select(Refund.order_id, Refund.amount, Refund.currency).where(Refund.id == event.reference))
    )
    known = (await request.session.execute(ours)).first()
    number = select(Order.order_number).where(Order.id == (known.order_id if known else None))
    facts: GatewayEventAlert = {
        "event_id": event.id,
        "event_type": event.type,
        "outcome": WebhookOutcome(event.outcome),
        "order_number": (await request.session.execute(number)).scalar_one_or_none(),
        "reference": str(event.reference),
        "gateway_id": alert["gateway_id"],
        "reported": alert["amount"],
        "reported_currency": alert["currency"],
        "expected": known.amount if known else None,
        "expected_currency": known.currency if known else "",
        "received_at": request.shop_time.local(event.received_at),
    }
    return request.to_staff(facts, known.order_id if known else None)


KIND: Final[Kind[GatewayEventAlert]] = Kind(
    job=JobKind.NOTIFY_GATEWAY_EVENT,
    audience=Audience.OPERATIONS,
    facts=GatewayEventAlert,
    load=load,
    subject="Payment gateway: {{ outcome | words }}{% if order_number %}, order {{ order_number }}{% endif %}",
    sample={
        "event_id": "evt_01j8f2c7m4",
        "event_type": "payment.captured",
        "outcome": WebhookOutcome.PAID_AFTER_CANCEL,
        "order_number": sample_parts.ORDER,
        "reference": "01937c54-2f6a-7c81-9d10-6b7e40c2a915",
        "gateway_id": "pay_5e90d17ab3",
        "reported": Decimal("909.60"),
        "reported_currency": "EUR",
        "expected": Decimal("909.60"),
        "expected_currency": "EUR",
        "received_at": "2026-11-19T14:05:11Z",
    },
    short={Channel.CHAT: frozenset({"outcome", "order_number", "reported", "reported_currency", "event_id"})},
)
