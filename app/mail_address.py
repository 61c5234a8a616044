"""Mail addresses that can be sent to, in the form that goes on the wire (REQ-006, INT-002).

Accepted: an ASCII dot-atom before the @ (RFC 5321 section 4.1.2, without quoted strings) and a domain of letters,
digits and hyphens, or an international one, which becomes its A-labels by IDNA 2008 (RFC 5891, with the mapping of
UTS 46). Every mail server takes these; a local part beyond ASCII needs SMTPUTF8 at each server on the way.
"""

import re
from typing import Final

import idna

LONGEST: Final = 254
"""Characters of an address: a path of 256 with its angle brackets (RFC 5321 section 4.5.3.1.3)."""

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TOP_LABEL: Final = r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
PATTERN: Final = rf"^{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+{_TOP_LABEL}$"
"""What the document says of an address in ASCII; `MailAddress` also takes international domains."""

_LOCAL_PART: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*", re.ASCII)
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}\.)*{_TOP_LABEL}", re.ASCII)
_LONGEST_LOCAL_PART: Final = 64
_LONGEST_DOMAIN: Final = 253


def mail_address(text: str, *, is_public: bool = True) -> str:
    """Return an address as it is sent to: unchanged in ASCII, an international domain as A-labels.

    Args:
        text: the address, without a display name.
        is_public: whether the domain must have a dot; `operations@mailhost` is for settings only.

    Raises:
        ValueError: mail cannot be sent to it.
    """
    local, _, domain = text.rpartition("@")
    if len(local) > _LONGEST_LOCAL_PART or not _LOCAL_PART.fullmatch(local):
        raise ValueError(
            "must be a mail address such as name@shop.example: letters, digits and single dots before the @"
        )
    try:
        written = ascii_domain(domain)
    except ValueError:
        raise ValueError("must be a mail address with a domain behind the @ that mail can be sent to") from None
    if is_public and "." not in written:
        raise ValueError("must have a domain with a dot behind the @")
    if len(local) + 1 + len(written) > LONGEST:
        raise ValueError(f"must not be longer than {LONGEST} characters")
    return f"{local}@{written}"


def ascii_domain(domain: str) -> str:
    """Return a domain as mail servers and DNS take it; one in ASCII stays as it is.

    Raises:
        ValueError: it is not a domain.
    """
    written = domain
    # Cut off before the conversion, which reads each label several times.
    if len(domain) <= _LONGEST_DOMAIN and not domain.isascii():
        try:
            written = idna.encode(domain, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise ValueError("not a mail domain") from None
    if len(written) > _LONGEST_DOMAIN or not _DOMAIN.fullmatch(written):
        raise ValueError("not a mail domain")
    return written


def masked(recipient: str) -> str:
    """Return a mail address or telephone number for records that many read: `a…@shop.example`, `+3…78`."""
    local, at, domain = recipient.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else f"{recipient[:2]}…{recipient[-2:]}"
