"""Lists over HTTP: pages, filters, and what a query must not hold (REQ-005)."""

from typing import Any

import httpx2
import psycopg
import pytest

from tests.conftest import MovableClock
from tests.integration.conftest import error_of, new_order
from tests.integration.operations import Operation, all_operations

pytestmark = pytest.mark.req("REQ-005")

ORDERS = "/api/v1/orders"
READING = [operation for operation in all_operations() if operation.method == "GET"]
IDS = {
    **dict.fromkeys(
        ("order_id", "return_id", "refund_id", "dead_letter_id", "file_id", "case_id"),
        "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60",
    ),
    "kind": "invoices",
}


@pytest.mark.req("REQ-005.4")
async def test_following_the_cursor_gives_each_order_once_newest_first(
    api: httpx2.AsyncClient, clock: MovableClock
) -> None:
    made = []
    for _ in range(5):
        clock.advance(seconds=1)
        made.append((await new_order(api))["id"])
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(ORDERS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        assert page["pagination"]["limit"] == 2
        assert len(page["data"]) <= 2
        found += [order["id"] for order in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert found == made[::-1]


@pytest.mark.req("REQ-005.4")
async def test_offset_total_and_their_limits(api: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await new_order(api)
    page = (await api.get(f"{ORDERS}?offset=1&limit=1&include_total=true")).json()
    assert page["pagination"]["total"] == 3
    assert page["pagination"]["offset"] == 1
    assert len(page["data"]) == 1
    plain = (await api.get(ORDERS)).json()["pagination"]
    assert plain["limit"] == 20
    assert "total" not in plain


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=", "limit"),
        ("limit=1_0", "limit"),
        ("limit=+5", "limit"),
        ("limit=5.0", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=-1", "offset"),
        ("offset=10001", "offset"),
        ("offset=0&cursor=MjAyNi0wMS0wMVQwMDowMDowMCswMDowMHww", "offset"),
        ("cursor=rubbish", "cursor"),
        ("cursor=%F0%9F%92%A9", "cursor"),
        ("cursor=" + "A" * 500, "cursor"),
        ("include_total=perhaps", "include_total"),
        ("include_total=on", "include_total"),
        ("status=LOST", "status.0"),
        ("status=PAID&status=LOST", "status.1"),
        ("customer_id=1", "customer_id"),
        ("created_from=yesterday", "created_from"),
        ("created_from=2026-01-01T00:00:00", "created_from"),
        ("created_from=2026-01-01", "created_from"),
        ("created_from=2026-01-01T00:00Z", "created_from"),
        ("created_from=2026-13-01T00:00:00Z", "created_from"),
        ("created_from=1700000000", "created_from"),
        ("created_to=1700000000.5", "created_to"),
        ("created_to=-1", "created_to"),
        ("created_to=9999-12-31T24:00:00Z", "created_to"),
        ("q=", "q"),
        ("q=a%00b", "q"),
        ("page=2", "page"),
        ("fields=colour", "fields"),
        ("STATUS=PAID", "STATUS"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_with_the_field(
    query: str, field: str, api: httpx2.AsyncClient
) -> None:
    response = await api.get(f"{ORDERS}?{query}")
    assert response.status_code == 422, response.text
    error = error_of(response)
    assert error["code"] == "VALIDATION_ERROR"
    assert [fault["field"] for fault in error["details"]] == [field]


@pytest.mark.req("REQ-005.5")
@pytest.mark.security
@pytest.mark.parametrize("operation", READING, ids=lambda operation: operation.id)
async def test_no_operation_takes_a_parameter_it_does_not_know(operation: Operation, api: httpx2.AsyncClient) -> None:
    for query, field in (("colour=blue", "colour"), ("a%00=1", "a�"), ("%ff=1", "query")):
        response = await api.get(f"{operation.url(**IDS)}?{query}")
        assert response.status_code == 422, query
        assert error_of(response)["details"][0]["field"] == field


@pytest.mark.req("NFR-004.5")
@pytest.mark.security
async def test_what_looks_like_sql_is_only_text(api: httpx2.AsyncClient, owner_connection: psycopg.Connection) -> None:
    await new_order(api)
    attempts = ("' OR 1=1 --", "'; DROP TABLE orders; --", "%' UNION SELECT 1 --", "\\", "%", "_%", "$1", ":q", "{0}")
    for attempt in attempts:
        for name in ("q", "order_number"):
            response = await api.get(ORDERS, params={name: attempt + " " * (len(attempt) < 2)})
            assert response.status_code == 200, attempt
            assert response.json()["data"] == [], attempt
    assert owner_connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)


@pytest.mark.req("REQ-005.5")
@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999-23:59", "2026-01-01t00:00:00z"]
)
async def test_any_time_of_the_calendar_can_be_asked_for(moment: str, api: httpx2.AsyncClient) -> None:
    for query in ({"created_from": moment}, {"created_to": moment}):
        assert (await api.get(ORDERS, params=query)).status_code == 200
    for query in ({"from": moment}, {"to": moment}):
        assert (await api.get("/api/v1/audit", params=query)).status_code == 200
    assert (await api.get("/api/v1/audit?from=1700000000")).status_code == 422


@pytest.mark.req("REQ-005.5")
async def test_filters_narrow_what_is_listed(api: httpx2.AsyncClient, clock: MovableClock) -> None:
    first = await new_order(api, customer_email="first@example.com")
    clock.advance(hours=1)
    second = await new_order(api, "PAID", customer_email="second@example.com")

    async def listed(**query: Any) -> list[str]:
        response = await api.get(ORDERS, params=query)
        assert response.status_code == 200, response.text
        return [order["id"] for order in response.json()["data"]]

    assert await listed(status="PAID") == [second["id"]]
    assert await listed(status=["PAID", "PENDING_PAYMENT"]) == [second["id"], first["id"]]
    assert await listed(customer_id=first["customer_id"]) == [first["id"]]
    assert await listed(order_number=second["order_number"]) == [second["id"]]
    assert await listed(q="FIRST@") == [first["id"]]
    assert await listed(created_from=second["created_at"]) == [second["id"]]
    assert await listed(created_to=second["created_at"]) == [first["id"]]
