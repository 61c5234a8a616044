"""Cases: opened once with their alert, shown with evidence and ways out, closed once by a manager (REQ-004)."""

import json
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from psycopg import errors
from typer.testing import CliRunner

from app.cli.main import cli
from app.composition import Services
from app.core.enums import CaseEntity, CaseKind, Role
from app.core.security import DEVELOPMENT_PRINCIPAL_ID
from app.database import Database
from app.services.cases.kinds import MEANINGS
from app.services.cases.service import open_case
from app.services.jobs.service import JobKind
from app.services.notifications.kind import GONE, Addressed
from app.services.notifications.kinds import KINDS
from app.services.notifications.rendering import render_mail
from tests.conftest import MovableClock
from tests.integration.conftest import LOGINS, Login, error_of, new_order
from tests.integration.jobs_support import facts_of, rows

pytestmark = pytest.mark.req("REQ-004")

URL = "/api/v1/cases"


async def opened(database: Database, key: str = "mismatch:evt_1", **fields: Any) -> bool:
    """Open a case; return whether it is new."""
    given = {"entity_type": CaseEntity.ORDER, "entity_id": uuid4(), "evidence": {"reported": "90.96 EUR"}, **fields}
    async with database.transaction() as session:
        return await open_case(session, given.pop("kind", CaseKind.AMOUNT_MISMATCH), dedupe_key=key, **given)


async def test_a_case_opens_once_with_its_event_and_its_alert(database: Database) -> None:
    entity_id = uuid4()
    assert await opened(database, entity_id=entity_id)
    assert not await opened(database, entity_id=entity_id)
    [case] = await rows(database, "SELECT * FROM cases")
    assert (case.kind, case.state, case.version, case.evidence) == (
        "AMOUNT_MISMATCH", "OPEN", 1, {"reported": "90.96 EUR"},
    )  # fmt: skip
    [event] = await rows(database, "SELECT * FROM events WHERE entity_type = 'CASE'")
    assert (event.entity_id, event.type, event.seq) == (case.id, "case.opened", 1)
    assert event.data == {
        "kind": "AMOUNT_MISMATCH", "entity_type": "ORDER", "entity_id": str(entity_id), "order_id": None,
    }  # fmt: skip
    [job] = await rows(database, "SELECT kind, entity_id FROM jobs")
    assert (job.kind, job.entity_id) == (JobKind.NOTIFY_CASE, case.id)


async def test_nothing_of_a_case_is_left_of_a_transaction_that_failed(database: Database) -> None:
    async def opened_and_failed() -> None:
        async with database.transaction() as session:
            await open_case(
                session, CaseKind.DISPUTE, entity_type=CaseEntity.ORDER, entity_id=uuid4(), evidence={}, dedupe_key="x"
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await opened_and_failed()
    for table in ("cases", "events", "jobs"):
        assert await rows(database, f"SELECT 1 FROM {table}") == []


async def test_a_case_is_shown_with_order_evidence_and_ways_out(api: httpx2.AsyncClient, services: Services) -> None:
    order = await new_order(api)
    await opened(services.database, entity_id=order["id"], order_id=order["id"])
    [listed] = (await api.get(URL)).json()["data"]
    response = await api.get(f"{URL}/{listed['id']}")
    assert response.json() == listed
    assert response.headers["etag"] == '"1"'
    assert listed["order_number"] == order["order_number"]
    assert listed["evidence"] == {"reported": "90.96 EUR"}
    assert (listed["state"], listed["closed_at"], listed["close_note"]) == ("OPEN", None, None)
    assert listed["ways_out"] == [
        {"action": way.action, "how": way.how} for way in MEANINGS[CaseKind.AMOUNT_MISMATCH].ways_out
    ]
    assert error_of(await api.get(f"{URL}/{uuid4()}"))["code"] == "NOT_FOUND"


async def test_a_case_is_closed_once_with_a_note(
    api: httpx2.AsyncClient, services: Services, clock: MovableClock
) -> None:
    await opened(services.database, at=clock())
    [case] = (await api.get(URL)).json()["data"]
    for body in ({}, {"note": ""}, {"note": " "}, {"note": "x" * 2001}, {"note": "x", "action": 1}):
        assert error_of(await api.post(f"{URL}/{case['id']}/close", json=body))["code"] == "VALIDATION_ERROR"
    closed = await api.post(f"{URL}/{case['id']}/close", json={"note": "refunded there, re_1"})
    assert closed.status_code == 200
    answer = closed.json()
    assert (answer["state"], answer["version"], answer["close_note"]) == ("CLOSED", 2, "refunded there, re_1")
    assert answer["closed_by"] == str(DEVELOPMENT_PRINCIPAL_ID)
    assert answer["closed_at"] == clock().isoformat().replace("+00:00", "Z")
    [event] = await rows(services.database, "SELECT * FROM events WHERE type = 'case.closed'")
    assert event.seq == 2
    assert event.data == {
        "actor_id": str(DEVELOPMENT_PRINCIPAL_ID),
        "trigger": "API_CALL",
        "action": None,
    }
    again = await api.post(f"{URL}/{case['id']}/close", json={"note": "no, otherwise"})
    assert again.status_code == 409
    assert error_of(again)["details"]["current_state"] == "CLOSED"
    assert (await api.get(f"{URL}/{case['id']}")).json() == answer
    assert (await api.post(f"{URL}/{uuid4()}/close", json={"note": "so"})).status_code == 404


async def test_cases_are_filtered_and_paged(api: httpx2.AsyncClient, services: Services) -> None:
    order = await new_order(api)
    entity_id = uuid4()
    await opened(services.database, "1", order_id=order["id"])
    await opened(services.database, "2", kind=CaseKind.DISPUTE, entity_type=CaseEntity.PAYMENT, entity_id=entity_id)
    await opened(services.database, "3", kind=CaseKind.TAMPERED_RECORD)

    async def kinds(query: str = "") -> list[str]:
        answered = await api.get(f"{URL}{query}")
        assert answered.status_code == 200, answered.text
        return [case["kind"] for case in answered.json()["data"]]

    assert await kinds() == ["TAMPERED_RECORD", "DISPUTE", "AMOUNT_MISMATCH"]
    assert await kinds("?kind=DISPUTE&kind=AMOUNT_MISMATCH") == ["DISPUTE", "AMOUNT_MISMATCH"]
    assert await kinds(f"?order_id={order['id']}") == ["AMOUNT_MISMATCH"]
    assert await kinds(f"?entity_id={entity_id}") == ["DISPUTE"]
    assert await kinds("?entity_type=PAYMENT") == ["DISPUTE"]
    [dispute] = (await api.get(f"{URL}?kind=DISPUTE")).json()["data"]
    await api.post(f"{URL}/{dispute['id']}/close", json={"note": "so"})
    assert await kinds("?state=OPEN") == ["TAMPERED_RECORD", "AMOUNT_MISMATCH"]
    assert await kinds("?state=CLOSED") == ["DISPUTE"]
    page = (await api.get(f"{URL}?limit=2&include_total=true")).json()
    assert page["pagination"]["total"] == 3
    assert await kinds(f"?cursor={page['pagination']['next_cursor']}") == ["AMOUNT_MISMATCH"]
    assert (await api.get(f"{URL}?kind=NONSENSE")).status_code == 422


async def test_managers_and_admins_decide(
    callers: dict[Role, httpx2.AsyncClient], api: httpx2.AsyncClient, services: Services
) -> None:
    for number, role in enumerate(Role):
        await opened(services.database, str(number))
        case = (await api.get(URL)).json()["data"][0]
        closed = await callers[role].post(f"{URL}/{case['id']}/close", json={"note": "so"})
        assert closed.status_code == (200 if role in {Role.MANAGER, Role.ADMIN} else 403), role


async def test_operations_get_a_mail_that_says_what_to_decide(api: httpx2.AsyncClient, services: Services) -> None:
    order = await new_order(api)
    await opened(services.database, order_id=order["id"])
    [case] = (await api.get(URL)).json()["data"]
    found = await facts_of(services.database, services.settings, KINDS["case"], UUID(case["id"]))
    assert isinstance(found, Addressed)
    assert await facts_of(services.database, services.settings, KINDS["case"], uuid4()) is GONE
    mail = render_mail("case", found.facts)
    assert order["order_number"] in mail.subject
    for part in (mail.text, mail.html):
        assert case["says"] in " ".join(part.split()).replace("&#39;", "'")
        assert "90.96 EUR" in part
        assert f"articurated cases close {case['id']}" in part
        for way in MEANINGS[CaseKind.AMOUNT_MISMATCH].ways_out:
            assert way.action in part


def test_every_kind_has_a_meaning_and_a_way_out() -> None:
    assert MEANINGS.keys() == set(CaseKind)
    for meaning in MEANINGS.values():
        assert meaning.ways_out
        assert len({way.action for way in meaning.ways_out}) == len(meaning.ways_out)


async def test_open_cases_are_counted(api: httpx2.AsyncClient, services: Services) -> None:
    await opened(services.database, "1")
    await opened(services.database, "2")
    [case, _] = (await api.get(URL)).json()["data"]
    await api.post(f"{URL}/{case['id']}/close", json={"note": "so"})
    assert "articurated_cases_open 1.0" in (await api.get("/api/v1/metrics")).text
    assert (await api.get("/api/v1/health")).json()["checks"]["jobs"]["open_cases"] == 1


INSERT = (
    "INSERT INTO cases (kind, entity_type, entity_id, dedupe_key, state, version, closed_at, close_note)"
    " VALUES ('DISPUTE', 'ORDER', uuid7(), gen_random_uuid()::text, '{state}', {version}, {closed_at}, {note})"
)
OPEN = INSERT.format(state="OPEN", version=1, closed_at="NULL", note="NULL")
CLOSE = "UPDATE cases SET state = 'CLOSED', version = 2, closed_at = now(), close_note = 'so'"
DECIDED = (
    f"WITH closed AS ({CLOSE} RETURNING id) INSERT INTO events (entity_type, entity_id, seq, type)"
    " SELECT 'CASE', id, 2, 'case.closed' FROM closed"
)
ATTACKS = {
    "a case that begins closed": [INSERT.format(state="CLOSED", version=2, closed_at="now()", note="'so'")],
    "removed": ["DELETE FROM cases"],
    "emptied": ["TRUNCATE cases CASCADE"],
    "another question": ["UPDATE cases SET evidence = '{\"reported\": 1}'"],
    "another question as it is closed": [f"{CLOSE}, kind = 'TAMPERED_RECORD'"],
    "closed without a note": ["UPDATE cases SET state = 'CLOSED', version = 2, closed_at = now()"],
    "closed without an event": [CLOSE],
    "opened again": [
        DECIDED,
        "UPDATE cases SET state = 'OPEN', version = 1, closed_at = NULL, close_note = NULL",
    ],
    "decided twice": [DECIDED, "UPDATE cases SET close_note = 'otherwise'"],
}


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_database_lets_a_case_only_be_closed(clean_database: None, login: Login, name: str, attack: str) -> None:
    connection: psycopg.Connection = login(name)
    connection.execute(OPEN)
    *before, last = ATTACKS[attack]
    for statement in before:
        connection.execute(statement.encode())
    with pytest.raises((errors.IntegrityError, errors.InsufficientPrivilege)):
        connection.execute(last.encode())


def run(*arguments: Any, expect: int = 0) -> str:
    """Return what the command prints."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return result.stdout


def test_the_command_line_lists_shows_and_closes(command_line: None, owner_connection: psycopg.Connection) -> None:
    owner_connection.execute(OPEN.encode())
    [case] = json.loads(run("cases", "list", "--json"))
    assert "DISPUTE" in run("cases", "list")
    assert json.loads(run("cases", "show", case["id"]))["ways_out"] == case["ways_out"]
    run("cases", "close", case["id"], "--note", " ", expect=2)
    run("cases", "close", case["id"], expect=2)
    assert "closed: DISPUTE" in run("cases", "close", case["id"], "--note", "the bank decided for us")
    assert json.loads(run("cases", "list", "--json")) == []
    [closed] = json.loads(run("cases", "list", "--state", "all", "--json"))
    assert (closed["close_note"], closed["closed_by"]) == ("the bank decided for us", None)
    [[trigger]] = owner_connection.execute(
        "SELECT data ->> 'trigger' FROM events WHERE type = 'case.closed'"
    ).fetchall()
    assert trigger == "CLI"
    run("cases", "list", "--state", "nonsense", expect=2)
    run("cases", "list", "--kind", "nonsense", expect=2)
