"""The adapters of the notification port, and the one-line texts that SMS and chat carry."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from app.config import DEVELOPMENT_CHANNEL_SECRET, Settings
from app.core.enums import Channel
from app.services.jobs.service import JobKind
from app.services.notifications.kind import job_kind, route_of
from app.services.notifications.kinds import KINDS, short_texts
from app.services.notifications.rendering import render_short
from app.utils.channels import LogChannel, WebhookChannel, channels_for, signed_headers, signing_key
from app.utils.messages import Message, MessageDelayed, MessageRefused
from app.utils.outbound import Outbound, OutboundAnswer, OutboundError
from app.utils.short_texts import FOLDERS, LONGEST
from tests.integration.jobs_support import FakeMailSender

pytestmark = pytest.mark.req("REQ-006")

CREATED = datetime(2026, 11, 22, 14, 5, 11, tzinfo=UTC)
TRIED = datetime(2026, 11, 22, 14, 6, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
URL = "https://sms.example/send?token=s3cret"
MESSAGE = Message(
    id=UUID("01937c54-9a10-7e02-b1c4-d85e1f6a0b92"),
    channel="SMS",
    template="order_shipped",
    recipient="+33612345678",
    created_at=CREATED,
    subject="Your order is on its way",
    text="Your order is on its way",
    message_id="01937c54-9a10-7e02-b1c4-d85e1f6a0b92",
)


class FakeOutbound(Outbound):
    """Answers what it is told to, in turn, and keeps what was posted."""

    def __init__(self, *answers: OutboundAnswer | Exception) -> None:
        super().__init__()
        self.answers = list(answers)
        self.posted: list[tuple[str, bytes, dict[str, str]]] = []

    async def post(self, url: str, body: bytes, headers: Any) -> OutboundAnswer:
        """Take a message."""
        self.posted.append((url, body, dict(headers)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answers(status: int, retry_after: float | None = None) -> FakeOutbound:
    """Return an outbound that answers with a status."""
    return FakeOutbound(OutboundAnswer(status, b"", retry_after))


@pytest.mark.req("REQ-006.5")
async def test_a_webhook_is_signed_so_that_any_standard_verifier_takes_it() -> None:
    outbound = answers(204)
    await WebhookChannel(URL, SECRET, outbound, lambda: TRIED).send(MESSAGE)
    [(url, body, headers)] = outbound.posted
    assert url == URL
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == str(MESSAGE.id)
    assert headers["webhook-timestamp"] == str(int(TRIED.timestamp()))
    # By hand, as the specification says it.
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"k" * 32, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert json.loads(body) == {
        "type": "notification.sms",
        "timestamp": "2026-11-22T14:05:11Z",
        "text": "Your order is on its way",
        "data": {
            "id": str(MESSAGE.id),
            "channel": "SMS",
            "template": "order_shipped",
            "recipient": "+33612345678",
            "text": "Your order is on its way",
        },
    }


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of the Standard Webhooks specification's own libraries."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = signed_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_no_base64_is_used_unchanged_and_an_empty_one_is_refused() -> None:
    assert signing_key("whsec_not base64!") == b"not base64!"
    for secret in ("", "whsec_"):
        with pytest.raises(ValueError, match="empty"):
            signing_key(secret)


async def test_a_repeat_has_the_same_id_and_body_and_a_timestamp_of_its_own() -> None:
    outbound = FakeOutbound(OutboundAnswer(503, b""), OutboundAnswer(200, b""))
    moments = iter([TRIED, TRIED.replace(minute=9)])
    channel = WebhookChannel(URL, SECRET, outbound, lambda: next(moments))
    with pytest.raises(MessageDelayed):
        await channel.send(MESSAGE)
    await channel.send(MESSAGE)
    first, second = outbound.posted
    assert first[1] == second[1]
    assert first[2]["webhook-id"] == second[2]["webhook-id"]
    assert first[2]["webhook-signature"] != second[2]["webhook-signature"]


@pytest.mark.parametrize("status", [400, 410, 413, 422])
async def test_a_message_that_the_receiver_refuses_is_refused_permanently(status: int) -> None:
    with pytest.raises(MessageRefused, match=str(status)):
        await WebhookChannel(URL, SECRET, answers(status)).send(MESSAGE)


@pytest.mark.parametrize("status", [100, 301, 302, 304, 401, 403, 404, 405, 408, 409, 429, 500, 502, 503])
async def test_any_other_answer_may_be_mended_and_is_tried_again(status: int) -> None:
    with pytest.raises(MessageDelayed, match=str(status)) as fault:
        await WebhookChannel(URL, SECRET, answers(status, 90.0)).send(MESSAGE)
    assert fault.value.retry_after == 90.0


async def test_no_answer_is_tried_again_and_says_nothing_of_the_address() -> None:
    outbound = FakeOutbound(OutboundError("no connection to sms.example: ConnectError"))
    with pytest.raises(MessageDelayed) as fault:
        await WebhookChannel(URL, SECRET, outbound).send(MESSAGE)
    assert "s3cret" not in str(fault.value)


@pytest.mark.security
@pytest.mark.parametrize("shows_text", [True, False])
async def test_the_log_never_names_the_recipient_of_a_message(shows_text: bool) -> None:  # noqa: FBT001
    with capture_logs() as logs:
        await LogChannel(shows_text=shows_text).send(MESSAGE)
    [line] = logs
    assert line["notification_id"] == str(MESSAGE.id)
    assert (line.get("text") == MESSAGE.text) is shows_text
    assert "+33612345678" not in str(line)


@pytest.mark.req("REQ-006.5")
def test_only_what_is_switched_on_is_there() -> None:
    off = Settings(_env_file=None, environment="testing")
    assert list(channels_for(off, FakeMailSender(), lambda: TRIED)) == ["EMAIL"]
    on = off.model_copy(
        update={"sms_adapter": "log", "chat_adapter": "webhook", "chat_webhook_url": SecretStr("https://chat.example/")}
    )
    sender = FakeMailSender()
    channels = channels_for(on, sender, lambda: TRIED)
    assert channels["EMAIL"] is sender
    assert [type(channels[name]) for name in ("SMS", "CHAT")] == [LogChannel, WebhookChannel]


PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "payment_gateway_url": "https://gateway.example",
    "smtp_host": "mail.example",
    "smtp_port": 587,
    "secret_key": "a-signing-secret-of-our-own-0123456789",
    "api_key": "",
    "payment_gateway_api_key": "sk_live_1",
    "payment_webhook_secret": "whsec_a-webhook-secret-of-our-own-0123",
    "database_url": "postgresql://app:own@db/orders?sslmode=verify-full",
}


@pytest.mark.security
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"chat_adapter": "webhook"}, "CHAT_WEBHOOK_URL"),
        ({"sms_adapter": "webhook", "sms_webhook_url": "ftp://sms.example"}, "SMS_WEBHOOK_URL"),
        ({"chat_adapter": "webhook", "chat_webhook_url": "http://chat.example/"}, "CHAT_WEBHOOK_URL"),
        ({"chat_adapter": "webhook", "chat_webhook_url": "https://chat.example/"}, "CHANNEL_WEBHOOK_SECRET"),
        (
            {"sms_adapter": "webhook", "sms_webhook_url": URL, "channel_webhook_secret": "short"},
            "CHANNEL_WEBHOOK_SECRET",
        ),
    ],
)
def test_production_starts_with_a_channel_that_leads_somewhere_or_not_at_all(
    given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint) as fault:
        Settings(_env_file=None, **PRODUCTION, **given)
    assert "s3cret" not in str(fault.value.errors(include_input=False, include_url=False))


def test_channels_that_are_off_need_no_secret_and_addresses_are_not_shown() -> None:
    assert (
        Settings(_env_file=None, **PRODUCTION).channel_webhook_secret.get_secret_value() == DEVELOPMENT_CHANNEL_SECRET
    )
    settings = Settings(
        _env_file=None,
        **PRODUCTION,
        sms_adapter="webhook",
        sms_webhook_url=URL,
        channel_webhook_secret="whsec_a-channel-secret-of-our-own-0123",
        outbound_allowed_hosts=" Chat.Internal , 10.0.0.5,",
    )
    assert "s3cret" not in repr(settings)
    assert settings.outbound_hosts == {"chat.internal", "10.0.0.5"}


LINES = short_texts()


def test_every_line_has_its_template_its_job_and_no_file_is_left_over() -> None:
    for channel, folder in FOLDERS.items():
        assert {path.stem for path in folder.iterdir()} == {template for held, template in LINES if held == channel}
    jobs = {kind for kind in JobKind if kind.startswith(("sms.", "chat."))}
    assert {job_kind(channel, template) for channel, template in LINES} == jobs
    assert {route_of(kind) for kind in jobs} == set(LINES)


@pytest.mark.parametrize(("channel", "template"), LINES)
def test_a_line_is_one_line_with_its_facts(channel: Channel, template: str) -> None:
    line = render_short(channel, template, KINDS[template].sample)
    assert line.isprintable()
    assert line == " ".join(line.split())
    assert len(line) <= 200
    for fact in ("order_number", "tracking_number", "entity_id", "dead_letter_id", "event_id"):
        if fact in KINDS[template].short[channel]:
            assert str(KINDS[template].sample[fact]) in line


@pytest.mark.security
@pytest.mark.parametrize(("channel", "template"), LINES)
def test_no_line_says_who_a_customer_is_or_what_one_typed(channel: Channel, template: str) -> None:
    typed = {"customer_name", "reason", "notes", "customer_notes", "ship_to", "destination", "error", "payment_method"}
    assert not KINDS[template].short[channel] & typed
    planted = {name: "CANARY" if name in typed else value for name, value in KINDS[template].sample.items()}
    assert "CANARY" not in render_short(channel, template, planted)


@pytest.mark.security
def test_line_ends_and_turning_characters_in_a_fact_stay_in_one_line() -> None:
    hostile = {
        **KINDS["order_shipped"].sample,
        "tracking_number": "1Z\r\nYou won\x00\u202e\u2028!",
        "carrier": "{{ 7*7 }}",
    }
    line = render_short(Channel.SMS, "order_shipped", hostile)
    assert line.isprintable()
    assert "{{ 7*7 }}" in line


def test_a_line_that_is_too_long_is_cut() -> None:
    line = render_short(Channel.SMS, "order_shipped", {**KINDS["order_shipped"].sample, "tracking_number": "X" * 900})
    assert (len(line), line[-1]) == (LONGEST["SMS"], "…")


def test_absent_facts_leave_no_hole() -> None:
    bare = {**KINDS["order_shipped"].sample, "carrier": None, "tracking_number": None}
    assert render_short(Channel.SMS, "order_shipped", bare) == "ArtiCurated: your order ORD-2026-000318 is on its way."
    unknown = {**KINDS["gateway_event"].sample, "order_number": None, "reported": None}
    assert "None" not in render_short(Channel.CHAT, "gateway_event", unknown)
    zero = {**KINDS["gateway_event"].sample, "reported": Decimal("0.00")}
    assert "€0.00" in render_short(Channel.CHAT, "gateway_event", zero)


def test_a_template_that_asks_for_other_facts_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    narrowed = replace(KINDS["job_failed"], short={Channel.CHAT: frozenset({"kind"})})
    monkeypatch.setattr("app.services.notifications.rendering.KINDS", {**KINDS, "job_failed": narrowed})
    with pytest.raises(ValueError, match="job_failed"):
        render_short(Channel.CHAT, "job_failed", KINDS["job_failed"].sample)
    with pytest.raises(KeyError):
        render_short(Channel.CHAT, "order_shipped", KINDS["order_shipped"].sample)
