"""Production refuses the mock gateway and mail catchers: at start, at each call, and by every address (NFR-004)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiosmtpd.smtp import SMTP

from app.composition import Services
from app.config import Settings, SettingsError
from app.config_rules import is_mail_catcher
from app.doctor import Level
from app.doctor import services as doctor
from app.main import create_app
from app.services.operations.health import HealthService
from app.services.operations.probes import refuse_stand_ins
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.gateway.port import MOCK_HEADER, GatewayUnavailable
from app.tasks import processes
from app.utils.email_sender import EmailSender, MailUnavailable
from tests.conftest import MovableClock
from tests.integration.conftest import error_of, new_order
from tests.integration.test_api_webhook import URL, captured, signed
from tests.unit.gateway_support import (
    API_KEY,
    LiveGateway,
    adapter,
    http_answer,
    live_gateway,
    payment_request,
    refund_request,
    scripted_server,
    webhook_receiver,
)
from tests.unit.smtp_support import Mailbox
from tests.unit.test_email_smtp import MAIL

pytestmark = [pytest.mark.req("NFR-004.7", "INT-001"), pytest.mark.security]

NOWHERE = {"payment_gateway_url": "http://127.0.0.1:1", "smtp_host": "127.0.0.1", "smtp_port": 1}


def production(**changes: Any) -> Settings:
    """Return settings of production as far as these parts read them; `Settings` would refuse the addresses of tests."""
    base = Settings(_env_file=None, payment_gateway_api_key=API_KEY)
    return base.model_copy(update={"environment": "production", **NOWHERE, **changes})


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[LiveGateway]:
    with live_gateway(tmp_path) as live:
        yield live


@asynccontextmanager
async def mail_server(ident: str) -> AsyncIterator[tuple[Mailbox, dict[str, Any]]]:
    """Run a mail server that greets with `ident`; gives its mailbox and the settings that reach it."""
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, hostname="mail.test", ident=ident, loop=loop), "127.0.0.1", 0
    )
    async with server:
        yield mailbox, {"smtp_host": "127.0.0.1", "smtp_port": server.sockets[0].getsockname()[1]}


# --- the mock gateway --------------------------------------------------------------------------------------------


async def test_nothing_is_sent_to_a_mock_gateway(mock: LiveGateway) -> None:
    async with HttpPaymentGateway.from_settings(production(payment_gateway_url=mock.url)) as gateway:
        calls = (
            gateway.capture_payment(payment_request()),
            gateway.refund(refund_request("pay_1")),
            gateway.find_refund(refund_request("pay_1").refund_id),
        )
        for call in calls:
            with pytest.raises(GatewayUnavailable, match="PAYMENT_GATEWAY_URL") as refused:
                await call
            assert refused.value.code == "mock_gateway"
            assert not refused.value.may_have_moved_money
    assert mock.ledger()["payments"] == []


async def test_a_mock_that_replaces_a_gateway_later_is_refused(mock: LiveGateway) -> None:
    """Its 200 says that the refund succeeded; no money was paid."""
    async with adapter(mock.url) as development:
        payment = await development.capture_payment(payment_request())
        answer = await development.refund(refund_request(payment))
    assert answer.status == "succeeded"
    body = {"status": "ok"}
    with (
        scripted_server(http_answer(200, body)) as plain,
        scripted_server(http_answer(200, body, f"{MOCK_HEADER}: true")) as replaced,
    ):
        async with HttpPaymentGateway.from_settings(production(payment_gateway_url=plain)) as gateway:
            with pytest.raises(Exception, match="cannot be read"):
                await gateway.refund(refund_request(payment))
            # The address now leads elsewhere.
            gateway._transport._client.base_url = httpx2.URL(replaced)
            with pytest.raises(GatewayUnavailable, match="mock gateway"):
                await gateway.refund(refund_request(payment))


async def test_development_uses_it(mock: LiveGateway) -> None:
    settings = Settings(_env_file=None, payment_gateway_api_key=API_KEY, payment_gateway_url=mock.url)
    async with HttpPaymentGateway.from_settings(settings) as gateway:
        assert (await gateway.capture_payment(payment_request())).status == "captured"


def test_every_answer_and_every_webhook_says_what_it_is(tmp_path: Path) -> None:
    with webhook_receiver() as receiver, live_gateway(tmp_path, webhook_url=receiver.url) as live:
        for method, path in (("GET", "/"), ("GET", "/health"), ("GET", "/v1/balance"), ("POST", "/v1/nothing")):
            assert live.client.request(method, path).headers[MOCK_HEADER] == "true", path
        assert httpx2.get(f"{live.url}/v1/balance", trust_env=False).headers[MOCK_HEADER] == "true"
        assert live.client.get("/health").json()["mock"] is True
        live.charge("p-1", "10.00", "EUR", "tok_visa")
        while not receiver.deliveries:
            live.client.get("/health")
        assert receiver.deliveries[0].headers[MOCK_HEADER] == "true"


@pytest.mark.req("INT-001.2")
async def test_production_takes_no_event_of_a_mock(
    services: Services, api: httpx2.AsyncClient, clock: MovableClock
) -> None:
    body = captured(await new_order(api))
    services.settings = services.settings.model_copy(update={"environment": "production"})
    headers = signed(body, services.settings, clock)
    transport = httpx2.ASGITransport(app=create_app(services.settings, services))
    async with httpx2.AsyncClient(transport=transport, base_url="https://test") as client:
        answer = await client.post(URL, content=body, headers={**headers, MOCK_HEADER: "true"})
        assert (answer.status_code, error_of(answer)["code"]) == (401, "UNAUTHENTICATED")
        assert (await client.post(URL, content=body, headers=headers)).json() == {"outcome": "PAID"}


# --- mail catchers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "is_one"),
    [
        ("ab12cd Mailpit ESMTP Service ready", True),
        ("mailhog.example ESMTP MailHog", True),
        ("host ArtiCurated mail catcher", True),
        ("smtp4dev smtp4dev ready", True),
        ("mailpit.example ESMTP Postfix", False),
        ("mx.google.com ESMTP 1a2b - gsmtp", False),
        ("", False),
    ],
)
def test_a_mail_catcher_is_known_by_its_greeting_not_by_its_name(greeting: str, *, is_one: bool) -> None:
    assert is_mail_catcher(greeting) is is_one


async def test_no_mail_is_given_to_a_catcher_in_production() -> None:
    async with mail_server("Mailpit ESMTP Service ready") as (mailbox, place):
        with pytest.raises(MailUnavailable, match="SMTP_HOST"):
            await EmailSender(production(**place), lambda: datetime.now(UTC)).send(MAIL)
        assert mailbox.envelopes == []
        await EmailSender(Settings(_env_file=None, **place)).send(MAIL)
        assert len(mailbox.envelopes) == 1
    async with mail_server("Postfix") as (mailbox, place):
        await EmailSender(production(**place)).send(MAIL)
        assert len(mailbox.envelopes) == 1


# --- the start, health, doctor -----------------------------------------------------------------------------------


async def test_the_start_names_each_stand_in(mock: LiveGateway, services: Services) -> None:
    async with mail_server("ArtiCurated mail catcher") as (_, place):
        settings = production(payment_gateway_url=mock.url, **place)
        with pytest.raises(SettingsError) as refused:
            await refuse_stand_ins(settings)
        first, *lines = str(refused.value).splitlines()
        assert first == "Configuration refused:"
        assert [line.split()[0] for line in lines] == ["PAYMENT_GATEWAY_URL", "SMTP_HOST"]
        services.settings = settings
        application = create_app(settings, services)
        with pytest.raises(SettingsError):
            async with application.router.lifespan_context(application):
                pass
        assert "PAYMENT_GATEWAY_URL" in application.state.refusal


async def test_a_worker_does_not_start_with_them(mock: LiveGateway) -> None:
    with pytest.raises(SettingsError, match="PAYMENT_GATEWAY_URL leads to a mock gateway"):
        await processes._verify(production(payment_gateway_url=mock.url))


async def test_parts_that_are_away_or_real_do_not_hinder_the_start(mock: LiveGateway) -> None:
    await refuse_stand_ins(production())
    with scripted_server(http_answer(404, "no such page")) as gateway:
        async with mail_server("ESMTP Postfix") as (_, place):
            await refuse_stand_ins(production(payment_gateway_url=gateway, **place))
    await refuse_stand_ins(Settings(_env_file=None, payment_gateway_url=mock.url))


@pytest.mark.req("NFR-003.2")
async def test_health_and_doctor_name_them(mock: LiveGateway, services: Services) -> None:
    async with mail_server("Mailpit ESMTP Service ready") as (_, place):
        settings = production(payment_gateway_url=mock.url, **place)
        service = HealthService(services.database, settings)
        checks = (await service.check())["checks"]
        await service.close()
        for part in ("gateway", "smtp"):
            assert checks[part]["status"] == "down"
            assert "PAYMENT_GATEWAY_URL or SMTP_HOST" in checks[part]["hint"]
        [finding] = await doctor.gateway(settings)
        assert finding.level is Level.FAILURE
        assert "PAYMENT_GATEWAY_URL" in str(finding.advice)
        with pytest.raises(MailUnavailable, match="SMTP_HOST"):
            await doctor.mail(settings)
