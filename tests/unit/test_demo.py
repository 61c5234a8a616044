"""The demo against a system that runs already: how it is told where, and how it reads a mailbox (DEV.1)."""

import io
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from rich.console import Console

from app.config import Settings
from devtools.demo import Demo, DemoError, system_at

pytestmark = pytest.mark.req("DEV.1", "DEV.2")

SETTINGS = Settings(_env_file=None, payment_gateway_url="http://gateway:8002/")


def looking_at(answer: Callable[[httpx2.Request], httpx2.Response]) -> Demo:
    """Return a demo whose every request gets this answer."""
    info = system_at("http://api:8000/", "http://mailpit:8025/", Path("/nowhere"), SETTINGS)
    demo = Demo(info, SETTINGS, Console(quiet=True))
    demo._http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return demo


def test_addresses_are_shown_without_a_slash_at_the_end() -> None:
    info = system_at("http://api:8000/", None, Path("/nowhere"), SETTINGS)
    assert (info.api, info.docs, info.gateway) == ("http://api:8000", "http://api:8000/docs", "http://gateway:8002")
    assert info.mail is None


@pytest.mark.parametrize(
    ("key", "told"),
    [("dev-api-key", "http://api:8000/api/v1/orders  with the header X-API-Key: dev-api-key"), ("", "")],
)
def test_the_key_is_shown_at_the_end(key: str, told: str) -> None:
    """There is none where keys are made one by one, as in production."""
    settings = SETTINGS.model_copy(update={"api_key": SecretStr(key)})
    shown = io.StringIO()
    demo = Demo(
        system_at("http://api:8000", None, Path("/nowhere"), settings), settings, Console(file=shown, soft_wrap=True)
    )
    demo._farewell({"order_number": "ORD-2026-000001"}, {"amount": 1.0, "currency": "EUR"}, Path("invoice.pdf"))
    assert told in shown.getvalue()
    assert ("X-API-Key" in shown.getvalue()) is bool(key)


def test_our_own_mail_catcher_is_read() -> None:
    def catcher(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/api/messages"
        assert request.url.params["to"] == "ada+1@example.com"
        return httpx2.Response(200, json={"messages": [{"subject": "On its way"}]})

    assert looking_at(catcher)._subjects("ada+1@example.com") == ["On its way"]


@pytest.mark.parametrize("unknown", [httpx2.Response(404), httpx2.Response(200, html="<title>Mailpit</title>")])
def test_mailpit_is_read_in_its_own_way(unknown: httpx2.Response) -> None:
    def mailpit(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/messages":
            return unknown
        assert request.url.path == "/api/v1/search"
        assert request.url.params["query"] == 'to:"ada+1@example.com"'
        return httpx2.Response(200, json={"messages": [{"Subject": "On its way", "To": []}]})

    assert looking_at(mailpit)._subjects("ada+1@example.com") == ["On its way"]


def test_a_mailbox_that_is_none_ends_the_demo() -> None:
    with pytest.raises(DemoError, match="the mailbox answered 502"):
        looking_at(lambda _: httpx2.Response(502))._subjects("ada@example.com")


def test_a_system_that_cannot_be_reached_ends_the_demo_in_one_message() -> None:
    def nobody(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("Connection refused", request=request)

    with pytest.raises(DemoError, match=r"http://api:8000/api/v1/orders cannot be reached: Connection refused"):
        looking_at(nobody).run()
