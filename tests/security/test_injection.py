"""SQL, markup and paths in everything an address can hold: only text, never an error of ours (NFR-004).

Parameters come from the OpenAPI document, so a filter that is added is attacked from the moment it is documented.
"""

import re
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2
import psycopg
import pytest

from app.services.paging import encode_cursor
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.operations import Operation, all_operations
from tests.integration.test_api_hostile_bodies import rows

pytestmark = [pytest.mark.req("NFR-004.5"), pytest.mark.security]

PAYLOADS = (
    "'",
    '"',
    "' OR '1'='1",
    "' OR 1=1 --",
    "1) OR (1=1",
    "'; DROP TABLE orders; --",
    "' UNION SELECT NULL,NULL,NULL --",
    "' UNION ALL SELECT sha256::text FROM api_keys --",
    "1; SELECT pg_sleep(5)",
    "' || (SELECT version()) || '",
    "$$;COPY orders TO PROGRAM 'id';$$",
    "%' AND 1=CAST((SELECT current_user) AS int) AND '%'='",
    "\\'; SELECT 1 --",
    "%",
    "_",
    "created_at DESC; SELECT 1",
    "{{7*7}}${7*7}<%=7*7%>",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "\u202egnp.exe",
    "٣",
    "x" * 5000,
)
TELLTALE = re.compile(
    r"psycopg|sqlalchemy|syntax error|SQLSTATE|pg_catalog|PostgreSQL \d|LINE 1:|does not exist|Traceback|File \"|root:x:",
    re.IGNORECASE,
)
READING = [operation for operation in all_operations() if operation.method == "GET"]
KNOWN = ("order_id", "return_id", "refund_id", "dead_letter_id", "file_id", "case_id")


def query_parameters(operation: Operation) -> list[str]:
    """Return the names of an operation's query parameters."""
    return [parameter["name"] for parameter in operation.spec.get("parameters", []) if parameter["in"] == "query"]


def told_nothing(response: httpx2.Response, sent: str) -> None:
    """Make sure of an answer that is no error of ours and that tells nothing of what is behind it."""
    assert response.status_code in {200, 401, 403, 404, 422}, f"{sent}: {response.status_code} {response.text[:300]}"
    text = response.text if "json" in response.headers.get("content-type", "") else ""
    assert not TELLTALE.search(text), text[:500]
    if response.status_code != 200:
        error_of(response)


@pytest.fixture
async def ids(api: httpx2.AsyncClient) -> dict[str, Any]:
    order = await new_order(api, *TO_DELIVERED)
    returned = await new_return(api, order["id"])
    return {
        **{name: uuid4() for name in KNOWN},
        "order_id": order["id"],
        "return_id": returned["id"],
        "kind": "invoices",
    }


@pytest.mark.parametrize("operation", [o for o in READING if query_parameters(o)], ids=lambda operation: operation.id)
async def test_no_query_parameter_reaches_the_sql(
    operation: Operation, api: httpx2.AsyncClient, ids: dict[str, Any], owner_connection: psycopg.Connection
) -> None:
    before = rows(owner_connection)
    for name in query_parameters(operation):
        for payload in PAYLOADS:
            told_nothing(await api.get(operation.url(**ids), params={name: payload}), payload)
    assert rows(owner_connection) == before


@pytest.mark.parametrize(
    "operation", [o for o in all_operations() if "{" in o.path], ids=lambda operation: operation.id
)
async def test_no_part_of_a_path_reaches_the_sql(
    operation: Operation, api: httpx2.AsyncClient, ids: dict[str, Any]
) -> None:
    for name in re.findall(r"{(\w+)}", operation.path):
        for payload in PAYLOADS:
            path = operation.path.format_map({**ids, name: quote(payload, safe="")})
            response = await api.request(operation.method, path, json={} if operation.method != "GET" else None)
            if response.status_code in {405, 415}:
                continue  # A path that is another one, or a body of another kind.
            told_nothing(response, payload)


async def test_a_cursor_is_data_too(api: httpx2.AsyncClient) -> None:
    await new_order(api)
    for part in ("2026-01-01T00:00:00+00:00' OR 1=1 --", "infinity", "99999-01-01", "2026-01-01T00:00:00"):
        cursor = encode_cursor([part, uuid4()])  # type: ignore[list-item]
        told_nothing(await api.get("/api/v1/orders", params={"cursor": cursor}), cursor)


@pytest.mark.parametrize(
    "search",
    [
        "' OR '1'='1",
        "%zq%",
        "zq_zq",
        "zq\\\\",
        "' OR customer_name ILIKE '%",
        "zq' | 'ada",
        "zq':* | 'ada':*",
        "!zqx",
        "zq <-> zr",
        "(zq",
        "zq\\' | ada",
        "zq:ABCD",
    ],
)
async def test_a_search_finds_what_it_says_and_no_more(api: httpx2.AsyncClient, search: str) -> None:
    await new_order(api, customer_name="Ada", customer_email="ada@example.com")
    literal = await new_order(api, customer_name=f"{search} & Sons")
    found = (await api.get("/api/v1/orders", params={"q": search})).json()["data"]
    assert [order["id"] for order in found] == [literal["id"]]


@pytest.mark.parametrize("search", ["%%", "__", "\\\\", "''", "':*", "!!", "&|", "<->", "~~"])
async def test_a_search_without_a_letter_or_digit_finds_nothing(api: httpx2.AsyncClient, search: str) -> None:
    await new_order(api, customer_name=f"{search} & Sons")
    found = await api.get("/api/v1/orders", params={"q": search})
    assert (found.status_code, found.json()["data"]) == (200, [])


async def test_what_looks_like_sql_is_kept_as_the_text_it_is(api: httpx2.AsyncClient) -> None:
    name = "Robert'); DROP TABLE orders; --"
    order = await new_order(api, customer_name=name, metadata={"note": "'; DELETE FROM orders; --"})
    again = (await api.get(f"/api/v1/orders/{order['id']}")).json()
    assert (again["customer_name"], again["metadata"]) == (name, {"note": "'; DELETE FROM orders; --"})
