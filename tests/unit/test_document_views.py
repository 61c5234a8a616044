"""Credit notes add up to the refund, for all that can be returned, kept and rounded."""

from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import Settings
from app.core.enums import RefundReason
from app.models.order import Order, OrderLineItem
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.services.documents.views import credit_note_view, invoice_view
from app.services.returns.draft import worth_of

pytestmark = pytest.mark.req("REQ-004")
SETTINGS = Settings(_env_file=None)
CENT = Decimal("0.01")
RATES = [Decimal(rate) for rate in ("0", "0.055", "0.1", "0.2", "0.0725", "1")]
ADDRESS = {"street": "4 Quai", "city": "Paris", "postal_code": "75001", "country": "FR"}
cents = st.integers(0, 500_000).map(lambda n: Decimal(n) / 100)
lines = st.lists(st.tuples(st.integers(1, 9), cents, st.sampled_from(RATES)), min_size=1, max_size=5)


def order_of(drawn: list[tuple[int, Decimal, Decimal]], shipping: Decimal) -> Order:
    items = [
        OrderLineItem(
            id=uuid4(),
            product_name=f"Piece {n}",
            sku=None,
            quantity=quantity,
            unit_price=price,
            tax_rate=rate,
            tax_amount=(quantity * price * rate).quantize(CENT, ROUND_HALF_UP),
            subtotal=quantity * price,
        )
        for n, (quantity, price, rate) in enumerate(drawn)
    ]
    subtotal = sum((item.subtotal for item in items), Decimal(0))
    tax = sum((item.tax_amount for item in items), Decimal(0))
    return Order(
        order_number="ORD-2026-000001",
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        currency="EUR",
        customer_email="ada@example.com",
        customer_name=None,
        shipping_address=ADDRESS,
        billing_address=ADDRESS,
        subtotal_amount=subtotal,
        tax_amount=tax,
        shipping_amount=shipping,
        total_amount=subtotal + tax + shipping,
        payment_method="credit_card",
        line_items=items,
    )


def credited(order: Order, amount: Decimal, returned: ReturnRequest | None) -> dict[str, Decimal]:
    refund = Refund(
        amount=amount,
        currency="EUR",
        reason=RefundReason.RETURN_COMPLETED if returned else RefundReason.ORDER_CANCELLED,
    )
    view = credit_note_view(
        order,
        refund,
        returned,
        number="CN-2026-000001",
        issued_on=date(2026, 11, 20),
        refers_to="INV-2026-000001",
        settings=SETTINGS,
    )
    assert view.total == amount
    assert type(view).from_json(view.to_json()) == view
    kept: dict[str, Decimal] = {}
    for line in view.lines:
        if line.quantity == 1 and not line.description.startswith("Piece"):
            kept[line.description] = kept.get(line.description, Decimal(0)) - line.subtotal - line.tax_amount
            # The tax in a deduction is its rate's share, to the cent.
            assert abs(line.tax_amount - line.subtotal * line.tax_rate) <= CENT
    return kept


@settings(deadline=None)
@given(lines, st.data())
def test_a_return_is_credited_to_the_cent(drawn: list[tuple[int, Decimal, Decimal]], data: st.DataObject) -> None:
    order = order_of(drawn, Decimal("9.90"))
    chosen = data.draw(st.lists(st.sampled_from(order.line_items), min_size=1, unique_by=id))
    picked = [(line, data.draw(st.integers(1, line.quantity))) for line in chosen]
    items = [{"line_item_id": str(line.id), "quantity": n, "amount": str(worth_of(line, n))} for line, n in picked]
    worth = sum((worth_of(line, n) for line, n in picked), Decimal(0))
    if worth < CENT:
        return
    fee = data.draw(st.integers(0, int(worth * 100) - 1)) / Decimal(100)
    deduction = data.draw(st.integers(0, int((worth - fee) * 100) - 1)) / Decimal(100)
    amount = data.draw(st.integers(1, int((worth - fee - deduction) * 100))) / Decimal(100)
    kept = credited(
        order,
        amount,
        ReturnRequest(
            items=items,
            restocking_fee=fee,
            return_number="RET-2026-000001",
            deduction_amount=deduction,
            deduction_reason="Chipped\nfoot",
        ),
    )
    rest = worth - fee - deduction - amount
    labels = {
        "Restocking fee": fee,
        "Deduction after inspection: Chipped foot": deduction,
        "Not refunded, as agreed": rest,
    }
    assert kept == {label: value for label, value in labels.items() if value}


@settings(deadline=None)
@given(lines, cents)
def test_a_whole_order_is_credited_as_it_was_invoiced(
    drawn: list[tuple[int, Decimal, Decimal]], shipping: Decimal
) -> None:
    order = order_of(drawn, shipping)
    if order.total_amount > 0:
        assert credited(order, order.total_amount, None) == {}
    invoice = invoice_view(order, "INV-2026-000001", date(2026, 11, 20), SETTINGS)
    assert invoice.total == order.total_amount


def test_an_excess_over_the_order_total_is_distinguished() -> None:
    order = order_of([(1, Decimal(100), Decimal("0.2"))], Decimal(0))
    assert credited(order, Decimal(130), None) == {"Paid in excess": Decimal(-10)}


def test_who_has_no_name_is_named_by_address() -> None:
    order = order_of([(1, Decimal(100), Decimal(0))], Decimal(0))
    view = invoice_view(order, "INV-2026-000001", date(2026, 11, 20), SETTINGS)
    assert view.bill_to.name == "ada@example.com"
    assert view.bill_to.lines == ("4 Quai", "75001 Paris", "France")
