"""Which countries and currencies an order can have: those of ISO 3166-1, and those of ISO 4217 that are money in use."""

import pycountry
import pytest
from pydantic import TypeAdapter, ValidationError

from app.schemas.common import Currency
from app.schemas.iso_codes import COUNTRIES, CURRENCIES, PATH
from tools import iso_codes

pytestmark = pytest.mark.req("REQ-001")

CURRENCY: TypeAdapter[str] = TypeAdapter(Currency)


def test_the_file_is_current() -> None:
    assert PATH.read_text(encoding="utf-8") == iso_codes.as_json(), "run `python -m tools.iso_codes`"


def test_the_file_holds_as_many_codes_as_the_standards() -> None:
    assert len(COUNTRIES) == 249
    assert len(CURRENCIES) == 154


@pytest.mark.parametrize("code", ["USD", "EUR", "JPY", "KWD", "CHF", "SLE", "SVC", "VES", "XAF", "XCG", "XPF", "ZWG"])
def test_a_currency_in_use_is_accepted(code: str) -> None:
    assert CURRENCY.validate_python(code) == code


@pytest.mark.parametrize(
    "code",
    [
        *("ANG", "BGN", "CUC", "DEM", "HRK", "MRO", "SLL", "STD", "VEF", "ZWL"),  # withdrawn
        *("CHE", "CLF", "USN", "XAU", "XBA", "XDR", "XTS", "XXX"),  # no money
        *("VED", "ABC", "usd", "US", ""),
    ],
)
def test_any_other_code_is_refused(code: str) -> None:
    with pytest.raises(ValidationError):
        CURRENCY.validate_python(code)


def test_what_is_left_out_is_in_the_standard() -> None:
    """A code that ISO withdraws leaves the exceptions too."""
    assert {currency.alpha_3 for currency in pycountry.currencies} >= iso_codes.NO_MONEY
