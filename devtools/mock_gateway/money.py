"""Amounts: decimal strings on the wire, integer minor units in the ledger, never a float."""

import re

from devtools.mock_gateway.errors import invalid

_NO_MINOR_UNIT = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV"}
    | {"XAF", "XOF", "XPF"}
)
_THREE_DECIMALS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?", re.ASCII)


def decimals(currency: str) -> int:
    """Return the number of decimals of an ISO 4217 currency: 0, 2 or 3."""
    if currency in _NO_MINOR_UNIT:
        return 0
    return 3 if currency in _THREE_DECIMALS else 2


def to_minor(text: str, currency: str) -> int:
    """Return "120.50" USD as 12050; zeros beyond the currency's decimals are welcome ("500.00" JPY).

    Raises:
        RefusalError: 400 `amount_invalid` when it is no positive amount of this currency.
    """
    match = _AMOUNT.fullmatch(text)
    places = decimals(currency)
    fraction = "" if match is None else (match[2] or "").rstrip("0")
    if match is None or len(fraction) > places:
        raise invalid("amount_invalid", f"Amount must look like 120.50, with at most {places} decimals.")
    minor = int(match[1] + fraction.ljust(places, "0"))
    if minor == 0:
        raise invalid("amount_invalid", "Amount must be more than zero.")
    return minor


def to_text(minor: int, currency: str) -> str:
    """Return 12050 USD as "120.50"."""
    places = decimals(currency)
    if places == 0:
        return str(minor)
    whole, rest = divmod(minor, 10**places)
    return f"{whole}.{rest:0{places}d}"
