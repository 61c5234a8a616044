"""What was promised and what was kept: reviews, invoices, refunds, the pick-up of jobs; how long returns take.

Over a period that ends now. Every statement reads an index that is ordered by time, from the beginning of the period.
"""

from datetime import date, datetime, timedelta
from typing import Any, Final, TypedDict
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.services.jobs.figures import INVOICE_SECONDS, PICKUP_SECONDS, REFUND_SECONDS, JobFigures
from app.utils.shop_time import ShopTime

SLA_DAYS: Final = 30
RETURN_TIMES_DAYS: Final = 90
"""Longer, because a return takes weeks: of those begun in the last 30 days few would have ended."""

# A job that is DISMISSED and was never begun is one of sample data: no service level applies.
_CASES = {
    # A review by the clock (EXPIRED) came after the promise by far, so it counts as missed like any late one.
    "review": text("""
        SELECT count(*), count(*) FILTER (
            WHERE coalesce(least(approved_at, rejected_at), now()) - created_at > make_interval(secs => :promised))
        FROM return_requests WHERE created_at >= :since
    """),
    "invoice": text("""
        SELECT count(*), count(*) FILTER (
            WHERE coalesce(i.issued_at, now()) - h.created_at > make_interval(secs => :promised))
        FROM state_history h LEFT JOIN invoices i ON i.order_id = h.entity_id AND i.kind = 'INVOICE'
        WHERE h.new_state = 'SHIPPED' AND h.entity_type = 'ORDER' AND h.created_at >= :since
            AND (i.id IS NOT NULL OR NOT EXISTS (SELECT FROM jobs j WHERE j.entity_id = h.entity_id
                AND j.kind = 'invoice.issue' AND j.state = 'DISMISSED' AND j.claims = 0))
    """),
    "refund": text("""
        SELECT count(*), count(*) FILTER (
            WHERE coalesce(succeeded_at, released_at, now()) - created_at > make_interval(secs => :promised))
        FROM refunds WHERE created_at >= :since
    """),
    # Time-ordered keys make the primary key the index. A job that outlived a crashed worker was picked up once before
    # (it has more claims than tries that failed), so its last start says nothing of the first.
    "pickup": text("""
        SELECT count(*), count(*) FILTER (
            WHERE claims <= failures + 1 AND coalesce(started_at, now()) - run_at > make_interval(secs => :promised))
        FROM jobs WHERE id >= :since_id AND (started_at IS NOT NULL OR (run_at <= now() AND state <> 'DISMISSED'))
    """),
}
_STEPS = {
    "request_to_review": "CASE WHEN r.rejection_reason IS DISTINCT FROM 'EXPIRED'"
    " THEN least(r.approved_at, r.rejected_at) - r.created_at END",
    "review_to_received": "r.received_at - r.approved_at",
    "received_to_completed": "r.completed_at - r.received_at",
    "completed_to_refunded": "f.succeeded_at - r.completed_at",
}
_RETURN_TIMES = text(
    "SELECT "  # noqa: S608 - put together from the lines above
    + ", ".join(
        f"count({step}) AS {name}_cases, percentile_cont(ARRAY[0.5, 0.9])"
        f" WITHIN GROUP (ORDER BY extract(epoch FROM {step})::float8) AS {name}"
        for name, step in _STEPS.items()
    )
    + " FROM return_requests r LEFT JOIN refunds f ON f.return_id = r.id AND f.state = 'SUCCEEDED'"
    " WHERE r.created_at >= :since"
)
_ORDERS_PER_DAY = text("""
    SELECT width_bucket(created_at, CAST(:starts AS timestamptz[])) AS day, count(*) AS orders
    FROM orders WHERE created_at >= :since GROUP BY 1
""")


class LevelView(TypedDict):
    """A promise, the cases past it now, those of the period, and how many missed it; `kept` is None without cases."""

    promised_seconds: int
    overdue_now: int
    cases: int
    missed: int
    kept: float | None


class ServiceLevelsView(TypedDict):
    """The promises, over the last `days`."""

    days: int
    review: LevelView
    invoice: LevelView
    refund: LevelView
    pickup: LevelView


class StepTimeView(TypedDict):
    """How long a step of returns took; None where no return took it."""

    cases: int
    median_seconds: float | None
    p90_seconds: float | None


class ReturnTimesView(TypedDict):
    """The steps of the returns that were requested in the last `days`."""

    days: int
    request_to_review: StepTimeView
    review_to_received: StepTimeView
    received_to_completed: StepTimeView
    completed_to_refunded: StepTimeView


class DayView(TypedDict):
    """How many orders a day of the shop brought."""

    day: date
    orders: int


async def service_levels(
    connection: AsyncConnection, figures: JobFigures, review_hours: int, now: datetime
) -> ServiceLevelsView:
    """Return per promise: its seconds, the cases past it now, those of the period, and how many of them missed it.

    `kept` is the share of cases that were in time, None where there was none.
    """
    promised = {
        "review": review_hours * 3600,
        "invoice": INVOICE_SECONDS,
        "refund": REFUND_SECONDS,
        "pickup": PICKUP_SECONDS,
    }
    since = now - timedelta(days=SLA_DAYS)
    levels: dict[str, LevelView] = {}
    for name, statement in _CASES.items():
        period = {"since_id": first_id_of(since)} if name == "pickup" else {"since": since}
        cases, missed = (await connection.execute(statement, {"promised": promised[name], **period})).one()
        levels[name] = {
            "promised_seconds": promised[name],
            "overdue_now": figures.overdue[name],
            "cases": cases,
            "missed": missed,
            "kept": round(1 - missed / cases, 4) if cases else None,
        }
    return {
        "days": SLA_DAYS,
        "review": levels["review"],
        "invoice": levels["invoice"],
        "refund": levels["refund"],
        "pickup": levels["pickup"],
    }


async def return_times(connection: AsyncConnection, now: datetime) -> ReturnTimesView:
    """Return median and 90th percentile, in seconds, of each step of a return; None where no return took it."""
    row = (await connection.execute(_RETURN_TIMES, {"since": now - timedelta(days=RETURN_TIMES_DAYS)})).one()
    return {
        "days": RETURN_TIMES_DAYS,
        "request_to_review": _step(row, "request_to_review"),
        "review_to_received": _step(row, "review_to_received"),
        "received_to_completed": _step(row, "received_to_completed"),
        "completed_to_refunded": _step(row, "completed_to_refunded"),
    }


def _step(row: Row[*tuple[Any, ...]], name: str) -> StepTimeView:
    median, p90 = getattr(row, name) or (None, None)
    return {
        "cases": getattr(row, f"{name}_cases"),
        "median_seconds": None if median is None else round(median, 3),
        "p90_seconds": None if p90 is None else round(p90, 3),
    }


async def orders_per_day(connection: AsyncConnection, shop_time: ShopTime, now: datetime) -> list[DayView]:
    """Return the orders of each of the shop's last 30 days, today included, oldest first; a day without is 0.

    The statement is given the moments at which the days begin, so the database needs no time zone of its own.
    """
    days = shop_time.days_back(now, SLA_DAYS)
    starts = [shop_time.start_of(day) for day in days]
    rows = await connection.execute(_ORDERS_PER_DAY, {"since": starts[0], "starts": starts})
    found: dict[int, int] = {row.day: row.orders for row in rows}
    return [{"day": day, "orders": found.get(position, 0)} for position, day in enumerate(days, start=1)]


def first_id_of(moment: datetime) -> UUID:
    """Return the smallest time-ordered key (UUIDv7) that can have been made at that time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
