"""Corrections of orders: who, when, what is kept of the old value, and what the database refuses (REQ-001)."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from psycopg import errors

from app.core.actor import Actor
from app.core.enums import OrderStatus, Role
from app.core.precondition import Precondition
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.order import OrderCorrect, OrderQuery, OrderStateUpdate
from app.services.orders.corrections import STATES, CorrectionService
from app.services.orders.service import OrderService
from app.utils.exceptions import (
    AppError,
    CorrectionNotAllowedError,
    ForbiddenError,
    InvalidInputError,
    OrderNotFoundError,
    VersionConflictError,
)
from tests.conftest import MovableClock, actor
from tests.factories import order_create
from tests.integration.conftest import LOGINS, Login, error_of, new_order
from tests.integration.jobs_support import execute, order_in, rows

pytestmark = pytest.mark.req("REQ-001")

ADDRESS = {"street": "9 New Street", "city": "Cork", "postal_code": "T12", "country": "IE"}
NEW: dict[str, Any] = {
    "shipping_address": ADDRESS,
    "billing_address": ADDRESS,
    "carrier": "DHL",
    "tracking_number": "JD0146",
    "customer_email": "right@example.com",
    "customer_phone": "+33 6 99 73 74 75",
}
BEFORE = {"PENDING_PAYMENT", "PAID", "PROCESSING_IN_WAREHOUSE"}
MATTERS = {
    "shipping_address": BEFORE,
    "billing_address": BEFORE,
    "carrier": {"SHIPPED"},
    "tracking_number": {"SHIPPED"},
    "customer_email": {str(state) for state in OrderStatus},
    "customer_phone": {str(state) for state in OrderStatus},
}


@pytest.fixture
def corrections(database: Database, clock: MovableClock) -> CorrectionService:
    return CorrectionService(database, clock)


def fix(**fields: Any) -> OrderCorrect:
    return OrderCorrect.model_validate({"reason": "The customer called", **fields})


@pytest.mark.parametrize("state", list(OrderStatus))
async def test_each_field_can_be_corrected_while_it_matters(
    orders: OrderService, corrections: CorrectionService, admin: Actor, state: OrderStatus
) -> None:
    assert set(STATES) == set(NEW) == set(MATTERS)
    for field, value in NEW.items():
        order = await order_in(orders, admin, state)
        if state in MATTERS[field]:
            corrected = await corrections.correct(order["id"], fix(**{field: value}), admin)
            assert dict(corrected)[field] == value
            assert corrected == {**order, field: value, "version": order["version"] + 1}
        else:
            with pytest.raises(CorrectionNotAllowedError) as refusal:
                await corrections.correct(order["id"], fix(**{field: value}), admin)
            assert isinstance(refusal.value.details, dict)
            assert refusal.value.details["field"] == field
            assert refusal.value.details["current_state"] == state
            assert set(refusal.value.details["allowed_states"]) == MATTERS[field]
            assert await orders.get(order["id"], admin) == order


async def test_the_old_value_is_kept_with_who_and_why(
    orders: OrderService, corrections: CorrectionService, admin: Actor, database: Database, clock: MovableClock
) -> None:
    order = await orders.create(order_create(customer_email="wrong@example.com"), admin)
    clock.advance(hours=1)
    await corrections.correct(order["id"], fix(customer_email="right@example.com", billing_address=ADDRESS), admin)
    await corrections.correct(order["id"], fix(customer_phone="+33699737475"), admin)
    first, second = (await corrections.list(order["id"], PageQuery(), admin))["data"]
    assert first["changes"] == {
        "customer_email": {"old": "wrong@example.com", "new": "right@example.com"},
        "billing_address": {"old": order["billing_address"], "new": ADDRESS},
    }
    assert second["changes"] == {"customer_phone": {"old": None, "new": "+33699737475"}}
    assert (first["version"], second["version"]) == (2, 3)
    assert (first["reason"], first["actor_id"], first["actor_role"]) == ("The customer called", admin.id, "admin")
    assert (first["ip_address"], first["created_at"]) == ("192.0.2.7", clock.now)
    page = await corrections.list(order["id"], PageQuery(limit=1), admin)
    assert page["pagination"]["next_cursor"] is not None
    events = await rows(
        database, "SELECT seq, type, data FROM events WHERE entity_id = :id ORDER BY seq", id=order["id"]
    )
    assert [(event.seq, event.type) for event in events] == [
        (1, "order.created"),
        (2, "order.corrected"),
        (3, "order.corrected"),
    ]
    assert events[1].data == {"correction_id": str(first["id"]), "fields": ["billing_address", "customer_email"]}
    moved = await orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), admin)
    assert (moved["version"], moved["customer_email"]) == (4, "right@example.com")


async def test_search_finds_what_was_corrected(
    orders: OrderService, corrections: CorrectionService, admin: Actor
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED, customer_email="wrong@example.com")
    company = await orders.create(
        order_create(customer_company="Atelier Ünal", customer_phone="+33 6 11 22 33 44"), admin
    )
    fields = {"customer_email": "right@example.com", "customer_phone": "+33 6 99 73 74 75", "tracking_number": "JD0146"}
    await corrections.correct(order["id"], fix(**fields), admin)
    for typed, found in (
        ("right@example.com", order["id"]),
        ("699737475", order["id"]),
        ("JD0146", order["id"]),
        ("ünal", company["id"]),
        ("+33 6 11 22 33 44", company["id"]),
        ("wrong@example.com", None),
    ):
        listed = await orders.list(OrderQuery(q=typed), admin)
        assert [row["id"] for row in listed["data"]] == ([found] if found else []), typed


@pytest.mark.req("NFR-004.3")
@pytest.mark.parametrize("role", list(Role))
async def test_who_may_correct_what(
    orders: OrderService, corrections: CorrectionService, admin: Actor, role: Role
) -> None:
    may = {Role.MANAGER: set(NEW), Role.ADMIN: set(NEW), Role.WAREHOUSE: {"carrier", "tracking_number"}}
    for field, value in NEW.items():
        order = await order_in(orders, admin, OrderStatus(min(MATTERS[field] & {"PAID", "SHIPPED"})))
        who = actor(role, customer_id=order["customer_id"] if role is Role.CUSTOMER else None)
        if field in may.get(role, set()):
            assert dict(await corrections.correct(order["id"], fix(**{field: value}), who))[field] == value
        else:
            with pytest.raises(ForbiddenError):
                await corrections.correct(order["id"], fix(**{field: value}), who)


async def test_a_customer_reads_their_own_corrections_without_the_staff(
    orders: OrderService, corrections: CorrectionService, admin: Actor, customer: Actor
) -> None:
    order = await orders.create(order_create(customer_id=str(customer.customer_id)), admin)
    await corrections.correct(order["id"], fix(customer_phone="0612345678"), admin)
    [seen] = (await corrections.list(order["id"], PageQuery(), customer))["data"]
    assert (seen["actor_id"], seen["ip_address"], seen["actor_role"]) == (None, None, "admin")
    with pytest.raises(OrderNotFoundError):
        await corrections.list(order["id"], PageQuery(), actor(Role.CUSTOMER))
    with pytest.raises(OrderNotFoundError):
        await corrections.correct(uuid4(), fix(customer_phone="0612345678"), admin)


async def test_nothing_and_the_same_are_no_correction(
    orders: OrderService, corrections: CorrectionService, admin: Actor, database: Database
) -> None:
    order = await orders.create(order_create(), admin)
    for fields in ({}, {"customer_email": order["customer_email"], "shipping_address": order["shipping_address"]}):
        with pytest.raises(InvalidInputError):
            await corrections.correct(order["id"], fix(**fields), admin)
    assert await rows(database, "SELECT 1 FROM order_corrections") == []


async def test_of_two_who_saw_the_same_version_one_corrects(
    orders: OrderService, corrections: CorrectionService, admin: Actor, database: Database
) -> None:
    order = await orders.create(order_create(), admin)
    seen = Precondition((1,), '"1"')
    answers = await asyncio.gather(
        *(corrections.correct(order["id"], fix(customer_phone=f"+3361234567{n}"), admin, seen) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert sum(isinstance(answer, VersionConflictError) for answer in answers) == 7
    assert len(await rows(database, "SELECT 1 FROM order_corrections")) == 1


async def test_a_correction_and_a_step_at_once_are_one_after_the_other(
    orders: OrderService, corrections: CorrectionService, admin: Actor
) -> None:
    """Either the parcel goes to the new address, or the correction comes too late and says so."""
    for _ in range(5):
        order = await order_in(orders, admin, OrderStatus.PROCESSING_IN_WAREHOUSE)
        answers: list[Any] = list(
            await asyncio.gather(
                orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.SHIPPED), admin),
                corrections.correct(order["id"], fix(shipping_address=ADDRESS), admin),
                return_exceptions=True,
            )
        )
        assert isinstance(answers[0], dict)
        now = await orders.get(order["id"], admin)
        if isinstance(answers[1], AppError):
            assert isinstance(answers[1], CorrectionNotAllowedError)
            assert (now["shipping_address"], now["version"]) == (order["shipping_address"], order["version"] + 1)
        else:
            assert (now["shipping_address"], now["version"]) == (ADDRESS, order["version"] + 2)


async def test_the_warehouse_hears_of_a_new_address_of_a_paid_order(
    orders: OrderService, corrections: CorrectionService, admin: Actor, database: Database
) -> None:
    sql = "SELECT payload FROM jobs WHERE kind = 'notify.warehouse_order_ready' AND entity_id = :id ORDER BY id"
    unpaid = await order_in(orders, admin, OrderStatus.PENDING_PAYMENT)
    await corrections.correct(unpaid["id"], fix(shipping_address=ADDRESS), admin)
    assert await rows(database, sql, id=unpaid["id"]) == []
    for state in (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE):
        order = await order_in(orders, admin, state)
        await corrections.correct(order["id"], fix(billing_address=ADDRESS), admin)
        await corrections.correct(order["id"], fix(shipping_address=ADDRESS), admin)
        assert [row.payload for row in await rows(database, sql, id=order["id"])] == [{}, {"address_corrected": True}]


async def test_over_http(api: httpx2.AsyncClient) -> None:
    order = await new_order(api, "PAID")
    url = f"/api/v1/orders/{order['id']}"
    stale = await api.patch(url, json={"reason": "so", "customer_email": "a@example.com"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, error_of(stale)["code"]) == (412, "VERSION_CONFLICT")
    done = await api.patch(url, json={"reason": "so", "customer_email": "a@example.com"}, headers={"If-Match": '"2"'})
    assert (done.status_code, done.headers["etag"], done.json()["customer_email"]) == (200, '"3"', "a@example.com")
    late = await api.patch(url, json={"reason": "so", "tracking_number": "X1"})
    assert (late.status_code, error_of(late)["code"]) == (409, "CORRECTION_NOT_ALLOWED")
    for body in ({"customer_email": "b@example.com"}, {"reason": "so"}, {"reason": "so", "total_amount": 1}):
        refused = await api.patch(url, json=body)
        assert (refused.status_code, error_of(refused)["code"]) == (422, "VALIDATION_ERROR"), body


# --- what the database refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOGINS)
async def test_no_login_changes_a_field_without_its_correction(
    orders: OrderService, admin: Actor, login: Login, name: str
) -> None:
    order = await order_in(orders, admin, OrderStatus.SHIPPED)
    connection = login(name)
    for change in (
        "customer_email = 'thief@example.com'",
        "customer_phone = '1234'",
        "shipping_address = '{}'",
        "billing_address = '{}'",
        "tracking_number = 'X'",
        "carrier = 'X'",
        "customer_email = 'thief@example.com', version = version + 1",
    ):
        with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
            connection.execute(f"UPDATE orders SET {change} WHERE id = %s".encode(), (order["id"],))
        assert refusal.value.diag.constraint_name == "correction", change


CORRECTION = (
    "INSERT INTO order_corrections (order_id, version, changes, reason, actor_id, actor_role) SELECT id, version + 1,"
    " jsonb_build_object('customer_email', jsonb_build_object('old', {old}, 'new', 'new@example.com')), 'so', id, 'admin'"
    " FROM orders WHERE id = %s"
)


def corrected(connection: psycopg.Connection, order_id: UUID, old: str, change: str) -> None:
    with connection.transaction():
        connection.execute(CORRECTION.format(old=old).encode(), (order_id,))
        connection.execute(f"UPDATE orders SET {change}, version = version + 1 WHERE id = %s".encode(), (order_id,))
        connection.execute(
            "INSERT INTO events (entity_type, entity_id, seq, type, data) SELECT 'ORDER', order_id, version,"
            " 'order.corrected', jsonb_build_object('correction_id', id) FROM order_corrections WHERE order_id = %s",
            (order_id,),
        )


async def test_a_correction_says_what_it_changes(orders: OrderService, admin: Actor, login: Login) -> None:
    order = await orders.create(order_create(), admin)
    connection = login("application")
    for old, change in (
        ("'another@example.com'", "customer_email = 'new@example.com'"),
        ("customer_email", "customer_email = 'other@example.com'"),
        ("customer_email", "customer_phone = '12345'"),
        ("customer_email", "customer_email = 'new@example.com', billing_address = '{}'"),
    ):
        with pytest.raises(errors.IntegrityConstraintViolation):
            corrected(connection, order["id"], old, change)
    corrected(connection, order["id"], "customer_email", "customer_email = 'new@example.com'")


@pytest.mark.parametrize("name", LOGINS)
async def test_corrections_and_notes_are_never_changed(
    orders: OrderService, corrections: CorrectionService, admin: Actor, database: Database, login: Login, name: str
) -> None:
    order = await orders.create(order_create(), admin)
    await corrections.correct(order["id"], fix(customer_phone="0612345678"), admin)
    note = "INSERT INTO notes (order_id, text, author_id, author_role) VALUES (:id, 'seen', :id, 'admin')"
    await execute(database, note, id=order["id"])
    for table in ("order_corrections", "notes"):
        for sql in (f"UPDATE {table} SET created_at = now()", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(errors.InsufficientPrivilege):
                login(name).execute(sql.encode())


async def test_the_address_of_a_country_without_postal_codes(api: httpx2.AsyncClient) -> None:
    for country, code, status in (("HK", None, 201), ("AE", None, 201), ("HK", "999077", 201), ("FR", None, 422)):
        address = {"street": "1 Harbour Road", "city": "Town", "country": country}
        if code is not None:
            address["postal_code"] = code
        made = await api.post(
            "/api/v1/orders",
            json={
                **order_create().model_dump(mode="json", exclude={"shipping_address"}, exclude_none=True),
                "shipping_address": address,
            },
        )
        assert made.status_code == status, made.text
        if status == 422:
            assert error_of(made)["details"] == [
                {"field": "shipping_address.postal_code", "message": "is required in FR"}
            ]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("customer_phone", ["+33 6 12 34 56 78", "(0)20 7946-0000", "+33612345678"], ["12", "call me", "+", "1" * 16]),
        ("customer_company", ["Atelier & Fils"], ["", " ", "a\nb"]),
        ("customer_vat_id", ["FR40303265045", "CHE-123.456.789 MWST", "GB999 9999 73"], ["40303265045", "fr40", "F"]),
        ("locale", ["fr", "fr-FR", "zh-Hant-TW", "es-419"], ["french", "fr_FR", "f", ""]),
    ],
)
async def test_what_an_order_says_of_its_customer(
    api: httpx2.AsyncClient, field: str, good: list[str], bad: list[str]
) -> None:
    for value in good:
        order = await new_order(api, **{field: value})
        assert order[field] == value
        assert (await api.get(f"/api/v1/orders/{order['id']}")).json()[field] == value
    payload = order_create().model_dump(mode="json", exclude_none=True)
    for value in bad:
        refused = await api.post("/api/v1/orders", json={**payload, field: value})
        assert (refused.status_code, error_of(refused)["details"][0]["field"]) == (422, field), value
