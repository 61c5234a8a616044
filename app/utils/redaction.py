"""What others say in refusing us, fit to be kept beside a job, shown to an operator and reported (NFR-004).

Mail servers and payment gateways like to quote what they were sent: addresses, tokens, now and then a key. Their words
help whoever looks into a failure, so they are kept, without these. A name in them nobody can tell from other words.
"""

import re
from collections.abc import Iterable

from app.utils.card_numbers import holds_card_number

_MAXIMUM = 300
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_MAIL_ADDRESS = re.compile(r"[^\s<>@'\"]+@[^\s<>@'\"]+")
# A prefix as payment providers and we ourselves use it, a signed token, or a word as long and mixed as only secrets are.
_TOKEN = re.compile(
    r"\b(?:sk|pk|rk|tok|pm|src|card|cus|seti|whsec|ack)_[\w-]{3,}"
    r"|\beyJ[\w-]{5,}(?:\.[\w-]+){0,2}"
    r"|\b(?=[\w+/-]*\d)(?=[\w+/-]*[A-Za-z])[\w+/-]{24,}={0,2}"
)
_LONG_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){12,18}")


def foreign_words(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` in one line of at most 300 characters, without addresses, tokens, keys and card numbers.

    Args:
        text: what a server answered.
        secrets: what else must not be in it, our own password for one.
    """
    cleaned = _BLANKS.sub(" ", text).strip()
    for secret in secrets:
        if secret:
            cleaned = cleaned.replace(secret, "<secret>")
    cleaned = _MAIL_ADDRESS.sub("<address>", cleaned)
    cleaned = _TOKEN.sub("<token>", cleaned)
    cleaned = _LONG_NUMBER.sub(lambda found: "<number>" if holds_card_number(found[0]) else found[0], cleaned)
    return cleaned[:_MAXIMUM]
