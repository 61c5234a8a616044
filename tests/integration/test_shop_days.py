"""Each day and year that the system names is one of the shop's calendar, at midnight, at New Year, when clocks change."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.return_request import ReturnCreate
from app.services.documents.invoices import InvoiceService
from app.services.jobs.service import JobKind
from app.services.jobs.sweeps import SweepService
from app.services.notifications.service import NotificationService
from app.services.operations.stats import StatsService
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.utils.exceptions import ReturnNotAllowedError
from app.utils.shop_time import ReturnWindow, ShopTime
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.integration.jobs_support import FakeMailSender, FakeRenderer, claim_for, execute, order_in, rows

ZONES = ("UTC", "Europe/Paris", "Pacific/Kiritimati", "America/St_Johns")


class ShopIn:
    """The services of a shop in a time zone."""

    def __init__(self, zone: str, database: Database, settings: Settings, clock: MovableClock) -> None:
        self.database = database
        self.settings = settings.model_copy(update={"shop_timezone": zone})
        self.time = ShopTime.from_settings(self.settings)
        self.clock = clock
        self.mails = FakeMailSender()
        storage = storage_for(self.settings)
        self.orders = OrderService(database, clock, self.time)
        self.returns = ReturnService(database, ReturnWindow.from_settings(self.settings), clock)
        self.invoices = InvoiceService(database, FakeRenderer(), storage, self.settings, clock)
        self.sweeps = SweepService(database, self.settings, clock)
        self.notifications = NotificationService(database, self.mails, storage, self.settings, clock)

    async def mail(self, job: JobKind) -> str:
        """Send the one mail of that kind that is due; return its text."""
        [row] = await rows(
            self.database, "SELECT entity_id FROM jobs WHERE kind = :kind AND state = 'PENDING'", kind=job
        )
        await self.notifications.send(await claim_for(self.database, row.entity_id, job))
        return self.mails.sent[-1].text


@pytest.fixture(params=ZONES)
def shop(request: pytest.FixtureRequest, database: Database, settings: Settings, clock: MovableClock) -> ShopIn:
    return ShopIn(request.param, database, settings, clock)


@pytest.mark.req("REQ-004.2", "REQ-001")
async def test_the_year_of_the_series_changes_at_the_shops_midnight(shop: ShopIn, admin: Actor) -> None:
    midnight = shop.time.start_of(datetime(2027, 1, 1).date())  # noqa: DTZ001 - a day
    moments = [midnight - timedelta(microseconds=1), midnight, midnight + timedelta(hours=5)]
    for moment in moments:
        shop.clock.now = moment
        order = await order_in(shop.orders, admin, OrderStatus.SHIPPED)
        await shop.invoices.issue(await claim_for(shop.database, order["id"], JobKind.ISSUE_INVOICE))
    issued = await rows(shop.database, "SELECT number, issued_on, storage_key, view FROM invoices ORDER BY number")
    assert [row.number for row in issued] == ["INV-2026-000001", "INV-2027-000001", "INV-2027-000002"]
    assert [row.issued_on.isoformat() for row in issued] == ["2026-12-31", "2027-01-01", "2027-01-01"]
    assert [row.storage_key[-12:] for row in issued] == ["20261231.pdf", "20270101.pdf", "20270101.pdf"]
    for row, year in zip(issued, ("2026", "2027", "2027"), strict=True):
        day = row.issued_on.isoformat()
        assert [row.view[name] for name in ("issued_on", "order_date", "shipped_on")] == [day, day, day]
        assert row.view["order_number"].startswith(f"ORD-{year}-")


@pytest.mark.req("REQ-002.2", "REQ-006")
@pytest.mark.parametrize(
    "delivered_at",
    [
        datetime(2026, 10, 24, 23, 40, tzinfo=UTC),  # winter time begins that night in Europe
        datetime(2027, 2, 12, 3, 29, 59, tzinfo=UTC),  # one second to midnight in St. John's
        datetime(2026, 12, 2, 10, 0, tzinfo=UTC),  # midnight on Kiritimati
    ],
)
async def test_a_return_is_accepted_up_to_the_last_moment_of_the_day_that_the_mail_names(
    shop: ShopIn, admin: Actor, delivered_at: datetime
) -> None:
    shop.clock.now = delivered_at
    kept, late = [await order_in(shop.orders, admin, OrderStatus.DELIVERED) for _ in range(2)]
    await execute(
        shop.database,
        "UPDATE jobs SET state = 'DISMISSED' WHERE entity_id <> :id OR kind <> :kind",
        id=kept["id"],
        kind=JobKind.NOTIFY_ORDER_DELIVERED,
    )
    text = " ".join((await shop.mail(JobKind.NOTIFY_ORDER_DELIVERED)).split())
    named = text.partition("Returns until: ")[2].split()[:3]
    last_day = datetime.strptime(" ".join(named), "%d %B %Y").date()  # noqa: DTZ007 - a day
    delivered_on = shop.clock.now.astimezone(shop.time.zone).date()
    assert (last_day - delivered_on).days == shop.settings.return_window_days
    end = datetime.combine(last_day + timedelta(days=1), datetime.min.time(), shop.time.zone).astimezone(UTC)
    shop.clock.now = end - timedelta(microseconds=1)
    asked = ReturnCreate.model_validate({"order_id": kept["id"], "reason": "Too small"})
    assert (await shop.returns.create(asked, admin))["status"] == "REQUESTED"
    shop.clock.now = end
    asked = ReturnCreate.model_validate({"order_id": late["id"], "reason": "Too small"})
    with pytest.raises(ReturnNotAllowedError) as refusal:
        await shop.returns.create(asked, admin)
    assert isinstance(refusal.value.details, dict)
    assert refusal.value.details["window_closed_at"] == end
    assert f"was {named[0]} {named[1]} {named[2]}" in str(refusal.value)


@pytest.mark.req("REQ-004.8")
async def test_the_summary_is_of_the_shops_day_and_due_at_the_shops_hour(shop: ShopIn, admin: Actor) -> None:
    day = datetime(2026, 3, 29).date()  # noqa: DTZ001 - a day; of 23 hours in Paris
    begin, end = shop.time.start_of(day), shop.time.start_of(day + timedelta(days=1))
    instants = (begin - timedelta(seconds=1), begin, end - timedelta(seconds=1), end)
    for moment in instants:
        shop.clock.now = moment
        await order_in(shop.orders, admin, OrderStatus.PAID)
    six = datetime(2026, 3, 30, 6, tzinfo=shop.time.zone).astimezone(UTC)
    shop.clock.now = six - timedelta(microseconds=1)
    assert not await shop.sweeps.summarise_yesterday()
    shop.clock.now = six
    made = await asyncio.gather(*(shop.sweeps.summarise_yesterday() for _ in range(4)))
    assert sum(made) == 1
    [row] = await rows(shop.database, "SELECT payload FROM jobs WHERE kind = 'notify.daily_summary'")
    assert row.payload == {"day": "2026-03-29"}
    text = await shop.mail(JobKind.NOTIFY_DAILY_SUMMARY)
    assert "29 March 2026" in text
    assert "Orders placed: 2" in " ".join(text.split())
    assert "USD (2)" in text


async def test_orders_per_day_are_those_of_the_shops_days(shop: ShopIn, admin: Actor) -> None:
    today = datetime(2026, 11, 2).date()  # noqa: DTZ001 - a day, after the one of 25 hours in St. John's
    begin = shop.time.start_of(today)
    before = shop.time.start_of(today - timedelta(days=1))
    for moment in (before - timedelta(seconds=1), before, begin - timedelta(seconds=1), begin):
        shop.clock.now = moment
        await order_in(shop.orders, admin, OrderStatus.PENDING_PAYMENT)
    days = (await StatsService(shop.database, shop.clock, shop_time=shop.time).collect(admin))["orders_per_day"]
    assert [(each["day"].isoformat(), each["orders"]) for each in days[-3:]] == [
        ("2026-10-31", 1),
        ("2026-11-01", 2),
        ("2026-11-02", 1),
    ]
