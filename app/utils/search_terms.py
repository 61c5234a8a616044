"""Search terms: what an order is found by, and the query for what a person types (REQ-005).

Both sides go through the same `folded`, in Python. PostgreSQL never changes the case of a name: what `lower()` does there
depends on the collation, and under `C` it knows ASCII alone.

An order's terms are the lexemes of a tsvector. Each can be found by its beginning. One that can be found by its end is
stored a second time, backwards behind `~`.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.mail_address import ascii_domain

MAXIMUM_TERM_LENGTH = 400
"""Characters of a term; a lexeme of PostgreSQL holds 2,046 bytes, and a character is at most four."""

_WORD = re.compile(r"[^\W_]+")
_PHONE = re.compile(r"\+?[0-9][0-9 ()./-]{3,}")
_NUMBER = re.compile(r"(?:ord|ret|inv|cn)-[0-9]{4}(?:-[0-9]*)?")
"""The beginning of a number of ours, an order's, a return's or a document's. They are stored whole."""
_RARE = re.compile(r"[0-9]{5}|\S@[^\s.@]+\.\S")
_LETTERS = str.maketrans(
    {"\u0131": "i", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
)
"""Letters whose mark Unicode does not take apart. U+0131 is the small form of the Turkish `I`, which folds to `i`."""
_SUFFIX_LENGTH = 2
_SHORTEST_PHONE = 4
"""Digits."""
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]"
)
"""Scripts whose names have no space between their words: Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean."""


def folded(text: str) -> str:
    """Return text without differences of case, of Unicode normal form, of width, and without marks on letters.

    >>> folded("\u00c9lodie"), folded("\u00dcNAL"), folded("\u0418\u0432\u0430\u043d")
    ('elodie', 'unal', '\u0438\u0432\u0430\u043d')
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(c for c in decomposed if not unicodedata.category(c).startswith("M"))
    return unicodedata.normalize("NFC", plain).translate(_LETTERS)


def order_terms(
    *,
    email: str,
    addresses: Iterable[Mapping[str, Any]],
    names: Iterable[str | None] = (),
    phone: str | None = None,
    order_number: str | None = None,
) -> list[str]:
    """Return the terms of an order, without repetitions, sorted.

    Args:
        addresses: as orders hold them; the member `name` is read.
        names: of persons and companies.
        order_number: None where the statement that makes the number adds its terms.
    """
    terms = {folded(email)}
    if order_number is not None:
        terms.update(both_ways(folded(order_number)))
    local_part = folded(email.rpartition("@")[0])
    terms.update(_suffixes(local_part))
    for name in (*names, *(address.get("name") for address in addresses)):
        for word in _WORD.findall(folded(name or "")):
            terms.add(word)
            if _UNSPACED.search(word):
                terms.update(_suffixes(word))
    digits = _digits(phone or "")
    if digits:
        terms.update(both_ways(digits))
    return sorted(term[:MAXIMUM_TERM_LENGTH] for term in terms if term)


def both_ways(term: str) -> tuple[str, str]:
    """Return the two terms by which something is found from its beginning and from its end."""
    return term, f"~{term[::-1]}"


def tsquery(typed: str) -> str:
    """Return what a person typed as the text of a `tsquery`.

    Each part between spaces must be found: as it is, by its words, or as the end of a number. A telephone number may be
    typed with spaces. Nothing that can be searched for gives the empty text, which matches nothing.
    """
    phone = typed.strip()
    if _PHONE.fullmatch(phone) and " " in phone:
        return _any(_phone(phone))
    parts = [query for part in folded(_with_a_labels(typed)).split() if (query := _part(part))]
    return " & ".join(parts)


def is_of_few(typed: str) -> bool:
    """Return whether few orders can have what a person typed: it has a long number or a whole e-mail address.

    >>> is_of_few("ORD-2026-000123"), is_of_few("ada@example.com"), is_of_few("ord-2026-0"), is_of_few("Ada")
    (True, True, False, False)
    """
    return _RARE.search(typed) is not None


def _part(part: str) -> str:
    if _NUMBER.fullmatch(part):
        # Its words would be looked for as well: `ord` is the beginning of a term of every order.
        return _any(map(_prefix, both_ways(part)))
    words = _WORD.findall(part)
    choices = [_prefix(part)]
    if len(part) > 1:
        choices.append(_prefix(f"~{part[::-1]}"))
    if _PHONE.fullmatch(part):
        choices += _phone(part)
    if words and words != [part]:
        choices.append("(" + " & ".join(map(_prefix, words)) + ")")
    return _any(dict.fromkeys(choices)) if words else ""


def _phone(typed: str) -> list[str]:
    """Return the choices for a telephone number, with the leading zeros of a national one or of `00` left out too."""
    digits = _digits(typed)
    plain = digits.lstrip("0")
    choices = [_prefix(term) for term in both_ways(digits)]
    return [*choices, _prefix(both_ways(plain)[1])] if digits != plain and len(plain) >= _SHORTEST_PHONE else choices


def _with_a_labels(typed: str) -> str:
    """Return what was typed with international domains of e-mail addresses as orders hold them, before it is folded."""
    return " ".join(_address(part) if "@" in part and not part.isascii() else part for part in typed.split())


def _address(part: str) -> str:
    local, _, domain = part.rpartition("@")
    try:
        return f"{local}@{ascii_domain(domain)}"
    except ValueError:
        return part


def _any(choices: Iterable[str]) -> str:
    return "(" + " | ".join(choices) + ")"


def _prefix(term: str) -> str:
    quoted = term[:MAXIMUM_TERM_LENGTH].replace("\\", "\\\\").replace("'", "''")
    # One letter would be the beginning of too much; one character of these scripts is a surname.
    return f"'{quoted}':*" if len(term) > 1 or _UNSPACED.match(term) else f"'{quoted}'"


def _digits(phone: str) -> str:
    return "".join(str(unicodedata.digit(c)) for c in phone if unicodedata.digit(c, None) is not None)


def _suffixes(text: str) -> Iterator[str]:
    return (text[start:] for start in range(max(1, len(text) - _SUFFIX_LENGTH + 1)))
