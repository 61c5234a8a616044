"""A return from the request to the money, through real processes."""

import pytest

from tests.e2e.conftest import Journey, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]


@pytest.mark.req("REQ-002.1", "REQ-004.5", "REQ-004.7", "REQ-006.1", "REQ-006.2")
def test_full_return(journey: Journey) -> None:
    email = "return@example.com"
    order = journey.order(customer_email=email)
    early = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "cracked"}, expect=400)
    assert early["error"]["details"]["reason"] == "NOT_DELIVERED"
    journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
    line = order["line_items"][0]
    items = [{"line_item_id": line["id"], "quantity": 1}]
    returned = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "cracked", "items": items})
    again = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "again"}, expect=409)
    assert again["error"]["code"] == "RETURN_ALREADY_EXISTS"
    assert again["error"]["details"]["return_number"] == returned["return_number"]
    path = f"/returns/{returned['id']}"
    assert returned["items_amount"] == round((line["subtotal"] + line["tax_amount"]) / line["quantity"], 2)
    journey.call("PATCH", f"{path}/approve", json={"notes": "seen", "restocking_fee": 4.6})
    for state in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
        journey.call("PATCH", f"{path}/state", json={"new_state": state})
    settled = eventually(
        "the refund", lambda: (now := journey.call("GET", path))["refund_transaction_id"] is not None and now
    )
    [refund] = journey.call("GET", f"/refunds?order_id={order['id']}")["data"]
    assert (refund["state"], refund["amount"]) == ("SUCCEEDED", 140.0)
    assert refund["gateway_refund_id"] == settled["refund_transaction_id"]
    [entry] = journey.ledger(f"/v1/refunds?reference={refund['id']}")["data"]
    assert float(entry["amount"]) == 140.0

    eventually("the credit note", lambda: any("credit note" in mail["subject"] for mail in journey.mails(email)))
    eventually("the confirmation", lambda: any("refund" in mail["subject"] for mail in journey.mails(email)))
    [note] = journey.rows("SELECT kind, number, state FROM invoices WHERE refund_id = %s", refund["id"])
    assert (note[0], note[2]) == ("CREDIT_NOTE", "ISSUED")
    rest = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "the others too"})
    bought = sum(line["quantity"] for line in order["line_items"])
    assert sum(item["quantity"] for item in rest["items"]) == bought - 1
