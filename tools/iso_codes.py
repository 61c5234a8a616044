"""`python -m tools.iso_codes`: write `app/schemas/iso_codes.json` from pycountry's ISO 3166-1 and ISO 4217.

Run it after an update of pycountry; a test compares the file with what the installed release has.
"""

import json
import sys

import pycountry

from app.schemas.iso_codes import PATH

NO_MONEY = frozenset(
    {
        *("BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "UYI", "UYW"),  # funds and units of account
        *("XAG", "XAU", "XPD", "XPT"),  # metals
        *("XBA", "XBB", "XBC", "XBD"),  # units of the bond market
        *("XAD", "XDR", "XSU", "XUA"),  # units of account between banks and states
        *("XTS", "XXX"),  # for tests, and for no currency
        "VED",  # the same bolívar as VES: prices are in VES
    }
)
"""Codes of ISO 4217 that no price is in."""


def as_json() -> str:
    """Return the text of the file: one code a line, so that a change can be read."""
    codes = {
        "countries": sorted(country.alpha_2 for country in pycountry.countries),
        "currencies": sorted({currency.alpha_3 for currency in pycountry.currencies} - NO_MONEY),
    }
    return json.dumps(codes, indent=1) + "\n"


def main() -> None:
    """Write the file if it is not current."""
    made = as_json()
    if not PATH.exists() or PATH.read_text(encoding="utf-8") != made:
        PATH.write_text(made, encoding="utf-8")
        sys.stdout.write(f"{PATH}\n")


if __name__ == "__main__":
    main()
