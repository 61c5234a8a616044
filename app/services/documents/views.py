"""What an order or a refund says on paper: pure functions from rows to `DocumentView` (REQ-004).

A credit note states what was bought and comes back, then what was agreed to be kept. Such a deduction is gross, as the
customer reads it, and is divided over the tax rates in proportion to what is credited at each: so the tax that the
shop claims back is the tax share of exactly the money that it paid out.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from app.config import Settings
from app.core.enums import DocumentKind, RefundReason
from app.models.order import Order, OrderLineItem
from app.models.payment import Refund
from app.models.return_request import ReturnRequest
from app.utils.documents import DocumentLine, DocumentView, Party, seller_party
from app.utils.postal_address import postal_lines
from app.utils.shop_time import ShopTime

CENT = Decimal("0.01")
_REASONS = {
    RefundReason.RETURN_COMPLETED: "Goods returned",
    RefundReason.ORDER_CANCELLED: "Order cancelled before shipment",
    RefundReason.PAID_AFTER_CANCEL: "Payment received after the order was cancelled",
}


def invoice_view(order: Order, number: str, issued_on: date, settings: Settings) -> DocumentView:
    """Return what the invoice of a shipped order says.

    Args:
        order: with its lines.
        number: of the invoice.
        issued_on: its date.
        settings: name the shop and its time zone.
    """
    shop_time = ShopTime.from_settings(settings)
    return DocumentView(
        kind=DocumentKind.INVOICE.value,
        number=number,
        issued_on=issued_on,
        order_number=order.order_number,
        order_date=shop_time.day(order.created_at),
        seller=seller_party(settings),
        bill_to=party(order.billing_address, order),
        ship_to=party(order.shipping_address, order),
        currency=order.currency,
        lines=tuple(_whole_line(line) for line in order.line_items),
        subtotal=order.subtotal_amount,
        tax_total=order.tax_amount,
        shipping=order.shipping_amount,
        total=order.total_amount,
        payment_method=order.payment_method,
        payment_reference=order.payment_transaction_id,
        shipped_on=shop_time.day(order.shipped_at) if order.shipped_at else None,
        carrier=order.carrier,
        tracking_number=order.tracking_number,
    )


def credit_note_view(
    order: Order,
    refund: Refund,
    returned: ReturnRequest | None,
    *,
    number: str,
    issued_on: date,
    refers_to: str,
    settings: Settings,
) -> DocumentView:
    """Return what the credit note of a refund says; its total is the amount of the refund.

    Args:
        order: with its lines.
        refund: paid.
        returned: the return that it is for; None when the whole order is paid back.
        number: of the credit note.
        issued_on: its date.
        refers_to: number of the invoice, or of an order that never got one.
        settings: name the shop and its time zone.
    """
    shop_time = ShopTime.from_settings(settings)
    if returned is None:
        lines = [_whole_line(line) for line in order.line_items]
        shipping, fee, deduction = order.shipping_amount, Decimal(0), Decimal(0)
    else:
        lines = _returned_lines(order.line_items, returned.items)
        shipping, fee, deduction = Decimal(0), returned.restocking_fee, returned.deduction_amount
    shares = _gross_by_rate(lines, shipping)
    kept = sum(shares.values(), Decimal(0)) - fee - deduction - refund.amount
    lines += _deduction("Restocking fee", fee, shares)
    if returned is not None and deduction:
        reason = " ".join((returned.deduction_reason or "").split())
        lines += _deduction(f"Deduction after inspection: {reason}", deduction, shares)
    lines += _deduction("Not refunded, as agreed" if kept > 0 else "Paid in excess", kept, shares)
    subtotal = sum((line.subtotal for line in lines), Decimal(0))
    tax_total = sum((line.tax_amount for line in lines), Decimal(0))
    return DocumentView(
        kind=DocumentKind.CREDIT_NOTE.value,
        number=number,
        issued_on=issued_on,
        order_number=order.order_number,
        order_date=shop_time.day(order.created_at),
        seller=seller_party(settings),
        bill_to=party(order.billing_address, order),
        currency=refund.currency,
        lines=tuple(lines),
        subtotal=subtotal,
        tax_total=tax_total,
        shipping=shipping,
        total=refund.amount,
        payment_method=order.payment_method,
        payment_reference=refund.gateway_refund_id,
        refers_to=refers_to,
        reason=_reason(refund, returned),
    )


def _reason(refund: Refund, returned: ReturnRequest | None) -> str:
    reason = _REASONS[RefundReason(refund.reason)]
    return reason if returned is None else f"{reason}, {returned.return_number}"


def party(address: Mapping[str, Any], order: Order) -> Party:
    """Return the person at an address of the order."""
    return Party(
        name=address.get("name") or order.customer_name or order.customer_email, lines=tuple(postal_lines(address))
    )


def _whole_line(line: OrderLineItem) -> DocumentLine:
    return DocumentLine(
        description=line.product_name,
        sku=line.sku,
        quantity=line.quantity,
        unit_price=line.unit_price,
        tax_rate=line.tax_rate,
        tax_amount=line.tax_amount,
        subtotal=line.subtotal,
    )


def _returned_lines(lines: Sequence[OrderLineItem], items: Sequence[Mapping[str, Any]]) -> list[DocumentLine]:
    by_id = {str(line.id): line for line in lines}
    returned = []
    for item in items:
        line, quantity = by_id[item["line_item_id"]], int(item["quantity"])
        net = quantity * line.unit_price
        returned.append(
            DocumentLine(
                description=line.product_name,
                sku=line.sku,
                quantity=quantity,
                unit_price=line.unit_price,
                tax_rate=line.tax_rate,
                # What the pieces cost with tax was fixed when the return was requested; the tax is the rest of it.
                tax_amount=Decimal(item["amount"]) - net,
                subtotal=net,
            )
        )
    return returned


def _gross_by_rate(lines: Sequence[DocumentLine], shipping: Decimal) -> dict[Decimal, Decimal]:
    """Return what is credited at each tax rate, tax included; shipping has none."""
    shares: dict[Decimal, Decimal] = {}
    for line in lines:
        shares[line.tax_rate] = shares.get(line.tax_rate, Decimal(0)) + line.subtotal + line.tax_amount
    if shipping:
        shares[Decimal(0)] = shares.get(Decimal(0), Decimal(0)) + shipping
    return {rate: gross for rate, gross in sorted(shares.items(), reverse=True) if gross}


def _deduction(label: str, amount: Decimal, shares: Mapping[Decimal, Decimal]) -> list[DocumentLine]:
    """Return the lines that take a gross `amount` off, one a tax rate; their sum is the amount, to the cent."""
    if not amount:
        return []
    total = sum(shares.values(), Decimal(0))
    left, lines = amount, []
    for position, (rate, gross) in enumerate(shares.items(), start=1):
        share = left if position == len(shares) else _cents(amount * gross / total)
        left -= share
        net = _cents(share / (1 + rate))
        if share:
            lines.append(
                DocumentLine(
                    description=label,
                    quantity=1,
                    unit_price=-net,
                    tax_rate=rate,
                    tax_amount=net - share,
                    subtotal=-net,
                )
            )
    return lines


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)
