"""The document view: nothing lost in its snapshot, and no document whose sums disagree."""

import json
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.utils.document_page import MAXIMUM_NOTES, MAXIMUM_TEXT, page_of
from app.utils.documents import DocumentLine, DocumentView, Party
from tests.unit.documents_support import credit_note, line, view

pytestmark = pytest.mark.req("REQ-004")

_texts = st.text(
    st.characters(categories=("L", "M", "N", "P", "S", "Z", "Cc", "Cf", "Co")), min_size=1, max_size=40
).filter(str.strip)
_cents = st.integers(min_value=-(10**10), max_value=10**10).map(lambda cents: Decimal(cents).scaleb(-2))
_parties = st.builds(
    Party, name=_texts, lines=st.lists(_texts, max_size=4).map(tuple), tax_id=st.none() | _texts, email=st.none()
)


@st.composite
def _lines(draw: st.DrawFn) -> DocumentLine:
    quantity = draw(st.integers(min_value=1, max_value=10_000))
    price = draw(_cents)
    return DocumentLine(
        description=draw(_texts),
        sku=draw(st.none() | _texts),
        quantity=quantity,
        unit_price=price,
        tax_rate=Decimal(draw(st.integers(min_value=0, max_value=99_999))).scaleb(-4),
        tax_amount=draw(_cents),
        subtotal=quantity * price,
    )


@settings(deadline=None)
@given(
    lines=st.lists(_lines(), min_size=1, max_size=5),
    bill_to=_parties,
    issued_on=st.dates(),
    shipping=_cents,
    notes=st.none() | _texts,
)
def test_the_snapshot_gives_back_the_very_view(
    lines: list[DocumentLine], bill_to: Party, issued_on: date, shipping: Decimal, notes: str | None
) -> None:
    original = view(*lines, bill_to=bill_to, issued_on=issued_on, shipping=shipping, notes=notes)
    stored = json.dumps(original.to_json())

    assert DocumentView.from_json(stored) == original
    assert DocumentView.from_json(json.loads(stored)).to_json() == original.to_json()


def test_the_snapshot_keeps_decimals_as_they_are_written() -> None:
    snapshot = view(line(0, tax_rate=Decimal("0.2000"))).to_json()

    assert snapshot["lines"][0]["unit_price"] == "148.50"
    assert snapshot["lines"][0]["tax_rate"] == "0.2000"
    assert snapshot["issued_on"] == "2026-11-22"
    assert str(DocumentView.from_json(snapshot).lines[0].tax_rate) == "0.2000"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("total", "1.00", "parts sum to"),
        ("kind", "RECEIPT", "kind"),
        ("lines", [], "at least one line"),
        ("issued_on", "yesterday", "issued_on"),
        ("currency", None, "currency"),
        ("discount", "1.00", "discount"),
    ],
)
def test_a_tampered_snapshot_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DocumentView.from_json({**view().to_json(), name: value})
    assert "Marchetti" not in str(caught.value)


def test_an_incomplete_snapshot_is_refused() -> None:
    snapshot = {name: value for name, value in view().to_json().items() if name != "seller"}

    with pytest.raises(ValueError, match="seller"):
        DocumentView.from_json(snapshot)


@pytest.mark.parametrize("name", ["subtotal", "tax_total", "total"])
@pytest.mark.parametrize("error", [Decimal("0.01"), Decimal("-0.01")])
def test_totals_that_are_a_cent_off_are_refused(name: str, error: Decimal) -> None:
    right = view()

    with pytest.raises(ValueError, match="parts sum to"):
        replace(right, **{name: getattr(right, name) + error})


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 0},
        {"quantity": -1},
        {"quantity": True},
        {"quantity": 1.0},
        {"unit_price": 148.5},
        {"unit_price": Decimal("NaN")},
        {"unit_price": Decimal("Infinity")},
        {"unit_price": Decimal("148.500"), "subtotal": Decimal("148.500")},
        {"tax_amount": Decimal("0.001")},
        {"tax_rate": Decimal("-0.2")},
        {"tax_rate": Decimal("0.20001")},
        {"subtotal": Decimal("148.51")},
    ],
)
def test_a_line_out_of_shape_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|decimals|is not"):
        line(0, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "RECEIPT"}, "kind"),
        ({"number": " "}, "number"),
        ({"order_number": ""}, "number"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "EURO"}, "currency"),
        ({"currency": "EUR\n"}, "currency"),
        ({"issued_on": datetime(2026, 11, 22, tzinfo=UTC)}, "without a time"),
        ({"lines": ()}, "at least one line"),
        ({"refers_to": "INV-1"}, "only a credit note"),
        ({"shipping": 18.0}, "Decimal"),
    ],
)
def test_a_document_out_of_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(view(), **changes)


def test_a_credit_note_without_its_invoice_is_refused() -> None:
    with pytest.raises(ValueError, match="refers to an invoice"):
        credit_note(refers_to=None)


def test_a_view_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        view().total = Decimal(0)  # type: ignore[misc]


def test_tax_bands_sum_to_the_totals_highest_rate_first() -> None:
    document = view(line(0), line(1), line(2), line(5))
    bands = document.tax_bands()

    assert [band.rate for band in bands] == [Decimal("0.2000"), Decimal("0.0550")]
    assert sum(band.net for band in bands) == document.subtotal
    assert sum(band.tax for band in bands) == document.tax_total
    assert bands[1].net == line(2).subtotal + line(5).subtotal


def test_equal_rates_written_differently_are_one_band() -> None:
    document = view(line(0, tax_rate=Decimal("0.2")), line(1, tax_rate=Decimal("0.2000")))

    assert len(document.tax_bands()) == 1


def test_the_page_of_an_invoice_says_what_a_customer_needs() -> None:
    page = page_of(view(notes="First line\n\n  Second line  "))

    assert page["title"] == "Invoice"
    assert ["Invoice no.", "INV-2026-000142"] in page["facts"]
    assert ["Date of issue", "22 November 2026"] in page["facts"]
    assert [party["label"] for party in page["parties"]] == ["Bill to", "Ship to", "From"]
    assert page["lines"][1] == {
        "description": "Linen table runner",
        "sku": "ART-1001",
        "quantity": "2",
        "unit_price": "€149.50",
        "rate": "20%",
        "amount": "€299.00",
    }
    assert page["taxes"] == [["20%", "€447.50", "€89.50"], ["5.5%", "€451.50", "€24.83"]]
    assert page["totals"] == [["Subtotal", "€899.00"], ["Shipping", "€18.00"], ["Tax", "€114.33"]]
    assert page["total"] == ["Total", "€1,031.33"]
    assert page["payment"] == [["Paid by", "Credit card"], ["Reference", "pay_9f2c41d07a"]]
    assert ["Tracking", "JD014600006281230704"] in page["delivery"]
    assert page["notes"] == ["First line", "Second line"]
    assert "Tax ID FR 40 303 265 045" in page["imprint"]


def test_the_page_of_a_credit_note_refers_to_its_invoice() -> None:
    page = page_of(credit_note())

    assert page["title"] == "Credit note"
    assert ["Refers to invoice", "INV-2026-000142"] in page["facts"]
    assert [party["label"] for party in page["parties"]] == ["Credited to", "From"]
    assert page["lines"][1]["amount"] == "\N{MINUS SIGN}€25.00"
    assert page["totals"] == [["Subtotal", "€123.50"], ["Tax", "€29.70"]]
    assert page["total"] == ["Total credited", "€153.20"]
    assert page["payment"][0] == ["Refunded to", "Credit card"]
    assert page["delivery"] == []


def test_optional_facts_may_be_absent() -> None:
    page = page_of(view(ship_to=None, payment_method=None, payment_reference=None, shipped_on=None, carrier=None))

    assert page["payment"] == []
    assert page["delivery"] == [["Tracking", "JD014600006281230704"]]
    assert page["notes"] == []


def test_endless_texts_are_shortened_visibly() -> None:
    page = page_of(view(line(0, description="x" * 5000), notes="note\n" * 5000))

    assert page["lines"][0]["description"] == "x" * (MAXIMUM_TEXT - 1) + "…"
    assert len(page["notes"]) == MAXIMUM_NOTES
    assert page_of(view(line(0, description="x" * MAXIMUM_TEXT)))["lines"][0]["description"] == "x" * MAXIMUM_TEXT
