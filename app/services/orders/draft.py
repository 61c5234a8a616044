"""A new order from a request: its lines, and what it all comes to."""

from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from app.config import MONEY_LIMIT
from app.core.enums import OrderStatus
from app.models.order import Order, OrderLineItem
from app.schemas.common import Address
from app.schemas.order import LineItemCreate, OrderCreate
from app.utils.exceptions import InvalidInputError

CENT = Decimal("0.01")


def address_of(address: Address) -> dict[str, str]:
    """Return an address as it is stored."""
    return address.model_dump(exclude_none=True)


def new_order(data: OrderCreate) -> Order:
    """Return the order of a request, still without id, number, times and totals."""
    shipping = address_of(data.shipping_address)
    return Order(
        status=OrderStatus.PENDING_PAYMENT,
        version=1,
        customer_id=data.customer_id,
        customer_email=data.customer_email,
        customer_name=data.customer_name,
        customer_phone=data.customer_phone,
        customer_company=data.customer_company,
        customer_vat_id=data.customer_vat_id,
        locale=data.locale,
        currency=data.currency,
        payment_method=data.payment_method,
        shipping_address=shipping,
        billing_address=address_of(data.billing_address) if data.billing_address else shipping,
        shipping_amount=data.shipping_amount,
        details=data.metadata,
    )


def new_line(order_id: UUID, position: int, line: LineItemCreate) -> OrderLineItem:
    """Return one line as it is sold; tax is rounded to the cent per line, halves away from zero."""
    subtotal = line.quantity * line.unit_price
    return OrderLineItem(
        order_id=order_id,
        position=position,
        product_id=line.product_id,
        product_name=line.product_name,
        sku=line.sku,
        quantity=line.quantity,
        unit_price=line.unit_price,
        tax_rate=line.tax_rate,
        tax_amount=(subtotal * line.tax_rate).quantize(CENT, ROUND_HALF_UP),
        subtotal=subtotal,
    )


def sum_up(order: Order, lines: list[OrderLineItem]) -> None:
    """Fill in the totals: the order is the sum of its lines and shipping, to the cent."""
    order.subtotal_amount = sum((line.subtotal for line in lines), Decimal(0))
    order.tax_amount = sum((line.tax_amount for line in lines), Decimal(0))
    order.total_amount = order.subtotal_amount + order.tax_amount + order.shipping_amount
    if order.total_amount > MONEY_LIMIT:
        raise InvalidInputError(("line_items", f"the order's total is beyond {MONEY_LIMIT}"))
