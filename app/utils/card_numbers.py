"""Finding card numbers in text, so that none is ever stored: this system keeps tokens only (NFR-004).

A number of a card has 13 to 19 digits, the last of which is the Luhn check of the others (ISO/IEC 7812-1). One number
in ten passes that check by chance, so text that people and programs write freely is held to what real cards look like
as well: the prefix and length of a brand, in one piece or grouped as it is embossed.
"""

import re
import unicodedata
from typing import Any

_SHORTEST, _LONGEST = 13, 19

# A random id or a digest is no number, though it may have digits enough: a UUID, or 32 and more hexadecimal digits.
_RANDOM_ID = re.compile(
    r"(?<![0-9a-z])(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32,})(?![0-9a-z])", re.IGNORECASE
)
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[ \t\r\n._/-]{1,3}(?=[0-9])")
_RUN = re.compile(r"[0-9]+(?:-[0-9]+)*")

# Prefix and lengths: Visa, Mastercard (both ranges), American Express, Discover and UnionPay, JCB, Diners, Maestro.
_BRANDS = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}"
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|6[0-9]{15}(?:[0-9]{3})?"
    r"|35[0-9]{14}"
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"
    r"|5[06-8][0-9]{14}"
)
# In one piece, or as embossed. Each looks ahead: a number may begin inside of what another shape has taken.
_WRITTEN = tuple(
    re.compile(rf"(?<![0-9])(?=({shape})(?![0-9]))")
    for shape in (
        "[0-9]{16,19}",
        r"(?<!\+)[0-9]{13,15}",  # Behind a plus it is a telephone number (E.164: 15 digits at most).
        "[0-9]{4}(?:-[0-9]{4}){3}",
        "[0-9]{4}(?:-[0-9]{4}){3}-[0-9]{3}",
        "[0-9]{4}-[0-9]{6}-[0-9]{4,5}",
    )
)


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check of the others."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def may_be_card_number(text: str) -> bool:
    """Return whether any 13 to 19 digits side by side pass Luhn: for a short field where nothing like it belongs."""
    for run in _RUN.findall(_plain(text)):
        groups = run.split("-")
        for first in range(len(groups)):
            number = ""
            for group in groups[first:]:
                number += group
                if len(number) > _LONGEST:
                    break
                if len(number) >= _SHORTEST and number[0] in "23456" and passes_luhn(number):
                    return True
    return False


def holds_card_number(text: str) -> bool:
    """Return whether `text` holds what looks like the number of a real card: for free text of any length."""
    if len(text) < _SHORTEST:
        return False
    plain = _plain(text)
    written = (found.replace("-", "") for shape in _WRITTEN for found in shape.findall(plain))
    return any(_BRANDS.fullmatch(number) is not None and passes_luhn(number) for number in written)


def any_holds_card_number(value: Any) -> bool:
    """Return whether a JSON value holds a card number anywhere: in text, in a name, or as a number."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            pending += found.keys()
            pending += found.values()
        elif isinstance(found, list):
            pending += found
        elif (isinstance(found, str) or type(found) is int) and holds_card_number(str(found)):
            return True
    return False


def _plain(text: str) -> str:
    """Return `text` with every script's digits as 0 to 9, one hyphen for what parts digits, and without random ids."""
    plain = text if text.isascii() else "".join(map(_plain_character, text))
    return _BETWEEN_DIGITS.sub("-", _RANDOM_ID.sub("x", plain))


def _plain_character(character: str) -> str:
    value = unicodedata.decimal(character, -1)
    if value >= 0:
        return str(value)
    match unicodedata.category(character):
        case "Zs" | "Pd":
            return "-"
        case "Cf":
            return ""  # Invisible.
        case _:
            return character
