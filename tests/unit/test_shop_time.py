"""The shop's calendar: days, their edges, and who may turn a moment into a day."""

import ast
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.config import ROOT, Settings, SettingsError, get_settings
from app.services.notifications.kinds import KINDS
from app.services.notifications.rendering import render_mail
from app.utils.shop_time import ReturnWindow, ShopTime


def shop(zone: str) -> ShopTime:
    return ShopTime.from_settings(Settings(_env_file=None, shop_timezone=zone))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.req("REQ-004")
@pytest.mark.parametrize(
    ("zone", "moment", "day"),
    [
        ("UTC", "2026-12-31T23:59:59.999999+00:00", "2026-12-31"),
        ("UTC", "2027-01-01T00:00:00+00:00", "2027-01-01"),
        ("Europe/Paris", "2026-12-31T22:59:59+00:00", "2026-12-31"),
        ("Europe/Paris", "2026-12-31T23:00:00+00:00", "2027-01-01"),
        ("Pacific/Kiritimati", "2026-12-31T09:59:59+00:00", "2026-12-31"),
        ("Pacific/Kiritimati", "2026-12-31T10:00:00+00:00", "2027-01-01"),
        ("America/St_Johns", "2027-01-01T03:29:59+00:00", "2026-12-31"),
        ("America/St_Johns", "2027-01-01T03:30:00+00:00", "2027-01-01"),
        # Summer time, so half an hour and an hour off.
        ("America/St_Johns", "2026-07-02T02:29:59+00:00", "2026-07-01"),
        ("America/St_Johns", "2026-07-02T02:30:00+00:00", "2026-07-02"),
    ],
)
def test_a_moment_is_on_the_day_that_the_shops_calendar_shows(zone: str, moment: str, day: str) -> None:
    assert shop(zone).day(at(moment)).isoformat() == day


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Paris", date(2026, 3, 29), 23),
        ("Europe/Paris", date(2026, 10, 25), 25),
        ("Europe/Paris", date(2026, 6, 1), 24),
        # The clock is put forward at midnight: the day begins at one.
        ("Asia/Beirut", date(2026, 3, 29), 23),
        # It is put back at one in the morning: midnight comes twice, and the day begins at the first.
        ("America/Havana", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        # The day that Samoa left out.
        ("Pacific/Apia", date(2011, 12, 30), 0),
    ],
)
def test_days_are_as_long_as_the_clock_makes_them_and_leave_no_gap(zone: str, day: date, hours: float) -> None:
    calendar = shop(zone)
    begin, end = calendar.start_of(day), calendar.start_of(day + timedelta(days=1))
    assert end - begin == timedelta(hours=hours)
    if hours:
        assert calendar.day(begin) == calendar.day(end - timedelta(microseconds=1)) == day
    assert calendar.day(begin - timedelta(microseconds=1)) < day


@pytest.mark.req("REQ-002")
@pytest.mark.parametrize(
    ("zone", "delivered", "last_day", "closes"),
    [
        ("UTC", "2026-11-24T09:12:00+00:00", "2026-12-24", "2026-12-25T00:00:00+00:00"),
        ("UTC", "2026-11-24T00:00:00+00:00", "2026-12-24", "2026-12-25T00:00:00+00:00"),
        # Delivered in Paris on the 25th, though it is the 24th in UTC.
        ("Europe/Paris", "2026-11-24T23:30:00+00:00", "2026-12-25", "2026-12-25T23:00:00+00:00"),
        # Winter time began in between.
        ("Europe/Paris", "2026-10-10T10:00:00+00:00", "2026-11-09", "2026-11-09T23:00:00+00:00"),
        ("Europe/Paris", "2026-03-10T10:00:00+00:00", "2026-04-09", "2026-04-09T22:00:00+00:00"),
        ("Pacific/Kiritimati", "2026-12-01T10:00:00+00:00", "2027-01-01", "2027-01-01T10:00:00+00:00"),
        ("America/St_Johns", "2026-12-01T03:00:00+00:00", "2026-12-30", "2026-12-31T03:30:00+00:00"),
    ],
)
def test_the_return_window_ends_with_the_promised_day(zone: str, delivered: str, last_day: str, closes: str) -> None:
    window = ReturnWindow.from_settings(Settings(_env_file=None, shop_timezone=zone))
    assert window.last_day(at(delivered)).isoformat() == last_day
    assert window.closes_at(at(delivered)) == at(closes)
    assert window.shop_time.day(window.closes_at(at(delivered)) - timedelta(microseconds=1)).isoformat() == last_day


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its time zone"):
        shop("UTC").day(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@pytest.mark.req("NFR-005")
@pytest.mark.parametrize("name", ["", "Paris", "Europe", "UTC+2", "../etc/passwd", "/etc/localtime", "Europe/Paris\n"])
def test_an_unknown_time_zone_stops_the_start_and_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TIMEZONE", name)
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"SHOP_TIMEZONE: .* is no time zone of the IANA database"):
        get_settings()
    get_settings.cache_clear()


@pytest.mark.parametrize("name", ["DAILY_SUMMARY_HOUR", "DAILY_SUMMARY_HOUR_UTC"])
def test_the_hour_of_the_summary_is_read_under_its_old_name_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "21")
    assert Settings(_env_file=None).daily_summary_hour == 21


@pytest.mark.req("REQ-006")
@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", "2 December 2026, 22:30 UTC"),
        ("Europe/Paris", "2 December 2026, 23:30 CET"),
        ("America/St_Johns", "2 December 2026, 19:00 NST"),
        ("Pacific/Kiritimati", "3 December 2026, 12:30 UTC+14"),
    ],
)
def test_a_mail_shows_a_moment_in_the_shops_zone_and_names_it(zone: str, shown: str) -> None:
    moment = shop(zone).local(datetime(2026, 12, 2, 22, 30, tzinfo=UTC))
    assert shown in render_mail("goods_received", {**KINDS["goods_received"].sample, "received_at": moment}).text


def test_the_shipped_time_zone_data_are_used_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=())
    try:
        assert ZoneInfo.no_cache("America/St_Johns").utcoffset(datetime(2026, 7, 1)) == timedelta(hours=-2.5)  # noqa: DTZ001
    finally:
        zoneinfo.reset_tzpath(to=before)


# A PDF's creation date is a moment by its format: midnight of the date of issue.
_MAY_NAME_A_DAY = {"app/utils/shop_time.py", "app/utils/invoice_generator.py"}


def _names_a_moment(node: ast.expr) -> bool:
    return ast.unparse(node).endswith(("now", "_at", "_clock()"))


def _days_from_moments(source: str) -> list[int]:
    """Return the lines that turn a moment into a day or a year by themselves."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if (node.func.attr == "date" and not node.args) or called in {"date.today", "datetime.combine"}:
                found.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr == "year" and _names_a_moment(node.value):
            found.append(node.lineno)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "::date" in node.value:
            found.append(node.lineno)
    return found


def test_nothing_else_in_the_application_makes_a_day_of_a_moment() -> None:
    assert _days_from_moments("a = order.created_at.date()\nb = now.year\nc = text('x::date')\n") == [1, 2, 3]
    faults = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(path for folder in ("app", "devtools") for path in (ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in _MAY_NAME_A_DAY
        for line in _days_from_moments(path.read_text(encoding="utf-8"))
    ]
    assert not faults
