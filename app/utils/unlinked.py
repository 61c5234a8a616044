"""Text of callers in messages: it is shown, and no mail or telephone program makes a link of it (NFR-004).

The caller who places an order chooses the address of its mails. A link in a text of theirs would be sent to a stranger
in the shop's name.
"""

import re
from typing import Final

GREETING_MAXIMUM: Final = 60
"""Characters of a name that is greeted; a longer one is more likely a text than a name."""
PLACE_MAXIMUM: Final = 40
"""Characters of the name of a city that is shown."""
_PLACE_DIGITS: Final = 2
"""Digits in the name of a city: `Dublin 14`, but no telephone number."""

_DOT: Final = "[.\u3002\uff0e\uff61]"
# "https:", "mailto:", "javascript:" in front of anything but a blank.
_SCHEME: Final = re.compile(r"(?<![^\W_])[A-Za-z][A-Za-z0-9+.-]{1,20}:(?=[^\s\d])/{0,3}")
# Mail programs make links of `www.` and of any name with a dot and letters behind it, known top-level domain or not.
_INNER_DOT: Final = re.compile(rf"(?<=[\w\]-]){_DOT}(?=[^\W\d_])")
_AT: Final = re.compile(r"(?<=\S)[@\uff20](?=\S)")
_POSTAL_CODE: Final = re.compile(r"(?=.*\d)[A-Z0-9][A-Z0-9 -]{0,9}", re.ASCII | re.IGNORECASE)
# A dot in a name follows an initial and precedes a capital: J.R.Tolkien.
_NO_NAME: Final = re.compile(rf"[\d@\uff20/\\:<>|]|(?<!\b\w){_DOT}(?=[^\W\d_])|{_DOT}(?=[a-z])")


def unlinked(text: str) -> str:
    """Return `text` with schemes taken out and a space behind each dot inside a word, and around each @.

    `Vase, see https://shop.example/x` becomes `Vase, see shop. example/x`.
    """
    text = _SCHEME.sub("", text)
    return _AT.sub(" @ ", _INNER_DOT.sub(". ", text))


def is_link_like(text: str) -> bool:
    """Return whether a program that shows `text` may make a link of a part of it."""
    return unlinked(text) != text


def greeting_name(name: str | None) -> str | None:
    """Return the name to greet with; None where it is not one: too long, or with digits, a link or an address."""
    if name is None or len(name) > GREETING_MAXIMUM or _NO_NAME.search(name):
        return None
    return unlinked(name)


def place_name(city: str) -> str | None:
    """Return the name of a city; None where it is not one: too long, or with many digits, a link or an address."""
    letters = re.sub(r"\d", "", city)
    if (
        len(city) > PLACE_MAXIMUM
        or len(city) - len(letters) > _PLACE_DIGITS
        or _NO_NAME.search(letters.replace("/", " "))
    ):
        return None
    return unlinked(city)


def postal_code(code: str | None) -> str | None:
    """Return a postal code; None where it is not one: every country's has a digit, and at most 10 characters."""
    return code if code is not None and _POSTAL_CODE.fullmatch(code) else None
