"""Development secrets are refused on every address that other machines reach (NFR-004)."""

import os
from typing import Any

import httpx2
import pytest
import uvicorn
from typer.testing import CliRunner, Result

from app import api_server
from app.cli.main import cli
from app.composition import Services
from app.config import Settings, SettingsError, get_settings
from app.config_rules import development_secrets, refuse_public_address
from app.main import create_app
from app.tasks import processes
from tests.integration.conftest import API_KEY, error_of

pytestmark = [pytest.mark.req("NFR-004.7"), pytest.mark.security]

OWN = {
    "secret_key": "a-signing-secret-of-our-own-0123456789",
    "api_key": "",
    "payment_gateway_api_key": "sk_live_of_our_own",
    "payment_webhook_secret": "whsec_a-webhook-secret-of-our-own-0123",
    "database_url": "postgresql://shop:correct-horse@localhost/shop",
}
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what must be refused
ALL = ["API_KEY", "SECRET_KEY", "PAYMENT_GATEWAY_API_KEY", "PAYMENT_WEBHOOK_SECRET", "DATABASE_URL"]


def with_own(**changes: Any) -> Settings:
    return Settings(_env_file=None, **{**OWN, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"api_key": "dev-api-key"}, "API_KEY"),
        ({"api_key": "admin"}, "API_KEY"),
        ({"secret_key": "development-secret-key-not-for-production"}, "SECRET_KEY"),
        ({"secret_key": "x" * 40}, "SECRET_KEY"),
        ({"secret_key_previous": "development-secret-key-not-for-production"}, "SECRET_KEY_PREVIOUS"),
        ({"payment_gateway_api_key": "sk_test_articurated"}, "PAYMENT_GATEWAY_API_KEY"),
        ({"payment_webhook_secret": "whsec_development-webhook-secret"}, "PAYMENT_WEBHOOK_SECRET"),
        ({"payment_webhook_secret": ""}, "PAYMENT_WEBHOOK_SECRET"),
        ({"database_url": "postgresql://articurated:dev_password@localhost/shop"}, "DATABASE_URL"),
    ],
)
def test_each_of_them_is_refused_by_name(changes: dict[str, str], named: str) -> None:
    refuse_public_address(with_own(), EVERYWHERE)
    for address in (EVERYWHERE, "::", "192.0.2.4", "shop.example", ""):
        with pytest.raises(SettingsError, match=rf"guess: {named}\."):
            refuse_public_address(with_own(**changes), address)
    for address in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        refuse_public_address(with_own(**changes), address)
    refuse_public_address(with_own(**changes, allow_development_secrets=True), EVERYWHERE)


def test_of_a_container_counts_where_its_ports_are_published() -> None:
    refuse_public_address(Settings(_env_file=None, published_address="127.0.0.1"), EVERYWHERE)
    with pytest.raises(SettingsError):
        refuse_public_address(Settings(_env_file=None, published_address=EVERYWHERE), "127.0.0.1")


def test_the_defaults_are_all_of_them() -> None:
    assert development_secrets(Settings(_env_file=None)) == ALL
    assert development_secrets(with_own()) == []


# --- the commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[str]:
    """The addresses on which a server would have been started, from defaults alone."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARTICURATED_DATA_DIR", str(tmp_path))
    found: list[str] = []
    monkeypatch.setattr(uvicorn, "run", lambda *_, host, **__: found.append(host))
    monkeypatch.setattr(api_server, "serve", lambda options, _: found.append(options["host"]))
    get_settings.cache_clear()
    return found


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli, list(words))
    get_settings.cache_clear()
    return result


def test_api_and_gateway_refuse_to_listen(served: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("api", "--host", EVERYWHERE)
    assert isinstance(refused.exception, SettingsError)
    assert all(name in str(refused.exception) for name in ALL)
    refused = run("gateway", "--host", EVERYWHERE)
    assert isinstance(refused.exception, SettingsError)
    assert "PAYMENT_GATEWAY_API_KEY, PAYMENT_WEBHOOK_SECRET." in str(refused.exception)
    assert served == []
    for command in ("api", "gateway"):
        assert run(command).exit_code == 0
        assert run(command, "--host", EVERYWHERE, "--allow-development-secrets").exit_code == 0
        assert os.environ.pop("ALLOW_DEVELOPMENT_SECRETS") == "true", "the processes of a server inherit it"
    monkeypatch.setenv("ALLOW_DEVELOPMENT_SECRETS", "true")
    assert run("api", "--host", EVERYWHERE).exit_code == 0
    assert served == ["127.0.0.1", EVERYWHERE, "127.0.0.1", EVERYWHERE, EVERYWHERE]


def test_the_mock_gateway_does_not_run_in_production(served: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    refused = run("gateway")
    assert isinstance(refused.exception, SettingsError)
    assert "ENVIRONMENT" in str(refused.exception)
    assert served == []


def test_flower_needs_a_login_where_others_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(processes, "get_settings", lambda: Settings(_env_file=None, flower_basic_auth=""))
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH"):
        processes.run_flower(EVERYWHERE, 0)
    with pytest.raises(SettingsError, match="not installed"):
        processes.run_flower("127.0.0.1", 0)


# --- another server ----------------------------------------------------------------------------------------------


async def status_at(address: str, settings: Settings, services: Services) -> int:
    """Return how a request is answered that came to one address of this machine, as a server reports it."""
    transport = httpx2.ASGITransport(app=create_app(settings, services))
    host = f"[{address}]" if ":" in address else address
    async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}:8000") as client:
        answer = await client.get("/api/v1/orders", headers={"X-API-Key": API_KEY})
    if answer.status_code == 403:
        assert error_of(answer)["details"] == {"needed": "own secrets, or ALLOW_DEVELOPMENT_SECRETS=true"}
    return answer.status_code


async def test_however_the_api_is_served_requests_from_elsewhere_are_refused(
    settings: Settings, services: Services
) -> None:
    for address in ("192.0.2.4", "10.0.0.9", "2001:db8::1"):
        assert await status_at(address, settings, services) == 403
        for changes in ({"allow_development_secrets": True}, {"published_address": "127.0.0.1"}, OWN):
            changed = Settings(**{**settings.model_dump(), **changes})
            assert await status_at(address, changed, services) == 200
    for address in ("127.0.0.1", "::1"):
        assert await status_at(address, settings, services) == 200
