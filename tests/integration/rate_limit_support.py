"""Processes of the API with a limit, and who calls them: by key, from an address, or guessing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.composition import Services
from app.config import Settings
from app.database import Database
from app.main import create_app
from app.services.access import rate_limit_store
from app.services.access.rate_limit import RateLimiter
from tests.conftest import MovableClock, new_key

ORDERS = "/api/v1/orders"


@dataclass
class Process:
    """One API application with a limit, as a process of its own would be, and who calls it."""

    services: Services
    call: Callable[..., Awaitable[httpx2.Response]]

    @property
    def limiter(self) -> RateLimiter:
        """What counts."""
        assert self.services.rate_limiter is not None
        return self.services.rate_limiter

    async def statuses(self, times: int, **headers: str) -> dict[int, int]:
        """Call so often, and return how often each status came."""
        found: dict[int, int] = {}
        for _ in range(times):
            status = (await self.call(**headers)).status_code
            found[status] = found.get(status, 0) + 1
        return found


Start = Callable[..., Process]


@asynccontextmanager
async def processes(
    settings: Settings, database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Give a function that makes a process; by default with the limit of 100 and the suite's Redis.

    They wait for Redis as long as it takes: a busy machine must not change what is counted where.
    """
    monkeypatch.setattr(rate_limit_store, "ANSWER_SECONDS", 60)
    monkeypatch.setattr(rate_limit_store, "PATIENCE_SECONDS", 60)
    made: list[Services] = []

    def started(**changes: Any) -> Process:
        with_limit = settings.model_copy(update={"rate_limit_per_minute": 100, **changes})
        services = Services(with_limit, database, clock)
        application = create_app(with_limit, services)
        made.append(services)

        async def call(
            path: str = ORDERS, method: str = "GET", address: str = "192.0.2.9", **headers: str
        ) -> httpx2.Response:
            transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False, client=(address, 4711))
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers)

        return Process(services, call)

    yield started
    for services in made:
        if services.rate_limiter is not None:
            await services.rate_limiter.close()
        await services.health.close()


NewCaller = Callable[[], Awaitable[dict[str, str]]]


def new_caller(start: Start) -> NewCaller:
    """Return a function that gives a new caller: the header with their key."""
    services = start().services

    async def made() -> dict[str, str]:
        return {"X-API-Key": (await new_key(services.settings))["key"]}

    return made


def unique_address() -> str:
    """Return an address that no other test of this run counted."""
    number = uuid4().int
    return f"10.{number % 256}.{(number >> 8) % 256}.{(number >> 16) % 256}"


def guess() -> dict[str, str]:
    """Return a key of the right shape that was never issued."""
    return {"X-API-Key": f"ack_{uuid4().hex[:8]}_{uuid4().hex}{uuid4().hex[:11]}"}
