"""Figures for people: promises kept and missed, how long returns take, orders a day (REQ-002, REQ-004, NFR-006)."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.core.enums import Role
from app.database import Database
from app.models.job import Job
from app.services.jobs.service import JobKind
from app.services.operations.service_levels import first_id_of
from app.services.operations.stats import StatsService
from app.utils.clock import uuid7
from tests.conftest import MovableClock, actor
from tests.databases import unguarded
from tests.integration.conftest import TO_DELIVERED, new_order, new_return
from tests.integration.dead import bury_job
from tests.integration.jobs_support import add_job

pytestmark = pytest.mark.req("NFR-006.3")


async def figures(api: httpx2.AsyncClient, services: Services) -> dict[str, Any]:
    """Collect again."""
    services.stats = StatsService(services.database)
    answer = await api.get("/api/v1/stats")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def promise(found: dict[str, Any], name: str) -> tuple[int, int, int, float | None]:
    level = found["service_levels"][name]
    return level["overdue_now"], level["missed"], level["cases"], level["kept"]


async def test_a_shop_without_anything_says_so(api: httpx2.AsyncClient, services: Services) -> None:
    found = await figures(api, services)
    for name in ("review", "invoice", "refund", "pickup"):
        assert promise(found, name) == (0, 0, 0, None)
    nothing = {"cases": 0, "median_seconds": None, "p90_seconds": None}
    steps = ("request_to_review", "review_to_received", "received_to_completed", "completed_to_refunded")
    assert found["return_times"] == {"days": 90, **dict.fromkeys(steps, nothing)}
    assert len(found["orders_per_day"]) == 30
    assert {day["orders"] for day in found["orders_per_day"]} == {0}


async def test_orders_of_a_day_are_counted_by_the_shops_calendar(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    orders = [await new_order(api) for _ in range(4)]
    today = datetime.now(UTC).replace(hour=0, minute=5)
    # At five past and ten to midnight: in another time zone one of them belongs to another day.
    third = today - timedelta(days=3)
    moments = [today, third, third + timedelta(hours=23, minutes=45), today - timedelta(days=30)]
    for order, moment in zip(orders, moments, strict=True):
        owner_connection.execute("UPDATE orders SET created_at = %s WHERE id = %s", [moment, order["id"]])
    days = {day["day"]: day["orders"] for day in (await figures(api, services))["orders_per_day"]}
    expected = {today.date().isoformat(): 1, third.date().isoformat(): 2}
    assert {day: count for day, count in days.items() if count} == expected
    assert list(days) == sorted(days)
    assert list(days)[-1] == today.date().isoformat()


@pytest.fixture
def stopped(database: Database, clock: MovableClock) -> Callable[[float], StatsService]:
    """Return a function that makes the service of a process, for which each collection takes some seconds."""

    def made(seconds: float) -> StatsService:
        moments = itertools.count()
        return StatsService(database, clock, lambda: next(moments) * seconds)

    return made


@pytest.mark.req("NFR-002.2")
async def test_slow_figures_are_collected_once_for_all_processes(
    api: httpx2.AsyncClient, stopped: Callable[[float], StatsService], clock: MovableClock
) -> None:
    """What a sweep collected is what each process answers, until the sweep is late."""
    admin = actor(Role.ADMIN)
    await new_order(api, *TO_DELIVERED)
    live = await stopped(2).collect(admin)
    assert await stopped(2).refresh()
    await new_order(api)
    clock.advance(seconds=39)
    assert await stopped(2).collect(admin) == live
    assert not await stopped(2).refresh(), "a twentieth of the time at most"
    clock.advance(seconds=2)
    assert await stopped(2).refresh()
    assert (await stopped(2).collect(admin))["orders"]["PENDING_PAYMENT"] == 1
    await new_order(api)
    clock.advance(minutes=4)
    assert (await stopped(2).collect(admin))["orders"]["PENDING_PAYMENT"] == 2, "no sweep has renewed them"


@pytest.mark.req("NFR-002.2")
async def test_quick_figures_are_of_this_moment(
    api: httpx2.AsyncClient, stopped: Callable[[float], StatsService]
) -> None:
    assert await stopped(0.05).refresh()
    await new_order(api)
    assert (await stopped(0.05).collect(actor(Role.ADMIN)))["orders"]["PENDING_PAYMENT"] == 1


async def a_return(api: httpx2.AsyncClient) -> str:
    delivered = await new_order(api, *TO_DELIVERED)
    return str((await new_return(api, delivered["id"]))["id"])


async def test_reviews_that_are_late_or_missing(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    waiting, late, in_time, expired, long_ago = [await a_return(api) for _ in range(5)]

    def at(return_id: str, requested: str, reviewed: str | None = None, outcome: str = "APPROVED") -> None:
        with unguarded(owner_connection, "return_requests"):
            owner_connection.execute(
                f"UPDATE return_requests SET created_at = now() - interval '{requested}' WHERE id = %s", [return_id]
            )
            if reviewed:
                reason = "'EXPIRED'" if outcome == "REJECTED" else "NULL"
                owner_connection.execute(
                    f"UPDATE return_requests SET status = %s, rejection_reason = {reason},"
                    f" {outcome.lower()}_at = created_at + interval '{reviewed}' WHERE id = %s",
                    [outcome, return_id],
                )

    at(waiting, "25 hours")
    at(late, "10 days", "30 hours")
    at(in_time, "10 days", "2 hours")
    at(expired, "10 days", "7 days", "REJECTED")
    at(long_ago, "31 days", "20 days")
    found = await figures(api, services)
    assert promise(found, "review") == (1, 3, 4, 0.25)
    times = found["return_times"]["request_to_review"]
    # Of 2 h, 30 h and 20 days; what the clock rejected was never reviewed.
    assert (times["cases"], times["median_seconds"]) == (3, 30 * 3600)
    assert times["p90_seconds"] == pytest.approx(30 * 3600 + 0.8 * (480 - 30) * 3600)


async def test_the_steps_of_a_return_are_timed(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    for number in range(2):
        return_id = await a_return(api)
        await api.patch(f"/api/v1/returns/{return_id}/approve", json={"notes": "fine"})
        for state in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
            moved = await api.patch(f"/api/v1/returns/{return_id}/state", json={"new_state": state})
            assert moved.status_code == 200, moved.text
        with unguarded(owner_connection, "return_requests"):
            owner_connection.execute(
                "UPDATE return_requests SET approved_at = created_at + interval '1 hour',"
                " received_at = created_at + interval '3 hours',"
                " completed_at = created_at + interval '3 hours 10 seconds' WHERE id = %s",
                [return_id],
            )
        if number == 0:
            owner_connection.execute(
                "UPDATE refunds SET state = 'SUCCEEDED', gateway_refund_id = 're_1', succeeded_at ="
                " (SELECT completed_at + interval '90 seconds' FROM return_requests WHERE id = return_id)"
                " WHERE return_id = %s",
                [return_id],
            )
    times = (await figures(api, services))["return_times"]
    assert times["request_to_review"] == {"cases": 2, "median_seconds": 3600, "p90_seconds": 3600}
    assert times["review_to_received"] == {"cases": 2, "median_seconds": 7200, "p90_seconds": 7200}
    assert times["received_to_completed"] == {"cases": 2, "median_seconds": 10, "p90_seconds": 10}
    assert times["completed_to_refunded"] == {"cases": 1, "median_seconds": 90, "p90_seconds": 90}


@pytest.mark.req("REQ-004")
async def test_invoices_that_are_late_or_missing(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    shipped = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    orders = [(await new_order(api, *shipped))["id"] for _ in range(3)]
    assert promise(await figures(api, services), "invoice") == (0, 0, 3, 1.0)
    owner_connection.execute(
        "UPDATE jobs SET created_at = now() - interval '6 minutes' WHERE kind = 'invoice.issue' AND entity_id = %s",
        [orders[0]],
    )
    with unguarded(owner_connection, "invoices"):
        for order_id, minutes in ((orders[1], 4), (orders[2], 6)):
            owner_connection.execute(
                "INSERT INTO invoices (kind, state, year, number_in_year, number, order_id, issued_on, view,"
                " storage_key, drawn_sha256, sha256, size_bytes, issued_at)"
                " SELECT 'INVOICE', 'ISSUED', 2026, %s, %s, id, now()::date, '{}', %s, ARRAY['\\x00'::bytea], '\\x00',"
                " 1, shipped_at + make_interval(mins => %s) FROM orders WHERE id = %s",
                [minutes, f"INV-{minutes}", f"invoices/{minutes}.pdf", minutes, order_id],
            )
    await bury_job(services.database, JobKind.ISSUE_INVOICE)
    # Late now: the old job and the one that gave up; missed: the invoice after six minutes.
    assert promise(await figures(api, services), "invoice") == (2, 1, 3, 0.6667)


@pytest.mark.req("REQ-004")
async def test_refunds_that_are_late_or_missing(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    orders = [(await new_order(api, "PAID", "CANCELLED"))["id"] for _ in range(4)]
    paid = "state = 'SUCCEEDED', gateway_refund_id = order_id::text, succeeded_at = created_at + interval"
    for order_id, values in zip(
        orders,
        (
            "state = 'PROCESSING'",
            f"{paid} '3 hours'",
            f"{paid} '1 hour'",
            "state = 'FAILED', released_at = created_at + interval '30 minutes'",
        ),
        strict=True,
    ):
        owner_connection.execute(
            "UPDATE refunds SET created_at = now() - interval '5 hours' WHERE order_id = %s", [order_id]
        )
        owner_connection.execute(f"UPDATE refunds SET {values} WHERE order_id = %s", [order_id])
    assert promise(await figures(api, services), "refund") == (1, 2, 4, 0.5)


@pytest.mark.req("REQ-004.9")
async def test_jobs_that_were_picked_up_late_or_not_at_all(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    jobs = [await add_job(services.database, JobKind.ISSUE_INVOICE, uuid4(), f"job {number}") for number in range(6)]
    done = "state = 'SUCCEEDED', finished_at = now(), claims = 1, started_at = run_at + interval"
    for job_id, values in zip(
        jobs,
        (
            "run_at = now() - interval '31 seconds'",  # waits, too long already
            "run_at = now() + interval '1 hour'",  # is not due yet: no case
            f"{done} '29 seconds'",
            f"{done} '31 seconds'",
            f"{done} '90 seconds', failures = 0",
            f"{done} '5 seconds'",
        ),
        strict=True,
    ):
        owner_connection.execute(f"UPDATE jobs SET {values} WHERE id = %s", [job_id])
    # One that outlived a killed worker was picked up before.
    owner_connection.execute("UPDATE jobs SET claims = 2 WHERE id = %s", [jobs[4]])
    # And one of two months ago is no case of the last 30 days.
    old = uuid7(datetime.now(UTC) - timedelta(days=60))
    owner_connection.execute("UPDATE jobs SET id = %s WHERE id = %s", [old, jobs[5]])
    assert promise(await figures(api, services), "pickup") == (1, 2, 4, 0.5)


def test_a_time_ordered_key_begins_with_its_time() -> None:
    moment = datetime(2026, 11, 22, 10, 0, 0, 123000, tzinfo=UTC)
    assert first_id_of(moment) <= uuid7(moment) < first_id_of(moment + timedelta(milliseconds=1))
    assert Job.__table__.c.id.primary_key
