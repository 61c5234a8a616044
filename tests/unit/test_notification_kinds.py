"""The kinds of notifications: what all of them keep to."""

from typing import Any

import pytest

from app.models.order import Order
from app.services.notifications.kind import Kind
from app.services.notifications.kinds import KINDS
from app.services.notifications.parts import PickLine, to_customer
from app.services.notifications.rendering import render_mail

pytestmark = pytest.mark.req("REQ-006")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_another_channel_says_only_facts_of_the_mail(kind: Kind[Any]) -> None:
    for facts in kind.short.values():
        assert facts <= kind.facts.__required_keys__


def test_a_subject_is_plain_text_and_escaped_once_in_the_page() -> None:
    mail = render_mail("invoice", {**KINDS["invoice"].sample, "invoice_number": "A & B <1>"})
    assert mail.subject == "Your invoice A & B <1>"
    assert "<title>Your invoice A &amp; B &lt;1&gt;</title>" in mail.html


@pytest.mark.security
def test_an_article_number_that_could_be_a_link_is_left_out_for_customers() -> None:
    order = Order(customer_email="ada@example.com", customer_phone=None, details={})
    lines: list[PickLine] = [
        {"name": "Vase", "sku": "evil.example", "quantity": 1},
        {"name": "Vase", "sku": "ART-1", "quantity": 1},
        {"name": "Vase", "sku": None, "quantity": 1},
    ]
    facts: dict[str, Any] = {"order_number": "ORD-2026-000001", "items": lines}
    addressed = to_customer(order, facts)
    assert [item["sku"] for item in addressed.facts["items"]] == [None, "ART-1", None]
    assert lines[0]["sku"] == "evil.example", "the facts of others are not changed"
