"""Orders on the wire."""

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from app.core.enums import OrderStatus, Role
from app.schemas.common import (
    CARD_NUMBER_REFUSED,
    QUERY_TEXT_PATTERN,
    Address,
    Answer,
    Count,
    CreatedQuery,
    Currency,
    Email,
    Locale,
    Metadata,
    Money,
    Pagination,
    Phone,
    Request,
    TaxRate,
    Timestamp,
    VatId,
    text_block,
    text_line,
)
from app.utils.card_numbers import may_be_card_number

LINES_MAXIMUM = 200


def _token_not_card(value: str) -> str:
    """Refuse a card's number where a token or a method's name belongs (NFR-004)."""
    if may_be_card_number(value):
        raise ValueError(CARD_NUMBER_REFUSED)
    return value


def _payment_text(maximum: int) -> Any:
    return Annotated[text_line(maximum), AfterValidator(_token_not_card)]


class LineItemCreate(Request):
    """One line of an order, as sold: name and price are kept and never change."""

    product_id: text_line(100)  # type: ignore[valid-type]
    product_name: text_line(300)  # type: ignore[valid-type]
    sku: text_line(100) | None = None  # type: ignore[valid-type]
    quantity: Count
    unit_price: Money
    tax_rate: TaxRate = Decimal(0)


class OrderCreate(Request):
    """`POST /orders`. Totals are computed by the server; no caller can set them."""

    customer_id: UUID
    customer_email: Email
    customer_name: text_line(200) | None = None  # type: ignore[valid-type]
    customer_phone: Phone | None = None
    customer_company: text_line(200) | None = None  # type: ignore[valid-type]
    customer_vat_id: VatId | None = None
    locale: Locale | None = None
    currency: Currency = "USD"
    payment_method: _payment_text(50)  # type: ignore[valid-type]
    payment_token: _payment_text(200) | None = None  # type: ignore[valid-type]
    shipping_address: Address
    billing_address: Address | None = None
    shipping_amount: Money = Decimal(0)
    line_items: Annotated[list[LineItemCreate], Field(min_length=1, max_length=LINES_MAXIMUM)]
    metadata: Metadata = Field(default_factory=dict)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "customer_id": "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60",
                    "customer_email": "ada@example.com",
                    "customer_name": "Ada Marchand",
                    "payment_method": "credit_card",
                    "payment_token": "tok_visa",
                    "shipping_address": {
                        "street": "4 Quai des Orfèvres",
                        "city": "Paris",
                        "postal_code": "75001",
                        "country": "FR",
                    },
                    "shipping_amount": 12.5,
                    "line_items": [
                        {
                            "product_id": "vase-celadon-32",
                            "product_name": "Celadon vase, hand-thrown",
                            "quantity": 1,
                            "unit_price": 480,
                            "tax_rate": 0.2,
                        }
                    ],
                }
            ]
        }
    )


class OrderStateUpdate(Request):
    """`PATCH /orders/{id}/state`."""

    new_state: OrderStatus
    reason: text_block(500) | None = None  # type: ignore[valid-type]
    carrier: text_line(100) | None = None  # type: ignore[valid-type]
    tracking_number: text_line(100) | None = None  # type: ignore[valid-type]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"new_state": "PAID", "reason": "Payment confirmed by the bank"}]}
    )


class OrderCancel(Request):
    """`POST /orders/{id}/cancel`."""

    reason: text_block(500) | None = None  # type: ignore[valid-type]


class OrderCorrect(Request):
    """`PATCH /orders/{id}`: the fields to correct, and why. An address is given whole."""

    reason: text_block(500)  # type: ignore[valid-type]
    customer_email: Email | None = None
    customer_phone: Phone | None = None
    shipping_address: Address | None = None
    billing_address: Address | None = None
    carrier: text_line(100) | None = None  # type: ignore[valid-type]
    tracking_number: text_line(100) | None = None  # type: ignore[valid-type]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"customer_email": "ada@example.com", "reason": "Mistyped by the customer"}]}
    )


class CorrectionResponse(Answer):
    """One correction: field → old and new value. For customers, `actor_id` and `ip_address` are null."""

    id: UUID
    order_id: UUID
    version: int
    changes: dict[str, Any]
    reason: str
    actor_id: UUID | None
    actor_role: Role
    ip_address: str | None
    created_at: Timestamp


class CorrectionList(Answer):
    """A page of an order's corrections, oldest first."""

    data: list[CorrectionResponse]
    pagination: Pagination


class LineItemResponse(Answer):
    """A line as it was sold."""

    id: UUID
    product_id: str
    product_name: str
    sku: str | None
    quantity: int
    unit_price: float
    tax_rate: float
    tax_amount: float
    subtotal: float


class OrderSummary(Answer):
    """An order without its lines and metadata: what lists give."""

    id: UUID
    order_number: str
    status: OrderStatus
    version: int
    customer_id: UUID
    customer_email: str
    customer_name: str | None
    customer_phone: str | None
    customer_company: str | None
    customer_vat_id: str | None
    locale: str | None
    currency: str
    subtotal_amount: float
    tax_amount: float
    shipping_amount: float
    total_amount: float
    payment_method: str
    payment_transaction_id: str | None
    shipping_address: dict[str, Any]
    billing_address: dict[str, Any]
    carrier: str | None
    tracking_number: str | None
    cancellation_reason: str | None
    created_at: Timestamp
    updated_at: Timestamp
    paid_at: Timestamp | None
    shipped_at: Timestamp | None
    delivered_at: Timestamp | None
    cancelled_at: Timestamp | None


class OrderResponse(OrderSummary):
    """An order with its lines and metadata."""

    metadata: dict[str, Any]
    line_items: list[LineItemResponse]


class OrderList(Answer):
    """A page of orders, newest first."""

    data: list[OrderSummary]
    pagination: Pagination


class OrderQuery(CreatedQuery):
    """Filters of `GET /orders`."""

    status: Annotated[list[OrderStatus], Field(max_length=6)] = Field(default_factory=list)
    customer_id: UUID | None = None
    order_number: Annotated[str, Field(max_length=50, json_schema_extra={"pattern": QUERY_TEXT_PATTERN})] | None = None
    q: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=100,
                description=(
                    "Words of a name, a part of an e-mail address before the @, or the beginning or the end of a number:"
                    " of an order, a document or a parcel. Case and accents make no difference. One letter finds whole words alone."
                ),
                json_schema_extra={"pattern": QUERY_TEXT_PATTERN},
            ),
        ]
        | None
    ) = None
