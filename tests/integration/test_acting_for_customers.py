"""Services act for an order's customer, customers set no prices where only a service may, and see no one else's traces."""

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus, ReturnStatus, Role
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.services.workflow.state_machine import TRANSITIONS
from app.utils.exceptions import ForbiddenError, InvalidStateTransitionError
from tests.conftest import actor
from tests.factories import order_create
from tests.integration.conftest import TO_DELIVERED, new_order, new_return
from tests.integration.jobs_support import order_in, rows
from tests.integration.returns_support import Desk, R

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

ORDER_BEFORE = {
    OrderStatus.PAID: OrderStatus.PENDING_PAYMENT,
    OrderStatus.PROCESSING_IN_WAREHOUSE: OrderStatus.PAID,
    OrderStatus.SHIPPED: OrderStatus.PROCESSING_IN_WAREHOUSE,
    OrderStatus.DELIVERED: OrderStatus.SHIPPED,
    OrderStatus.CANCELLED: OrderStatus.PAID,
}
RETURN_BEFORE = {
    ReturnStatus.APPROVED: ReturnStatus.REQUESTED,
    ReturnStatus.REJECTED: ReturnStatus.REQUESTED,
    ReturnStatus.IN_TRANSIT: ReturnStatus.APPROVED,
    ReturnStatus.RECEIVED: ReturnStatus.IN_TRANSIT,
    ReturnStatus.COMPLETED: ReturnStatus.RECEIVED,
}


@pytest.fixture
def desk(orders: OrderService, returns: ReturnService, admin: Actor) -> Desk:
    return Desk(orders, returns, admin)


@pytest.fixture
def service() -> Actor:
    return actor(Role.SERVICE)


async def metadata_of(database: Database, entity_id: UUID, state: str) -> dict[str, Any]:
    sql = "SELECT metadata FROM state_history WHERE entity_id = :id AND new_state = :state"
    [row] = await rows(database, sql, id=entity_id, state=state)
    metadata: dict[str, Any] = row.metadata
    return metadata


@pytest.mark.req("REQ-003.2")
@pytest.mark.parametrize("state", [OrderStatus.PENDING_PAYMENT, OrderStatus.PAID])
async def test_a_service_cancels_for_the_customer_and_the_audit_row_says_so(
    orders: OrderService, admin: Actor, service: Actor, database: Database, state: OrderStatus
) -> None:
    order = await order_in(orders, admin, state)
    assert (await orders.cancel(order["id"], OrderCancel(reason="changed my mind"), service))["status"] == "CANCELLED"
    assert await metadata_of(database, order["id"], "CANCELLED") == {
        "reason": "changed my mind",
        "on_behalf_of": str(order["customer_id"]),
    }
    with pytest.raises(InvalidStateTransitionError):
        await orders.cancel(order["id"], OrderCancel(), service)
    [refused] = await rows(database, "SELECT metadata FROM transition_rejections WHERE entity_id = :id", id=order["id"])
    assert refused.metadata == {"on_behalf_of": str(order["customer_id"])}


@pytest.mark.req("REQ-003.2")
async def test_a_service_asks_for_a_return_and_sends_it_for_the_customer(
    desk: Desk, service: Actor, database: Database
) -> None:
    order = await desk.delivered()
    request = await desk.ask(order["id"], service)
    [created] = await rows(database, "SELECT data FROM events WHERE entity_id = :id", id=request["id"])
    assert created.data["on_behalf_of"] == str(order["customer_id"])
    await desk.step(request["id"], R.APPROVED)
    await desk.step(request["id"], R.IN_TRANSIT, service)
    assert await metadata_of(database, request["id"], "IN_TRANSIT") == {"on_behalf_of": str(order["customer_id"])}
    assert "on_behalf_of" not in await metadata_of(database, request["id"], "APPROVED")


async def test_no_other_role_acts_on_behalf_of_a_customer(
    orders: OrderService, admin: Actor, service: Actor, customer: Actor, database: Database
) -> None:
    paid = await orders.create(order_create(), service)
    await orders.transition(paid["id"], OrderStateUpdate(new_state=OrderStatus.PAID), service)
    assert "on_behalf_of" not in await metadata_of(database, paid["id"], "PAID"), "a payment is not the customer's step"
    for who, fields in ((admin, {}), (customer, {"customer_id": str(customer.customer_id)})):
        order = await orders.create(order_create(**fields), admin)
        await orders.cancel(order["id"], OrderCancel(), who)
        assert await metadata_of(database, order["id"], "CANCELLED") == {}


@pytest.mark.req("NFR-004.3")
@pytest.mark.parametrize("role", list(Role))
async def test_what_is_said_to_be_possible_is_possible(desk: Desk, role: Role) -> None:
    """Each role, in the state before each step, is said to be allowed exactly what it can do then."""
    for state, before in ORDER_BEFORE.items():
        order = await order_in(desk.orders, desk.admin, before)
        caller = actor(role, customer_id=order["customer_id"] if role is Role.CUSTOMER else None)
        said = await desk.orders.transitions(order["id"], caller)
        allowed = {choice["to"]: choice for choice in said["transitions"]}[state]["allowed"]
        assert allowed == await succeeds(
            desk.orders.transition(order["id"], OrderStateUpdate(new_state=state), caller)
        ), (role, state)
    for step, before_step in RETURN_BEFORE.items():
        request = await desk.return_in(before_step)
        caller = actor(role, customer_id=request["customer_id"] if role is Role.CUSTOMER else None)
        said = await desk.returns.transitions(request["id"], caller)
        allowed = {choice["to"]: choice for choice in said["transitions"]}[step]["allowed"]
        assert allowed == await succeeds(desk.step(request["id"], step, caller)), (role, step)
    assert set(ORDER_BEFORE) | {OrderStatus.PENDING_PAYMENT} == set(TRANSITIONS[EntityType.ORDER])
    assert set(RETURN_BEFORE) | {ReturnStatus.REQUESTED} == set(TRANSITIONS[EntityType.RETURN])


async def succeeds(step: Any) -> bool:
    try:
        await step
    except ForbiddenError:
        return False
    return True


async def test_who_may_set_prices(database: Database, orders: OrderService, customer: Actor) -> None:
    payload = order_create(customer_id=str(customer.customer_id))
    assert (await orders.create(payload, customer))["status"] == "PENDING_PAYMENT"
    orders = OrderService(database, priced_by="service")
    for role in (Role.MANAGER, Role.ADMIN, Role.SERVICE):
        assert (await orders.create(payload, actor(role)))["status"] == "PENDING_PAYMENT"
    with pytest.raises(ForbiddenError, match="ORDERS_PRICED_BY") as refusal:
        await orders.create(payload, customer)
    assert refusal.value.details == {"role": "customer", "needed": ["admin", "manager", "service"]}
    assert len(await rows(database, "SELECT 1 FROM orders")) == 4


def test_production_takes_prices_from_services_alone_unless_it_is_said_otherwise(settings: Settings) -> None:
    development = settings.model_copy(update={"environment": "development"})
    production = settings.model_copy(update={"environment": "production"})
    assert (development.prices_set_by, production.prices_set_by) == ("anyone", "service")
    said = [production.model_copy(update={"orders_priced_by": who}).prices_set_by for who in ("anyone", "service")]
    assert said == ["anyone", "service"]
    assert Settings(_env_file=None, orders_priced_by="").orders_priced_by is None


@pytest.mark.req("NFR-004.4")
async def test_an_address_cannot_be_found_by_trying_hashes(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], customer_id: UUID
) -> None:
    """A row of our own that follows one of the staff holds no hash either: it depends on that row's."""
    order = await new_order(api, *TO_DELIVERED, customer_id=str(customer_id))
    requested = await new_return(api, order["id"])
    url, mine = f"/api/v1/returns/{requested['id']}", callers[Role.CUSTOMER]
    await callers[Role.MANAGER].patch(f"{url}/approve", json={"notes": "so"})
    sent = await mine.patch(f"{url}/state", json={"new_state": "IN_TRANSIT"})
    assert (sent.json()["reviewed_by"], sent.json()["requested_by"]) == (None, None)
    seen = (await mine.get(f"{url}/history")).json()["data"]
    assert [row["actor_id"] is None for row in seen] == [True, False]
    assert [(row["hash"], row["prev_hash"]) for row in seen] == [(None, None), (None, None)]
    staff = (await api.get(f"{url}/history")).json()["data"]
    assert all(row["hash"] and row["prev_hash"] for row in staff)
    assert guess(staff[0], "192.0.2.9") == staff[0]["hash"], "a reader of the hash can find the address"
    for answer in (await mine.get(url), await mine.get("/api/v1/returns")):
        assert staff[0]["actor_id"] not in answer.text


def guess(row: dict[str, Any], address: str) -> str:
    """Return the hash that a first row would have if the step had come from `address`."""
    at = datetime.fromisoformat(row["created_at"]).astimezone(UTC)
    told = (
        "v1",
        row["entity_type"],
        row["entity_id"],
        str(row["seq"]),
        row["previous_state"],
        row["new_state"],
        row["actor_id"],
        row["actor_type"],
        row["trigger"],
        address,
        f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
        '{"notes": "so", "refund_amount": "331.20", "restocking_fee": "0"}',
    )
    return hashlib.sha256(bytes(32) + "\n".join(told).encode()).hexdigest()


async def test_a_customer_checks_the_hashes_of_rows_that_hide_nothing(
    orders: OrderService, admin: Actor, customer: Actor
) -> None:
    order = await orders.create(order_create(customer_id=str(customer.customer_id)), customer)
    await orders.cancel(order["id"], OrderCancel(), customer)
    [row] = (await orders.history(order["id"], PageQuery(), customer))["data"]
    assert row == (await orders.history(order["id"], PageQuery(), admin))["data"][0]
