"""Failed jobs, figures, documents and webhooks on the wire."""

from datetime import date
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from app.core.enums import WebhookOutcome
from app.schemas.common import Answer, Flag, PageQuery, Pagination, Request, Timestamp, text_block


class DeadLetterQuery(PageQuery):
    """Filters of `GET /jobs/dead`; those already retried or dismissed are left out unless asked for."""

    include_resolved: Flag = False


class DeadLetterResolve(Request):
    """`POST /jobs/dead/{id}/retry` and `/dismiss`: a note for the record, if there is one to make."""

    note: text_block(500) | None = None  # type: ignore[valid-type]

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "Mail server was down, is back"}]})


class DeadLetterResponse(Answer):
    """A job that gave up, and what a person decided about it (REQ-004)."""

    id: UUID
    job_id: UUID
    kind: str
    queue: str
    entity_id: UUID
    order_id: UUID | None
    order_number: str | None
    error: str
    failures: int
    claims: int
    created_at: Timestamp
    resolution: Annotated[str, Field(pattern="^(RETRIED|DISMISSED)$")] | None
    resolved_at: Timestamp | None
    resolved_by: UUID | None
    resolved_operator: str | None
    resolution_note: str | None


class DeadLetterList(Answer):
    """A page of failed jobs, newest first."""

    data: list[DeadLetterResponse]
    pagination: Pagination


class CurrencyFigures(Answer):
    """What came in and what went out, in one currency."""

    captured: float
    refunded: float


class DayFigures(Answer):
    """How many orders a day of the shop (`SHOP_TIMEZONE`) brought."""

    day: date
    orders: int


class ServiceLevel(Answer):
    """A promise: how many cases are past it now, and how it was kept in the period; `kept` is null without cases."""

    promised_seconds: int
    overdue_now: int
    cases: int
    missed: int
    kept: float | None


class ServiceLevels(Answer):
    """What is promised: reviews of returns, invoices after shipping, refunds, the pick-up of due jobs."""

    days: int
    review: ServiceLevel
    invoice: ServiceLevel
    refund: ServiceLevel
    pickup: ServiceLevel


class StepTime(Answer):
    """How long a step of returns took; null where none has taken it."""

    cases: int
    median_seconds: float | None
    p90_seconds: float | None


class ReturnTimes(Answer):
    """The steps of the returns that were requested in the period."""

    days: int
    request_to_review: StepTime
    review_to_received: StepTime
    received_to_completed: StepTime
    completed_to_refunded: StepTime


class StatsResponse(Answer):
    """Figures of the whole business, as of `collected_at`."""

    orders: dict[str, int]
    returns: dict[str, int]
    revenue: dict[str, CurrencyFigures]
    jobs: dict[str, int]
    orders_per_day: list[DayFigures]
    service_levels: ServiceLevels
    return_times: ReturnTimes
    collected_at: Timestamp


class InvoiceRecord(Answer):
    """The record of an issued invoice; `link` gives its PDF to every holder, until `link_expires_at`."""

    number: str
    order_id: UUID
    issued_at: Timestamp
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: int
    link: str
    link_expires_at: Timestamp


class WebhookReceipt(Answer):
    """What became of a webhook; one seen before is answered `DUPLICATE`, with 200 too."""

    outcome: WebhookOutcome


WEBHOOK_BODY: dict[str, Any] = {
    "type": "object",
    "description": "An event, exactly as the gateway signed it.",
    "required": ["id", "type", "created", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"},
        "type": {"type": "string", "examples": ["payment.captured"]},
        "created": {"type": "string", "format": "date-time"},
        "data": {"type": "object", "properties": {"object": {"type": "object"}}},
    },
}
"""The schema of a webhook's body, for the document alone: the raw bytes are what the signature covers."""
