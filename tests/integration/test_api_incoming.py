"""What the bodies of a process hold, seen through the API (NFR-004)."""

import asyncio
import gc
from collections.abc import AsyncIterator

import httpx2
import pytest

from app.api import incoming
from app.config import Settings
from app.database import Database
from app.main import create_app
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
