"""What the bodies of a process hold, seen through the API (NFR-004)."""

import asyncio
import gc
from collections.abc import AsyncIterator

import httpx2
import pytest

from app.api.http import incoming, json_body
from app.config import Settings
from app.core.enums import Role
from app.database import Database
from app.main import create_app
from app.utils.budget import Budget
from tests.factories import order_payload
from tests.integration.conftest import error_of

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]


async def test_an_answered_request_holds_nothing(api: httpx2.AsyncClient) -> None:
    before = incoming.REQUESTS.left, incoming.WEBHOOKS.left
    for body in (order_payload(), {"unknown": 1}):
        await api.post("/api/v1/orders", json=body)
    await api.post("/api/v1/payments/webhook", json={})
    assert (incoming.REQUESTS.left, incoming.WEBHOOKS.left) == before


async def test_beyond_what_a_process_may_hold_a_body_is_refused(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming.REQUESTS, "left", 100)
    response = await api.post("/api/v1/orders", json=order_payload())
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    error_of(response)
    assert incoming.REQUESTS.left == 100


async def test_a_caller_who_sends_slowly_leaves_room_for_others(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One caller holds its part of the budget with bodies that do not end; another gets in, and so does this one later."""
    budget = Budget(40_000)
    monkeypatch.setattr(json_body.read_body, "__defaults__", (budget,))
    monkeypatch.setattr(api._transport.app.state.services.settings, "max_body_bytes", 9_000)  # type: ignore[attr-defined]
    ends, taken = asyncio.Event(), asyncio.Queue[None]()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"unknown": "' + b"x" * 4_900
        taken.put_nowait(None)
        await ends.wait()
        yield b'"}'

    async def send() -> httpx2.Response:
        return await api.post("/api/v1/orders", content=slowly(), headers={"content-type": "application/json"})

    held = [asyncio.create_task(send()) for _ in range(6)]
    for _ in held:
        await taken.get()
    refused = await send()
    assert (refused.status_code, error_of(refused)["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert int(refused.headers["retry-after"]) > 0
    other = await callers[Role.MANAGER].post("/api/v1/orders", json=order_payload())
    assert other.status_code == 201, other.text
    ends.set()
    assert [answer.status_code for answer in await asyncio.gather(*held)] == [422] * 6
    assert (budget.left, dict(budget.by_caller)) == (40_000, {})
    assert (await send()).status_code == 422


async def test_a_body_that_does_not_come_is_not_waited_for(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "BODY_SECONDS", 0.01)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    for path in ("/api/v1/orders", "/api/v1/returns"):
        response = await api.post(path, content=slowly(), headers={"content-type": "application/json"})
        assert response.status_code == 408
        assert error_of(response)["code"] == "REQUEST_TIMEOUT"
        assert response.headers["connection"] == "close"


async def test_what_is_loaded_at_the_start_is_no_matter_for_the_collector(
    settings: Settings, database: Database
) -> None:
    """A full collection over all of it blocks the event loop for 100 ms."""
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
