"""What messages to operations tell: a job that gave up, a payment that needs a person, and a day (REQ-004)."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.enums import CaseKind, RefundState
from app.models.case import Case
from app.models.job import DeadLetter
from app.models.order import Order
from app.models.payment import GatewayEvent, Payment, Refund
from app.models.return_request import ReturnRequest
from app.services.cases.kinds import MEANINGS
from app.services.jobs.service import JobKind, policy_for, queue_of
from app.services.order_lookup import order_id_of, order_number_of
from app.utils.shop_time import ShopTime

_ENTITIES = {
    JobKind.ISSUE_INVOICE: "ORDER",
    JobKind.ISSUE_CREDIT_NOTE: "REFUND",
    JobKind.CAPTURE_PAYMENT: "PAYMENT",
    JobKind.RELEASE_PAYMENT: "ORDER",
    JobKind.PROCESS_REFUND: "REFUND",
    JobKind.NOTIFY_INVOICE: "INVOICE",
    JobKind.NOTIFY_CREDIT_NOTE: "CREDIT_NOTE",
    JobKind.NOTIFY_REFUND_PROCESSED: "REFUND",
    JobKind.NOTIFY_DAILY_SUMMARY: "DAILY_SUMMARY",
    JobKind.NOTIFY_JOB_FAILED: "DEAD_LETTER",
    JobKind.NOTIFY_GATEWAY_EVENT: "GATEWAY_REFERENCE",
    JobKind.NOTIFY_CASE: "CASE",
}


def entity_of(kind: str) -> str:
    """Return what the entity id of a kind of job names; unlisted messages are about returns or orders."""
    channel, _, template = kind.partition(".")
    told = JobKind(f"notify.{template}") if channel in {"sms", "chat"} else JobKind(kind)
    if listed := _ENTITIES.get(told):
        return listed
    return "RETURN" if "return" in kind or "goods" in kind else "ORDER"


async def job_failed(
    session: AsyncSession, dead_letter_id: UUID, shop_time: ShopTime, settings: Settings
) -> dict[str, Any] | None:
    """Return the context of `job_failed`, or None when there is no such dead letter.

    A job that has retries left is one whose error another try cannot mend.
    """
    letter = await session.get(DeadLetter, dead_letter_id)
    if letter is None:
        return None
    order_id = order_id_of(literal(letter.entity_id))
    number = (await session.execute(select(order_number_of(order_id)))).scalar_one_or_none()
    retries = policy_for(queue_of(JobKind(letter.kind)), settings).retries
    return {
        "order_number": number,
        "was_retried": letter.failures > retries or letter.claims > settings.job_max_claims,
        "dead_letter_id": str(letter.id),
        "kind": letter.kind,
        "entity_type": entity_of(letter.kind),
        "entity_id": str(letter.entity_id),
        "attempts": letter.claims,
        "failed_at": shop_time.local(letter.created_at),
        "error": letter.error,
    }


async def gateway_event(
    session: AsyncSession, alert: Mapping[str, Any], shop_time: ShopTime
) -> tuple[dict[str, Any], UUID | None] | None:
    """Return the context of `gateway_event` and the order that it is about, or None when there is no such event.

    What the gateway said is told beside what we expected of that payment or refund.

    Args:
        alert: payload of the job: `event_id`, `gateway_id`, `amount`, `currency`.
    """
    event = await session.get(GatewayEvent, str(alert.get("event_id", "")))
    if event is None:
        return None
    ours = (
        select(Payment.order_id, Payment.amount, Payment.currency)
        .where(Payment.order_id == event.reference)
        .union_all(select(Refund.order_id, Refund.amount, Refund.currency).where(Refund.id == event.reference))
    )
    known = (await session.execute(ours)).first()
    number = select(Order.order_number).where(Order.id == (known.order_id if known else None))
    context = {
        "event_id": event.id,
        "event_type": event.type,
        "outcome": event.outcome,
        "order_number": (await session.execute(number)).scalar_one_or_none(),
        "reference": str(event.reference),
        "gateway_id": alert["gateway_id"],
        "reported": alert["amount"],
        "reported_currency": alert["currency"],
        "expected": known.amount if known else None,
        "expected_currency": known.currency if known else "",
        "received_at": shop_time.local(event.received_at),
    }
    return context, known.order_id if known else None


async def case(session: AsyncSession, case_id: UUID, shop_time: ShopTime) -> tuple[dict[str, Any], UUID | None] | None:
    """Return the context of `case` and the order that it concerns, or None when there is no such case."""
    found = await session.get(Case, case_id)
    if found is None:
        return None
    number = select(Order.order_number).where(Order.id == found.order_id)
    meaning = MEANINGS[CaseKind(found.kind)]
    context = {
        "case_id": str(found.id),
        "kind": found.kind,
        "says": meaning.says,
        "order_number": (await session.execute(number)).scalar_one_or_none(),
        "entity_type": found.entity_type,
        "entity_id": str(found.entity_id),
        "evidence": [
            {"name": name.replace("_", " ").capitalize(), "value": str(value)}
            for name, value in sorted(found.evidence.items())
        ],
        "ways_out": [{"action": way.action, "how": way.how} for way in meaning.ways_out],
        "opened_at": shop_time.local(found.created_at),
    }
    return context, found.order_id


async def daily_summary(session: AsyncSession, day: date, shop_time: ShopTime) -> dict[str, Any]:
    """Return the context of `daily_summary`: the shop's `day`, and the states and open dead letters of now."""
    begin, end = shop_time.start_of(day), shop_time.start_of(day + timedelta(days=1))
    created = select(func.count()).select_from(Order).where(Order.created_at >= begin, Order.created_at < end)
    dead = select(func.count()).select_from(DeadLetter).where(DeadLetter.resolution.is_(None))
    revenue = (
        select(Payment.currency, func.sum(Payment.captured_amount), func.count())
        .where(Payment.captured_at >= begin, Payment.captured_at < end)
        .group_by(Payment.currency)
        .order_by(Payment.currency)
    )
    refunds = (
        select(Refund.currency, func.sum(Refund.amount), func.count())
        .where(Refund.state == RefundState.SUCCEEDED, Refund.succeeded_at >= begin, Refund.succeeded_at < end)
        .group_by(Refund.currency)
        .order_by(Refund.currency)
    )
    return {
        "day": day,
        "orders_created": (await session.execute(created)).scalar_one(),
        "orders_by_state": await _by_state(session, Order),
        "returns_by_state": await _by_state(session, ReturnRequest),
        "revenue": await _money(session, revenue),
        "refunds": await _money(session, refunds),
        "dead_jobs": (await session.execute(dead)).scalar_one(),
    }


async def _by_state(session: AsyncSession, model: type[Order | ReturnRequest]) -> dict[str, int]:
    rows = await session.execute(
        select(model.status, func.count().label("cases")).group_by(model.status).order_by(model.status)
    )
    return {row.status: row.cases for row in rows}


async def _money(session: AsyncSession, statement: Any) -> list[dict[str, Any]]:
    rows = await session.execute(statement)
    return [{"currency": currency, "amount": amount, "count": count} for currency, amount, count in rows]
