"""`job_failed`: a job is in the dead letters."""

from typing import Final, TypedDict

from sqlalchemy import literal, select

from app.core.enums import Channel
from app.models.job import DeadLetter
from app.services.jobs.service import JobKind, entity_of, policy_for, queue_of
from app.services.notifications import sample_parts
from app.services.notifications.kind import GONE, Addressed, Audience, FactsRequest, Kind, NothingToSend
from app.services.notifications.parts import Moment
from app.services.order_lookup import order_id_of, order_number_of


class JobFailed(TypedDict):
    """The dead letter `dead_letter_id`.

    `was_retried`: the job has used its last retry; otherwise its error is one that a retry cannot fix, and it was not
    retried.
    """

    dead_letter_id: str
    order_number: str | None
    kind: str
    entity_type: str
    entity_id: str
    attempts: int
    was_retried: bool
    failed_at: Moment
    error: str


async def load(request: FactsRequest) -> Addressed[JobFailed] | NothingToSend:
    """Read the facts (see `Kind.load`)."""
    letter = await request.session.get(DeadLetter, request.claim.entity_id)
    if letter is None:
        return GONE
    order_id = order_id_of(literal(letter.entity_id))
    number = (await request.session.execute(select(order_number_of(order_id)))).scalar_one_or_none()
    kind = JobKind(letter.kind)
    retries = policy_for(queue_of(kind), request.settings).retries
    facts: JobFailed = {
        "order_number": number,
        "was_retried": letter.failures > retries or letter.claims > request.settings.job_max_claims,
        "dead_letter_id": str(letter.id),
        "kind": letter.kind,
        "entity_type": entity_of(kind),
        "entity_id": str(letter.entity_id),
        "attempts": letter.claims,
        "failed_at": request.shop_time.local(letter.created_at),
        "error": letter.error,
    }
    return request.to_staff(facts)


KIND: Final[Kind[JobFailed]] = Kind(
    job=JobKind.NOTIFY_JOB_FAILED,
    audience=Audience.OPERATIONS,
    facts=JobFailed,
    load=load,
    subject=(
        "Job failed for good: {{ kind }}"
        "{% if order_number %}, order {{ order_number }}{% else %} {{ entity_id }}{% endif %}"
    ),
    sample={
        "order_number": sample_parts.ORDER,
        "dead_letter_id": "01937c55-01d2-7b1f-8a63-3c9a7720e54d",
        "kind": "refund.process",
        "entity_type": "REFUND",
        "entity_id": "01937c54-9a10-7e02-b1c4-d85e1f6a0b92",
        "attempts": 6,
        "was_retried": True,
        "failed_at": "2026-12-03T11:48:20Z",
        "error": "GatewayUnavailable: 503 from the payment gateway\nlast answer: service in maintenance",
    },
    short={Channel.CHAT: frozenset({"kind", "attempts", "order_number", "entity_type", "entity_id", "dead_letter_id"})},
)
