"""Text of others, and text that may quote others, without addresses, tokens and card numbers (NFR-004).

Mail servers and payment gateways quote what they were sent: addresses, tokens, keys. Their answers help to find the
cause of a failure, so they are kept, without these. A name in them cannot be recognised and stays.

The text is cut before anything else looks at it, and every expression here reads each character a bounded number of
times, so the cost does not depend on how long an answer is.
"""

import re
from collections.abc import Iterable
from typing import Final

from app.utils.card_numbers import holds_card_number

FOREIGN_MAXIMUM: Final = 300
"""Characters kept of what another system answered."""

_WINDOW: Final = 4096
"""Characters read for a result of up to a quarter of that; what is redacted makes the text shorter."""
_MARGIN: Final = 64
"""Characters dropped at the end of a text that was cut: a secret cut in two is too short to be recognised."""

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
# Whole words are matched and then judged: an expression that looks for "@" itself reads a long word once per character.
_WORD = re.compile(r"[^\s<>'\"]+")
# A prefix as payment providers and this system use it, or a signed token.
_PREFIXED = re.compile(r"\b(?:sk|pk|rk|tok|pm|src|card|cus|seti|whsec|ack)_[\w-]{3,}|\beyJ[\w-]{5,}(?:\.[\w-]+){0,2}")
_LONG_WORD = re.compile(r"[\w+/-]{24,}={0,2}")
_LONG_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){12,18}")


def without_addresses(text: str, maximum: int) -> str:
    """Return at most `maximum` characters of `text`, each word that holds a mail address replaced by `<address>`.

    For messages of our own exceptions, which may quote an address and never a token.

    Args:
        text: of any length; lone surrogates are kept.
        maximum: at most 1024.
    """
    cut, margin = _cut(text, _MARGIN)
    return _finished(_WORD.sub(_address, cut), margin, maximum)


def redact_foreign_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` in one line of at most 300 characters, without addresses, tokens, keys and card numbers.

    Args:
        text: what a server answered, of any length.
        secrets: what else must not be in it, such as our own password.
    """
    known = [secret for secret in secrets if secret]
    cleaned, margin = _cut(text, max([_MARGIN, *map(len, known)]))
    for secret in known:
        cleaned = cleaned.replace(secret, "<secret>")
    cleaned = _BLANKS.sub(" ", cleaned).strip()
    cleaned = _WORD.sub(_address, cleaned)
    cleaned = _PREFIXED.sub("<token>", cleaned)
    cleaned = _LONG_WORD.sub(_token, cleaned)
    cleaned = _LONG_NUMBER.sub(lambda found: "<number>" if holds_card_number(found[0]) else found[0], cleaned)
    return _finished(cleaned, margin, FOREIGN_MAXIMUM)


def _cut(text: str, margin: int) -> tuple[str, int]:
    """Return what is read of `text`, and how much of its end must not be shown."""
    return (text, 0) if len(text) <= _WINDOW + margin else (text[: _WINDOW + margin], margin)


def _finished(redacted: str, margin: int, maximum: int) -> str:
    return redacted[: max(0, min(maximum, len(redacted) - margin))]


def _address(found: re.Match[str]) -> str:
    return "<address>" if "@" in found[0].strip("@") else found[0]


def _token(found: re.Match[str]) -> str:
    """Judge a long word: only secrets are that long and mix digits and letters."""
    word = found[0]
    is_mixed = any(map(str.isdecimal, word)) and any(letter.isascii() and letter.isalpha() for letter in word)
    return "<token>" if is_mixed else word
