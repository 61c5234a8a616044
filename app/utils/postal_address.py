"""Postal addresses as printed: the order of each country's post, the country by name (REQ-004).

The orders are those of the national posts as the Universal Postal Union publishes them
(https://www.upu.int/en/postal-solutions/programmes-services/addressing-solutions). Country names are the English ones
of the Unicode CLDR, through Babel.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from babel import Locale

# A line a part; A is the street lines, C the city, S the state or province, Z the postal code, the rest is printed
# between two values that are there. What an order leaves out although the address has it comes on a line of its own.
_USUAL: Final = "A|Z C|S"
_ORDERS: Final[Mapping[str, str]] = {
    "A|C, S Z": "BB CA US",
    "A|C S Z": "AS AU CC CX FM GU HM MH MP NF PR PW UM VI",
    "A|C|S|Z": "AC AI EG FK GB GG GI GS IE IM IO IQ JE KE LK PN RU SH SZ TA TC UA VG ZA",
    "A|C Z|S": "BH BM BN BT IL IN JO KH LB LS MM MT MV NG NP NZ PE SA SG VC",
    "A|C, S|Z": "CN CR CU HN JP KP KR TW",
    "A|C|S Z": "ID MN TH VN",
    "A|C S": "AE BS HK KN KI KY MO NR PA SC SR TV",
    "A|Z C, S": "MX",
    "A|Z C S": "ES IT LT PF RO UY",
    "A|Z C/S": "TR",
    "A|C - S|Z": "BR",
    "A|C, S, Z": "CO",
    "A|C Z, S": "VE",
    "A|C-Z|S": "BD PK",
    "A|C, Z|S": "LV",
    "A|C Z S": "PG",
    "A|Z|C|S": "AL AM EC MU NI OM",
    "C|A|Z": "HU",
}
_ORDER_OF: Final = {country: order for order, countries in _ORDERS.items() for country in countries.split()}
# Written in their own script, these begin with what is largest.
_NATIVE: Final[Mapping[str, str]] = {
    "CN": "Z|S C|A",
    "HK": "S|C|A",
    "JP": "〒Z|SC|A",
    "KP": "S C|A|Z",
    "KR": "S C|A|Z",
    "MO": "C|A",
    "TW": "Z|SC|A",
}
_EAST_ASIAN: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")
_TOKEN: Final = re.compile("[ACSZ]|[^ACSZ]+")
_OWN_NAMES: Final = {"HK": "Hong Kong", "MM": "Myanmar", "MO": "Macao"}
"""CLDR adds the state, or a former name, to these."""


def postal_lines(address: Mapping[str, Any]) -> list[str]:
    """Return an address, line by line, without the name of whom it reaches.

    Args:
        address: `street`, `city`, `country` (ISO 3166-1 alpha-2), and where it has them `street2`, `state`,
            `postal_code`.
    """
    country = str(address["country"])
    values = {
        "C": address.get("city") or "",
        "S": address.get("state") or "",
        "Z": address.get("postal_code") or "",
    }
    native = country in _NATIVE and _EAST_ASIAN.search(f"{values['C']}{values['S']}")
    order = _NATIVE[country] if native else _ORDER_OF.get(country, _USUAL)
    streets = [line for line in (address.get("street"), address.get("street2")) if line]
    lines: list[str] = []
    for part in order.split("|"):
        lines += streets if part == "A" else [_line(part, values)]
    lines += [value for field, value in values.items() if field not in order]
    return [*(line for line in lines if line), country_name(country)]


@cache
def country_name(code: str) -> str:
    """Return a country's English name; a code that no country has stays as it is."""
    return _OWN_NAMES.get(code) or str(Locale("en").territories.get(code, code))


def _line(part: str, values: Mapping[str, str]) -> str:
    """Return one line of an order; the text between two fields is left out where one of them is empty."""
    line, between = "", ""
    for token in _TOKEN.findall(part):
        if token not in values:
            between = token
        elif values[token]:
            line += (between if line or between == "〒" else "") + values[token]
            between = ""
    return line
