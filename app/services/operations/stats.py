"""Figures for people: `GET /stats`.

Counting reads whole tables: a second at a million orders. So the figures are kept for twenty times as long as it took to
collect them. Once that takes longer than `SLOW_SECONDS`, a request does not wait for it: a sweep collects them each
minute (`refresh`) and every process reads what it kept (docs/adr/0015).
"""

import asyncio
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

from sqlalchemy import ColumnElement, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.actor import Actor
from app.core.enums import JobState, OrderStatus, PaymentState, RefundState, ReturnStatus
from app.database import Database
from app.models.job import Job
from app.models.kept_figures import KeptFigures
from app.models.order import Order
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.jobs.figures import job_figures
from app.services.operations import service_levels
from app.services.operations.service_levels import DayView, ReturnTimesView, ServiceLevelsView
from app.utils.clock import Clock, utc_now
from app.utils.shop_time import UTC_CALENDAR, ShopTime

_NOTHING: ColumnElement[Decimal] = literal_column("0")
_NAME = "stats"
_KEPT_FOR = 20
_KEPT_AT_MOST_SECONDS = 60.0
SLOW_SECONDS = 0.1
"""Figures that took longer than this are collected by the sweep alone, while it runs."""
_SWEEP_MISSED = timedelta(minutes=3)
"""Kept figures of this age are not renewed any more: each process collects its own again."""

_KEPT = select(KeptFigures.collected_at, KeptFigures.seconds, KeptFigures.figures).where(KeptFigures.name == _NAME)


class CurrencyView(TypedDict):
    """What came in and what went out, in one currency."""

    captured: Decimal
    refunded: Decimal


class StatsView(TypedDict):
    """Figures of the whole business, as of `collected_at`."""

    orders: dict[str, int]
    returns: dict[str, int]
    revenue: dict[str, CurrencyView]
    jobs: dict[str, int]
    orders_per_day: list[DayView]
    service_levels: ServiceLevelsView
    return_times: ReturnTimesView
    collected_at: datetime


class StoredView(TypedDict):
    """The figures as JSON holds them: amounts and days as text."""

    orders: dict[str, int]
    returns: dict[str, int]
    revenue: dict[str, dict[str, str]]
    jobs: dict[str, int]
    orders_per_day: list[dict[str, str | int]]
    service_levels: ServiceLevelsView
    return_times: ReturnTimesView


class StatsService:
    """Counts and sums over everything."""

    def __init__(
        self,
        database: Database,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        review_hours: int = 24,
        shop_time: ShopTime = UTC_CALENDAR,
    ) -> None:
        self._database = database
        self._clock = clock
        self._review_hours = review_hours
        self._shop_time = shop_time
        self._monotonic = monotonic
        self._collecting = asyncio.Lock()
        self._kept: StatsView | None = None
        self._kept_until = 0.0

    async def collect(self, actor: Actor) -> StatsView:
        """Return the figures of `GET /stats`, as of `collected_at`: just now, or a minute or two ago in a large shop.

        Raises:
            ForbiddenError: the role may not.
        """
        permissions.require(actor, Action.READ_STATS)
        async with self._collecting:
            started = self._monotonic()
            kept = self._kept
            if kept is None or started >= self._kept_until:
                found: StatsView = await self._database.reading(self._read_or_count)
                kept = self._kept = found
                finished = self._monotonic()
                self._kept_until = finished + min(_KEPT_FOR * (finished - started), _KEPT_AT_MOST_SECONDS)
        return kept

    async def refresh(self) -> bool:
        """Collect the figures and keep them for all processes; return whether it was time to.

        Collecting takes at most a twentieth of the time, however large the tables are.
        """
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_KEPT)).first()
        if row is not None and self._clock() - row.collected_at < timedelta(seconds=_KEPT_FOR * row.seconds):
            return False
        started = self._monotonic()
        figures: StatsView = await self._database.reading(self._count)
        seconds = self._monotonic() - started
        values = {"collected_at": figures["collected_at"], "seconds": seconds, "figures": _stored(figures)}
        async with self._database.autocommit() as connection:
            await connection.execute(
                insert(KeptFigures)
                .values(name=_NAME, **values)
                .on_conflict_do_update(index_elements=[KeptFigures.name], set_=values)
            )
        return True

    async def _read_or_count(self, connection: AsyncConnection) -> StatsView:
        row = (await connection.execute(_KEPT)).first()
        if row is not None and row.seconds > SLOW_SECONDS:
            age = self._clock() - row.collected_at
            if age < max(_SWEEP_MISSED, timedelta(seconds=2 * _KEPT_FOR * row.seconds)):
                return _restored(row.figures, row.collected_at)
        return await self._count(connection)

    async def _count(self, connection: AsyncConnection) -> StatsView:
        now = self._clock()
        figures = await job_figures(connection, self._review_hours)
        return {
            "orders": await _by_state(connection, Order.status, OrderStatus),
            "returns": await _by_state(connection, ReturnRequest.status, ReturnStatus),
            "revenue": await _revenue(connection),
            "jobs": await _by_state(connection, Job.state, JobState),
            "orders_per_day": await service_levels.orders_per_day(connection, self._shop_time, now),
            "service_levels": await service_levels.service_levels(connection, figures, self._review_hours, now),
            "return_times": await service_levels.return_times(connection, now),
            "collected_at": now,
        }


def _stored(figures: StatsView) -> StoredView:
    """Return figures as JSON holds them."""
    return {
        "orders": figures["orders"],
        "returns": figures["returns"],
        "revenue": {
            currency: {"captured": str(money["captured"]), "refunded": str(money["refunded"])}
            for currency, money in figures["revenue"].items()
        },
        "jobs": figures["jobs"],
        "orders_per_day": [
            {"day": day["day"].isoformat(), "orders": day["orders"]} for day in figures["orders_per_day"]
        ],
        "service_levels": figures["service_levels"],
        "return_times": figures["return_times"],
    }


def _restored(stored: dict[str, Any], collected_at: datetime) -> StatsView:
    """Return the figures that `_stored` made JSON of."""
    return {
        "orders": stored["orders"],
        "returns": stored["returns"],
        "revenue": {
            currency: {"captured": Decimal(money["captured"]), "refunded": Decimal(money["refunded"])}
            for currency, money in stored["revenue"].items()
        },
        "jobs": stored["jobs"],
        "orders_per_day": [
            {"day": date.fromisoformat(day["day"]), "orders": day["orders"]} for day in stored["orders_per_day"]
        ],
        "service_levels": stored["service_levels"],
        "return_times": stored["return_times"],
        "collected_at": collected_at,
    }


async def _by_state(connection: AsyncConnection, column: Any, states: Any) -> dict[str, int]:
    rows = await connection.execute(select(column, func.count()).group_by(column))
    return {str(state): 0 for state in states} | {str(state): count for state, count in rows}


async def _revenue(connection: AsyncConnection) -> dict[str, CurrencyView]:
    captured = (
        select(Payment.currency, func.sum(Payment.captured_amount).label("captured"), _NOTHING.label("refunded"))
        .where(Payment.state == PaymentState.CAPTURED)
        .group_by(Payment.currency)
    )
    refunded = (
        select(Refund.currency, _NOTHING.label("captured"), func.sum(Refund.amount).label("refunded"))
        .where(Refund.state == RefundState.SUCCEEDED)
        .group_by(Refund.currency)
    )
    both = union_all(captured, refunded).subquery()
    statement = (
        select(both.c.currency, func.sum(both.c.captured), func.sum(both.c.refunded))
        .group_by(both.c.currency)
        .order_by(both.c.currency)
    )
    rows = await connection.execute(statement)
    return {currency: {"captured": got, "refunded": gone} for currency, got, gone in rows}
