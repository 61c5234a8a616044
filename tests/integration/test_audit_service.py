"""The audit trail on a real database: search, immutability, and the proof that it was not altered."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from app.core.actor import Actor
from app.core.enums import OrderStatus, Role
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.schemas.state_history import AuditQuery
from app.services.orders.service import OrderService
from app.services.workflow.audit import AuditService
from app.services.workflow.views import RecordView, RejectionView
from app.utils.exceptions import InvalidInputError, InvalidStateTransitionError
from tests import databases
from tests.conftest import MovableClock, actor
from tests.databases import TestServers
from tests.factories import order_create

PATH = (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED, OrderStatus.DELIVERED)


@pytest.fixture
def audit(database: Database) -> AuditService:
    return AuditService(database)


async def delivered(orders: OrderService, by: Actor, clock: MovableClock) -> UUID:
    """Return a new order that went all the way, an hour a step."""
    order = await orders.create(order_create(), by)
    for state in PATH:
        clock.advance(hours=1)
        await orders.transition(order["id"], OrderStateUpdate(new_state=state, reason="as planned"), by)
    order_id: UUID = order["id"]
    return order_id


@pytest.mark.req("REQ-003.1")
async def test_full_lifecycle_writes_four_rows(
    orders: OrderService, audit: AuditService, admin: Actor, clock: MovableClock
) -> None:
    order_id = await delivered(orders, admin, clock)
    found = cast(
        "list[RecordView]", (await audit.search(AuditQuery(entity="ORDER", entity_id=order_id), admin))["data"]
    )
    assert [(row["previous_state"], row["new_state"]) for row in found] == [
        ("PENDING_PAYMENT", "PAID"),
        ("PAID", "PROCESSING_IN_WAREHOUSE"),
        ("PROCESSING_IN_WAREHOUSE", "SHIPPED"),
        ("SHIPPED", "DELIVERED"),
    ]
    first = found[0]
    assert (first["actor_id"], first["actor_type"], first["trigger"]) == (admin.id, "USER", "API_CALL")
    assert first["metadata"] == {"reason": "as planned"}
    assert first["ip_address"] == "192.0.2.7"
    assert [row["prev_hash"] for row in found[1:]] == [row["hash"] for row in found[:-1]]


@pytest.mark.req("REQ-003.5")
async def test_search_by_date_actor_and_state(
    orders: OrderService, audit: AuditService, admin: Actor, clock: MovableClock
) -> None:
    manager = actor(Role.MANAGER)
    start = clock.now
    await delivered(orders, admin, clock)
    await delivered(orders, manager, clock)

    async def count(**filters: Any) -> int:
        return len((await audit.search(AuditQuery(limit=100, **filters), admin))["data"])

    assert await count() == 8
    assert await count(actor=manager.id) == 4
    assert await count(state="SHIPPED") == 2
    assert await count(state="SHIPPED", actor=manager.id) == 1
    assert await count(from_=start + timedelta(hours=2), to=start + timedelta(hours=4)) == 2
    assert await count(entity="RETURN") == 0
    assert await count(actor=uuid4()) == 0


@pytest.mark.req("REQ-003.5")
async def test_pages_are_in_order_and_complete(
    orders: OrderService, audit: AuditService, admin: Actor, clock: MovableClock
) -> None:
    for _ in range(3):
        await delivered(orders, admin, clock)
    seen: list[Any] = []
    cursor = None
    while True:
        page = await audit.search(AuditQuery(limit=5, cursor=cursor, include_total=True), admin)
        assert page["pagination"]["total"] == 12
        seen += page["data"]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert len({row["id"] for row in seen}) == len(seen) == 12
    assert [row["created_at"] for row in seen] == sorted(row["created_at"] for row in seen)


@pytest.mark.parametrize("cursor", ["", "nonsense", "MjAyNnwx", "%00", "e30"])
async def test_foreign_cursor_is_refused(audit: AuditService, admin: Actor, cursor: str) -> None:
    with pytest.raises(InvalidInputError):
        await audit.search(AuditQuery(cursor=cursor), admin)


@pytest.mark.req("REQ-001.4")
async def test_refused_attempt_is_on_record(orders: OrderService, audit: AuditService, admin: Actor) -> None:
    order = await orders.create(order_create(), admin)
    with pytest.raises(InvalidStateTransitionError):
        await orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.SHIPPED, reason="try"), admin)
    page = await audit.search(AuditQuery(rejected=True, entity_id=order["id"]), admin)
    [refusal] = cast("list[RejectionView]", page["data"])
    assert (refusal["current_state"], refusal["requested_state"]) == ("PENDING_PAYMENT", "SHIPPED")
    assert refusal["actor_id"] == admin.id
    assert refusal["metadata"] == {"reason": "try"}
    assert (await audit.search(AuditQuery(), admin))["data"] == []
    assert (await orders.get(order["id"], admin))["version"] == 1


@pytest.mark.req("REQ-003.3")
@pytest.mark.parametrize("login", ["app_url", "owner_url", "superuser_url"])
@pytest.mark.parametrize("table", ["state_history", "transition_rejections", "events"])
@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE {table} SET entity_id = gen_random_uuid()",
        "DELETE FROM {table}",
        "TRUNCATE {table}",
        "TRUNCATE {table} CASCADE",
        "SET session_replication_role = replica; DELETE FROM {table}",
    ],
)
async def test_database_refuses_to_rewrite_history(
    orders: OrderService,
    admin: Actor,
    clock: MovableClock,
    servers: TestServers,
    database_name: str,
    login: str,
    table: str,
    attack: str,
) -> None:
    await delivered(orders, admin, clock)
    url = databases.url_of(getattr(servers, login), database_name)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(attack.format(table=table).encode())
    with psycopg.connect(url) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM state_history").fetchall()
    assert rows == 4


TAMPERINGS = {
    "actor": "UPDATE state_history SET actor_id = gen_random_uuid() WHERE {row} AND seq = 2",
    "time": "UPDATE state_history SET created_at = created_at - interval '1 day' WHERE {row} AND seq = 2",
    "notes": 'UPDATE state_history SET metadata = \'{{"reason": "other"}}\' WHERE {row} AND seq = 3',
    "ip": "UPDATE state_history SET ip_address = '203.0.113.1' WHERE {row} AND seq = 1",
    "state": "UPDATE state_history SET new_state = 'CANCELLED' WHERE {row} AND seq = 4",
    "hash": "UPDATE state_history SET hash = sha256('x') WHERE {row} AND seq = 4",
    "first row gone": "DELETE FROM state_history WHERE {row} AND seq = 1",
    "middle row gone": "DELETE FROM state_history WHERE {row} AND seq = 2",
    "last row gone": "DELETE FROM state_history WHERE {row} AND seq = 4",
    "all rows gone": "DELETE FROM state_history WHERE {row}",
    "rows swapped": "UPDATE state_history SET seq = 5 - seq + 100 WHERE {row}",
    "head of the chain": "UPDATE orders SET audit_hash = sha256('x') WHERE id = '{id}'",
    "state of the order": "UPDATE orders SET status = 'SHIPPED' WHERE id = '{id}'",
    "order gone": "DELETE FROM payments WHERE order_id = '{id}'; DELETE FROM order_line_items WHERE order_id = '{id}';"
    " DELETE FROM orders WHERE id = '{id}'",
    "row added": "INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_type,"
    " trigger, prev_hash, hash) SELECT 'ORDER', '{id}', 5, 'DELIVERED', 'CANCELLED', 'SYSTEM', 'API_CALL', hash,"
    " sha256('x') FROM state_history WHERE {row} AND seq = 4",
}


@pytest.mark.req("REQ-003.4")
@pytest.mark.parametrize("tampering", list(TAMPERINGS))
async def test_superusers_tampering_is_found(
    orders: OrderService,
    audit: AuditService,
    admin: Actor,
    clock: MovableClock,
    servers: TestServers,
    database_name: str,
    tampering: str,
) -> None:
    victim, bystander = [await delivered(orders, admin, clock) for _ in range(2)]
    report = await audit.verify()
    assert (report["ok"], report["entities"], report["rows"]) == (True, 2, 8)
    tables = ("state_history", "orders", "order_line_items")
    statement = TAMPERINGS[tampering].format(id=victim, row=f"entity_id = '{victim}'")
    with psycopg.connect(databases.url_of(servers.superuser_url, database_name)) as connection:
        for table in tables:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        connection.execute(statement.encode())
        for table in tables:
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
            for (name,) in connection.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname LIKE 'guard%%'", (table,)
            ).fetchall():
                connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}".encode())
    report = await audit.verify()
    assert not report["ok"]
    assert report["fault"] is not None
    assert report["fault"]["entity_id"] == victim != bystander
