"""Totals, offsets and filters of several values, on lists that are read in bounded steps (REQ-005)."""

from datetime import timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.core.actor import Actor
from app.core.enums import ActorType, EntityType, OrderStatus, ReturnStatus, Role, Trigger
from app.database import Database
from app.schemas.state_history import AuditQuery
from app.services import paging
from app.services.workflow.audit import AuditService
from tests.conftest import MovableClock
from tests.integration.conftest import TO_DELIVERED, new_order, new_return

pytestmark = pytest.mark.req("REQ-005.4")

ORDERS = "/api/v1/orders"
STATUSES = ("PENDING_PAYMENT", "PAID", "CANCELLED")


async def some_orders(api: httpx2.AsyncClient, clock: MovableClock) -> list[dict[str, Any]]:
    """Make nine orders, of three statuses in turns; return them, newest first."""
    made = []
    for number in range(9):
        if number % 2:  # Pairs of one moment: their ids decide.
            clock.advance(seconds=1)
        made.append(await new_order(api, *[step for step in [STATUSES[number % 3]] if step != "PENDING_PAYMENT"]))
    return sorted(made, key=lambda order: (order["created_at"], order["id"]), reverse=True)


async def test_offsets_and_cursors_over_several_statuses_give_each_order_once(
    api: httpx2.AsyncClient, clock: MovableClock
) -> None:
    made = await some_orders(api, clock)
    for asked, limit in product(([], ["PAID"], ["PAID", "CANCELLED"], ["CANCELLED", "PAID", "PAID"]), (1, 2, 9)):
        expected = [order["id"] for order in made if not asked or order["status"] in asked]
        read: list[str] = []
        cursor: dict[str, Any] = {}
        while cursor.get("cursor", "") is not None:
            page = (await api.get(ORDERS, params={"status": asked, "limit": limit, **cursor})).json()
            read += [order["id"] for order in page["data"]]
            cursor = {"cursor": page["pagination"]["next_cursor"]}
        assert read == expected
        for offset in range(len(expected) + 2):
            page = (await api.get(ORDERS, params={"status": asked, "limit": limit, "offset": offset})).json()
            assert [order["id"] for order in page["data"]] == expected[offset : offset + limit]
            assert (page["pagination"]["next_cursor"] is not None) == (offset + limit < len(expected))


async def test_an_offset_continues_with_the_cursor_that_it_gives(api: httpx2.AsyncClient, clock: MovableClock) -> None:
    made = [order["id"] for order in await some_orders(api, clock)]
    page = (await api.get(ORDERS, params={"limit": 2, "offset": 3})).json()
    rest = (await api.get(ORDERS, params={"cursor": page["pagination"]["next_cursor"]})).json()
    assert [order["id"] for order in page["data"] + rest["data"]] == made[3:]


async def test_a_total_is_counted_up_to_a_bound_and_estimated_beyond(
    api: httpx2.AsyncClient, clock: MovableClock, monkeypatch: pytest.MonkeyPatch, owner_connection: Any
) -> None:
    await some_orders(api, clock)
    owner_connection.execute("ANALYZE orders")

    async def total(**query: Any) -> tuple[int, bool]:
        answer = (await api.get(ORDERS, params={**query, "include_total": "true"})).json()["pagination"]
        return answer["total"], answer.get("total_is_estimate", False)

    assert await total() == (9, False)
    assert await total(status=["PAID", "CANCELLED"]) == (6, False)
    monkeypatch.setattr(paging, "COUNTED", 6)
    assert await total(status=["PAID", "CANCELLED"]) == (6, False)
    assert await total(limit=1, offset=5) == (9, True)
    monkeypatch.setattr(paging, "COUNTED", 5)
    assert await total(status=["PAID", "CANCELLED"]) == (6, True)
    assert await total(status="PAID") == (3, False)


@pytest.mark.req("REQ-003.5")
async def test_each_combination_of_audit_filters_finds_what_it_names(
    api: httpx2.AsyncClient, database: Database, clock: MovableClock
) -> None:
    """The search reads states one by one: it finds what a look at each row would."""
    admin = Actor(id=uuid4(), type=ActorType.USER, trigger=Trigger.API_CALL, role=Role.ADMIN)
    start = clock.now
    for _ in range(2):
        clock.advance(hours=1)
        order = await new_order(api, *TO_DELIVERED)
        returned = await new_return(api, order["id"])
        assert (await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=REJECTION)).status_code == 200
        assert (await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=REJECTION)).status_code == 409
        assert (await api.post(f"{ORDERS}/{order['id']}/cancel", json={"reason": "late"})).status_code == 409
    audit = AuditService(database)
    for rejected in (False, True):
        rows = (await audit.search(AuditQuery(limit=100, rejected=rejected), admin))["data"]
        state_of = "requested_state" if rejected else "new_state"
        assert len(rows) == (4 if rejected else 10)
        actors = {row["actor_id"] for row in rows} - {None}
        for entity, entity_id, by, state, since in product(
            (None, EntityType.ORDER, EntityType.RETURN),
            (None, rows[0]["entity_id"], rows[-1]["entity_id"]),
            (None, *actors, uuid4()),
            (None, *OrderStatus, *ReturnStatus, "UNHEARD_OF"),
            (None, start + timedelta(hours=2)),
        ):
            wanted = [
                row["id"]
                for row in rows
                if entity in {None, row["entity_type"]}
                and entity_id in {None, row["entity_id"]}
                and by in {None, row["actor_id"]}
                and state in {None, row[state_of]}  # type: ignore[literal-required]
                and (since is None or row["created_at"] >= since)
            ]
            query = AuditQuery(
                limit=100,
                rejected=rejected,
                entity=entity.value if entity else None,
                entity_id=entity_id,
                actor=by,
                state=state,
                from_=since,
                include_total=True,
            )
            found = await audit.search(query, admin)
            assert [row["id"] for row in found["data"]] == wanted, query
            assert found["pagination"]["total"] == len(wanted), query


REJECTION = {"notes": "Worn", "rejection_reason": "POLICY_VIOLATION"}


@pytest.mark.req("REQ-003.5")
def test_orders_and_returns_have_no_state_in_common() -> None:
    """The search takes the state for the type of the entity."""
    assert not {*OrderStatus} & {*ReturnStatus}
