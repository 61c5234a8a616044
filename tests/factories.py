"""Plausible orders, made by Factory Boy; what a test cares about it passes in."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import factory

from app.core.enums import Channel
from app.schemas.order import OrderCreate
from app.utils.messages import Message


class AddressFactory(factory.DictFactory):
    """An address as a request holds it."""

    street = factory.Sequence(lambda n: f"{n + 1} Rue de l'Atelier")
    city = "Lyon"
    postal_code = "69001"
    country = "FR"


class LineFactory(factory.DictFactory):
    """An order line as a request holds it."""

    product_id = factory.Sequence(lambda n: f"vase-{n}")
    product_name = factory.Sequence(lambda n: f"Celadon vase no. {n}")
    quantity = 2
    unit_price = 120.5
    tax_rate = 0.2


class OrderPayloadFactory(factory.DictFactory):
    """The body of `POST /orders`."""

    customer_id = factory.LazyFunction(lambda: str(uuid4()))
    customer_email = factory.Sequence(lambda n: f"customer{n}@example.com")
    customer_name = factory.Sequence(lambda n: f"Customer {n}")
    payment_method = "credit_card"
    payment_token = "tok_visa"
    shipping_amount = 9.9
    shipping_address = factory.SubFactory(AddressFactory)
    line_items = factory.LazyFunction(lambda: [LineFactory(), LineFactory(quantity=1, unit_price=35)])


def order_payload(**fields: Any) -> dict[str, Any]:
    """Return the body of a valid `POST /orders`."""
    payload: Any = OrderPayloadFactory(**fields)
    return dict(payload)


def order_create(**fields: Any) -> OrderCreate:
    """Return a valid order request."""
    return OrderCreate.model_validate(order_payload(**fields))


TOTAL = Decimal("9.90") + Decimal("289.20") + Decimal("42.00")
"""What the default order costs: shipping, two vases and one, each with 20 % tax."""


def mail_message(**changes: Any) -> Message:
    """Return a mail ready to be sent; `changes` replace fields."""
    fields: dict[str, Any] = {
        "id": uuid4(),
        "channel": Channel.EMAIL,
        "template": "order_confirmation",
        "recipient": "a@b.example",
        "created_at": datetime(2026, 11, 22, 14, 5, 11, tzinfo=UTC),
        "subject": "s",
        "text": "t",
        "html": "<p>t</p>",
        "message_id": "<1@articurated.example>",
    }
    return Message(**(fields | changes))
