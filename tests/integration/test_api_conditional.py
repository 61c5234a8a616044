"""`ETag`, `If-None-Match` and `If-Match`: the version as entity tag (RFC 9110 section 13)."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.core.actor import Actor
from app.core.enums import OrderStatus, RefundState, Role
from app.core.precondition import Precondition
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.services.ledger import refunds as refund_ledger
from app.services.orders.service import STATEMENT
from app.services.payments.settlement import settle
from app.services.workflow import transitions
from app.services.workflow.transitions import Outcome, TransitionRequest
from app.utils.exceptions import VersionConflictError
from tests.conftest import MovableClock
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.jobs_support import refund_of
from tests.integration.operations import all_operations

pytestmark = pytest.mark.req("REQ-005")

ORDERS, RETURNS = "/api/v1/orders", "/api/v1/returns"
KEPT = "private, no-cache"


def count(connection: psycopg.Connection, table: str) -> int:
    """Return how many rows a table has."""
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


# --- the tag ------------------------------------------------------------------------------------------------------


async def test_every_answer_with_a_version_has_it_as_its_tag(api: httpx2.AsyncClient) -> None:
    made = await api.post(ORDERS, json=order_payload())
    path = f"{ORDERS}/{made.json()['id']}"
    answers = [made, await api.get(path)]
    answers += [await api.patch(f"{path}/state", json={"new_state": step}) for step in TO_DELIVERED]
    cancelled = await new_order(api, "PAID")
    answers.append(await api.post(f"{ORDERS}/{cancelled['id']}/cancel"))
    requested = await api.post(RETURNS, json={"order_id": made.json()["id"], "reason": "Glaze is cracked"})
    found = f"{RETURNS}/{requested.json()['id']}"
    answers += [requested, await api.get(found), await api.patch(f"{found}/approve", json={"notes": "seen"})]
    answers.append(await api.post(f"{found}/state", json={"new_state": "IN_TRANSIT"}))
    [refund] = (await api.get("/api/v1/refunds")).json()["data"]
    answers.append(await api.get(f"/api/v1/refunds/{refund['id']}"))
    for answer in answers:
        assert answer.is_success, answer.text
        assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
        assert answer.headers.get_list("cache-control") == [KEPT]


async def test_everything_else_is_not_cached(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    paths = [ORDERS, f"{ORDERS}/{order['id']}/history", f"{ORDERS}/{order['id']}/transitions", f"{ORDERS}/{uuid4()}"]
    for path in [*paths, "/api/v1/stats", "/api/v1/health/live"]:
        response = await api.get(path, headers={"If-None-Match": "*"})
        assert response.status_code in {200, 404}
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert "etag" not in response.headers


def test_the_document_names_the_tag_wherever_there_is_one() -> None:
    tagged = {o.id for o in all_operations() if "ETag" in str(o.spec["responses"])}
    assert tagged == {
        "orders_correct",
        "cases_read",
        "cases_close",
        "orders_create",
        "orders_read",
        "orders_change_state",
        "orders_cancel",
        "returns_create",
        "returns_read",
        "returns_approve",
        "returns_reject",
        "returns_change_state",
        "refunds_read",
    }
    conditional = {o.id for o in all_operations() if "304" in o.spec["responses"]}
    assert conditional == {"orders_read", "returns_read", "refunds_read", "cases_read"}
    guarded = {o.id for o in all_operations() if "412" in o.spec["responses"]}
    assert guarded == {o.id for o in all_operations() if "If-Match" in str(o.spec.get("parameters"))}
    assert guarded == {i for i in tagged if i.rpartition("_")[2] in {"state", "cancel", "approve", "reject", "correct"}}


# --- one tag, one text --------------------------------------------------------------------------------------------


class Witness:
    """Keeps what was shown under every tag."""

    def __init__(self, api: httpx2.AsyncClient) -> None:
        self._api = api
        self.shown: dict[tuple[str, str], bytes] = {}

    async def look(self, *paths: str) -> None:
        """Read these resources; a tag always means the same content."""
        for path in paths:
            answer = await self._api.get(f"/api/v1/{path}")
            assert answer.status_code == 200
            seen = self.shown.setdefault((path, answer.headers["etag"]), answer.content)
            assert answer.content == seen, f"{path} changed without a new version"


@pytest.mark.req("REQ-001", "REQ-002", "REQ-004")
async def test_nothing_that_is_shown_changes_without_a_new_version(
    api: httpx2.AsyncClient, services: Services, database: Database, clock: MovableClock
) -> None:
    witness = Witness(api)
    order = await new_order(api)
    order_path = f"orders/{order['id']}"
    await witness.look(order_path)
    for step in TO_DELIVERED:
        clock.advance(minutes=1)
        body = {"new_state": step, "reason": "so", "carrier": "La Poste", "tracking_number": step}
        await api.patch(f"/api/v1/{order_path}/state", json=body)
        await witness.look(order_path)
    requested = await new_return(api, order["id"])
    return_path = f"returns/{requested['id']}"
    await witness.look(order_path, return_path)
    await api.patch(f"/api/v1/{return_path}/approve", json={"notes": "seen", "restocking_fee": 5})
    for step in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
        clock.advance(minutes=1)
        await witness.look(order_path, return_path)
        await api.patch(f"/api/v1/{return_path}/state", json={"new_state": step})
    refund_id = (await refund_of(database, UUID(order["id"]))).id
    refund_path = f"refunds/{refund_id}"
    paths = (order_path, return_path, refund_path)
    await witness.look(*paths)
    tried = (RefundState.PROCESSING, RefundState.UNKNOWN, RefundState.PROCESSING, RefundState.PENDING)
    for state in (*tried, RefundState.FAILED):
        clock.advance(minutes=1)
        async with database.transaction() as session:
            refund = await refund_ledger.locked_refund(session, refund_id)
            assert refund is not None
            if state is RefundState.PROCESSING:
                await refund_ledger.record_sending(session, refund, clock.now)
            elif state is RefundState.FAILED:
                await refund_ledger.record_given_up(session, refund, clock.now)
            else:
                error = f"gateway said {state}"
                await refund_ledger.record_failed_try(session, refund, state, clock.now, error=error, declined=True)
        await witness.look(*paths)
    async with database.transaction() as session:
        refund = await refund_ledger.locked_refund(session, refund_id)
        assert refund is not None
        assert await refund_ledger.release_reservation(session, refund)
    await witness.look(*paths)
    clock.advance(minutes=1)
    async with database.transaction() as session:
        refund = await refund_ledger.locked_refund(session, refund_id)
        assert refund is not None
        assert await settle(session, refund, "re_1", clock.now)
    await witness.look(*paths)
    tags = Counter(path for path, _ in witness.shown)
    assert tags == {order_path: 5, return_path: 6, refund_path: 7}


# --- If-None-Match ------------------------------------------------------------------------------------------------


@pytest.mark.req("NFR-002.2", "REQ-005.8")
@pytest.mark.parametrize(
    ("given", "known"),
    [
        (['"1"'], True),
        (['W/"1"'], True),
        (['"7", "1"'], True),
        (['"7" ,\t W/"1"'], True),
        (['"7"', '"1"'], True),
        (["*"], True),
        (['"2"'], False),
        (['""'], False),
        (['"11"'], False),
        (['"7, 1"'], False),
        (["1"], False),
        (['"1'], False),
        (['"1";'], False),
        (['w/"1"'], False),
        ([""], False),
    ],
)
async def test_what_the_caller_has_is_not_sent_again(given: list[str], known: bool, api: httpx2.AsyncClient) -> None:  # noqa: FBT001
    path = f"{ORDERS}/{(await new_order(api))['id']}"
    headers = [("If-None-Match", value) for value in given]
    for method in ("GET", "HEAD"):
        response = await api.request(method, path, headers=headers)
        assert response.status_code == (304 if known else 200)
        assert response.headers["etag"] == '"1"'
        assert response.headers["cache-control"] == KEPT
        if known:
            assert response.content == b""
            assert not {"content-type", "content-length"} & set(response.headers)


async def test_after_a_change_it_is_sent(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    await api.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "PAID"})
    response = await api.get(f"{ORDERS}/{order['id']}", headers={"If-None-Match": '"1"'})
    assert (response.status_code, response.json()["status"]) == (200, "PAID")


@pytest.mark.req("NFR-004")
@pytest.mark.security
async def test_a_tag_does_not_disclose_what_a_caller_may_not_see(callers: dict[Role, httpx2.AsyncClient]) -> None:
    foreign = await new_order(callers[Role.ADMIN])
    for tag in ("*", '"1"'):
        response = await callers[Role.CUSTOMER].get(f"{ORDERS}/{foreign['id']}", headers={"If-None-Match": tag})
        assert response.status_code == 404
        response = await callers[Role.CUSTOMER].post(f"{ORDERS}/{foreign['id']}/cancel", headers={"If-Match": '"9"'})
        assert response.status_code == 404


async def test_it_means_nothing_to_a_change(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    headers = {"If-None-Match": "*"}
    moved = await api.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "PAID"}, headers=headers)
    assert moved.status_code == 200


# --- If-Match -----------------------------------------------------------------------------------------------------


@pytest.mark.req("REQ-005.8")
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (['"2"'], 200),
        (['"1", "2"'], 200),
        (['"1"', '"2"'], 200),
        (["*"], 200),
        (['"1"'], 412),
        (['W/"2"'], 412),
        (['"02"'], 412),
        (['"99999999999999999999"'], 412),
        (['"abc", "é"'], 412),
        (["2"], 422),
        (['"2'], 422),
        (['"2 "'], 422),
        (['"2" "3"'], 422),
        (['"2",'], 422),
        (['*, "2"'], 422),
        ([""], 422),
        (['"' + "x" * 1000 + '"'], 422),
    ],
)
async def test_a_change_is_made_to_what_the_caller_saw(
    given: list[str], status: int, api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api, "PAID")
    headers = [(b"If-Match", value.encode("latin-1")) for value in given]
    for path in (f"{ORDERS}/{order['id']}/state", f"{ORDERS}/{order['id']}/cancel"):
        body = {} if path.endswith("cancel") else {"new_state": "PROCESSING_IN_WAREHOUSE"}
        method = "POST" if path.endswith("cancel") else "PATCH"
        response = await api.request(method, path, json=body, headers=headers)
        assert response.status_code == status, response.text
        if status == 412:
            error = error_of(response)
            assert error["code"] == "VERSION_CONFLICT"
            assert error["details"] == {"current_version": 2, "given": ", ".join(given)}
        elif status == 422:
            assert [fault["field"] for fault in error_of(response)["details"]] == ["If-Match"]
        else:
            break
    assert count(owner_connection, "state_history") == (2 if status == 200 else 1)
    assert count(owner_connection, "transition_rejections") == 0


@pytest.mark.req("REQ-001", "REQ-003")
async def test_a_stale_view_wins_over_a_refusal_and_is_none(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api, "PAID")
    path = f"{ORDERS}/{order['id']}/state"
    stale = await api.patch(path, json={"new_state": "DELIVERED"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, error_of(stale)["code"]) == (412, "VERSION_CONFLICT")
    assert count(owner_connection, "transition_rejections") == 0
    refused = await api.patch(path, json={"new_state": "DELIVERED"}, headers={"If-Match": '"2"'})
    assert (refused.status_code, error_of(refused)["code"]) == (409, "INVALID_STATE_TRANSITION")
    assert count(owner_connection, "transition_rejections") == 1


@pytest.mark.req("REQ-002")
async def test_every_step_of_a_return_can_be_guarded(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", "approve", {"notes": "seen"}),
        ("PATCH", "state", {"new_state": "IN_TRANSIT"}),
        ("POST", "state", {"new_state": "RECEIVED"}),
    ]
    path = f"{RETURNS}/{(await new_return(api, (await new_order(api, *TO_DELIVERED))['id']))['id']}"
    other = f"{RETURNS}/{(await new_return(api, (await new_order(api, *TO_DELIVERED))['id']))['id']}"
    rejection = {"notes": "worn", "rejection_reason": "POLICY_VIOLATION"}
    history = count(owner_connection, "state_history")
    for version, (method, step, body) in enumerate(steps, start=1):
        stale = await api.request(method, f"{path}/{step}", json=body, headers={"If-Match": f'"{version + 1}"'})
        assert (stale.status_code, error_of(stale)["details"]["current_version"]) == (412, version)
        assert count(owner_connection, "state_history") == history + version - 1
        moved = await api.request(method, f"{path}/{step}", json=body, headers={"If-Match": f'"{version}"'})
        assert (moved.status_code, moved.json()["version"]) == (200, version + 1)
    for given, status in (('"2"', 412), ('"1"', 200)):
        response = await api.patch(f"{other}/reject", json=rejection, headers={"If-Match": given})
        assert response.status_code == status


async def test_what_is_not_there_is_not_found_at_any_version(api: httpx2.AsyncClient) -> None:
    for given in ("*", '"1"'):
        headers = {"If-Match": given}
        response = await api.patch(f"{ORDERS}/{uuid4()}/state", json={"new_state": "PAID"}, headers=headers)
        assert response.status_code == 404


@pytest.mark.req("NFR-003", "REQ-005.8")
async def test_of_fifty_racers_on_one_version_one_wins(
    api: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    order = await new_order(api)
    wanted = ["PAID" if number % 2 else "CANCELLED" for number in range(50)]
    answers = await asyncio.gather(
        *(
            api.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": state}, headers={"If-Match": order_tag})
            for state, order_tag in zip(wanted, ['"1"'] * 50, strict=True)
        )
    )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 49}
    assert {error_of(answer)["details"]["current_version"] for answer in answers if answer.status_code == 412} == {2}
    assert count(owner_connection, "state_history") == 1
    assert count(owner_connection, "transition_rejections") == 0


async def test_the_version_is_read_under_the_lock(
    database: Database, services: Services, admin: Actor, clock: MovableClock, api: httpx2.AsyncClient
) -> None:
    order_id = UUID((await new_order(api))["id"])
    first = TransitionRequest(entity_id=order_id, new_state=OrderStatus.PAID, actor=admin, at=clock())
    update = OrderStateUpdate(new_state=OrderStatus.PROCESSING_IN_WAREHOUSE)
    async with database.transaction() as session:
        await transitions.apply(session, STATEMENT, [first])
        # Legal once the first one is committed; but its caller saw the order before that.
        waiting = asyncio.ensure_future(services.orders.transition(order_id, update, admin, Precondition((1,), '"1"')))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
    with pytest.raises(VersionConflictError) as refusal:
        await waiting
    assert refusal.value.details == {"current_version": 2, "given": '"1"'}


async def test_in_a_set_each_has_its_own_versions(
    database: Database, admin: Actor, clock: MovableClock, api: httpx2.AsyncClient
) -> None:
    expected: list[tuple[tuple[int, ...] | None, Outcome]] = [
        (None, Outcome.MOVED),
        ((1,), Outcome.MOVED),
        ((2, 3), Outcome.STALE),
        ((), Outcome.STALE),
    ]
    requests = [
        TransitionRequest(
            entity_id=UUID((await new_order(api))["id"]),
            new_state=OrderStatus.PAID,
            actor=admin,
            at=clock(),
            expected_versions=versions,
            expected_state=OrderStatus.PAID if outcome is Outcome.STALE else None,
        )
        for versions, outcome in expected
    ]
    async with database.autocommit() as connection:
        results = await transitions.apply(connection, STATEMENT, requests)
    assert [result.outcome for result in results] == [outcome for _, outcome in expected]
    assert [result.previous_version for result in results] == [1, 1, 1, 1]
