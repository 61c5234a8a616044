"""What production refuses to start with, and what it does not show (NFR-004)."""

import importlib.util
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import config
from app.composition import Services
from app.config import ROOT, Settings, SettingsError
from app.config_rules import is_trivial
from app.core.actor import Actor
from app.core.enums import Role
from app.main import create_app
from app.services.operations.health import HealthService
from app.tasks import processes
from app.utils.exceptions import AppError, ForbiddenError, UnauthenticatedError
from tests.conftest import actor, new_key
from tests.integration.conftest import API_KEY, error_of

pytestmark = [pytest.mark.req("NFR-004.7"), pytest.mark.security]

OWN = {
    "environment": "production",
    "database_url": "postgresql://shop:correct-horse@db.example/shop?sslmode=verify-full",
    "secret_key": "a-signing-secret-of-our-own-0123456789",
    "api_key": "",
    "payment_gateway_url": "https://gateway.example",
    "payment_gateway_api_key": "sk_live_of_our_own",
    "payment_webhook_secret": "whsec_a-webhook-secret-of-our-own-0123",
    "smtp_host": "mail.example",
    "smtp_port": "587",
}
LOGIN = {"smtp_user": "shop", "smtp_password": "of-the-mail-server"}


def started_with(**changes: Any) -> Settings:
    return Settings(_env_file=None, **{**OWN, **changes})


def test_production_starts_with_secrets_of_its_own() -> None:
    assert started_with().environment == "production"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"secret_key": config.DEVELOPMENT_SECRET_KEY}, "SECRET_KEY"),
        ({"secret_key": "short"}, "SECRET_KEY"),
        ({"secret_key": ""}, "SECRET_KEY"),
        ({"secret_key_previous": config.DEVELOPMENT_SECRET_KEY}, "SECRET_KEY_PREVIOUS"),
        ({"secret_key_previous": "short"}, "SECRET_KEY_PREVIOUS"),
        ({"api_key": config.DEVELOPMENT_API_KEY}, "API_KEY"),
        ({"api_key": "any at all"}, "API_KEY"),
        ({"payment_gateway_api_key": config.DEVELOPMENT_GATEWAY_KEY}, "PAYMENT_GATEWAY_API_KEY"),
        ({"payment_gateway_api_key": ""}, "PAYMENT_GATEWAY_API_KEY"),
        ({"payment_webhook_secret": config.DEVELOPMENT_WEBHOOK_SECRET}, "PAYMENT_WEBHOOK_SECRET"),
        ({"payment_webhook_secret": "whsec_short"}, "PAYMENT_WEBHOOK_SECRET"),
        ({"chat_adapter": "webhook", "chat_webhook_url": "https://chat.example/x"}, "CHANNEL_WEBHOOK_SECRET"),
        ({"database_url": "postgresql://shop:dev_password@127.0.0.1/shop"}, "DATABASE_URL"),
        ({"database_admin_url": "postgresql://owner:dev_password@127.0.0.1/shop"}, "DATABASE_ADMIN_URL"),
        ({"database_replica_url": "postgresql://shop:dev_password@127.0.0.1/shop"}, "DATABASE_REPLICA_URL"),
        ({"backup_database_url": "postgresql://b:dev_password@127.0.0.1/shop"}, "BACKUP_DATABASE_URL"),
        ({"rate_limit_per_minute": 0}, "RATE_LIMIT_PER_MINUTE"),
        ({"storage_type": "memory"}, "STORAGE_TYPE"),
        ({"log_format": "console"}, "LOG_FORMAT"),
        ({"allow_development_secrets": True}, "ALLOW_DEVELOPMENT_SECRETS"),
        # Trivial to guess, at any length.
        ({"secret_key": "a" * 64}, "SECRET_KEY"),
        ({"secret_key": "secret" * 10}, "SECRET_KEY"),
        ({"secret_key": "0123456789abcdefghijklmnopqrstuvwxyz"}, "SECRET_KEY"),
        ({"secret_key": "9876543210" * 4}, "SECRET_KEY"),
        ({"secret_key": "abcdefghijklmnopqrstuvwxyz" * 2}, "SECRET_KEY"),
        ({"secret_key": "0123456789abcdef" * 2}, "SECRET_KEY"),
        ({"secret_key_previous": "b" * 64}, "SECRET_KEY_PREVIOUS"),
        ({"backup_encryption_key": "e" * 64}, "BACKUP_ENCRYPTION_KEY"),
        ({"flower_basic_auth": "admin:admin"}, "FLOWER_BASIC_AUTH"),
        ({"flower_basic_auth": "admin:" + "f" * 40}, "FLOWER_BASIC_AUTH"),
        ({"payment_webhook_secret": "whsec_" + "c" * 64}, "PAYMENT_WEBHOOK_SECRET"),
        (
            {
                "chat_adapter": "webhook",
                "chat_webhook_url": "https://chat.example/x",
                "channel_webhook_secret": "whsec_" + "d" * 64,
            },
            "CHANNEL_WEBHOOK_SECRET",
        ),
        # Substitutes for development.
        ({"payment_gateway_url": "http://127.0.0.1:8002"}, "PAYMENT_GATEWAY_URL"),
        ({"payment_gateway_url": "http://gateway:8002"}, "PAYMENT_GATEWAY_URL"),
        ({"smtp_host": "mailpit"}, "SMTP_HOST"),
        ({"smtp_host": "mailhog.internal.example", "smtp_port": 25}, "SMTP_HOST"),
        ({"smtp_port": 1025}, "SMTP_PORT"),
        # Secrets in clear text.
        ({"payment_gateway_url": "http://gateway.example"}, "PAYMENT_GATEWAY_URL"),
        ({"payment_gateway_url": "http://10.0.0.7:8080", "private_network_hosts": "10.0.0.0/8"}, "PAYMENT_GATEWAY_URL"),
        ({**LOGIN, "smtp_tls": "none"}, "SMTP_TLS"),
        ({"redis_url": "redis://redis.example:6379/0"}, "REDIS_URL reaches another machine without a password"),
        ({"redis_url": "redis://redis:6379/0", "private_network_hosts": "redis"}, "REDIS_URL reaches another machine"),
        ({"redis_url": "rediss://redis.example:6379/0"}, "REDIS_URL reaches another machine without a password"),
        ({"redis_url": "redis://:word@redis.example:6379/0"}, "REDIS_URL reaches redis.example in clear text"),
        ({"redis_url": "rediss://:word@redis.example/0?ssl_cert_reqs=none"}, "REDIS_URL must not switch off"),
        ({"redis_url": "rediss://:word@redis.example/0?ssl_check_hostname=False"}, "REDIS_URL must not switch off"),
        ({"database_url": "postgresql://shop:word@db.example/shop"}, "DATABASE_URL reaches db.example"),
        ({"database_url": "postgresql://shop:word@db.example/shop?sslmode=require"}, "DATABASE_URL reaches db.example"),
        ({"database_url": "postgresql://shop:word@/shop?host=db.example"}, "DATABASE_URL reaches db.example"),
        ({"database_url": "postgresql://shop:word@[2001:db8::1]:5432/shop"}, "DATABASE_URL reaches 2001:db8::1"),
        (
            {"database_url": "postgresql://shop:word@localhost,db.example:5433/shop?target_session_attrs=read-write"},
            "DATABASE_URL reaches db.example",
        ),
        ({"database_admin_url": "postgresql://owner:word@db.example/shop"}, "DATABASE_ADMIN_URL reaches db.example"),
        ({"database_replica_url": "postgresql://shop:word@db.example/shop"}, "DATABASE_REPLICA_URL reaches db.example"),
        ({"backup_database_url": "postgresql://b:word@db.example/shop"}, "BACKUP_DATABASE_URL reaches db.example"),
        (
            {"storage_type": "s3", "storage_bucket": "b", "aws_endpoint_url": "http://s3.example"},
            "AWS_ENDPOINT_URL",
        ),
        ({"sentry_dsn": "http://key@sentry.example/1"}, "SENTRY_DSN"),
        ({"public_url": "http://shop.example"}, "PUBLIC_URL"),
        ({"chat_adapter": "webhook", "chat_webhook_url": "http://chat.example/x"}, "CHAT_WEBHOOK_URL"),
        ({"sms_adapter": "webhook", "sms_webhook_url": "http://sms.example/x"}, "SMS_WEBHOOK_URL"),
    ],
)
def test_production_does_not_start_with(changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    with pytest.raises(ValidationError, match=named):
        started_with(**changes)
    assert Settings(_env_file=None, **{**OWN, **changes, "environment": "development"})


@pytest.mark.parametrize(
    "changes",
    [
        {"payment_gateway_url": "http://127.0.0.1:9443"},
        {"smtp_host": "127.0.0.1", "smtp_port": 1025, **LOGIN},
        {**LOGIN, "smtp_tls": "starttls"},
        {**LOGIN, "private_network_hosts": "mail.example"},
        {"redis_url": "unix:///run/redis.sock"},
        {"redis_url": "rediss://:word@redis.example:6379/0"},
        {"redis_url": "redis://:word@10.1.2.3:6379/0", "private_network_hosts": "other.example, 10.0.0.0/8"},
        {"database_url": "postgresql://shop:word@db:5432/shop", "private_network_hosts": "db"},
        {"database_url": "postgresql://shop:word@db.example/shop?sslmode=verify-ca"},
        {"database_url": "postgresql://shop:word@/shop?host=/run/postgresql"},
        {"database_url": "postgresql://shop:w?rd@localhost/shop"},
        {
            "storage_type": "s3",
            "storage_bucket": "b",
            "aws_endpoint_url": "http://s3:7070",
            "private_network_hosts": "s3",
        },
        {"public_url": "http://shop.example", "force_https": False},
    ],
)
def test_production_starts_with(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert started_with(**changes).environment == "production"


def test_the_mode_that_libpq_takes_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert started_with(database_url="postgresql://shop:word@db.example/shop")


@pytest.mark.parametrize("secret", ["change-me-" * 3 + "change-me", "password" * 4 + "pass", "abcabc" * 6 + "ab"])
def test_a_repetition_is_trivial_also_where_the_last_one_is_cut_short(secret: str) -> None:
    assert is_trivial(secret)


def test_a_random_secret_is_never_taken_for_a_trivial_one() -> None:
    assert not [secret for secret in (secrets.token_hex(24) for _ in range(2000)) if is_trivial(secret)]


def test_a_refused_start_gives_the_name_of_a_secret_and_not_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**OWN, "secret_key": "canary-7s1", "database_url": "mysql://u:canary-7s2@db"}.items():
        monkeypatch.setenv(name.upper(), value)
    config.get_settings.cache_clear()
    with pytest.raises(SettingsError) as refused:
        config.get_settings()
    config.get_settings.cache_clear()
    assert "DATABASE_URL" in str(refused.value)
    assert "canary" not in str(refused.value)


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, **given: str) -> list[str]:
    """Return the lines with which a start under these settings alone is refused."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.lower() in Settings.model_fields]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name.upper(), value)
    config.get_settings.cache_clear()
    with pytest.raises(SettingsError) as refused:
        config.get_settings()
    config.get_settings.cache_clear()
    return str(refused.value).splitlines()


def test_production_without_a_database_says_what_to_set_and_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What `./dev env production` makes is for compose: `./dev run` reads the same file."""
    said, told = refusal(monkeypatch, tmp_path, **{name: OWN[name] for name in OWN if name != "database_url"})
    assert said == "Configuration refused:"
    assert told.startswith("  DATABASE_URL is not set")
    [page] = re.findall(r"docs/[\w/-]+\.md", told)
    assert (ROOT / page).exists()
    assert "ENVIRONMENT=development ./dev run" in told
    assert "password" not in told


def test_each_fault_of_a_refused_start_is_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, *told = refusal(monkeypatch, tmp_path, environment="production", database_url=OWN["database_url"])
    assert [line.split()[0] for line in told] == [
        "SECRET_KEY",
        "API_KEY",
        "PAYMENT_GATEWAY_API_KEY",
        "PAYMENT_WEBHOOK_SECRET",
        "PAYMENT_GATEWAY_URL",
        "SMTP_HOST",
    ]
    _, *told = refusal(monkeypatch, tmp_path, redis_url="http://redis")
    assert told == ["  REDIS_URL: must be a redis://, rediss:// or unix:// URL"]


@pytest.fixture
async def production(settings: Settings, services: Services) -> AsyncIterator[Settings]:
    """Settings of production, for the services too."""
    before = services.settings, services.health
    services.settings = settings.model_copy(update={"environment": "production", "api_key": None})
    services.health = HealthService(services.database, services.settings)
    yield services.settings
    await services.health.close()
    services.settings, services.health = before


async def test_production_shows_no_pages_and_its_figures_to_managers_alone(
    production: Settings, services: Services
) -> None:
    keys = {role: (await new_key(production, role))["key"] for role in (Role.WAREHOUSE, Role.MANAGER)}
    transport = httpx2.ASGITransport(app=create_app(production, services))
    async with httpx2.AsyncClient(transport=transport, base_url="https://test") as client:
        for path in ("/", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/api/v1/docs", "/api/v1/redoc"):
            response = await client.get(path, headers={"X-API-Key": keys[Role.MANAGER]})
            assert response.status_code == 404, path
            assert error_of(response)["code"] == "NOT_FOUND"
        for key, status in ((None, 401), (API_KEY, 401), (keys[Role.WAREHOUSE], 403), (keys[Role.MANAGER], 200)):
            answered = await client.get("/api/v1/metrics", headers={"X-API-Key": key} if key else {})
            assert answered.status_code == status


async def test_a_fault_in_production_shows_no_traceback_even_in_debug_logging(
    production: Settings, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = create_app(production.model_copy(update={"log_level": "DEBUG"}), services)
    assert application.debug is False
    monkeypatch.setattr(services.health, "check", None)
    transport = httpx2.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="https://test") as client:
        response = await client.get("/api/v1/health")
    assert response.status_code == 500
    assert (error_of(response)["message"], error_of(response)["details"]) == (
        "Something went wrong on our side. The request id finds it in our logs.",
        {},
    )


async def test_only_a_proxy_of_ours_can_say_that_a_caller_came_encrypted(
    production: Settings, services: Services
) -> None:
    """As `articurated api` sets uvicorn up: TRUSTED_PROXIES and no other address."""
    guarded = ProxyHeadersMiddleware(create_app(production, services), trusted_hosts=["10.0.0.1"])  # type: ignore[arg-type]
    for peer, headers, status in (
        ("10.0.0.1", {"X-Forwarded-Proto": "https"}, 401),
        ("10.0.0.1", {"X-Forwarded-Proto": "http"}, 403),
        ("10.0.0.1", {}, 403),
        ("192.0.2.9", {"X-Forwarded-Proto": "https"}, 403),
    ):
        transport = httpx2.ASGITransport(app=guarded, client=(peer, 4711))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/api/v1/orders", headers=headers)).status_code == status, (peer, headers)


@pytest.mark.parametrize("login", ["", "nameless:", ":wordless", "neither"])
def test_flower_wants_a_login_in_production(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = started_with(flower_basic_auth=login)
    monkeypatch.setattr(processes, "get_settings", lambda: configured)
    # Without the refusal that is wanted, Flower would be served here until someone stops it.
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH"):
        processes.run_flower("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("actor", "error"),
    [(None, UnauthenticatedError), (actor(Role.WAREHOUSE), ForbiddenError)],
    ids=["none", "warehouse"],
)
async def test_the_figures_for_metrics_are_refused_by_the_service_itself(
    production: Settings, services: Services, actor: Actor | None, error: type[AppError]
) -> None:
    assert production.environment == "production"
    with pytest.raises(error):
        await services.health.scrape(actor)
