"""What a customer sees, touches and sets. Who may call what is in tests/security/test_role_matrix.py."""

from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from app.composition import Services
from app.core.enums import Role
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.dead import bury_job, raise_case

pytestmark = [pytest.mark.req("NFR-004", "REQ-005"), pytest.mark.security]


@pytest.fixture
async def ids(api: httpx2.AsyncClient, services: Services, customer_id: UUID) -> dict[str, Any]:
    """Entities that exist, the order and the return being the customer's own."""
    order = await new_order(api, *TO_DELIVERED, customer_id=str(customer_id))
    requested = await new_return(api, order["id"])
    letter = await bury_job(services.database)
    return {
        "order_id": order["id"],
        "return_id": requested["id"],
        "dead_letter_id": letter,
        "refund_id": uuid4(),
        "case_id": await raise_case(services.database),
    }


async def test_an_unknown_caller_learns_nothing_about_the_request(anonymous: httpx2.AsyncClient) -> None:
    for response in (
        await anonymous.post("/api/v1/orders", content=b"{not json", headers={"content-type": "text/plain"}),
        await anonymous.get("/api/v1/orders/not-an-id?unknown=1"),
    ):
        assert error_of(response)["code"] == "UNAUTHENTICATED"


@pytest.mark.req("NFR-004.4")
async def test_customers_see_and_touch_their_own_alone(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], ids: dict[str, Any], customer_id: UUID
) -> None:
    foreign = await new_order(api, *TO_DELIVERED, customer_email="other@example.com", customer_name="Other Person")
    foreign_return = await new_return(api, foreign["id"])
    undelivered = await new_order(api)
    mine = callers[Role.CUSTOMER]
    order, requested, open_order = foreign["id"], foreign_return["id"], undelivered["id"]
    attempts = [
        ("GET", f"orders/{order}", None),
        ("GET", f"orders/{order}/history", None),
        ("GET", f"orders/{order}/transitions", None),
        ("GET", f"orders/{order}/invoice", None),
        ("POST", f"orders/{open_order}/cancel", {}),
        ("PATCH", f"orders/{open_order}/state", {"new_state": "CANCELLED"}),
        ("POST", "returns", {"order_id": order, "reason": "not mine"}),
        ("GET", f"returns/{requested}", None),
        ("GET", f"returns/{requested}/history", None),
        ("GET", f"returns/{requested}/transitions", None),
        ("PATCH", f"returns/{requested}/state", {"new_state": "IN_TRANSIT"}),
        ("GET", f"returns/{requested}/attachments", None),
        ("POST", f"returns/{requested}/attachments", {}),
    ]
    for method, path, body in attempts:
        response = await mine.request(method, f"/api/v1/{path}", json=body)
        assert response.status_code == 404, f"{method} {path}: {response.text}"
        code = error_of(response)["code"]
        missing = path.replace(order, str(uuid4())).replace(requested, str(uuid4())).replace(open_order, str(uuid4()))
        nobodys = {**body, "order_id": str(uuid4())} if body and "order_id" in body else body
        absent = await mine.request(method, f"/api/v1/{missing}", json=nobodys)
        assert error_of(absent)["code"] == code, "a foreign record and none at all look the same"
    assert (await api.get(f"/api/v1/orders/{open_order}")).json()["status"] == "PENDING_PAYMENT"

    own = {ids["order_id"]}
    foreign_customer = foreign["customer_id"]
    for query in (
        "",
        "?q=other",
        "?q=Other",
        f"?customer_id={foreign_customer}",
        f"?order_number={foreign['order_number']}",
    ):
        listed = await mine.get(f"/api/v1/orders{query}")
        assert {row["id"] for row in listed.json()["data"]} <= own, query
    counted = await mine.get("/api/v1/orders?include_total=true")
    assert counted.json()["pagination"]["total"] == 1
    for query in ("", f"?customer_id={foreign_customer}", f"?order_id={order}"):
        listed = await mine.get(f"/api/v1/returns{query}")
        assert {row["id"] for row in listed.json()["data"]} <= {ids["return_id"]}, query


async def test_a_customer_orders_for_no_other_customer(callers: dict[Role, httpx2.AsyncClient]) -> None:
    response = await callers[Role.CUSTOMER].post("/api/v1/orders", json=order_payload(customer_id=str(uuid4())))
    assert response.status_code == 403


@pytest.mark.parametrize("field", ["status", "total_amount", "version", "id", "order_number", "paid_at"])
async def test_what_the_server_decides_cannot_be_sent(api: httpx2.AsyncClient, field: str) -> None:
    response = await api.post("/api/v1/orders", json={**order_payload(), field: "PAID"})
    assert response.status_code == 422
    assert error_of(response)["details"][0]["field"] == field
