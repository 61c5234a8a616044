"""What an invoice or a credit note says, apart from how it looks (REQ-004).

A `DocumentView` is taken once, when the document is issued, and kept as JSON in its row. The paper is drawn
from that snapshot alone, so a customer who moves, a renamed product or a new template changes no document
that was already issued. A view whose lines do not add up to its totals cannot be built.
"""

import json
import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from app.config import Settings
from app.utils.json_values import JsonObject
from app.utils.postal_address import postal_lines

DocumentKind = Literal["INVOICE", "CREDIT_NOTE"]

_CURRENCY = re.compile(r"[A-Z]{3}")
# Nothing unknown comes back from a snapshot, and no customer's name gets into an error message.
_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
_MONEY_EXPONENT = -2
_RATE_EXPONENT = -4


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Someone the document names.

    Attributes:
        name: person or company.
        lines: postal address, one printed line each.
        tax_id: VAT or other tax number.
        email: address for questions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    lines: tuple[str, ...] = ()
    tax_id: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """One position. Amounts are net of tax, in the document's currency.

    Attributes:
        description: what was sold or credited.
        sku: the shop's article number.
        quantity: pieces, at least 1.
        unit_price: of one piece; negative for a deduction such as a restocking fee.
        tax_rate: a fraction, 0.2000 meaning 20 %.
        tax_amount: tax on the whole line, beside `subtotal`.
        subtotal: quantity x unit_price.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    description: str
    quantity: int
    unit_price: Decimal
    tax_rate: Decimal
    tax_amount: Decimal
    subtotal: Decimal
    sku: str | None = None

    def __post_init__(self) -> None:
        """Refuse a line that does not multiply out."""
        if type(self.quantity) is not int or self.quantity < 1:
            raise ValueError(f"quantity must be a whole number of at least 1, got {self.quantity!r}")
        for name in ("unit_price", "tax_amount", "subtotal"):
            _require_decimal(name, getattr(self, name), _MONEY_EXPONENT)
        _require_decimal("tax_rate", self.tax_rate, _RATE_EXPONENT)
        if self.tax_rate < 0:
            raise ValueError(f"tax_rate must not be negative, got {self.tax_rate}")
        if self.subtotal != self.quantity * self.unit_price:
            raise ValueError(f"subtotal {self.subtotal} is not {self.quantity} x {self.unit_price}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxBand:
    """What one tax rate contributes: the net amount it applies to and the tax on it."""

    rate: Decimal
    net: Decimal
    tax: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentView:
    """Everything an invoice or credit note prints.

    Attributes:
        kind: INVOICE or CREDIT_NOTE.
        number: from the document's own gapless series.
        issued_on: date of issue; also the creation date in the file, so that the same view gives the same bytes.
        order_number, order_date: the order it belongs to.
        seller, bill_to, ship_to: the parties; `ship_to` only where goods were sent.
        currency: ISO 4217.
        lines: at least one.
        subtotal, tax_total, shipping, total: the lines' sums; total = subtotal + tax_total + shipping.
            Positive on a credit note too: it is the amount given back.
        payment_method, payment_reference: how it was paid, or paid back.
        refers_to: on a credit note, the number of its invoice.
        reason: on a credit note, why.
        shipped_on, carrier, tracking_number: delivery.
        notes: free text below the totals.

    Raises:
        ValueError: on construction, where a value is out of shape or the sums do not agree.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: DocumentKind
    number: str
    issued_on: date
    order_number: str
    order_date: date
    seller: Party
    bill_to: Party
    currency: str
    lines: tuple[DocumentLine, ...]
    subtotal: Decimal
    tax_total: Decimal
    shipping: Decimal
    total: Decimal
    ship_to: Party | None = None
    payment_method: str | None = None
    payment_reference: str | None = None
    refers_to: str | None = None
    reason: str | None = None
    shipped_on: date | None = None
    carrier: str | None = None
    tracking_number: str | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        """Refuse a document that a tax inspector would not accept."""
        self._check_shape()
        self._check_sums()

    def _check_shape(self) -> None:
        if self.kind not in ("INVOICE", "CREDIT_NOTE"):
            raise ValueError(f"unknown kind of document {self.kind!r}")
        if not self.number.strip() or not self.order_number.strip():
            raise ValueError("a document needs its own number and its order's")
        if not _CURRENCY.fullmatch(self.currency):
            raise ValueError(f"currency must be three capital letters, got {self.currency!r}")
        if any(isinstance(day, datetime) for day in (self.issued_on, self.order_date, self.shipped_on)):
            raise ValueError("the dates of a document are days without a time")
        if not self.lines:
            raise ValueError("a document needs at least one line")
        if (self.kind == "CREDIT_NOTE") != bool(self.refers_to):
            raise ValueError("a credit note, and only a credit note, refers to an invoice")
        for name in ("subtotal", "tax_total", "shipping", "total"):
            _require_decimal(name, getattr(self, name), _MONEY_EXPONENT)

    def _check_sums(self) -> None:
        _require_equal("subtotal", self.subtotal, sum((line.subtotal for line in self.lines), Decimal()))
        _require_equal("tax_total", self.tax_total, sum((line.tax_amount for line in self.lines), Decimal()))
        _require_equal("total", self.total, self.subtotal + self.tax_total + self.shipping)

    def tax_bands(self) -> tuple[TaxBand, ...]:
        """Return net amount and tax for each rate, highest rate first; they sum to subtotal and tax_total."""
        bands: dict[Decimal, TaxBand] = {}
        for line in self.lines:
            held = bands.get(line.tax_rate, TaxBand(rate=line.tax_rate, net=Decimal(), tax=Decimal()))
            bands[line.tax_rate] = TaxBand(
                rate=line.tax_rate, net=held.net + line.subtotal, tax=held.tax + line.tax_amount
            )
        return tuple(sorted(bands.values(), key=lambda band: band.rate, reverse=True))

    def to_json(self) -> JsonObject:
        """Return plain JSON values, decimals as strings and dates as ISO 8601: nothing is lost."""
        values: JsonObject = _ADAPTER.dump_python(self, mode="json")
        return values

    @staticmethod
    def from_json(data: JsonObject | str | bytes) -> "DocumentView":
        """Build the view that `to_json` described.

        Args:
            data: the values, or their JSON text.

        Raises:
            ValueError: unknown, missing or malformed values, or sums that do not agree.
        """
        text = data if isinstance(data, str | bytes) else json.dumps(dict(data))
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(DocumentView)


def seller_address(settings: Settings) -> dict[str, str]:
    """Return the shop's postal address as the configuration names it."""
    return {
        "street": settings.seller_street,
        "postal_code": settings.seller_postal_code,
        "city": settings.seller_city,
        "country": settings.seller_country,
    }


def seller_party(settings: Settings) -> Party:
    """Return the shop as the configuration names it."""
    return Party(
        name=settings.seller_name,
        lines=tuple(postal_lines(seller_address(settings))),
        tax_id=settings.seller_tax_id,
        email=settings.seller_email,
    )


def _require_decimal(name: str, value: Decimal, smallest_exponent: int) -> None:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise ValueError(f"{name} must be a finite Decimal, got {value!r}")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < smallest_exponent:
        raise ValueError(f"{name} has more than {-smallest_exponent} decimals: {value}")


def _require_equal(name: str, stated: Decimal, summed: Decimal) -> None:
    if stated != summed:
        raise ValueError(f"{name} is stated as {stated}, but its parts sum to {summed}")
