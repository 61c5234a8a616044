"""Addresses in the order of their country's post, with the country's name."""

from typing import Any

import pytest

from app.schemas.iso_codes import COUNTRIES
from app.utils.postal_address import country_name, postal_lines

pytestmark = pytest.mark.req("REQ-004", "REQ-006")


def lines(country: str, city: Any = "City", **fields: Any) -> list[str]:
    given = {"street": "1 Street", "city": city, "state": "ST", "postal_code": "12345", "country": country}
    return postal_lines(given | fields)


@pytest.mark.parametrize(
    ("country", "expected"),
    [
        ("FR", ["1 Street", "12345 City", "ST", "France"]),
        ("DE", ["1 Street", "12345 City", "ST", "Germany"]),
        ("US", ["1 Street", "City, ST 12345", "United States"]),
        ("CA", ["1 Street", "City, ST 12345", "Canada"]),
        ("AU", ["1 Street", "City ST 12345", "Australia"]),
        ("GB", ["1 Street", "City", "ST", "12345", "United Kingdom"]),
        ("IE", ["1 Street", "City", "ST", "12345", "Ireland"]),
        ("HU", ["City", "1 Street", "12345", "ST", "Hungary"]),
        ("BR", ["1 Street", "City - ST", "12345", "Brazil"]),
        ("IT", ["1 Street", "12345 City ST", "Italy"]),
        ("IN", ["1 Street", "City 12345", "ST", "India"]),
        ("JP", ["1 Street", "City, ST", "12345", "Japan"]),
        ("TR", ["1 Street", "12345 City/ST", "Türkiye"]),
        ("HK", ["1 Street", "City ST", "12345", "Hong Kong"]),
    ],
)
def test_the_lines_are_in_the_order_of_the_country(country: str, expected: list[str]) -> None:
    assert lines(country) == expected


@pytest.mark.parametrize(
    ("country", "fields", "expected"),
    [
        (
            "JP",
            {"street": "神宮前1-2-3", "city": "渋谷区", "state": "東京都", "postal_code": "150-0001"},
            ["〒150-0001", "東京都渋谷区", "神宮前1-2-3", "Japan"],
        ),
        (
            "CN",
            {"street": "建国路1号", "city": "北京市", "state": None, "postal_code": "100020"},
            ["100020", "北京市", "建国路1号", "China"],
        ),
        (
            "KR",
            {"street": "세종대로 1", "city": "종로구", "state": "서울", "postal_code": "03154"},
            ["서울 종로구", "세종대로 1", "03154", "South Korea"],
        ),
        ("JP", {"city": "渋谷区", "postal_code": None, "state": ""}, ["渋谷区", "1 Street", "Japan"]),
    ],
)
def test_an_east_asian_address_in_its_own_script_begins_with_the_largest(
    country: str, fields: dict[str, Any], expected: list[str]
) -> None:
    assert lines(country, **fields) == expected


@pytest.mark.parametrize(
    ("country", "missing", "expected"),
    [
        ("US", ("state",), ["1 Street", "City 12345", "United States"]),
        ("US", ("postal_code",), ["1 Street", "City, ST", "United States"]),
        ("US", ("state", "postal_code"), ["1 Street", "City", "United States"]),
        ("TR", ("state",), ["1 Street", "12345 City", "Türkiye"]),
        ("FR", ("state",), ["1 Street", "12345 City", "France"]),
        ("HK", ("state", "postal_code"), ["1 Street", "City", "Hong Kong"]),
    ],
)
def test_what_an_address_lacks_leaves_no_mark(country: str, missing: tuple[str, ...], expected: list[str]) -> None:
    assert lines(country, **dict.fromkeys(missing)) == expected


@pytest.mark.parametrize("country", sorted(COUNTRIES))
def test_nothing_of_an_address_is_lost_in_any_country(country: str) -> None:
    for city in ("Town", "東京"):
        *printed, last = lines(country, city, street2="Floor 2")
        for part in ("1 Street", "Floor 2", city, "ST", "12345"):
            assert sum(part in line for line in printed) == 1, part
        assert last == country_name(country)


def test_every_country_has_a_name() -> None:
    assert [code for code in COUNTRIES if country_name(code) == code] == []
    assert country_name("XX") == "XX"
