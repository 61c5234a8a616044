"""What the database itself refuses, to every login and past the application."""

from itertools import product
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus, ReturnStatus
from app.schemas.order import OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnReject, ReturnStateUpdate
from app.services.orders.service import OrderService
from app.services.returns.service import ReturnService
from app.services.workflow.state_machine import TRANSITIONS
from tests.factories import order_create
from tests.integration.conftest import LOGINS, Login

pytestmark = [pytest.mark.req("REQ-001"), pytest.mark.req("REQ-002"), pytest.mark.req("REQ-003")]

ORDER_PATH = (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED, OrderStatus.DELIVERED)
RETURN_PATH = (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED, ReturnStatus.COMPLETED)
# What each state needs besides, so that the transition guard alone is left to refuse it.
FACTS = {
    "orders": (
        "shipped_at = CASE WHEN '{to}' IN ('SHIPPED', 'DELIVERED') THEN now() END,"
        " delivered_at = CASE WHEN '{to}' = 'DELIVERED' THEN now() END,"
        " cancelled_at = CASE WHEN '{to}' = 'CANCELLED' THEN now() END"
    ),
    "return_requests": "rejection_reason = CASE WHEN '{to}' = 'REJECTED' THEN 'OTHER' END",
}
INITIAL = {"orders": "PENDING_PAYMENT", "return_requests": "REQUESTED"}
MACHINES = {"orders": EntityType.ORDER, "return_requests": EntityType.RETURN}
PAIRS = [
    (table, str(old), str(new))
    for table, states in (("orders", OrderStatus), ("return_requests", ReturnStatus))
    for old, new in product(states, repeat=2)
    if old is not new
]


async def order_in(orders: OrderService, state: OrderStatus, by: Actor) -> UUID:
    order = await orders.create(order_create(), by)
    path = (OrderStatus.CANCELLED,) if state is OrderStatus.CANCELLED else ORDER_PATH
    for step in path[: path.index(state) + 1] if state in path else ():
        await orders.transition(order["id"], OrderStateUpdate(new_state=step), by)
    return UUID(str(order["id"]))


async def return_in(orders: OrderService, returns: ReturnService, state: ReturnStatus, by: Actor) -> UUID:
    order_id = await order_in(orders, OrderStatus.DELIVERED, by)
    request = await returns.create(ReturnCreate(order_id=order_id, reason="Cracked"), by)
    if state is ReturnStatus.REJECTED:
        rejection = ReturnReject.model_validate({"notes": "Worn", "rejection_reason": "OTHER"})
        await returns.reject(request["id"], rejection, by)
    elif state is not ReturnStatus.REQUESTED:
        await returns.approve(request["id"], ReturnApprove(notes="Fine"), by)
        for step in RETURN_PATH[: RETURN_PATH.index(state) + 1] if state in RETURN_PATH else ():
            await returns.transition(request["id"], ReturnStateUpdate(new_state=step), by)
    return UUID(str(request["id"]))


@pytest.fixture
async def entities(clean_database: None, orders: OrderService, returns: ReturnService, admin: Actor) -> dict[str, UUID]:
    """One entity in every state of both machines, by `table.state`."""
    found = {f"orders.{state}": await order_in(orders, state, admin) for state in OrderStatus}
    found |= {f"return_requests.{state}": await return_in(orders, returns, state, admin) for state in ReturnStatus}
    return found


def change(connection: psycopg.Connection, table: str, entity_id: UUID, to: str, extra: str = "") -> None:
    facts = FACTS[table].format(to=to)
    connection.execute(f"UPDATE {table} SET status = '{to}', {facts}{extra} WHERE id = %s".encode(), (entity_id,))


def constraint_of(fault: psycopg.Error) -> str | None:
    return fault.diag.constraint_name


@pytest.mark.req("REQ-001.2")
async def test_no_login_gets_an_illegal_state_in(entities: dict[str, UUID], login: Login) -> None:
    """Every pair of states, by plain SQL; a legal one is refused too when it comes without its audit row."""
    for name in LOGINS:
        connection = login(name)
        for table, old, new in PAIRS:
            by_name = {
                str(state): {str(target) for target in targets}
                for state, targets in TRANSITIONS[MACHINES[table]].items()
            }
            legal = new in by_name[old]
            with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
                change(connection, table, entities[f"{table}.{old}"], new)
            expected = "audited_transition" if legal else "legal_transition"
            assert constraint_of(refusal.value) == expected, (name, table, old, new)
        for key, entity_id in entities.items():
            table, state = key.split(".")
            [row] = connection.execute(f"SELECT status FROM {table} WHERE id = %s".encode(), (entity_id,)).fetchall()
            assert row == (state,)


@pytest.mark.req("REQ-003.2")
@pytest.mark.parametrize("name", LOGINS)
async def test_a_new_version_and_head_do_not_replace_the_audit_row(
    orders: OrderService, admin: Actor, login: Login, name: str
) -> None:
    order_id = await order_in(orders, OrderStatus.PAID, admin)
    connection = login(name)
    head = ", version = version + 1, audit_seq = audit_seq + 1, audit_hash = sha256('forged')"
    with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
        change(connection, "orders", order_id, "CANCELLED", head)
    assert constraint_of(refusal.value) == "audited_transition"
    # With an audit row of another change it is not better.
    history = (
        "INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_type, trigger,"
        " metadata, created_at, prev_hash, hash) VALUES ('ORDER', %s, 2, 'PAID', 'PROCESSING_IN_WAREHOUSE',"
        " 'SYSTEM', 'CLI', '{}', now(), sha256('x'), sha256('forged'))"
    )
    with connection.transaction(force_rollback=True):
        connection.execute(history.encode(), (order_id,))
        with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
            change(connection, "orders", order_id, "CANCELLED", head)
    assert constraint_of(refusal.value) == "audited_transition"
    assert connection.execute("SELECT count(*) FROM state_history").fetchone() == (1,)


LINES_OF = (
    "(SELECT jsonb_agg(jsonb_build_object('line_item_id', l.id, 'quantity', 1)) FROM order_line_items l"
    " WHERE l.order_id = '{order}')"
)


@pytest.mark.req("REQ-001.1", "REQ-002.1")
@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("table", INITIAL)
async def test_nothing_begins_in_the_middle(entities: dict[str, UUID], login: Login, name: str, table: str) -> None:
    connection = login(name)
    columns = [
        column
        for (column,) in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND column_name <> 'id'", (table,)
        )
    ]
    begun = {
        "status": "CASE n WHEN 1 THEN '{later}' ELSE status END",
        "version": "CASE n WHEN 2 THEN 2 ELSE version END",
        "audit_seq": "CASE n WHEN 3 THEN 1 ELSE audit_seq END",
        "audit_hash": "CASE n WHEN 3 THEN sha256('x') ELSE audit_hash END",
        "order_number": "'X' || order_number",
        "return_number": "'X' || return_number",
        "items": LINES_OF.format(order=entities["orders.DELIVERED"]),
        "order_id": "'{order}'::uuid",
    }
    later = "PAID" if table == "orders" else "APPROVED"
    chosen = [begun.get(column, column).format(later=later, order=entities["orders.DELIVERED"]) for column in columns]
    source = entities[f"{table}.{INITIAL[table]}"]
    for n in (1, 2, 3):
        sql = (
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(chosen)}"
            f" FROM {table}, (VALUES ({n})) AS v(n) WHERE id = %s"
        )
        with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
            connection.execute(sql.encode(), (source,))
        assert constraint_of(refusal.value) == "initial_state", n
    # The same row from the beginning is welcome: nothing else was wrong with it.
    sql = (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(chosen)}"
        f" FROM {table}, (VALUES (0)) AS v(n) WHERE id = %s"
    )
    connection.execute(sql.encode(), (source,))


PERMANENT = (
    "orders",
    "order_line_items",
    "return_requests",
    "state_history",
    "transition_rejections",
    "events",
    "gateway_events",
    "payments",
    "refunds",
    "jobs",
    "dead_letters",
    "cases",
    "notifications",
    "invoices",
    "invoice_series",
    "attachments",
    "order_corrections",
    "notes",
    "api_keys",
    "state_transitions",
)


@pytest.mark.req("REQ-003.7")
def test_the_application_removes_nothing(clean_database: None, login: Login) -> None:
    connection = login("application")
    for table in PERMANENT:
        for sql in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"TRUNCATE {table} CASCADE", f"DROP TABLE {table}"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(sql.encode())
    assert connection.execute("SELECT count(*) FROM state_transitions").fetchone() == (11,)


@pytest.mark.req("REQ-003.3")
@pytest.mark.parametrize("table", ["orders", "order_line_items", "state_history", "state_transitions"])
def test_the_application_cannot_take_a_guard_off(clean_database: None, login: Login, table: str) -> None:
    connection = login("application")
    attempts = (f"ALTER TABLE {table} DISABLE TRIGGER ALL", "SET session_replication_role = replica")
    for sql in attempts:
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(sql.encode())


FIXED = {
    "orders": [
        "id",
        "order_number",
        "customer_id",
        "currency",
        "subtotal_amount",
        "tax_amount",
        "shipping_amount",
        "total_amount",
        "payment_method",
        "created_at",
    ],
    "order_line_items": ["quantity", "unit_price", "tax_rate", "tax_amount", "subtotal", "product_name", "order_id"],
    "return_requests": [
        "id",
        "return_number",
        "order_id",
        "customer_id",
        "items",
        "items_amount",
        "currency",
        "reason",
        "created_at",
    ],
    "payments": ["id", "order_id", "amount", "currency", "method", "token"],
    "refunds": ["id", "payment_id", "order_id", "return_id", "reason", "amount", "currency"],
    "invoices": ["number", "order_id", "view", "storage_key"],
    "state_transitions": ["to_state"],
}


@pytest.mark.parametrize("table", FIXED)
def test_what_was_agreed_is_not_changed(clean_database: None, login: Login, table: str) -> None:
    connection = login("application")
    for column in FIXED[table]:
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"UPDATE {table} SET {column} = {column}".encode())


async def test_totals_are_the_sum_for_every_login(orders: OrderService, admin: Actor, login: Login) -> None:
    await orders.create(order_create(), admin)
    for name in ("owner", "superuser"):
        with pytest.raises(errors.CheckViolation) as refusal:
            login(name).execute("UPDATE orders SET total_amount = total_amount + 1")
        assert constraint_of(refusal.value) == "ck_orders_total_amount"
