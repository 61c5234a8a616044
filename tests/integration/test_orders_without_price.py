"""An order that costs nothing is PAID at once, by SYSTEM, in the transaction that creates it (REQ-001)."""

from typing import Any

import httpx2
import pytest

from app.database import Database
from app.services.jobs.service import JobKind
from tests.factories import order_payload
from tests.integration.jobs_support import rows

pytestmark = pytest.mark.req("REQ-001")


async def free_order(api: httpx2.AsyncClient) -> dict[str, Any]:
    """Create an order whose total is 0.00."""
    line = {"product_id": "gift", "product_name": "Gift card sleeve", "quantity": 1, "unit_price": "0.00"}
    created = await api.post("/api/v1/orders", json=order_payload(line_items=[line], shipping_amount=0))
    assert created.status_code == 201, created.text
    order: dict[str, Any] = created.json()
    return order


async def test_it_is_paid_as_it_is_created(api: httpx2.AsyncClient, database: Database) -> None:
    order = await free_order(api)
    assert (order["status"], order["version"], order["total_amount"]) == ("PAID", 2, 0)
    assert order["paid_at"] == order["created_at"]
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json() == order
    [step] = (await api.get(f"/api/v1/orders/{order['id']}/history")).json()["data"]
    assert (step["previous_state"], step["new_state"], step["actor_type"], step["actor_id"]) == (
        "PENDING_PAYMENT", "PAID", "SYSTEM", None,
    )  # fmt: skip
    assert step["metadata"] == {"reason": "nothing to pay"}
    events = await rows(database, "SELECT type FROM events ORDER BY seq")
    assert [event.type for event in events] == ["order.created", "order.paid"]
    [payment] = await rows(database, "SELECT * FROM payments")
    assert (payment.state, payment.amount, payment.captured_amount) == ("CAPTURED", 0, 0)
    kinds = {job.kind for job in await rows(database, "SELECT kind FROM jobs")}
    assert kinds == {JobKind.NOTIFY_ORDER_CONFIRMATION, JobKind.NOTIFY_WAREHOUSE_ORDER_READY}


async def test_it_can_be_cancelled_and_there_is_nothing_to_give_back(
    api: httpx2.AsyncClient, database: Database
) -> None:
    order = await free_order(api)
    cancelled = await api.post(f"/api/v1/orders/{order['id']}/cancel")
    assert cancelled.json()["status"] == "CANCELLED"
    assert await rows(database, "SELECT 1 FROM refunds") == []
    assert (await api.get("/api/v1/audit/verify")).json()["ok"]


async def test_one_cent_has_to_be_paid(api: httpx2.AsyncClient) -> None:
    line = {"product_id": "gift", "product_name": "Gift card sleeve", "quantity": 1, "unit_price": "0.01"}
    created = await api.post("/api/v1/orders", json=order_payload(line_items=[line], shipping_amount=0))
    assert created.json()["status"] == "PENDING_PAYMENT"
