"""What browsers and networks get: encrypted only, framed by no page, read by no foreign page (NFR-004)."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.api.http.cors import SENT_HEADERS
from app.composition import Services
from app.config import Settings
from app.main import create_app
from tests.integration.conftest import API_KEY, error_of

pytestmark = [pytest.mark.req("NFR-004.7"), pytest.mark.security]

LIVE = "/api/v1/health/live"
ORDERS = "/api/v1/orders"
SHOP = "https://shop.example"
CORS = "access-control-"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key, content-type"}


@asynccontextmanager
async def browser(
    settings: Settings,
    services: Services,
    scheme: str = "https",
    client: tuple[str, int] = ("192.0.2.9", 4711),
    **changes: Any,
) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client of the API as it is with other settings."""
    changed = settings.model_copy(update=changes)
    transport = httpx2.ASGITransport(app=create_app(changed, services), client=client)
    async with httpx2.AsyncClient(transport=transport, base_url=f"{scheme}://test") as connected:
        yield connected


def cors_headers(response: httpx2.Response) -> list[str]:
    return [name for name in response.headers if name.startswith(CORS)]


@pytest.mark.parametrize("path", [LIVE, ORDERS, "/nowhere", "/openapi.json", "/api/v1/metrics"])
async def test_no_answer_can_be_framed_run_or_leak_its_address(path: str, anonymous: httpx2.AsyncClient) -> None:
    headers = (await anonymous.get(path)).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_interactive_pages_load_what_they_need_and_cannot_be_framed(
    path: str, anonymous: httpx2.AsyncClient
) -> None:
    page = await anonymous.get(path)
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "https:" not in policy, "nothing comes from elsewhere"
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 2
    for address in loaded:
        assert (await anonymous.get(address)).status_code == 200, address


async def test_production_refuses_plain_http(settings: Settings, services: Services) -> None:
    async with browser(settings, services, "http", environment="production", api_key=None) as insecure:
        for method, path in (("GET", ORDERS), ("POST", ORDERS), ("GET", "/api/v1/metrics"), ("GET", "/nowhere")):
            response = await insecure.request(method, path, headers={"X-API-Key": "ack_x"})
            assert response.status_code == 403, path
            assert error_of(response)["details"] == {"needed": "https"}
        assert (await insecure.get(LIVE)).status_code == 200, "an orchestrator asks from inside"
    async with browser(settings, services, environment="production", api_key=None) as secure:
        response = await secure.get(ORDERS)
        assert response.status_code == 401
        assert response.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"


async def test_a_stranger_cannot_say_that_he_came_encrypted(settings: Settings, services: Services) -> None:
    forged = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https", "X-Forwarded-Ssl": "on"}
    async with browser(settings, services, "http", environment="production", api_key=None) as insecure:
        assert (await insecure.get(ORDERS, headers=forged)).status_code == 403


async def test_where_tls_ends_elsewhere_it_can_be_switched_off(settings: Settings, services: Services) -> None:
    changes: dict[str, Any] = {"environment": "production", "api_key": None, "force_https": False}
    async with browser(settings, services, "http", **changes) as inside:
        assert (await inside.get(ORDERS)).status_code == 401
    async with browser(settings, services, "http") as development:
        assert (await development.get(ORDERS)).status_code == 401


async def test_no_foreign_page_may_read_anything_by_default(settings: Settings, services: Services) -> None:
    async with browser(settings, services) as page:
        for origin in (SHOP, "null", "http://test", "https://test"):
            answered = await page.get(ORDERS, headers={"Origin": origin, "X-API-Key": API_KEY})
            asked = await page.options(ORDERS, headers={"Origin": origin, **PREFLIGHT})
            assert cors_headers(answered) == cors_headers(asked) == []
            assert asked.status_code == 204
            assert "POST" in asked.headers["allow"]


async def test_only_the_origins_named_may_call(settings: Settings, services: Services) -> None:
    origins = f"{SHOP}, https://desk.example:8443"
    async with browser(settings, services, cors_allowed_origins=origins) as page:
        for origin in (SHOP, "https://desk.example:8443"):
            asked = await page.options(ORDERS, headers={"Origin": origin, **PREFLIGHT})
            assert asked.status_code == 204
            assert asked.headers["access-control-allow-origin"] == origin
            assert "access-control-allow-credentials" not in asked.headers
            answered = await page.get(ORDERS, headers={"Origin": origin, "X-API-Key": API_KEY})
            assert answered.headers["access-control-allow-origin"] == origin
            assert "ETag" in answered.headers["access-control-expose-headers"]
            assert "Origin" in answered.headers["vary"]
        for foreign in ("https://evil.example", f"{SHOP}.evil.example", "http://shop.example", "null", SHOP.upper()):
            asked = await page.options(ORDERS, headers={"Origin": foreign, **PREFLIGHT})
            assert asked.status_code == 403
            assert error_of(asked)["code"] == "FORBIDDEN"
            assert "access-control-allow-origin" not in asked.headers
            answered = await page.get(ORDERS, headers={"Origin": foreign, "X-API-Key": API_KEY})
            assert "access-control-allow-origin" not in answered.headers


async def test_a_page_may_send_our_own_headers_and_no_others(settings: Settings, services: Services) -> None:
    async with browser(settings, services, cors_allowed_origins=SHOP) as page:
        for name, status in (*((header, 204) for header in SENT_HEADERS), ("X-Forwarded-For", 403), ("Cookie", 403)):
            asked = await page.options(
                ORDERS, headers={"Origin": SHOP, **PREFLIGHT, "Access-Control-Request-Headers": name}
            )
            assert asked.status_code == status, name
        trace = {"Origin": SHOP, **PREFLIGHT, "Access-Control-Request-Method": "TRACE"}
        assert (await page.options(ORDERS, headers=trace)).status_code == 403


@pytest.mark.parametrize(
    "origins", ["*", "https://*.example", "shop.example", "https://shop.example/", "null", "javascript:x"]
)
def test_an_origin_that_is_none_stops_the_start(origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(_env_file=None, cors_allowed_origins=origins)
