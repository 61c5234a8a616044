"""The HTTP adapter on the gateway's bad days: each fault, and what the port says of the money."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.gateway.port import (
    GatewayCircuitOpen,
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRejected,
)
from tests.unit.gateway_support import (
    LiveGateway,
    adapter,
    live_gateway,
    payment_request,
    refund_request,
)

pytestmark = pytest.mark.req("INT-001")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveGateway]:
    with live_gateway(tmp_path) as live:
        yield live


@pytest.fixture
async def gateway(live: LiveGateway) -> AsyncIterator[HttpPaymentGateway]:
    async with adapter(live.url) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("mode", "error", "moved"),
    [
        ("decline", GatewayDeclined, 0),
        ("error_before", GatewayOutcomeUnknown, 0),
        ("unavailable", GatewayOutcomeUnknown, 0),
        ("timeout_before", GatewayOutcomeUnknown, 0),
        ("error_after", GatewayOutcomeUnknown, 1),
        ("timeout_after", GatewayOutcomeUnknown, 1),
        ("reset_after", GatewayOutcomeUnknown, 1),
    ],
)
async def test_refund_under_each_fault(
    gateway: HttpPaymentGateway,
    live: LiveGateway,
    mode: str,
    error: type[GatewayError],
    moved: int,
) -> None:
    payment = await gateway.capture_payment(payment_request())
    request = refund_request(payment)
    live.fault("refund", mode, delay_seconds=0.1)
    with pytest.raises(error) as raised:
        await gateway.refund(request)
    assert type(raised.value) is error
    assert raised.value.may_have_moved_money is (error is GatewayOutcomeUnknown)
    assert raised.value.consumes_retry
    assert live.moved(request.refund_id, "refund") == moved
    found = await gateway.find_refund(request.refund_id)
    assert (found is not None and found.status == "succeeded") is bool(moved)


async def test_a_gateway_that_is_slower_than_we_wait(live: LiveGateway) -> None:
    async with adapter(live.url, 0.3) as gateway:
        payment = await gateway.capture_payment(payment_request())
        request = refund_request(payment)
        live.fault("refund", "timeout_after", delay_seconds=30)
        with pytest.raises(GatewayOutcomeUnknown, match="Timeout"):
            await gateway.refund(request)
        assert live.moved(request.refund_id, "refund") == 1


async def test_the_same_key_in_flight_is_unknown(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    payment = await gateway.capture_payment(payment_request())
    request = refund_request(payment)
    live.fault("refund", "delay", delay_seconds=0.5)
    first = asyncio.create_task(gateway.refund(request))
    await asyncio.sleep(0.2)
    with pytest.raises(GatewayOutcomeUnknown) as raised:
        await gateway.refund(request)
    assert raised.value.code == "idempotency_key_in_use"
    assert (await first).status == "succeeded"
    assert live.moved(request.refund_id, "refund") == 1


async def test_a_key_used_for_another_amount_is_unknown(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    payment = await gateway.capture_payment(payment_request())
    request = refund_request(payment, "10")
    await gateway.refund(request)
    with pytest.raises(GatewayOutcomeUnknown) as raised:
        await gateway.refund(replace(request, amount=Decimal(11)))
    assert raised.value.code == "idempotency_key_reused"
    assert live.moved(request.refund_id, "refund") == 1


async def test_a_payment_made_by_an_earlier_call_is_unknown(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    live.profile(idempotency="none")
    request = payment_request()
    live.fault("capture", "reset_after")
    with pytest.raises(GatewayOutcomeUnknown):
        await gateway.capture_payment(request)
    with pytest.raises(GatewayOutcomeUnknown) as raised:
        await gateway.capture_payment(request)
    assert raised.value.code == "reference_exists"
    found = await gateway.find_payment(request.payment_id)
    assert found is not None
    assert found.status == "captured"


@pytest.mark.parametrize("mode", ["error_after", "unavailable", "timeout_after", "reset_after"])
async def test_a_look_up_that_fails_never_says_none(gateway: HttpPaymentGateway, live: LiveGateway, mode: str) -> None:
    live.fault("lookup", mode, delay_seconds=0.05, times=3)
    with pytest.raises(GatewayOutcomeUnknown):
        await gateway.find_payment(uuid4())
    with pytest.raises(GatewayOutcomeUnknown):
        await gateway.find_refund(uuid4())
    with pytest.raises(GatewayOutcomeUnknown):
        await anext(gateway.list_transactions())


@pytest.mark.req("NFR-003")
async def test_it_opens_refuses_and_recovers(live: LiveGateway) -> None:
    now = [0.0]
    breaker = CircuitBreaker(threshold=3, open_seconds=30, clock=lambda: now[0])
    async with adapter(live.url, breaker=breaker) as gateway:
        live.fault("lookup", "unavailable", times=3)
        for _ in range(3):
            with pytest.raises(GatewayOutcomeUnknown):
                await gateway.find_refund(uuid4())
        with pytest.raises(GatewayCircuitOpen) as raised:
            await gateway.find_refund(uuid4())
        assert raised.value.retry_after == 30
        assert not raised.value.consumes_retry
        assert not raised.value.may_have_moved_money
        now[0] = 30
        assert await gateway.find_refund(uuid4()) is None
        assert not breaker.is_open


async def test_declines_and_rejections_do_not_open_it(live: LiveGateway) -> None:
    async with adapter(live.url, breaker=CircuitBreaker(threshold=1)) as gateway:
        for _ in range(3):
            with pytest.raises(GatewayDeclined):
                await gateway.capture_payment(payment_request(payment_token="tok_declined"))
            with pytest.raises(GatewayRejected):
                await gateway.refund(refund_request("pay_none"))
