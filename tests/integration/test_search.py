"""Finding an order by what a person at a counter knows of it (REQ-005)."""

import re
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx2
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ColumnElement, event, func, select

from app.core.enums import Role
from app.database import Database
from app.models.order import Order
from app.services import paging
from app.services.orders import search as order_search
from app.services.orders.search import condition
from app.utils import search_terms
from tests.integration.conftest import TO_DELIVERED, new_order, new_return
from tests.profile import examples

pytestmark = pytest.mark.req("REQ-005")

Find = Callable[[str], Awaitable[list[str]]]


@pytest.fixture
def find(api: httpx2.AsyncClient) -> Find:
    async def found(typed: str) -> list[str]:
        answer = await api.get("/api/v1/orders", params={"q": typed})
        assert answer.status_code == 200, answer.text
        return [order["id"] for order in answer.json()["data"]]

    return found


def address(name: str) -> dict[str, Any]:
    return {"name": name, "street": "4 Quai des Orfèvres", "city": "Paris", "postal_code": "75001", "country": "FR"}


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("\u738b\u5c0f\u660e", "\u738b"),
        ("\uae40\ucca0\uc218", "\uae40"),
        ("\uae40\ucca0\uc218", "\ucca0\uc218"),
        ("Ünal Ateş", "Ünal"),
        ("Ünal Ateş", "ünal"),
        ("Ünal Ateş", "unal"),
        ("Ünal Ateş", "ATEŞ"),
        ("Иван Петров", "иван"),
        ("Иван Петров", "Петров"),
        ("Élodie Martin", "Élodie"),
        ("Élodie Martin", "élodie martin"),
        ("Élodie Martin", "martin élodie"),
        ("Élodie Martin", "mart"),
        ("Jean-Luc O'Brien", "O'Brien"),
        ("Jean-Luc O'Brien", "brien"),
        ("Jean-Luc O'Brien", "luc"),
        ("山田太郎", "太郎"),
        ("สมชาย ใจดี", "ใจดี"),
    ],
)
async def test_any_word_of_a_name_in_any_case_and_form(
    api: httpx2.AsyncClient, find: Find, name: str, typed: str
) -> None:
    order = await new_order(api, customer_name=name, customer_email="x@example.com")
    await new_order(api, customer_name="Zoë Quill", customer_email="y@example.com")
    for form in ("NFC", "NFD", "NFKD"):
        assert await find(unicodedata.normalize(form, typed)) == [order["id"]], form


async def test_the_name_on_an_address(api: httpx2.AsyncClient, find: Find) -> None:
    order = await new_order(api, customer_name=None, shipping_address=address("Galerie Lefèvre"))
    assert await find("lefevre") == [order["id"]]


@pytest.mark.parametrize("typed", ["ada.marchand@example.com", "ADA.MARCHAND", "marchand", "march", "chand", "da.mar"])
async def test_any_part_of_an_e_mail_before_the_at(api: httpx2.AsyncClient, find: Find, typed: str) -> None:
    order = await new_order(api, customer_email="Ada.Marchand@example.com", customer_name="Someone Else")
    assert await find(typed) == [order["id"]]
    assert await find("xample") == [], "the domain is shared by many"


async def test_the_end_of_a_number(api: httpx2.AsyncClient, find: Find) -> None:
    order, other = await new_order(api), await new_order(api)
    number = order["order_number"]
    for typed in (number, number.lower(), number[-6:], number[-3:], number[:-1] + number[-1]):
        assert order["id"] in await find(typed), typed
    assert await find(number[-3:]) == [order["id"]]
    assert other["id"] not in await find(number)


async def test_the_number_of_a_parcel_and_of_an_invoice(
    api: httpx2.AsyncClient, find: Find, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE")
    shipped = {"new_state": "SHIPPED", "carrier": "La Poste", "tracking_number": "6A12345678901"}
    moved = await api.patch(f"/api/v1/orders/{order['id']}/state", json=shipped)
    assert moved.status_code == 200, moved.text
    owner_connection.execute(
        "WITH series AS (INSERT INTO invoice_series (kind, year, last_number) VALUES ('INVOICE', 2026, 77))"
        " INSERT INTO invoices (kind, year, number_in_year, number, order_id, storage_key, issued_on, view)"
        " SELECT 'INVOICE', 2026, 77, 'INV-2026-000077', id, 'invoices/x.pdf', current_date, '{}' FROM orders"
        " WHERE id = %s",
        (order["id"],),
    )
    for typed in ("6a12345678901", "6A1234", "678901", "INV-2026-000077", "inv-2026-000077", "000077"):
        assert await find(typed) == [order["id"]], typed


async def test_the_number_of_a_return_and_of_its_parcel(api: httpx2.AsyncClient, find: Find) -> None:
    order = await new_order(api, *TO_DELIVERED)
    returned = await new_return(api, order["id"])
    for number in (returned["return_number"], returned["return_number"].lower(), returned["return_number"][-6:]):
        assert await find(number) == [order["id"]], number
    await api.patch(f"/api/v1/returns/{returned['id']}/approve", json={"notes": "Send it back"})
    sent = {"new_state": "IN_TRANSIT", "carrier": "La Poste", "tracking_number": "8R99988877766"}
    assert (await api.patch(f"/api/v1/returns/{returned['id']}/state", json=sent)).status_code == 200
    assert await find("8r99988877766") == [order["id"]]


async def test_a_customer_finds_only_their_own(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], customer_id: object
) -> None:
    own = await new_order(api, customer_name="Ada Own", customer_id=str(customer_id))
    await new_order(api, customer_name="Ada Other")
    answer = await callers[Role.CUSTOMER].get("/api/v1/orders", params={"q": "ada"})
    assert [order["id"] for order in answer.json()["data"]] == [own["id"]]


@given(typed=st.text(min_size=2, max_size=60).filter(lambda text: "\0" not in text))
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_is_typed_is_a_syntax_error(owner_connection: psycopg.Connection, typed: str) -> None:
    if query := search_terms.tsquery(typed):
        owner_connection.execute("SELECT CAST(%s AS tsquery)", (query,))


SAMPLE = """
    INSERT INTO orders (id, order_number, customer_id, customer_email, currency, subtotal_amount, tax_amount,
        shipping_amount, total_amount, payment_method, shipping_address, billing_address, created_at, updated_at)
    SELECT (overlay(hex PLACING '7' FROM 13))::uuid, 'SMP-' || n, gen_random_uuid(), 'sample@example.com', 'EUR', 1, 0, 0,
        1, 'card', '{}', '{}', at, at
    FROM generate_series(1, 20000) n,
        LATERAL (SELECT date_trunc('second', now()) - n * interval '1 second' AS at) made,
        LATERAL (SELECT lpad(to_hex(extract(epoch FROM at)::bigint * 1000), 12, '0') || md5(n::text) AS long) time,
        LATERAL (SELECT left(long, 32) AS hex) id;
    INSERT INTO order_search (order_id, source, terms)
    SELECT id, 'order', array_to_tsvector(array_remove(ARRAY['frequent', 'w' || right(order_number, 4),
        lower(order_number), CASE WHEN substr(order_number, 5)::int > 10000 THEN 'old' END], NULL))
    FROM orders WHERE order_number LIKE 'SMP-%';
    ANALYZE orders; ANALYZE order_search
"""


@pytest.fixture
def sample(clean_database: None, owner_connection: psycopg.Connection) -> None:
    """20,000 orders a second apart, newest first: `frequent` in all, `old` in the older half."""
    owner_connection.execute(SAMPLE.encode())
    if owner_connection.info.server_version < 160_000:
        # PostgreSQL 15 rather reads all of so small a table than 2,000 rows by their ids: ask whether it can.
        owner_connection.execute("SET enable_seqscan = off")


async def page_of(
    database: Database, owner: psycopg.Connection, typed: str, *filters: ColumnElement[bool]
) -> tuple[list[str], str]:
    """Return the numbers of the newest 21 matches and the plans, with their real rows, of all that it took."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    listed = select(Order.order_number, Order.created_at, Order.id).where(*filters)
    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    async with database.autocommit() as connection:
        found = await condition(connection, typed, listed, 21)
        newest = listed.where(found).order_by(Order.created_at.desc(), Order.id.desc()).limit(21)
        numbers = list((await connection.execute(newest)).scalars())
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    explain = "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF)"
    plan = "\n".join(
        row[0] for statement, parameters in sent for row in owner.execute(f"{explain} {statement}".encode(), parameters)
    )
    return numbers, plan


def numbers(*of: int) -> list[str]:
    return [f"SMP-{n}" for n in of]


@pytest.mark.req("NFR-001.1")
@pytest.mark.parametrize(
    ("typed", "found", "used"),
    [
        ("smp-12345", numbers(12345), ["ix_order_search_terms", "pk_orders"]),
        ("frequent", numbers(*range(1, 22)), ["ix_orders_created_at_id", "pk_order_search"]),
        ("old", numbers(*range(10_001, 10_022)), ["ix_order_search_terms", "pk_orders"]),
        ("old frequent", numbers(*range(10_001, 10_022)), ["ix_order_search_terms", "pk_orders"]),
    ],
)
async def test_a_search_reads_the_indexes_that_fit_its_words(
    sample: None,
    owner_connection: psycopg.Connection,
    database: Database,
    typed: str,
    found: list[str],
    used: list[str],
) -> None:
    """The orders with a rare word, or an old one, are fetched; for others the newest are walked until the page is full."""
    page, plan = await page_of(database, owner_connection, typed)
    assert page == found
    assert all(index in plan for index in used), plan
    assert "Seq Scan on orders" not in plan, plan


@pytest.mark.req("NFR-001.1")
async def test_a_frequent_word_of_old_orders_is_not_looked_for_in_each_newer_one(
    sample: None, owner_connection: psycopg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 orders are newer than the newest match: so many rows of the words must not be looked at one by one."""
    monkeypatch.setattr(order_search, "WALKED", 100)
    _, plan = await page_of(database, owner_connection, "old")
    looked_at = [int(loops) for loops in re.findall(r"pk_order_search on order_search .*loops=(\d+)", plan)]
    assert max(looked_at, default=0) <= 100, plan
    removed = [int(count) for count in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
    assert max(removed, default=0) <= 100, plan


@pytest.mark.req("NFR-001.1")
@pytest.mark.parametrize("typed", ["frequent", "smp-"])
async def test_what_nearly_all_orders_have_is_not_looked_for_in_the_index(
    sample: None, owner_connection: psycopg.Connection, database: Database, typed: str
) -> None:
    """The index would give all 20,000 matches before the first one."""
    page, plan = await page_of(database, owner_connection, typed)
    assert page == numbers(*range(1, 22))
    assert "ix_order_search_terms" not in plan, plan
    assert max(int(rows) for rows in re.findall(r"rows=(\d+)(?:\.\d+)? loops", plan)) <= order_search.PROBED, plan


@pytest.mark.req("NFR-001.1")
async def test_two_frequent_words_that_few_orders_have_together_are_walked_for_in_a_large_table(
    sample: None, owner_connection: psycopg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index would give all matches of each word."""
    # `one` and `two` in turns; both in each fiftieth.
    owner_connection.execute(
        "UPDATE order_search s SET terms = s.terms || array_to_tsvector(CASE WHEN n % 50 = 0 THEN '{one,two}'::text[]"
        " WHEN n % 2 = 0 THEN '{one}' ELSE '{two}' END) FROM orders o, LATERAL (SELECT substr(o.order_number, 5)::int) t(n)"
        " WHERE o.id = s.order_id"
    )
    owner_connection.execute("VACUUM ANALYZE orders, order_search")
    monkeypatch.setattr(order_search, "PROBED", 30)
    monkeypatch.setattr(order_search, "LARGE_TABLE", 1000)
    page, plan = await page_of(database, owner_connection, "one two")
    assert page == numbers(*range(50, 1100, 50))
    assert "ix_order_search_terms" not in plan, plan


@pytest.mark.req("NFR-001.1")
@pytest.mark.parametrize("walked", [3, 100, 5000, 25_000])
@pytest.mark.parametrize("few", [30, 2000])
@pytest.mark.parametrize("probed", [1, 100])
async def test_every_way_of_searching_finds_the_same_page(
    sample: None,
    owner_connection: psycopg.Connection,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    walked: int,
    few: int,
    probed: int,
) -> None:
    monkeypatch.setattr(order_search, "PROBED", probed)
    monkeypatch.setattr(order_search, "WALKED", walked)
    monkeypatch.setattr(order_search, "FEW", few)

    def at(n: int) -> datetime:
        found = owner_connection.execute("SELECT created_at FROM orders WHERE order_number = %s", (f"SMP-{n}",))
        moment: datetime = found.fetchall()[0][0]
        return moment

    is_third = func.right(Order.order_number, 1) == "3"
    for typed, filters, found in (
        ("old", [], range(10_001, 10_022)),
        ("frequent", [], range(1, 22)),
        ("old", [Order.created_at < at(15_000)], range(15_001, 15_022)),
        ("old", [Order.created_at >= at(9_000)], ()),
        ("old", [Order.created_at >= at(10_010)], range(10_001, 10_011)),
        ("old", [is_third], range(10_003, 10_213, 10)),
        ("old", [Order.order_number.in_(numbers(5, 10_500, 19_000))], (10_500, 19_000)),
        ("old w0500", [], (10_500,)),
        ("old", [Order.status == "PAID"], ()),
    ):
        page, _ = await page_of(database, owner_connection, typed, *filters)
        assert page == numbers(*found), (typed, filters)


async def test_pages_and_totals_of_a_frequent_word(api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_search, "WALKED", 2)
    monkeypatch.setattr(order_search, "FEW", 3)
    old = [(await new_order(api, customer_name="Old Quill"))["id"] for _ in range(9)]
    old.sort(reverse=True)  # The clock does not move: all are of one millisecond.
    for _ in range(4):
        await new_order(api, customer_name="New Quill")
    for limit in (1, 2, 4, 20):
        read: list[str] = []
        cursor: str | None = None
        while cursor is not None or not read:
            query: dict[str, str | int] = {"q": "old", "limit": limit} | ({"cursor": cursor} if cursor else {})
            answer = (await api.get("/api/v1/orders", params=query)).json()
            read += [order["id"] for order in answer["data"]]
            cursor = answer["pagination"]["next_cursor"]
        assert read == old
    counted = (await api.get("/api/v1/orders", params={"q": "old", "limit": 2, "include_total": "true"})).json()
    assert ([order["id"] for order in counted["data"]], counted["pagination"]["total"]) == (old[:2], 9)
    assert "total_is_estimate" not in counted["pagination"]
    narrowed: dict[str, Any] = {"q": "old", "status": ["PAID", "PENDING_PAYMENT"], "limit": 2, "include_total": "true"}
    both = (await api.get("/api/v1/orders", params=narrowed)).json()
    assert ([order["id"] for order in both["data"]], both["pagination"]["total"]) == (old[:2], 9)
    monkeypatch.setattr(paging, "COUNTED", 8)
    about = (await api.get("/api/v1/orders", params={"q": "old", "limit": 2, "include_total": "true"})).json()
    assert [order["id"] for order in about["data"]] == old[:2]
    assert about["pagination"]["total"] >= 2
    assert about["pagination"]["total_is_estimate"] is True
    offset = (await api.get("/api/v1/orders", params={"q": "old", "limit": 2, "offset": 5})).json()
    assert [order["id"] for order in offset["data"]] == old[5:7]
