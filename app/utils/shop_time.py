"""Days of the shop: the only place that turns a moment into a day, and a day into moments (REQ-002, REQ-004).

Moments are stored, compared and sent in UTC. A day (date of issue, year of a number series, last day for a return, day
of a daily figure) is the one on the calendar of `SHOP_TIMEZONE`.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from app.config import Settings


@dataclass(frozen=True, slots=True)
class ShopTime:
    """The calendar of a time zone of the IANA database."""

    zone: ZoneInfo

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the calendar of `SHOP_TIMEZONE`."""
        return cls(ZoneInfo(settings.shop_timezone))

    def local(self, moment: datetime) -> datetime:
        """Return the same moment as the shop's clock shows it.

        Raises:
            ValueError: the moment has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        return moment.astimezone(self.zone)

    def day(self, moment: datetime) -> date:
        """Return the shop's day at a moment.

        Raises:
            ValueError: the moment has no time zone.
        """
        return self.local(moment).date()

    def start_of(self, day: date) -> datetime:
        """Return the moment, in UTC, at which a day begins; the day before ends there.

        Where the clock is put forward at midnight, that is the moment of the change. Where midnight comes twice, it is
        the first one.
        """
        return datetime.combine(day, time.min, self.zone).astimezone(UTC)

    def days_back(self, now: datetime, count: int) -> list[date]:
        """Return the last `count` days, today included, oldest first."""
        today = self.day(now)
        return [today - timedelta(days=back) for back in range(count - 1, -1, -1)]


UTC_CALENDAR = ShopTime(ZoneInfo("UTC"))
"""The calendar of a shop that sets no time zone."""


@dataclass(frozen=True, slots=True)
class ReturnWindow:
    """How long a delivered order can be returned: to the end of the shop's day, `days` after delivery (REQ-002)."""

    days: int
    shop_time: ShopTime

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the window of `RETURN_WINDOW_DAYS` in `SHOP_TIMEZONE`."""
        return cls(settings.return_window_days, ShopTime.from_settings(settings))

    def last_day(self, delivered_at: datetime) -> date:
        """Return the last day on which a return can be requested, as mails promise it."""
        return self.shop_time.day(delivered_at) + timedelta(days=self.days)

    def closes_at(self, delivered_at: datetime) -> datetime:
        """Return the first moment at which a return can no longer be requested: the end of the last day."""
        return self.shop_time.start_of(self.last_day(delivered_at) + timedelta(days=1))
