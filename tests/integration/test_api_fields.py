"""`fields=id,status` thins any representation, and refuses what is not there."""

from uuid import uuid4

import httpx2
import psycopg
import pytest
from fastapi import Response
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from app.api.http import fields
from app.api.http.fields import Representation
from app.api.http.responses import Answer, answer
from app.composition import Services
from app.schemas.order import OrderResponse
from app.utils.exceptions import InvalidInputError
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.dead import bury_job, raise_case
from tests.integration.operations import DOCUMENT, Operation, all_operations

pytestmark = pytest.mark.req("REQ-005")

ORDERS = "/api/v1/orders"


def offered(operation: Operation) -> list[str] | None:
    """Return the names that the document offers for an operation's `fields`."""
    for parameter in operation.spec.get("parameters", ()):
        if parameter["name"] == "fields":
            names: list[str] = parameter["schema"]["items"]["enum"]
            return names
    return None


THINNED = {operation.id: names for operation in all_operations() if (names := offered(operation)) is not None}


def validator_for(operation_id: str, status: int) -> Draft202012Validator:
    """Return what checks a body against the document."""
    [operation] = [o for o in all_operations() if o.id == operation_id]
    schema = operation.spec["responses"][str(status)]["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_all_json_for_callers_can_be_thinned() -> None:
    has_json = {
        o.id
        for o in all_operations()
        if o.spec.get("security")
        and any(
            "application/json" in o.spec["responses"].get(status, {}).get("content", {}) for status in ("200", "201")
        )
    }
    assert set(THINNED) == has_json
    assert len(has_json) > 15


@pytest.mark.req("REQ-005.6")
async def test_only_what_is_asked_for(api: httpx2.AsyncClient) -> None:
    made = await api.post(f"{ORDERS}?fields=id,status", json=order_payload())
    assert made.status_code == 201
    assert list(made.json()) == ["id", "status"]
    order_id = made.json()["id"]
    assert made.headers["location"] == f"{ORDERS}/{order_id}"
    assert made.headers["etag"] == '"1"'
    whole = (await api.get(f"{ORDERS}/{order_id}")).json()
    read = await api.get(f"{ORDERS}/{order_id}?fields=line_items,total_amount")
    assert read.json() == {name: whole[name] for name in ("line_items", "total_amount")}
    moved = await api.patch(f"{ORDERS}/{order_id}/state?fields=status", json={"new_state": "PAID"})
    assert (moved.json(), moved.headers["etag"]) == ({"status": "PAID"}, '"2"')
    cancelled = await api.post(f"{ORDERS}/{order_id}/cancel?fields=version")
    assert cancelled.json() == {"version": 3}
    again = await api.get(f"{ORDERS}/{order_id}?fields=id", headers={"If-None-Match": '"3"'})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.req("REQ-005.6")
async def test_a_list_keeps_its_page_and_thins_its_items(api: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await new_order(api)
    whole = (await api.get(f"{ORDERS}?limit=2&include_total=true")).json()
    page = (await api.get(f"{ORDERS}?limit=2&fields=order_number,id&include_total=true")).json()
    assert page == {
        "data": [{"order_number": item["order_number"], "id": item["id"]} for item in whole["data"]],
        "pagination": whole["pagination"],
    }
    rest = (await api.get(ORDERS, params={"cursor": page["pagination"]["next_cursor"], "fields": "id"})).json()
    assert [list(item) for item in rest["data"]] == [["id"]]


async def test_every_read_gives_every_name_it_offers(api: httpx2.AsyncClient, services: Services) -> None:
    delivered = await new_order(api, *TO_DELIVERED)
    requested = await new_return(api, delivered["id"])
    cancelled = await new_order(api, "PAID")
    await api.post(f"{ORDERS}/{cancelled['id']}/cancel")
    await api.patch(f"{ORDERS}/{delivered['id']}/state", json={"new_state": "PAID"})
    await bury_job(services.database)
    [refund] = (await api.get("/api/v1/refunds")).json()["data"]
    ids = {"order_id": delivered["id"], "return_id": requested["id"], "refund_id": refund["id"]}
    ids["case_id"] = await raise_case(services.database)
    seen = set()
    for operation in all_operations():
        # Invoices and attachments take files: see their own tests.
        if operation.method != "GET" or operation.id not in THINNED or operation.id == "orders_invoice":
            continue
        url = operation.url(**ids)
        names = THINNED[operation.id]
        whole = (await api.get(url)).json()
        item = whole["data"][0] if whole.get("data") else whole
        present = [name for name in names if name in item] or names
        check = validator_for(operation.id, 200)
        for chosen in (present, present[::-1], present[:1], names):
            response = await api.get(url, params={"fields": ",".join(chosen)})
            assert response.status_code == 200, response.text
            thinned = response.json()
            check.validate(thinned)
            if "data" in whole:
                wanted = [{name: item[name] for name in chosen if name in item} for item in whole["data"]]
                assert thinned == {"data": wanted, "pagination": whole["pagination"]}
            elif operation.id != "audit_verify":
                assert thinned == {name: whole[name] for name in chosen}
        seen.add(operation.id)
    assert {"orders_read", "orders_list", "audit_search", "refunds_read", "stats_read"} <= seen


async def test_each_kind_of_audit_row_has_its_own_names(api: httpx2.AsyncClient) -> None:
    order = await new_order(api, "PAID")
    await api.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "PAID"})
    made = (await api.get("/api/v1/audit?fields=new_state,requested_state")).json()["data"]
    refused = (await api.get("/api/v1/audit?fields=new_state,requested_state&rejected=true")).json()["data"]
    assert made == [{"new_state": "PAID"}]
    assert refused == [{"requested_state": "PAID"}]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("fields=colour", 'has no "colour"; there is: id, order_number'),
        ("fields=id,colour", 'has no "colour"'),
        ("fields=line_items.sku", 'has no "line_items.sku"'),
        ("fields=ID", 'has no "ID"'),
        ("fields=id,%20status", 'has no " status"'),
        ("fields=", "names nothing; there is: id"),
        ("fields=,", "names nothing"),
        ("fields=id,", "names nothing"),
        ("fields=id,id", "gives a name twice"),
        ("fields=id&fields=status", "is given twice"),
        ("f%69elds=id&fields=id", "is given twice"),
        ("fields=i%00d", "must not contain control characters"),
        ("fields=audit_hash", 'has no "audit_hash"'),
    ],
)
async def test_what_is_not_there_is_refused_before_anything_is_done(
    query: str, fault: str, api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    for response in (
        await api.post(f"{ORDERS}?{query}", json=order_payload()),
        await api.get(f"{ORDERS}?{query}"),
        await api.get(f"{ORDERS}/{uuid4()}?{query}"),
        await api.patch(f"{ORDERS}/{uuid4()}/state?{query}", json={"new_state": "PAID"}),
    ):
        assert response.status_code == 422, response.text
        [found] = error_of(response)["details"]
        assert found["field"] == "fields"
        assert found["message"].startswith(fault)
    assert owner_connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


async def test_an_encoded_name_is_the_name(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    for query in ("f%69elds=id", "fields=%69d", "fields=id%2Cversion"):
        assert (await api.get(f"{ORDERS}/{order['id']}?{query}")).json()["id"] == order["id"]


async def test_what_shows_nothing_of_anyone_is_not_thinned(api: httpx2.AsyncClient) -> None:
    for path in ("health", "health/live", "state-machines"):
        response = await api.get(f"/api/v1/{path}?fields=status")
        assert response.status_code == 422
    refused = await api.get(f"{ORDERS}/{uuid4()}?fields=id")
    assert error_of(refused)["code"] == "ORDER_NOT_FOUND"


def test_a_document_has_no_fields() -> None:
    chosen = Representation(("id",), is_list=False)
    with pytest.raises(InvalidInputError):
        fields.thinned(Response(b"%PDF", 200, None, "application/pdf"), chosen)
    thin = fields.thinned(answer({"id": 1, "status": "PAID"}, 201, {"X": "y"}), chosen)
    assert isinstance(thin, Answer)
    assert (thin.body, thin.status_code, thin.headers["x"]) == (b'{"id":1}', 201, "y")


def test_no_model_no_fields() -> None:
    for model in (None, dict, list[OrderResponse], OrderResponse | None):
        assert fields.representation_of(model) is None


async def test_a_thinned_answer_is_replayed_thinned(api: httpx2.AsyncClient) -> None:
    body = order_payload()
    headers = {"Idempotency-Key": "k"}
    first = await api.post(f"{ORDERS}?fields=id", json=body, headers=headers)
    again = await api.post(f"{ORDERS}?fields=id", json=body, headers=headers)
    assert first.content == again.content
    assert list(again.json()) == ["id"]
    other = await api.post(f"{ORDERS}?fields=status", json=body, headers=headers)
    assert error_of(other)["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_thinned_answers_to_changes_are_as_documented(api: httpx2.AsyncClient) -> None:
    made = await api.post(f"{ORDERS}?fields=id,line_items,metadata", json=order_payload())
    validator_for("orders_create", 201).validate(made.json())
    with pytest.raises(Exception, match="is not valid under any"):
        validator_for("orders_create", 201).validate({"id": made.json()["id"], "colour": "blue"})
