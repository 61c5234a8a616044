"""Money, dates, rates and foreign text as a customer reads them, the same in documents and mails.

Everything here is for people. The wire and the database have their own forms.
"""

import unicodedata
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal

_SYMBOLS = {
    "AUD": "A$",
    "CAD": "CA$",
    "EUR": "€",
    "GBP": "£",
    "HKD": "HK$",
    "INR": "₹",
    "JPY": "¥",
    "KRW": "₩",
    "NZD": "NZ$",
    "USD": "$",
}
# ISO 4217, those with exponent 0.
_WITHOUT_DECIMALS = frozenset(
    (
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "UYI",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    )
)
_METHODS = {
    "ALIPAY": "Alipay",
    "AMAZON_PAY": "Amazon Pay",
    "APPLE_PAY": "Apple Pay",
    "BANCONTACT": "Bancontact",
    "BANK_TRANSFER": "Bank transfer",
    "BLIK": "BLIK",
    "CARD": "Card",
    "CREDIT_CARD": "Credit card",
    "DEBIT_CARD": "Debit card",
    "DIRECT_DEBIT": "Direct debit",
    "GIFT_CARD": "Gift card",
    "GOOGLE_PAY": "Google Pay",
    "IDEAL": "iDEAL",
    "INVOICE": "Invoice",
    "KLARNA": "Klarna",
    "PAYPAL": "PayPal",
    "SEPA_DEBIT": "SEPA direct debit",
    "TWINT": "TWINT",
    "WECHAT_PAY": "WeChat Pay",
    "WIRE_TRANSFER": "Wire transfer",
}
_CENT = Decimal("0.01")
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_JOINERS = frozenset("\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}")
REPLACEMENT = "\N{WHITE SQUARE}"
"""Replaces a character that cannot be printed."""


def money_text(amount: Decimal | str, currency: str) -> str:
    """Return an amount with its currency, e.g. `€1,234.50`, `¥1,500`, `CHF 12.00`, and a minus sign before them.

    Currencies without a minor unit show none, unless the amount has one: what is owed is never rounded away.

    Args:
        amount: at most two decimals; text is accepted where the amount comes from JSON.
        currency: ISO 4217.

    Raises:
        ValueError: the amount is no number, is not finite or has more than two decimals.
    """
    value = _as_money(amount)
    whole = currency in _WITHOUT_DECIMALS and value == value.to_integral_value()
    digits = f"{abs(value):,.0f}" if whole else f"{abs(value):,.2f}"
    symbol = _SYMBOLS.get(currency)
    return (_MINUS if value < 0 else "") + (f"{symbol}{digits}" if symbol else f"{currency}{_SPACE}{digits}")


def rate_text(rate: Decimal) -> str:
    """Return a fraction as a percentage without superfluous zeros: 0.2000 gives `20%`, 0.0550 gives `5.5%`."""
    return f"{(rate * 100).normalize():f}%"


def date_text(value: date | str) -> str:
    """Return a day as `5 November 2026`; a moment is shown by the day of its own zone. ISO 8601 text is read first.

    Raises:
        ValueError: the text is no ISO 8601 date or moment.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return f"{value.day} {value:%B %Y}"


def payment_text(method: str) -> str:
    """Return a payment method by its usual name: `credit_card` gives `Credit card`; an unknown one stays as it is."""
    return known_payment_text(method) or method


def known_payment_text(method: str) -> str:
    """Return a payment method by its usual name, and an unknown one, which may be any text, as an empty string."""
    return _METHODS.get(method.upper().replace(" ", "_"), "")


def printable(text: str, supports: Callable[[str], bool] | None = None, *, keep_lines: bool = False) -> str:
    """Return text that any font, shaper and PDF profile can take.

    Composes accents, turns control characters into spaces, drops invisible ones (direction overrides could make a
    total read backwards) and replaces private, unassigned and unsupported characters with `REPLACEMENT`.

    Args:
        text: anything, lone surrogates included.
        supports: says whether a character has a glyph; all have when absent.
        keep_lines: keep line feeds.
    """
    kept: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if character == "\n" and keep_lines:
            kept.append(character)
        elif category in ("Cc", "Zl", "Zp", "Zs"):
            kept.append(_SPACE if character == _SPACE else " ")
        elif category == "Cf" and character not in _JOINERS:
            continue
        elif character in _JOINERS or category[0] == "M":
            # They only shape the character before them, and cannot follow a replacement.
            if kept and kept[-1] != REPLACEMENT and (supports is None or supports(character)):
                kept.append(character)
        elif category in ("Cs", "Co", "Cn") or (supports is not None and not supports(character)):
            kept.append(REPLACEMENT)
        else:
            kept.append(character)
    lines = "".join(kept).split("\n")
    return "\n".join(" ".join(part for part in line.split(" ") if part) for line in lines).strip()


def unsupported(text: str, supports: Callable[[str], bool]) -> str:
    """Return the characters of a text that `printable` would replace or leave out though they are meant to be seen.

    Args:
        text: anything.
        supports: says whether a character has a glyph.
    """
    missing: dict[str, None] = {}
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Zl", "Zp", "Zs") or _is_variation_selector(character):
            continue
        # What a font draws for a private character is its own affair.
        if category in ("Cs", "Co", "Cn") or not supports(character):
            missing[character] = None
    return "".join(missing)


def is_right_to_left(text: str) -> bool:
    """Return whether a text begins, its first letter decides, in a script that is written from right to left.

    The rule of the Unicode Bidirectional Algorithm for a paragraph (UAX 9, P2 and P3).
    """
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return kind != "L"
    return False


def _is_variation_selector(character: str) -> bool:
    """Say so of what only chooses among the forms of the character before it: without it, that is drawn all the same."""
    return "VARIATION SELECTOR" in unicodedata.name(character, "") or character == "\N{COMBINING GRAPHEME JOINER}"


def _as_money(amount: Decimal | str) -> Decimal:
    try:
        # A float that got here has lost its cents already.
        value = Decimal(amount) if isinstance(amount, Decimal | str) else Decimal("NaN")
    except ArithmeticError:
        raise ValueError(f"not an amount: {amount!r}") from None
    if not value.is_finite() or value != value.quantize(_CENT):
        raise ValueError(f"not an amount with at most two decimals: {amount!r}")
    return value
