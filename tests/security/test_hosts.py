"""A name in `Host` that is not this service's is refused: no page can make its own name lead here (NFR-004)."""

import httpx2
import pytest
from pydantic import ValidationError

from app.api.http.hosts import known_hosts
from app.config import Settings
from app.main import create_app
from tests.integration.conftest import API_KEY, Connect, error_of
from tests.security.test_production import started_with

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

LIVE = "/api/v1/health/live"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "shop.localhost:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.168.1.20:8000",
        "api:8000",
        "shop.example",
        "Shop.Example.:443",
        "orders.internal.example",
    ],
)
async def test_our_names_and_addresses_pass(host: str, settings: Settings) -> None:
    given = {"public_url": "https://shop.example:8443/api", "allowed_hosts": "other.example, orders.internal.example"}
    application = create_app(settings.model_copy(update=given))
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get(LIVE, headers={"Host": host})).status_code == 200
    await application.state.services.close()


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8000",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "shop.example.attacker.example",
        "attacker.example#localhost",
        "127.1.attacker.example:80",
    ],
)
async def test_a_name_of_somewhere_else_is_refused_in_development_too(host: str, connect: Connect) -> None:
    client = connect(**{"X-API-Key": API_KEY})
    for path in (LIVE, "/api/v1/health", "/api/v1/orders", "/docs", "/nowhere"):
        response = await client.get(path, headers={"Host": host})
        assert response.status_code == 421, path
        error = error_of(response)
        assert (error["code"], error["details"]) == ("MISDIRECTED_REQUEST", {"host": host})


async def test_two_names_are_one_too_many(connect: Connect) -> None:
    response = await connect().get(LIVE, headers=[("Host", "localhost"), ("Host", "localhost")])
    assert response.status_code == 421


def test_production_knows_the_names_that_it_is_given() -> None:
    assert known_hosts(started_with()) is None
    assert known_hosts(started_with(public_url="https://shop.example/api")) == frozenset({"shop.example"})
    assert known_hosts(started_with(allowed_hosts="b.example,A.example")) == frozenset({"a.example", "b.example"})


@pytest.mark.parametrize("wrong", ["https://shop.example", "shop.example:80", "*", "*.example", "a b", "-a"])
def test_what_is_no_host_name_is_refused_at_start(wrong: str) -> None:
    with pytest.raises(ValidationError, match="allowed_hosts"):
        Settings(_env_file=None, allowed_hosts=wrong)
