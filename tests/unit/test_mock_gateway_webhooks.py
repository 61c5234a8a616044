"""Webhooks of the gateway: signed, retried until accepted, faulty on order."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from devtools.mock_gateway.clock import system_clock
from devtools.mock_gateway.events import DeliveryPlan, Outbox
from devtools.mock_gateway.main import create_app
from devtools.mock_gateway.store import Store
from devtools.mock_gateway.webhooks import secret_bytes, sign
from tests.unit.gateway_support import (
    API_KEY,
    SECRET,
    Delivery,
    LiveGateway,
    Receiver,
    gateway_settings,
    live_gateway,
    wait_for,
    webhook_receiver,
)

pytestmark = pytest.mark.req("INT-001")

PAYMENT = {"reference": "p-1", "amount": "100", "currency": "USD", "payment_token": "tok"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def gateway(tmp_path: Path, receiver: Receiver) -> Iterator[LiveGateway]:
    with live_gateway(tmp_path, webhook_url=receiver.url) as gateway:
        yield gateway


def signature_fits(delivery: Delivery, secret: str = SECRET) -> bool:
    headers = delivery.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + delivery.body
    digest = hmac.new(secret.removeprefix("whsec_").encode(), signed, hashlib.sha256).digest()
    return headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def types(receiver: Receiver) -> list[str]:
    return [delivery.event["type"] for delivery in receiver.deliveries]


def report(gateway: LiveGateway, reference: str = "p-1") -> str:
    body = {"reference": reference, "amount": "100", "currency": "USD"}
    payment_id: str = gateway.send("POST", "/v1/payments", body)["id"]
    return payment_id


def test_every_movement_is_reported(gateway: LiveGateway, receiver: Receiver) -> None:
    payment = gateway.send("POST", "/v1/payments", {**PAYMENT, "capture": True})["id"]
    refund = {"payment": payment, "reference": "r-1", "amount": "10", "currency": "USD"}
    gateway.send("POST", "/v1/refunds", refund)
    gateway.fault("refund", "decline")
    assert gateway.client.post("/v1/refunds", json={**refund, "reference": "r-2"}).status_code == 402
    declined = {**PAYMENT, "reference": "p-2", "payment_token": "tok_declined"}
    assert gateway.client.post("/v1/payments", json=declined).status_code == 402
    third = gateway.send("POST", "/v1/payments", {**PAYMENT, "reference": "p-3"})["id"]
    gateway.send("POST", f"/v1/payments/{third}/void")
    wait_for(lambda: len(receiver.deliveries) == 7)
    assert sorted(types(receiver)) == [
        "payment.authorized",
        "payment.authorized",
        "payment.captured",
        "payment.failed",
        "payment.voided",
        "refund.failed",
        "refund.succeeded",
    ]
    assert all(signature_fits(delivery) for delivery in receiver.deliveries)
    told = next(d.event for d in receiver.deliveries if d.event["type"] == "refund.succeeded")
    assert told["data"]["object"]["reference"] == "r-1"
    assert told["data"]["object"]["amount"] == "10.00"
    assert told["data"]["object"]["currency"] == "USD"
    assert told["created"].endswith("Z")
    wait_for(lambda: all(event["state"] == "delivered" for event in gateway.events()))


def test_headers_name_the_event_and_the_moment(gateway: LiveGateway, receiver: Receiver) -> None:
    report(gateway)
    wait_for(lambda: len(receiver.deliveries) == 1)
    delivery = receiver.deliveries[0]
    assert delivery.headers["webhook-id"] == delivery.event["id"]
    assert abs(int(delivery.headers["webhook-timestamp"]) - time.time()) < 5
    assert delivery.headers["content-type"] == "application/json"


@pytest.mark.parametrize("statuses", [[500, 503, 404], [302, 410, 429]])
def test_it_is_retried_until_2xx_with_the_same_body(
    gateway: LiveGateway, receiver: Receiver, statuses: list[int]
) -> None:
    receiver.statuses = list(statuses)
    report(gateway)
    wait_for(lambda: len(receiver.deliveries) == 4)
    wait_for(lambda: gateway.events()[0]["state"] == "delivered")
    assert len({delivery.body for delivery in receiver.deliveries}) == 1
    assert [attempt["status"] for attempt in gateway.events()[0]["deliveries"]] == [*statuses, 200]


def test_a_receiver_that_is_away_is_tried_again_after_a_restart(tmp_path: Path) -> None:
    with live_gateway(tmp_path, webhook_url="http://127.0.0.1:1/hook") as gateway:
        report(gateway)
        wait_for(lambda: len(gateway.events()[0]["deliveries"]) >= 2)
        assert gateway.events()[0]["deliveries"][0]["error"].startswith("ConnectError")
    with webhook_receiver() as receiver, live_gateway(tmp_path, webhook_url=receiver.url) as gateway:
        wait_for(lambda: gateway.events()[0]["state"] == "delivered")
        assert types(receiver) == ["payment.captured"]


def test_without_a_url_events_wait(tmp_path: Path) -> None:
    with live_gateway(tmp_path) as gateway:
        report(gateway)
        assert gateway.events()[0]["state"] == "pending"


@pytest.mark.req("INT-001.4")
def test_duplicates_on_order(gateway: LiveGateway, receiver: Receiver) -> None:
    gateway.fault("capture", "duplicate_webhook")
    report(gateway)
    wait_for(lambda: len(receiver.deliveries) == 2)
    first, second = receiver.deliveries
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    report(gateway, "p-2")
    wait_for(lambda: len(receiver.deliveries) == 3)


def test_one_accepted_copy_is_enough(gateway: LiveGateway, receiver: Receiver) -> None:
    receiver.statuses = [200, 500]
    gateway.fault("capture", "duplicate_webhook")
    report(gateway)
    wait_for(lambda: len(gateway.events()[0]["deliveries"]) == 2)
    assert gateway.events()[0]["state"] == "delivered"


def test_dropped_until_resent(gateway: LiveGateway, receiver: Receiver) -> None:
    gateway.fault("any", "drop_webhook")
    report(gateway)
    report(gateway, "p-2")
    wait_for(lambda: gateway.events()[1]["state"] == "delivered")
    assert gateway.events()[0]["state"] == "dropped"
    assert [delivery.event["data"]["object"]["reference"] for delivery in receiver.deliveries] == ["p-2"]
    event_id = gateway.events()[0]["id"]
    gateway.send("POST", f"/control/events/{event_id}/resend")
    wait_for(lambda: len(receiver.deliveries) == 2)
    assert receiver.deliveries[1].headers["webhook-id"] == event_id


def test_a_delivered_event_can_be_resent(gateway: LiveGateway, receiver: Receiver) -> None:
    report(gateway)
    wait_for(lambda: gateway.events()[0]["state"] == "delivered")
    gateway.send("POST", f"/control/events/{gateway.events()[0]['id']}/resend")
    wait_for(lambda: len(receiver.deliveries) == 2)
    wait_for(lambda: len(gateway.events()[0]["deliveries"]) == 2)


def test_an_unknown_event_cannot_be_resent(gateway: LiveGateway) -> None:
    answer = gateway.client.post("/control/events/evt_none/resend")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resource_missing")


def test_delayed_on_order(gateway: LiveGateway, receiver: Receiver) -> None:
    gateway.fault("any", "delay_webhook", delay_seconds=0.5)
    begun = time.monotonic()
    report(gateway)
    assert time.monotonic() - begun < 0.4  # the caller does not wait for it
    wait_for(lambda: len(receiver.deliveries) == 1)
    assert time.monotonic() - begun > 0.45


def test_badly_signed_until_resent(gateway: LiveGateway, receiver: Receiver) -> None:
    receiver.statuses = [401, 401]
    gateway.fault("any", "bad_signature")
    report(gateway)
    wait_for(lambda: len(receiver.deliveries) >= 3)
    assert not any(signature_fits(delivery) for delivery in receiver.deliveries)
    wait_for(lambda: gateway.events()[0]["state"] == "delivered")
    count = len(receiver.deliveries)
    gateway.send("POST", f"/control/events/{gateway.events()[0]['id']}/resend")
    wait_for(lambda: len(receiver.deliveries) > count)
    assert signature_fits(receiver.deliveries[-1])


def test_a_reset_while_an_event_is_being_delivered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        outbox = Outbox(store, system_clock)
        event_id = outbox.add("payment.captured", {"id": "pay_1"}, DeliveryPlan())
        store.wipe()
        outbox.record(event_id, 200, None, None)
        assert outbox.listing() == []
        assert store.rows("SELECT * FROM deliveries") == []
    finally:
        store.close()


def test_a_broken_round_does_not_end_deliveries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with webhook_receiver() as receiver:
        app = create_app(gateway_settings(tmp_path, webhook_url=receiver.url))
        with TestClient(app, headers={"Authorization": f"Bearer {API_KEY}"}) as client:
            assert client.portal is not None  # the store belongs to the thread that serves
            client.portal.call(app.state.gateway.store.write, "ALTER TABLE events RENAME TO away")
            app.state.gateway.dispatcher.wake()
            wait_for(lambda: "webhook_round.failed" in caplog.text)
            client.portal.call(app.state.gateway.store.write, "ALTER TABLE away RENAME TO events")
            body = {"reference": "p-1", "amount": "1", "currency": "USD"}
            assert client.post("/v1/payments", json=body).status_code == 200
            wait_for(lambda: types(receiver) == ["payment.captured"])


def test_the_example_of_the_standard() -> None:
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("whsec_AAEC", b"\x00\x01\x02"),
        ("AAEC", b"\x00\x01\x02"),
        ("whsec_AAE=", b"\x00\x01"),
        ("whsec_AAE", b"AAE"),
        ("whsec_development-webhook-secret", b"development-webhook-secret"),
        ("whsec_gehe\u00fcb", "gehe\u00fcb".encode()),
    ],
)
def test_the_key_of_a_secret(secret: str, key: bytes) -> None:
    assert secret_bytes(secret) == key
