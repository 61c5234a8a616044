"""An order from the storefront to the door, through real processes."""

import io

import pypdf
import pytest

from tests.e2e.conftest import Journey, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]


@pytest.mark.req("REQ-001.2", "REQ-001.3", "REQ-003.1", "REQ-004.1", "REQ-004.3", "REQ-006.1")
def test_full_lifecycle(journey: Journey) -> None:
    email = "lifecycle@example.com"
    order = journey.order(customer_email=email)
    journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")

    path = f"/orders/{order['id']}/invoice"
    record = eventually(
        "the invoice",
        lambda: journey.rows("SELECT number FROM invoices WHERE order_id = %s AND state = 'ISSUED'", order["id"]),
    )
    pdf = journey.call("GET", path)
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages)
    assert record[0][0] in text
    assert order["order_number"] in text
    assert journey.call("GET", path) == pdf

    wanted = {"confirmed", "on its way", "arrived", "invoice"}
    eventually(
        "the customer's four mails",
        lambda: wanted <= {word for word in wanted for mail in journey.mails(email) if word in mail["subject"].lower()},
    )
    assert len(journey.mails(email)) == 4
    [invoice_mail] = [mail for mail in journey.mails(email) if "invoice" in mail["subject"].lower()]
    assert [attachment["size"] for attachment in invoice_mail["attachments"]] == [len(pdf)]

    history = journey.call("GET", f"/orders/{order['id']}/history")["data"]
    assert [row["new_state"] for row in history] == ["PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED"]
    refusal = journey.call("PATCH", f"/orders/{order['id']}/state", json={"new_state": "PAID"}, expect=409)
    assert refusal["error"]["code"] == "INVALID_STATE_TRANSITION"
    assert journey.call("GET", "/audit/verify")["ok"]


@pytest.mark.req("INT-001.2", "REQ-001.2")
def test_gateway_reports_the_payment(journey: Journey) -> None:
    order = journey.order()
    answer = journey.http.post(
        f"{journey.stack.info.gateway}/v1/payments",
        headers={"Authorization": "Bearer sk_test_articurated", "Idempotency-Key": f"storefront:{order['id']}"},
        json={
            "reference": order["id"],
            "amount": f"{order['total_amount']:.2f}",
            "currency": order["currency"],
            "payment_token": "tok_visa",
            "capture": True,
        },
    )
    assert answer.is_success, answer.text
    paid = eventually(
        "the webhook's effect",
        lambda: (now := journey.call("GET", f"/orders/{order['id']}"))["status"] == "PAID" and now,
    )
    assert paid["payment_transaction_id"] == answer.json()["id"]
    [row] = journey.call("GET", f"/orders/{order['id']}/history")["data"]
    assert (row["actor_type"], row["trigger"]) == ("SYSTEM", "WEBHOOK")


@pytest.mark.req("REQ-001.6", "REQ-004.5")
def test_cancelling_a_paid_order_pays_it_back(journey: Journey) -> None:
    order = journey.order()
    journey.move(order, "PAID")
    journey.call("POST", f"/orders/{order['id']}/cancel", json={"reason": "changed my mind"})
    refund = eventually(
        "the refund",
        lambda: [
            refund
            for refund in journey.call("GET", f"/refunds?order_id={order['id']}")["data"]
            if refund["state"] == "SUCCEEDED"
        ],
    )[0]
    assert refund["amount"] == order["total_amount"]
    [entry] = journey.ledger(f"/v1/refunds?reference={refund['id']}")["data"]
    assert float(entry["amount"]) == order["total_amount"]
