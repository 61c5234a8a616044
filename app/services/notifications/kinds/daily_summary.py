"""`daily_summary`: the figures of one day, and the states and open dead letters at the time of sending."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, TypedDict

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.enums import Channel, RefundState
from app.models.job import DeadLetter
from app.models.order import Order
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind
from app.services.notifications.kind import Addressed, Audience, FactsRequest, Kind
from app.services.notifications.parts import Amount, Day


class MoneyFigure(TypedDict):
    """A sum in one currency over `count` cases."""

    currency: str
    amount: Amount
    count: int


class DailySummary(TypedDict):
    """Revenue and refunds are of the shop's `day`, counts by state are of now."""

    day: Day
    orders_created: int
    orders_by_state: Mapping[str, int]
    returns_by_state: Mapping[str, int]
    revenue: Sequence[MoneyFigure]
    refunds: Sequence[MoneyFigure]
    dead_jobs: int


async def load(request: FactsRequest) -> Addressed[DailySummary]:
    """Read the facts (see `Kind.load`); the job's payload has the `day`."""
    session, day = request.session, date.fromisoformat(request.claim.payload["day"])
    begin, end = request.shop_time.start_of(day), request.shop_time.start_of(day + timedelta(days=1))
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
    facts: DailySummary = {
        "day": day,
        "orders_created": (await session.execute(created)).scalar_one(),
        "orders_by_state": await _by_state(session, Order),
        "returns_by_state": await _by_state(session, ReturnRequest),
        "revenue": await _money(session, revenue),
        "refunds": await _money(session, refunds),
        "dead_jobs": (await session.execute(dead)).scalar_one(),
    }
    return request.to_staff(facts)


async def _by_state(session: AsyncSession, model: type[Order | ReturnRequest]) -> dict[str, int]:
    rows = await session.execute(
        select(model.status, func.count().label("cases")).group_by(model.status).order_by(model.status)
    )
    return {row.status: row.cases for row in rows}


async def _money(session: AsyncSession, statement: Any) -> list[MoneyFigure]:
    rows = await session.execute(statement)
    return [{"currency": currency, "amount": amount, "count": count} for currency, amount, count in rows]


KIND: Final[Kind[DailySummary]] = Kind(
    job=JobKind.NOTIFY_DAILY_SUMMARY,
    audience=Audience.OPERATIONS,
    facts=DailySummary,
    load=load,
    subject="Daily summary, {{ day | day }}",
    sample={
        "day": "2026-11-22",
        "orders_created": 41,
        "orders_by_state": {
            "PENDING_PAYMENT": 6,
            "PAID": 12,
            "PROCESSING_IN_WAREHOUSE": 9,
            "SHIPPED": 18,
            "DELIVERED": 1204,
            "CANCELLED": 37,
        },
        "returns_by_state": {"REQUESTED": 3, "APPROVED": 2, "IN_TRANSIT": 4, "RECEIVED": 1},
        "revenue": (
            {"currency": "EUR", "amount": Decimal("12480.50"), "count": 31},
            {"currency": "USD", "amount": Decimal("3190.00"), "count": 8},
        ),
        "refunds": ({"currency": "EUR", "amount": Decimal("423.20"), "count": 2},),
        "dead_jobs": 1,
    },
    short={Channel.CHAT: frozenset({"day", "orders_created", "revenue", "refunds", "dead_jobs"})},
)
