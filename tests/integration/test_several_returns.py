"""An order may have several returns, one of them open at a time, and never of more than was bought (REQ-002)."""

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from psycopg import errors

from alembic import command
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import RejectionReason, ReturnStatus
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.return_request import ReturnQuery
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.services.orders.views import OrderView
from app.services.returns.service import ReturnService
from app.services.returns.views import ReturnView
from app.services.workflow.state_machine import RETURN_TRANSITIONS
from app.tasks.runner import Verdict
from app.utils.exceptions import InvalidInputError, ReturnAlreadyExistsError, ReturnNotAllowedError
from tests import databases
from tests.conftest import MovableClock
from tests.databases import TestServers
from tests.factories import LineFactory
from tests.integration.conftest import LOGINS, Login
from tests.integration.jobs_support import rows
from tests.integration.money_support import Shop, cents
from tests.integration.returns_support import PATHS, Desk, R, count

pytestmark = pytest.mark.req("REQ-002", "REQ-002.3")

OPEN = [state for state, targets in RETURN_TRANSITIONS.items() if targets]
ODD = {"quantity": 3, "unit_price": 3.33, "tax_rate": 0.101}
"""Three pieces that cost 11.00 with tax: no part of them is a whole number of cents."""

BEFORE = "0008"
"""The newest migration that knows one return an order only."""


@pytest.fixture
def desk(orders: OrderService, returns: ReturnService, admin: Actor) -> Desk:
    return Desk(orders, returns, admin)


async def complete(desk: Desk, request: ReturnView) -> ReturnView:
    for step in PATHS[R.COMPLETED]:
        request = await desk.step(request["id"], step)
    return request


def some(order: OrderView, quantity: int, line: int = 0) -> list[dict[str, Any]]:
    return [{"line_item_id": str(order["line_items"][line]["id"]), "quantity": quantity}]


@pytest.mark.parametrize("state", OPEN)
async def test_while_one_is_open_there_is_no_other(desk: Desk, state: ReturnStatus) -> None:
    order = await desk.delivered()
    request = await desk.ask(order["id"], items=some(order, 1))
    for step in PATHS[state]:
        request = await desk.step(request["id"], step)
    with pytest.raises(ReturnAlreadyExistsError) as refusal:
        await desk.ask(order["id"], items=some(order, 1))
    assert refusal.value.details == {
        "order_id": str(order["id"]),
        "return_id": str(request["id"]),
        "return_number": request["return_number"],
    }


async def test_after_a_rejection_all_of_it_may_be_asked_for_again(desk: Desk) -> None:
    order = await desk.delivered()
    first = await desk.ask(order["id"])
    await desk.step(first["id"], R.REJECTED)
    again = await desk.ask(order["id"])
    assert (again["items"], again["items_amount"]) == (first["items"], first["items_amount"])
    assert again["return_number"] != first["return_number"]


async def test_after_a_part_the_rest_may_be_asked_for(desk: Desk) -> None:
    order = await desk.delivered()
    await complete(desk, await desk.ask(order["id"], items=some(order, 1)))
    with pytest.raises(InvalidInputError) as refusal:
        await desk.ask(order["id"], items=some(order, 2))
    assert refusal.value.details == [
        {
            "field": "items.0.quantity",
            "message": "is more than the 2 that were bought, of which other returns take back 1",
        }
    ]
    rest = await desk.ask(order["id"])
    assert [item["quantity"] for item in rest["items"]] == [1, 1]
    await complete(desk, rest)
    with pytest.raises(ReturnNotAllowedError) as closed:
        await desk.ask(order["id"])
    assert isinstance(closed.value.details, dict)
    assert closed.value.details["reason"] == "NOTHING_LEFT"


@pytest.mark.req("REQ-002.7")
@pytest.mark.parametrize("parts", [(1, 1, 1), (2, 1), (1, 2), (3,)])
async def test_parts_of_a_line_are_worth_what_the_line_cost(desk: Desk, parts: tuple[int, ...]) -> None:
    order = await desk.delivered(line_items=[LineFactory(**ODD)])
    worths = []
    for part in parts:
        rejected = await desk.ask(order["id"], items=some(order, part))
        await desk.step(rejected["id"], R.REJECTED)
        request = await complete(desk, await desk.ask(order["id"], items=some(order, part)))
        assert request["items_amount"] == rejected["items_amount"]
        worths.append(cents(request["items_amount"]))
    assert sum(worths) == Decimal("11.00")


async def test_of_many_requests_at_once_one_is_made_and_nothing_is_taken_back_twice(
    desk: Desk, database: Database
) -> None:
    order = await desk.delivered()
    for round_ in (1, 2):
        asked = (desk.ask(order["id"], items=some(order, 1)) for _ in range(20))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert Counter(type(answer) for answer in answers) == {dict: 1, ReturnAlreadyExistsError: 19}
        [made] = [answer for answer in answers if isinstance(answer, dict)]
        await complete(desk, made)
        assert await count(database, "return_requests") == round_
    answers = await asyncio.gather(
        *(desk.ask(order["id"], items=some(order, 1)) for _ in range(20)), return_exceptions=True
    )
    assert all(isinstance(answer, InvalidInputError) for answer in answers)


@pytest.mark.req("REQ-002.7", "REQ-004.5")
async def test_refunds_and_credit_notes_of_several_returns_add_up(
    settings: Settings, database: Database, clock: MovableClock, admin: Actor
) -> None:
    """All on one day: no document takes another one's place."""
    shop = Shop(settings, database, clock, admin)
    desk = Desk(shop.orders, shop.returns, admin)
    order = await shop.delivered(line_items=[LineFactory(**ODD)])
    assert await shop.work(order["id"], JobKind.ISSUE_INVOICE) is Verdict.SUCCEEDED
    for _ in range(3):
        await complete(desk, await desk.ask(order["id"], items=some(order, 1)))
    payment = await shop.payment(order["id"])
    assert payment.refund_reserved_amount == Decimal("11.00") <= payment.captured_amount
    refunds = await rows(database, "SELECT * FROM refunds WHERE order_id = :id", id=order["id"])
    for refund in refunds:
        assert await shop.work(refund.id) is Verdict.SUCCEEDED
        await shop.assert_paid_once(refund.id)
        assert await shop.work(refund.id, JobKind.ISSUE_CREDIT_NOTE) is Verdict.SUCCEEDED
    notes = await rows(database, "SELECT * FROM invoices WHERE kind = 'CREDIT_NOTE'")
    numbers = await rows(database, "SELECT return_number FROM return_requests")
    assert [note.state for note in notes] == ["ISSUED"] * 3
    assert len({note.storage_key for note in notes}) == 3
    assert sum(Decimal(note.view["total"]) for note in notes) == Decimal("11.00")
    assert {note.view["reason"] for note in notes} == {f"Goods returned, {row.return_number}" for row in numbers}


async def test_a_return_has_one_number_for_everyone(desk: Desk, clock: MovableClock, database: Database) -> None:
    first, second = [await desk.ask((await desk.delivered())["id"]) for _ in range(2)]
    numbers = [request["return_number"] for request in (first, second)]
    assert [number[:9] for number in numbers] == [f"RET-{clock.now.year}-"] * 2
    assert int(numbers[1][9:]) == int(numbers[0][9:]) + 1
    assert all(len(number) == len("RET-2026-000001") for number in numbers)
    found = await desk.returns.list(ReturnQuery(return_number=numbers[1]), desk.admin)
    assert [request["id"] for request in found["data"]] == [second["id"]]
    await desk.step(first["id"], R.APPROVED)
    [entry] = (await desk.returns.history(first["id"], PageQuery(), desk.admin))["data"]
    assert entry["entity_number"] == numbers[0]
    [event] = await rows(database, "SELECT data FROM events WHERE type = 'return.created' AND seq = 1 LIMIT 1")
    assert event.data["return_number"] in numbers


async def test_the_audit_trail_names_orders_and_returns_by_number(
    desk: Desk, api: httpx2.AsyncClient, database: Database
) -> None:
    request = await desk.return_in(R.REJECTED)
    order = await desk.orders.get(request["order_id"], desk.admin)
    await asyncio.gather(desk.step(request["id"], R.APPROVED), return_exceptions=True)
    for query in ("", "?rejected=true"):
        listed = (await api.get(f"/api/v1/audit{query}")).json()["data"]
        named = {row["entity_number"] for row in listed}
        assert named == ({order["order_number"], request["return_number"]} if not query else {request["return_number"]})


# --- what the database holds ------------------------------------------------------------------------------------

COPY = (
    "INSERT INTO return_requests (return_number, order_id, customer_id, reason, items, items_amount, refund_amount,"
    " currency, requested_by) SELECT 'RET-' || gen_random_uuid(), order_id, customer_id, reason, {items}, items_amount,"
    " refund_amount, currency, requested_by FROM return_requests WHERE id = %s"
)


@pytest.mark.parametrize("name", LOGINS)
async def test_no_login_takes_back_more_than_was_bought(desk: Desk, login: Login, name: str) -> None:
    order, elsewhere = await desk.delivered(), await desk.delivered()
    request = await complete(desk, await desk.ask(order["id"], items=some(order, 1)))
    foreign = elsewhere["line_items"][0]["id"]
    connection = login(name)
    for items in (
        "jsonb_set(items, '{0,quantity}', '2')",
        "items || items",
        "jsonb_set(items, '{0,quantity}', '-1')",
        "jsonb_set(items, '{0,quantity}', 'null')",
        "jsonb_set(items, '{0,quantity}', '0.5')",
        "jsonb_set(items, '{0,quantity}', '1.5')",
        f"jsonb_set(items, '{{0,line_item_id}}', '\"{foreign}\"')",
    ):
        with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
            connection.execute(COPY.format(items=items).encode(), (request["id"],))
        assert refusal.value.diag.constraint_name == "return_quantities", items
    # What is left is welcome, once.
    connection.execute(COPY.format(items="items").encode(), (request["id"],))
    with pytest.raises(errors.UniqueViolation) as twice:
        connection.execute(COPY.format(items="items").encode(), (request["id"],))
    assert twice.value.diag.constraint_name == "uq_return_requests_open_order_id"


async def test_two_transactions_do_not_overlook_each_other(desk: Desk, login: Login) -> None:
    """Each alone would be welcome: the second waits for the order, and then sees the first."""
    order = await desk.delivered()
    request = await complete(desk, await desk.ask(order["id"], items=some(order, 1)))
    first, second = login("owner"), login("superuser")
    second.execute("SET lock_timeout = '200ms'")
    with first.transaction():
        first.execute("UPDATE return_requests SET items = jsonb_set(items, '{0,quantity}', '2')")
        with pytest.raises(errors.LockNotAvailable):
            second.execute(COPY.format(items="items").encode(), (request["id"],))
    with pytest.raises(errors.IntegrityConstraintViolation):
        second.execute(COPY.format(items="items").encode(), (request["id"],))


OLD_ORDER = (
    "INSERT INTO orders (id, order_number, status, version, customer_id, customer_email, subtotal_amount, tax_amount,"
    " shipping_amount, total_amount, payment_method, shipping_address, billing_address) VALUES"
    " (%(id)s, %(number)s, 'PENDING_PAYMENT', 1, %(id)s, 'a@example.com', 5, 0, 0, 5, 'card', '{}', '{}')"
)
OLD_LINE = (
    "INSERT INTO order_line_items (id, order_id, position, product_id, product_name, quantity, unit_price, subtotal)"
    " VALUES (%(id)s, %(id)s, 1, 'p', 'Piece', 1, 5, 5)"
)
OLD_RETURN = (
    "INSERT INTO return_requests (id, order_id, customer_id, reason, items, items_amount, refund_amount, currency,"
    " requested_by, created_at, approved_at) VALUES (%(id)s, %(id)s, %(id)s, 'old',"
    " jsonb_build_array(jsonb_build_object('line_item_id', %(id)s::text, 'quantity', 1, 'amount', '5')), 5, 5,"
    " 'USD', %(id)s, %(at)s, %(approved)s)"
)


@pytest.mark.req("DEV.4")
def test_returns_of_the_release_before_get_numbers(servers: TestServers) -> None:
    """In the order of their creation; the number in a mail of approval stays."""
    name = f"{servers.template}_{uuid4().hex[:8]}"
    databases.create_database(servers, name, None)
    url = databases.url_of(servers.owner_url, name)
    try:
        databases.migrate(url, servers.app_url, BEFORE)
        later, earlier, told = uuid4(), uuid4(), UUID("0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60")
        with psycopg.connect(url, autocommit=True) as connection:
            for number, (old, at, approved) in enumerate(
                [(later, "2026-03-01", None), (earlier, "2025-12-31 23:30Z", None), (told, "2026-01-01", "2026-01-02")]
            ):
                values = {"id": old, "number": f"ORD-{number}", "at": at, "approved": approved}
                for sql in (OLD_ORDER, OLD_LINE, OLD_RETURN):
                    connection.execute(sql.encode(), values)
        databases.migrate(url, servers.app_url)
        numbers = {earlier: "RET-2025-000001", later: "RET-2026-000002", told: "RET-1D2C3B4A5F60"}
        with psycopg.connect(url, autocommit=True) as connection:
            assert dict(connection.execute("SELECT id, return_number FROM return_requests").fetchall()) == numbers
            assert connection.execute("SELECT nextval('return_number_seq')").fetchone() == (3,)
            set_aside = connection.execute("SELECT to_jsonb(r) - 'return_number' FROM return_requests r").fetchall()
        config = databases.alembic_config(url, servers.app_url)
        command.downgrade(config, BEFORE)
        databases.migrate(url, servers.app_url)
        with psycopg.connect(url, autocommit=True) as connection:
            again = connection.execute("SELECT to_jsonb(r) - 'return_number' FROM return_requests r").fetchall()
            assert sorted(map(str, again)) == sorted(map(str, set_aside))
            connection.execute("ALTER TABLE return_requests DISABLE TRIGGER guard_state_change")
            rejected = f"UPDATE return_requests SET status = 'REJECTED', rejection_reason = '{RejectionReason.OTHER}'"
            connection.execute(f"{rejected} WHERE id = %s".encode(), (told,))
            connection.execute("ALTER TABLE return_requests ENABLE ALWAYS TRIGGER guard_state_change")
            connection.execute(COPY.format(items="items").encode(), (told,))
        with pytest.raises(Exception, match="several returns"):
            command.downgrade(config, BEFORE)
    finally:
        databases.drop_database(servers, name)
