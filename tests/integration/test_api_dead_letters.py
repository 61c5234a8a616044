"""Failed jobs in a person's hands: tried again or given up, once, and on record (REQ-004)."""

from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.core.security import DEVELOPMENT_PRINCIPAL_ID
from app.services.jobs.service import JobKind
from tests.conftest import MovableClock
from tests.integration.conftest import error_of, new_order
from tests.integration.dead import bury_job

pytestmark = pytest.mark.req("REQ-004")

URL = "/api/v1/jobs/dead"


def job_of(connection: psycopg.Connection, letter: UUID) -> dict[str, Any]:
    """Return the job of a dead letter."""
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        cursor.execute("SELECT j.* FROM jobs j JOIN dead_letters d ON d.job_id = j.id WHERE d.id = %s", [letter])
        found = cursor.fetchone()
    assert found is not None
    return found


@pytest.mark.req("REQ-004.11")
@pytest.mark.parametrize(
    ("action", "resolution", "state"), [("retry", "RETRIED", "PENDING"), ("dismiss", "DISMISSED", "DISMISSED")]
)
async def test_a_decision_is_made_once_and_recorded(
    action: str,
    resolution: str,
    state: str,
    api: httpx2.AsyncClient,
    services: Services,
    clock: MovableClock,
    owner_connection: psycopg.Connection,
) -> None:
    letter = await bury_job(services.database)
    buried = job_of(owner_connection, letter)
    response = await api.post(f"{URL}/{letter}/{action}", json={"note": "printer was out of paper"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["resolution"] == resolution
    assert answer["resolved_by"] == str(DEVELOPMENT_PRINCIPAL_ID)
    assert answer["resolved_at"] == clock().isoformat().replace("+00:00", "Z")
    assert answer["resolution_note"] == "printer was out of paper"

    job = job_of(owner_connection, letter)
    assert job["state"] == state
    assert job["fence"] == buried["fence"], "a zombie of before must stay locked out"
    if action == "retry":
        assert (job["failures"], job["claims"], job["finished_at"]) == (0, 0, None)
    events = owner_connection.execute(
        "SELECT type, seq, data FROM events WHERE entity_type = 'JOB' AND entity_id = %s", [job["id"]]
    ).fetchall()
    assert [(kind, seq) for kind, seq, _ in events] == [(f"job.{resolution.lower()}", 1)]
    assert events[0][2]["actor_id"] == str(DEVELOPMENT_PRINCIPAL_ID)

    for again in ("retry", "dismiss"):
        second = await api.post(f"{URL}/{letter}/{again}")
        assert second.status_code == 409
        assert error_of(second)["details"]["current_state"] == resolution


async def test_a_job_that_fails_again_gets_a_new_dead_letter_and_number(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    first = await bury_job(services.database)
    job_id = job_of(owner_connection, first)["id"]
    await api.post(f"{URL}/{first}/retry")
    owner_connection.execute("UPDATE jobs SET state = 'DEAD' WHERE id = %s", [job_id])
    second = uuid4()
    owner_connection.execute(
        "INSERT INTO dead_letters (id, job_id, kind, entity_id, error, failures, claims)"
        " SELECT %s, id, kind, entity_id, 'again', 1, 1 FROM jobs WHERE id = %s",
        [second, job_id],
    )
    assert (await api.post(f"{URL}/{second}/dismiss")).status_code == 200
    numbers = owner_connection.execute("SELECT seq FROM events WHERE entity_id = %s ORDER BY seq", [job_id]).fetchall()
    assert numbers == [(1,), (2,)]


@pytest.mark.req("REQ-004.11")
async def test_the_list_shows_what_waits_newest_first(api: httpx2.AsyncClient, services: Services) -> None:
    letters = [str(await bury_job(services.database)) for _ in range(3)]
    await api.post(f"{URL}/{letters[0]}/dismiss")
    listed = (await api.get(URL)).json()["data"]
    assert [row["id"] for row in listed] == [letters[2], letters[1]]
    assert listed[0]["error"] == "RuntimeError: printer on fire"
    assert listed[0]["queue"] == "invoices"
    page = (await api.get(f"{URL}?include_resolved=true&limit=2&include_total=true")).json()
    assert page["pagination"]["total"] == 3
    rest = (await api.get(f"{URL}?include_resolved=true&cursor={page['pagination']['next_cursor']}")).json()
    assert [row["id"] for row in rest["data"]] == [letters[0]]


async def test_a_letter_that_is_not_there(api: httpx2.AsyncClient) -> None:
    response = await api.post(f"{URL}/{uuid4()}/retry")
    assert response.status_code == 404
    assert error_of(response)["code"] == "NOT_FOUND"


async def test_a_job_that_is_alive_is_left_alone(
    api: httpx2.AsyncClient, services: Services, owner_connection: psycopg.Connection
) -> None:
    letter = await bury_job(services.database)
    job_id = job_of(owner_connection, letter)["id"]
    owner_connection.execute("UPDATE jobs SET state = 'PENDING' WHERE id = %s", [job_id])
    response = await api.post(f"{URL}/{letter}/dismiss")
    assert response.status_code == 409
    assert (await api.get(URL)).json()["data"][0]["resolution"] is None


@pytest.mark.parametrize(
    ("state", "status", "reserved_after"),
    [("FAILED", 200, 0), ("UNKNOWN", 409, 341.1), ("PROCESSING", 409, 341.1), ("PENDING", 409, 341.1)],
)
async def test_a_refund_is_given_up_and_its_money_freed_only_if_it_surely_was_not_paid(
    state: str,
    status: int,
    reserved_after: float,
    api: httpx2.AsyncClient,
    services: Services,
    owner_connection: psycopg.Connection,
) -> None:
    order = await new_order(api, "PAID", "CANCELLED")
    refund = (await api.get(f"/api/v1/refunds?order_id={order['id']}")).json()["data"][0]
    path = ["PROCESSING", "UNKNOWN"] if state == "UNKNOWN" else [state]
    for step in path:
        owner_connection.execute("UPDATE refunds SET state = %s WHERE id = %s", [step, refund["id"]])
    owner_connection.execute("DELETE FROM jobs WHERE entity_id = %s", [refund["id"]])
    letter = await bury_job(services.database, JobKind.PROCESS_REFUND, UUID(refund["id"]))
    response = await api.post(f"{URL}/{letter}/dismiss")
    assert response.status_code == status
    if status == 409:
        assert error_of(response)["details"] == {
            "current_state": state,
            "requested_state": "DISMISSED",
            "allowed_transitions": ["RETRIED"],
        }
        assert [row["id"] for row in (await api.get(URL)).json()["data"]] == [str(letter)]
    kept = owner_connection.execute(
        "SELECT refund_reserved_amount FROM payments WHERE order_id = %s", [order["id"]]
    ).fetchone()
    assert kept is not None
    assert float(kept[0]) == reserved_after
