"""A document as the strings on its page: what every template draws, with either engine.

Labels, formats and the choice of what to show are made here once, so a template holds layout alone.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypedDict

from app.utils.documents import DocumentView, Party
from app.utils.formatting import date_text, money_text, payment_text, printable, rate_text

Clean = Callable[[str], str]
Row = list[str]
MAXIMUM_TEXT = 300
"""Characters of one text that are printed: more than any name has, and few enough that a layout stays quick. Without
it, a name of a few thousand letters would keep WeasyPrint busy for minutes."""
MAXIMUM_NOTES = 30
"""Lines of notes that are printed."""


class PageParty(TypedDict):
    """Someone the page names.

    Attributes:
        label: such as `Bill to`.
        name: person or company.
        lines: postal address, one printed line each.
        more: tax number and mail address, where there are any.
    """

    label: str
    name: str
    lines: list[str]
    more: list[str]


class PageLine(TypedDict):
    """One position, formatted for print; `rate` is the tax rate, `amount` that of all pieces without tax."""

    description: str
    sku: str
    quantity: str
    unit_price: str
    rate: str
    amount: str


class DocumentPage(TypedDict):
    """The texts of an invoice or credit note, formatted. A `Row` is a label and its value.

    Attributes:
        credit: whether it is a credit note.
        seller: name of the shop.
        issued: year, month and day of issue.
        facts: number, dates and order, at the top.
        taxes: tax rate, net amount and tax, one row a rate.
        totals, total: the sums, and the amount to pay or credited.
        payment, delivery: empty where nothing is known of it.
        reason: why it is credited; empty on an invoice.
        notes: lines of free text.
        imprint: the seller, at the foot of each page.
    """

    title: str
    credit: bool
    number: str
    seller: str
    issued: tuple[int, int, int]
    facts: list[Row]
    parties: list[PageParty]
    lines: list[PageLine]
    currency: str
    taxes: list[Row]
    totals: list[Row]
    total: Row
    payment: list[Row]
    delivery: list[Row]
    reason: str
    notes: list[str]
    imprint: list[str]


def page_of(view: DocumentView, clean: Clean = printable) -> DocumentPage:
    """Return the page's texts as JSON values.

    Args:
        view: the document.
        clean: applied to every text that came from outside; replaces what the fonts cannot draw. A document that needs
            it is not issued; a preview may.
    """
    clean = _shortening(clean)
    credit = view.kind == "CREDIT_NOTE"
    title = "Credit note" if credit else "Invoice"
    return {
        "title": title,
        "credit": credit,
        "number": clean(view.number),
        "seller": clean(view.seller.name),
        "issued": (view.issued_on.year, view.issued_on.month, view.issued_on.day),
        "facts": _facts(view, title, clean),
        "parties": _parties(view, clean),
        "lines": _lines(view, clean),
        "currency": view.currency,
        "taxes": [
            [rate_text(band.rate), money_text(band.net, view.currency), money_text(band.tax, view.currency)]
            for band in view.tax_bands()
        ],
        "totals": _totals(view),
        "total": ["Total credited" if credit else "Total", money_text(view.total, view.currency)],
        "payment": _payment(view, clean),
        "delivery": _delivery(view, clean),
        "reason": clean(view.reason or ""),
        "notes": _free_lines(view.notes, clean),
        "imprint": _imprint(view.seller, clean),
    }


def texts_of(page: Any) -> str:
    """Return all texts of a page in one, for choosing fonts."""
    if isinstance(page, str):
        return page
    parts = page.values() if isinstance(page, dict) else page if isinstance(page, list) else ()
    return "".join(map(texts_of, parts))


def _free_lines(text: str | None, clean: Clean) -> list[str]:
    return [line for line in map(clean, (text or "").splitlines()[:MAXIMUM_NOTES]) if line]


def _shortening(clean: Clean) -> Clean:
    def shortened(text: str) -> str:
        cleaned = clean(text[: 4 * MAXIMUM_TEXT])
        return (
            cleaned
            if len(cleaned) <= MAXIMUM_TEXT
            else cleaned[: MAXIMUM_TEXT - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
        )

    return shortened


def _facts(view: DocumentView, title: str, clean: Clean) -> list[Row]:
    facts = [[f"{title} no.", clean(view.number)], ["Date of issue", date_text(view.issued_on)]]
    if view.refers_to:
        # An order that was cancelled before it was shipped never got an invoice: its own number is used instead.
        what = "order" if view.refers_to == view.order_number else "invoice"
        facts.append([f"Refers to {what}", clean(view.refers_to)])
    return [*facts, ["Order", clean(view.order_number)], ["Order date", date_text(view.order_date)]]


def _parties(view: DocumentView, clean: Clean) -> list[PageParty]:
    payer = "Credited to" if view.kind == "CREDIT_NOTE" else "Bill to"
    named = [(payer, view.bill_to), ("Ship to", view.ship_to), ("From", view.seller)]
    return [
        {
            "label": label,
            "name": clean(party.name),
            "lines": [line for line in map(clean, party.lines) if line],
            "more": [
                clean(text)
                for text in (f"Tax ID {party.tax_id}" if party.tax_id else None, party.email)
                if text is not None
            ],
        }
        for label, party in named
        if party is not None
    ]


def _lines(view: DocumentView, clean: Clean) -> list[PageLine]:
    return [
        {
            "description": clean(line.description),
            "sku": clean(line.sku or ""),
            "quantity": str(line.quantity),
            "unit_price": money_text(line.unit_price, view.currency),
            "rate": rate_text(line.tax_rate),
            "amount": money_text(line.subtotal, view.currency),
        }
        for line in view.lines
    ]


def _totals(view: DocumentView) -> list[Row]:
    rows = [("Subtotal", view.subtotal), ("Tax", view.tax_total)]
    if view.shipping != Decimal() or view.kind == "INVOICE":
        rows.insert(1, ("Shipping", view.shipping))
    return [[label, money_text(amount, view.currency)] for label, amount in rows]


def _payment(view: DocumentView, clean: Clean) -> list[Row]:
    rows = [
        ("Refunded to" if view.kind == "CREDIT_NOTE" else "Paid by", payment_text(view.payment_method or "")),
        ("Reference", view.payment_reference),
    ]
    return [[label, clean(value)] for label, value in rows if value]


def _delivery(view: DocumentView, clean: Clean) -> list[Row]:
    rows = [
        ("Shipped on", date_text(view.shipped_on) if view.shipped_on else None),
        ("Carrier", view.carrier),
        ("Tracking", view.tracking_number),
    ]
    return [[label, clean(value)] for label, value in rows if value]


def _imprint(seller: Party, clean: Clean) -> list[str]:
    parts = [seller.name, *seller.lines, f"Tax ID {seller.tax_id}" if seller.tax_id else "", seller.email or ""]
    return [part for part in map(clean, parts) if part]
