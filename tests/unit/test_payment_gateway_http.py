"""The HTTP adapter against the real gateway over a real socket."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.config import Settings
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.gateway.port import (
    GatewayDeclined,
    GatewayRejected,
    PaymentGateway,
)
from tests.unit.gateway_support import (
    API_KEY,
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


@pytest.mark.req("INT-001.1")
def test_it_has_every_operation_of_the_port_with_the_same_parameters() -> None:
    """Python checks neither when an adapter is used, so a missing one would show at the first refund."""
    operations = {name for name, value in vars(PaymentGateway).items() if inspect.isfunction(value) and name[0] != "_"}
    assert operations >= {"capture_payment", "authorize", "capture", "void", "refund", "find_payment", "find_refund"}
    for name in operations:
        wanted, built = (inspect.signature(getattr(kind, name)) for kind in (PaymentGateway, HttpPaymentGateway))
        assert list(built.parameters.values()) == list(wanted.parameters.values()), name
        assert built.return_annotation == wanted.return_annotation, name


async def test_capture_payment(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    request = payment_request(payment_method="card", metadata={"order": "ORD-2026-000001"})
    payment = await gateway.capture_payment(request)
    assert (payment.reference, payment.status) == (request.payment_id, "captured")
    assert payment.amount == payment.captured_amount == Decimal("120.50")
    assert payment.created.utcoffset() is not None
    assert live.moved(request.payment_id, "capture") == 1
    assert live.ledger()["payments"][0]["metadata"] == {"order": "ORD-2026-000001"}


async def test_capture_payment_reports_what_was_received_elsewhere(
    gateway: HttpPaymentGateway, live: LiveGateway
) -> None:
    request = payment_request(payment_token=None, payment_method="bank_transfer")
    assert (await gateway.capture_payment(request)).status == "captured"
    assert live.ledger()["payments"][0]["source"] == "reported"


async def test_capture_payment_twice_takes_the_money_once(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    request = payment_request()
    assert await gateway.capture_payment(request) == await gateway.capture_payment(request)
    assert live.moved(request.payment_id, "capture") == 1


@pytest.mark.req("INT-001.1")
async def test_authorize_capture_void(gateway: HttpPaymentGateway) -> None:
    authorized = await gateway.authorize(payment_request())
    assert authorized.status == "authorized"
    part = await gateway.capture(authorized.id, Decimal(100))
    assert (part.status, part.captured_amount) == ("captured", Decimal("100.00"))
    whole = await gateway.capture((await gateway.authorize(payment_request())).id)
    assert whole.captured_amount == Decimal("120.50")
    released = await gateway.void((await gateway.authorize(payment_request())).id)
    assert released.status == "voided"
    with pytest.raises(GatewayRejected, match="payment_not_authorized"):
        await gateway.void(whole.id)
    with pytest.raises(ValueError, match="token"):
        await gateway.authorize(payment_request(payment_token=None))
    for strange in ("../refunds", "a/b", "", "pay_\u00e4"):
        with pytest.raises(ValueError, match="id"):
            await gateway.void(strange)


@pytest.mark.req("INT-001.1")
async def test_refund(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    payment = await gateway.capture_payment(payment_request())
    request = refund_request(payment, reason="RETURN")
    refund = await gateway.refund(request)
    assert (refund.reference, refund.status, refund.payment_id) == (
        request.refund_id,
        "succeeded",
        payment.id,
    )
    assert refund.amount == Decimal("20.50")
    assert await gateway.refund(request) == refund
    assert live.moved(request.refund_id, "refund") == 1


async def test_yen_have_no_cents(gateway: HttpPaymentGateway) -> None:
    payment = await gateway.capture_payment(payment_request(amount=Decimal("500.00"), currency="JPY"))
    assert payment.amount == 500
    refund = await gateway.refund(refund_request(payment, "500.00", currency="JPY"))
    assert refund.amount == 500


async def test_declines(gateway: HttpPaymentGateway) -> None:
    with pytest.raises(GatewayDeclined) as raised:
        await gateway.capture_payment(payment_request(payment_token="tok_insufficient_funds"))
    assert raised.value.code == "insufficient_funds"
    assert not raised.value.may_have_moved_money
    payment = await gateway.capture_payment(payment_request(payment_token="tok_refund_fails"))
    with pytest.raises(GatewayDeclined, match="refund_declined"):
        await gateway.refund(refund_request(payment))


async def test_rejections(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    payment = await gateway.capture_payment(payment_request())
    for request, code, status in (
        (refund_request(payment, "120.51"), "amount_exceeds_refundable", 409),
        (refund_request("pay_none"), "resource_missing", 404),
        (refund_request(payment, currency="EUR"), "currency_mismatch", 400),
        (refund_request(payment, currency="usd"), "parameter_invalid", 400),
    ):
        with pytest.raises(GatewayRejected) as raised:
            await gateway.refund(request)
        assert (raised.value.code, raised.value.status) == (code, status)
        assert not raised.value.may_have_moved_money
    assert "0.00" in live.ledger()["totals"]["USD"]["refunded"]


async def test_a_wrong_api_key_is_a_rejection(live: LiveGateway) -> None:
    async with HttpPaymentGateway(base_url=live.url, api_key="wrong") as gateway:
        with pytest.raises(GatewayRejected) as raised:
            await gateway.find_refund(uuid4())
        assert raised.value.status == 401


@pytest.mark.req("INT-001.1")
async def test_find(gateway: HttpPaymentGateway) -> None:
    assert await gateway.find_payment(uuid4()) is None
    assert await gateway.find_refund(uuid4()) is None
    payment = await gateway.capture_payment(payment_request())
    assert await gateway.find_payment(payment.reference) == payment
    refund = await gateway.refund(refund_request(payment))
    assert await gateway.find_refund(refund.reference) == refund


async def test_find_prefers_what_succeeded(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    live.profile(idempotency="none")
    request = payment_request()
    with pytest.raises(GatewayDeclined):
        await gateway.capture_payment(replace(request, payment_token="tok_declined"))
    failed = await gateway.find_payment(request.payment_id)
    assert failed is not None
    assert (failed.status, failed.failure_code) == ("failed", "card_declined")
    payment = await gateway.capture_payment(request)
    assert await gateway.find_payment(request.payment_id) == payment
    refund = refund_request(payment, "1")
    paid = await gateway.refund(refund)
    live.fault("refund", "decline")
    with pytest.raises(GatewayDeclined):
        await gateway.refund(refund)
    assert await gateway.find_refund(refund.refund_id) == paid


async def test_a_gateway_that_cannot_look_up_never_says_none(gateway: HttpPaymentGateway, live: LiveGateway) -> None:
    live.profile(lookup=False)
    for find in (gateway.find_payment, gateway.find_refund):
        with pytest.raises(GatewayRejected, match="lookup_unsupported"):
            await find(uuid4())


@pytest.mark.req("INT-001.1")
@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
async def test_list_transactions(gateway: HttpPaymentGateway, live: LiveGateway, page_size: int) -> None:
    assert [moved async for moved in gateway.list_transactions(page_size=page_size)] == []
    payment = await gateway.capture_payment(payment_request())
    refund = await gateway.refund(refund_request(payment))
    listed = [moved async for moved in gateway.list_transactions(page_size=page_size)]
    assert [moved.type for moved in listed] == ["authorization", "capture", "refund"]
    assert [moved.id for moved in listed] == [moved["id"] for moved in live.ledger()["movements"]]
    assert (listed[2].reference, listed[2].refund_id) == (str(refund.reference), refund.id)
    assert (listed[2].payment_id, listed[2].amount) == (payment.id, Decimal("20.50"))


async def test_pages_have_a_size(gateway: HttpPaymentGateway) -> None:
    for size in (0, 101):
        with pytest.raises(ValueError, match="page_size"):
            await anext(gateway.list_transactions(page_size=size))


async def test_connections_are_reused(live: LiveGateway, gateway: HttpPaymentGateway) -> None:
    await gateway.find_refund(uuid4())
    first = open_connections(gateway)
    for _ in range(5):
        await gateway.find_refund(uuid4())
    assert open_connections(gateway) == first
    assert len(first) == 1
    await gateway.aclose()
    assert open_connections(gateway) == set()


async def test_cancelling_leaves_the_adapter_usable(live: LiveGateway, gateway: HttpPaymentGateway) -> None:
    live.fault("lookup", "delay", delay_seconds=5)
    call = asyncio.create_task(gateway.find_refund(uuid4()))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await gateway.find_refund(uuid4()) is None


async def test_from_settings(live: LiveGateway) -> None:
    settings = Settings(payment_gateway_url=live.url, payment_gateway_api_key=API_KEY)
    async with HttpPaymentGateway.from_settings(settings) as gateway:
        assert await gateway.find_refund(uuid4()) is None


@pytest.mark.parametrize("amount", ["0", "-1", "1.001", "NaN", "Infinity", "1e20", "1e-30", "10000000000"])
def test_amounts_that_cannot_be_paid(amount: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        payment_request(amount=Decimal(amount))
    with pytest.raises(ValueError, match="amount"):
        refund_request("pay_1", amount)


def test_the_key_of_a_payment_is_derived_from_its_id() -> None:
    request = payment_request()
    assert request.idempotency_key == f"payment:{request.payment_id}"


def open_connections(gateway: HttpPaymentGateway) -> set[int]:
    pool: Any = gateway._transport._client._transport
    return {id(connection) for connection in pool._pool.connections}
