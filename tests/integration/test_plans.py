"""No list reads more rows of a large table than of a small one: the plans of what each query sends (NFR-001).

Every combination of filters of every list, with values that the first rows of a list have, that only rows further on have,
and that none has; each as a first page, after a cursor, behind an offset, and with a total.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx2
import psycopg
import psycopg.sql
import pytest
from sqlalchemy import event

from app.database import Database
from app.prepared import Prepared
from app.services import paging
from app.services.orders.search import WALKED
from tests.databases import Reset
from tests.integration.large_sample import ACTORS, fill
from tests.profile import PROFILE

ROWS = 300_000 if PROFILE == "nightly" else 20_000
OFFSET = COUNTED = 300
MOST_READ = 4000
"""Rows that a step of a plan may give or pass over: 12 states, each read as far as the offset and the page reach."""

MOST_WALKED = 2 * WALKED
"""The same of a search in two statuses: it walks so many orders of each. PostgreSQL 15 goes to the end of the walk, later
versions stop once the page is full."""

UNKNOWN = "00000000-0000-4000-8000-0000000000ff"
ORDER, RETURN, CUSTOMER = "{order}", "{return}", "{customer}"
"""An id of the sample."""
LISTS: dict[str, dict[str, list[Any]]] = {
    "orders": {
        "status": [["PAID"], ["DELIVERED"], ["PAID", "SHIPPED"], ["DELIVERED", "CANCELLED"]],
        "customer_id": [CUSTOMER],
        "order_number": ["ORD-2026-0000777"],
        "q": ["sample", "ord-2026-0000777", "rare", "nothing"],
        "created_from": ["2020-01-01T00:00:00Z"],
        "created_to": ["2100-01-01T00:00:00Z"],
    },
    "returns": {
        "status": [["APPROVED"], ["COMPLETED"], ["APPROVED", "RECEIVED"], ["COMPLETED", "REQUESTED"]],
        "customer_id": [CUSTOMER],
        "order_id": [ORDER],
        "return_number": ["RET-2026-0000777"],
        "created_from": ["2020-01-01T00:00:00Z"],
        "created_to": ["2100-01-01T00:00:00Z"],
    },
    "audit": {
        "entity": ["ORDER", "RETURN"],
        "entity_id": [ORDER],
        "actor": [*ACTORS, UNKNOWN],
        "state": ["PAID", "APPROVED", "RECEIVED", "CANCELLED"],
        "from": ["2020-01-01T00:00:00Z"],
        "to": ["2100-01-01T00:00:00Z"],
        "rejected": ["true"],
    },
    "refunds": {"state": [["FAILED"], ["SUCCEEDED"], ["UNKNOWN", "PENDING"]], "order_id": [ORDER]},
    "notifications": {
        "state": [["FAILED"], ["SENT"], ["REJECTED", "PENDING"]],
        "channel": [["SMS"], ["EMAIL"], ["CHAT", "SMS"]],
        "template": ["credit_note", "invoice", "order_shipped", "unknown"],
        "order_id": [ORDER],
        "entity_id": [ORDER],
    },
    "cases": {
        "kind": [["UNDELIVERABLE_MESSAGE"], ["DISPUTE"], ["SECOND_REFUND", "SECOND_PAYMENT"]],
        "state": ["OPEN", "CLOSED"],
        "entity_type": ["NOTIFICATION", "PAYMENT", "REFUND"],
        "order_id": [ORDER],
        "entity_id": [ORDER],
    },
    "jobs/dead": {"include_resolved": ["true"]},
    "orders/{order}/history": {},
    "orders/{order}/refunds": {},
    "orders/{order}/corrections": {},
    "orders/{order}/notes": {},
    "returns/{return}/history": {},
    "returns/{return}/notes": {},
    "returns/{return}/attachments": {},
}
VARIANTS: list[dict[str, Any]] = [{}, {"cursor": True}, {"offset": OFFSET}, {"include_total": "true"}]
# To count the matches of a word, the index of words reads all of them.
COUNTS_WORDS = ("Bitmap Index Scan", "ix_order_search_terms")
# The kind of a case all but names what it is about, and people decide each: there are few.
EXEMPT = ("cases", {"kind", "entity_type"})

pytestmark = [pytest.mark.req("NFR-001.1"), pytest.mark.req("REQ-005.4")]


def queries(filters: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield each combination of the values of filters, also without each."""
    for values in product(*([None, *choices] for choices in filters.values())):
        yield {name: value for name, value in zip(filters, values, strict=True) if value is not None}


@pytest.fixture(scope="module")
def sample(reset: Reset, owner_connection: psycopg.Connection) -> Iterator[dict[str, str]]:
    """The tables, filled; the ids of an order, of its return and of its customer."""
    reset()
    fill(owner_connection, ROWS)
    chosen = owner_connection.execute("SELECT id, return_id, customer_id FROM sample WHERE n = 777").fetchall()[0]
    yield dict(zip(("order", "return", "customer"), map(str, chosen), strict=True))
    owner_connection.execute("DROP TABLE sample")


@pytest.fixture
def clean_database() -> None:
    """Leave the sample where it is."""


def faults(node: dict[str, Any], most: int = MOST_READ) -> Iterator[str]:
    """Yield each step of a plan that reads more than `most` rows, or a large table from end to end."""
    loops = node["Actual Loops"]
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed"))
    read = (node["Actual Rows"] + removed) * loops
    if read > most and (node["Node Type"], node.get("Index Name")) != COUNTS_WORDS:
        yield f"{node['Node Type']} {node.get('Relation Name', '')} {node.get('Index Name', '')}: {read} rows"
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in {"orders", "state_history", "notifications"}:
        yield f"Seq Scan {node['Relation Name']}"
    for child in node.get("Plans", []):
        yield from faults(child, most)


def plan_of(owner: psycopg.Connection, statement: str, parameters: Any, *, is_prepared: bool) -> dict[str, Any]:
    """Return the plan of a statement with its real rows; for a prepared one, the plan that holds for all values."""
    explain = "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON) "
    if not is_prepared:
        if statement.startswith("EXPLAIN"):
            return {"Node Type": "none", "Actual Loops": 0, "Actual Rows": 0}
        [[[plan]]] = owner.execute((explain + statement).encode(), parameters).fetchall()
        return dict(plan["Plan"])
    owner.execute(f"PREPARE listed AS {statement}".encode())
    try:
        values = ", ".join(psycopg.sql.Literal(value).as_string(owner) for value in parameters)
        execute = f"EXECUTE listed ({values})" if parameters else "EXECUTE listed"
        owner.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        [[[plan]]] = owner.execute((explain + execute).encode()).fetchall()
    finally:
        owner.execute("DEALLOCATE listed; RESET plan_cache_mode; RESET enable_seqscan")
    return dict(plan["Plan"])


@pytest.mark.parametrize("path", LISTS)
async def test_each_query_reads_as_many_rows_as_its_page_needs(
    path: str,
    sample: dict[str, str],
    api: httpx2.AsyncClient,
    database: Database,
    owner_connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "COUNTED", COUNTED)
    sent: list[tuple[bool, str, Any]] = []
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, parameters, *_: sent.append((False, statement, parameters)),
    )
    run_on = Prepared.run_on

    async def noted(self: Prepared, connection: Any, parameters: Any) -> list[dict[str, Any]]:
        sent.append((True, self.text.decode(), self.arguments(parameters)))
        return await run_on(self, connection, parameters)

    monkeypatch.setattr(Prepared, "run_on", noted)
    found: list[str] = []
    for number, query in enumerate(queries(LISTS[path])):
        # Each variant of each query takes minutes, so the usual run takes them in turns.
        for variant in VARIANTS if PROFILE == "nightly" or len(LISTS[path]) < 3 else [VARIANTS[number % len(VARIANTS)]]:
            given = {name: value.format(**sample) if isinstance(value, str) else value for name, value in query.items()}
            given |= variant
            if given.pop("cursor", None):
                first = (await api.get(f"/api/v1/{path}".format(**sample), params={**given, "limit": 1})).json()
                if first["pagination"]["next_cursor"] is None:
                    continue
                given["cursor"] = first["pagination"]["next_cursor"]
            sent.clear()
            answer = await api.get(f"/api/v1/{path}".format(**sample), params=given)
            assert answer.status_code == 200, answer.text
            if path == EXEMPT[0] and EXEMPT[1] <= query.keys():
                continue
            assert sent
            for is_prepared, statement, parameters in sent:
                plan = plan_of(owner_connection, statement, parameters, is_prepared=is_prepared)
                most = MOST_WALKED if "q" in given else MOST_READ
                found += [f"{path} {given}: {fault}" for fault in faults(plan, most)]
    assert not found, "\n".join(found[:20])
