"""`GET /notifications` and `articurated notifications list`: messages and their recipients, for managers alone."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.config import Settings, get_settings
from app.core.enums import Role
from app.database import Database
from app.schemas.notification import NotificationList
from tests.integration.conftest import error_of, new_order
from tests.integration.jobs_support import execute, rows

pytestmark = pytest.mark.req("REQ-006", "REQ-005")

URL = "/api/v1/notifications"


async def note(database: Database, number: int, **fields: Any) -> None:
    """Add a message, the higher the number the newer."""
    values = {
        "key": f"event:{number}",
        "channel": "EMAIL",
        "state": "SENT",
        "order_id": None,
        "entity_id": uuid4(),
        "template": "order_shipped",
        "number": number,
        **fields,
    }
    await execute(
        database,
        "INSERT INTO notifications (source_key, template, recipient, channel, entity_id, order_id, message_id,"
        " subject, created_at) VALUES (:key, :template, 'ada@example.com', :channel, :entity_id, :order_id,"
        " '<1@a.example>', 'Your order', now() + make_interval(secs => :number))",
        **{name: value for name, value in values.items() if name != "state"},
    )
    delivery = "UPDATE notifications SET state = :state, attempts = 1 WHERE source_key = :key"
    await execute(database, delivery, state=values["state"], key=values["key"])


async def listed(api: httpx2.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """Return the messages that a query finds."""
    response = await api.get(URL, params=query)
    assert response.status_code == 200, response.text
    NotificationList.model_validate_json(response.content)
    data: list[dict[str, Any]] = response.json()["data"]
    return data


@pytest.mark.req("REQ-006.6")
async def test_messages_are_found_by_what_is_known_of_them(api: httpx2.AsyncClient, database: Database) -> None:
    order, entity = await new_order(api), str(uuid4())
    await note(database, 1, order_id=order["id"])
    await note(database, 2, order_id=order["id"], channel="SMS", state="FAILED")
    await note(database, 3, channel="CHAT", template="job_failed", entity_id=entity)
    await note(database, 4, state="REJECTED")

    async def found(**query: Any) -> list[str]:
        return [row["channel"] + ":" + row["state"] for row in await listed(api, **query)]

    everything = ["EMAIL:REJECTED", "CHAT:SENT", "SMS:FAILED", "EMAIL:SENT"]
    assert await found() == everything
    assert await found(order_id=order["id"]) == everything[2:]
    assert await found(entity_id=entity) == ["CHAT:SENT"]
    assert await found(state="FAILED") == ["SMS:FAILED"]
    assert await found(state=["FAILED", "REJECTED"]) == ["EMAIL:REJECTED", "SMS:FAILED"]
    assert await found(channel="EMAIL") == ["EMAIL:REJECTED", "EMAIL:SENT"]
    assert await found(channel=["SMS", "CHAT"], state="SENT") == ["CHAT:SENT"]
    assert await found(template="job_failed") == ["CHAT:SENT"]
    assert await found(order_id=str(uuid4())) == []
    [row] = await listed(api, state="FAILED")
    assert row["recipient"] == "ada@example.com"
    assert (row["order_id"], row["attempts"], row["sent_at"]) == (order["id"], 1, None)
    assert "source_key" not in row


async def test_pages_follow_each_other(api: httpx2.AsyncClient, database: Database) -> None:
    for number in range(5):
        await note(database, number)
    first = (await api.get(URL, params={"limit": 2, "include_total": "true"})).json()
    assert first["pagination"]["total"] == 5
    second = (await api.get(URL, params={"limit": 2, "cursor": first["pagination"]["next_cursor"]})).json()
    last = (await api.get(URL, params={"limit": 2, "offset": 4})).json()
    ids = [row["id"] for page in (first, second, last) for row in page["data"]]
    assert len(set(ids)) == 5
    assert last["pagination"]["next_cursor"] is None


@pytest.mark.security
async def test_only_managers_see_whom_messages_are_for(
    callers: dict[Role, httpx2.AsyncClient], anonymous: httpx2.AsyncClient, database: Database
) -> None:
    await note(database, 1)
    for role, caller in callers.items():
        response = await caller.get(URL)
        if role in {Role.MANAGER, Role.ADMIN}:
            assert len(response.json()["data"]) == 1
        else:
            assert (response.status_code, error_of(response)["code"]) == (403, "FORBIDDEN")
            assert "ada@" not in response.text
    assert (await anonymous.get(URL)).status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        {"state": "LOST"}, {"channel": "PIGEON"}, {"channel": "email"}, {"order_id": "1"}, {"template": "../x"},
        {"cursor": "x"}, {"limit": "0"}, {"recipient": "ada@example.com"},
    ],
)  # fmt: skip
async def test_a_query_that_means_nothing_is_refused(api: httpx2.AsyncClient, query: dict[str, str]) -> None:
    response = await api.get(URL, params=query)
    assert (response.status_code, error_of(response)["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.req("NFR-001")
async def test_the_filters_that_people_use_have_an_index(database: Database) -> None:
    indexed = {row.indexdef.partition("btree ")[2] for row in await rows(
        database, "SELECT indexdef FROM pg_indexes WHERE tablename = 'notifications'"
    )}  # fmt: skip
    kept = {"(channel, state, created_at, id)", "(template, channel, state, created_at, id)"}
    assert {"(order_id)", "(entity_id)", "(created_at, id)", *kept} <= indexed


@pytest.fixture
def _command_settings(settings: Settings, clean_database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("_command_settings")
def test_the_command_lists_them_too(settings: Settings) -> None:
    async def fill() -> None:
        database = Database(settings, pool_size=1)
        try:
            await note(database, 1)
            await note(database, 2, channel="SMS", state="FAILED")
        finally:
            await database.close()

    asyncio.run(fill())

    def run(*words: str, expect: int = 0) -> str:
        done = CliRunner().invoke(cli, ["notifications", "list", *words])
        assert done.exit_code == expect, done.output
        return done.stdout

    assert [row["channel"] for row in json.loads(run("--json"))] == ["SMS", "EMAIL"]
    [failed] = json.loads(run("--json", "--state", "failed"))
    assert failed["channel"] == "SMS"
    assert json.loads(run("--json", "--channel", "chat")) == []
    assert json.loads(run("--json", "--order", str(uuid4()))) == []
    assert len(json.loads(run("--json", "--limit", "1"))) == 1
    assert "ada@example.com" in run()
    run("--state", "lost", expect=2)
    run("--channel", "pigeon", expect=2)
