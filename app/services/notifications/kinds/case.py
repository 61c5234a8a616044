"""`case`: a person must decide something."""

from collections.abc import Sequence
from typing import Final, TypedDict

from sqlalchemy import select

from app.core.enums import CaseKind, Channel
from app.models.case import Case
from app.models.order import Order
from app.services.cases.kinds import MEANINGS
from app.services.jobs.service import JobKind
from app.services.notifications import sample_parts
from app.services.notifications.kind import GONE, Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Moment


class Evidence(TypedDict):
    """One fact of a case."""

    name: str
    value: str


class WayOut(TypedDict):
    """One legal way to end a case."""

    action: str
    how: str


class CaseOpened(TypedDict):
    """The case and the ways to end it. `order_number` is None where no order is known."""

    case_id: str
    kind: str
    says: str
    order_number: str | None
    entity_type: str
    entity_id: str
    evidence: Sequence[Evidence]
    ways_out: Sequence[WayOut]
    opened_at: Moment


async def load(request: FactsRequest) -> Addressed[CaseOpened] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    found = await request.session.get(Case, request.claim.entity_id)
    if found is None:
        return GONE
    number = select(Order.order_number).where(Order.id == found.order_id)
    meaning = MEANINGS[CaseKind(found.kind)]
    facts: CaseOpened = {
        "case_id": str(found.id),
        "kind": found.kind,
        "says": meaning.says,
        "order_number": (await request.session.execute(number)).scalar_one_or_none(),
        "entity_type": found.entity_type,
        "entity_id": str(found.entity_id),
        "evidence": [
            {"name": name.replace("_", " ").capitalize(), "value": str(value)}
            for name, value in sorted(found.evidence.items())
        ],
        "ways_out": [{"action": way.action, "how": way.how} for way in meaning.ways_out],
        "opened_at": request.shop_time.local(found.created_at),
    }
    return request.to_staff(facts, found.order_id)


KIND: Final[Kind[CaseOpened]] = Kind(
    job=JobKind.NOTIFY_CASE,
    audience=Audience.OPERATIONS,
    facts=CaseOpened,
    load=load,
    subject="Case to decide: {{ kind | words }}{% if order_number %}, order {{ order_number }}{% endif %}",
    sample={
        "case_id": "01937c55-7c20-7a4e-9e11-52d0b94c1f3a",
        "kind": "AMOUNT_MISMATCH",
        "says": "The gateway moved another amount or currency than was agreed. Nothing was recorded here.",
        "order_number": sample_parts.ORDER,
        "entity_type": "ORDER",
        "entity_id": "01937c54-2f6a-7c81-9d10-6b7e40c2a915",
        "evidence": (
            {"name": "Event id", "value": "evt_01j8f2c7m4"},
            {"name": "Expected", "value": "909.60 EUR"},
            {"name": "Gateway id", "value": "pay_5e90d17ab3"},
            {"name": "Reported", "value": "90.96 EUR"},
        ),
        "ways_out": (
            {
                "action": "ACCEPT",
                "how": "Take the amount that came in as the full payment: the unpaid order becomes PAID.",
            },
            {
                "action": "REFUND",
                "how": "Give back what came in: the unpaid order is cancelled, and the refund starts at once.",
            },
            {"action": "LEAVE_AS_IS", "how": "Close with the reason why nothing has to be done."},
        ),
        "opened_at": "2026-11-19T14:05:11Z",
    },
    short={Channel.CHAT: frozenset({"kind", "order_number", "case_id"})},
)
