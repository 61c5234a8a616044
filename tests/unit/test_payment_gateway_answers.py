"""The HTTP adapter against servers that are away, or that say anything."""

import socket
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.services.payments.gateway.port import (
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRejected,
    GatewayUnavailable,
)
from tests.unit.gateway_support import adapter, http_answer, payment_request, refund_request, scripted_server

pytestmark = pytest.mark.req("INT-001")


async def test_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with adapter(f"http://127.0.0.1:{port}") as gateway:
        with pytest.raises(GatewayUnavailable) as raised:
            await gateway.refund(refund_request("pay_1"))
    assert type(raised.value) is GatewayUnavailable
    assert not raised.value.may_have_moved_money
    assert raised.value.retry_after is None


async def test_connection_that_is_never_accepted() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address):  # fills the queue: the next connect waits
            async with adapter(f"http://127.0.0.1:{address[1]}", 0.4) as gateway:
                with pytest.raises(GatewayUnavailable, match="ConnectTimeout"):
                    await gateway.refund(refund_request("pay_1"))


@pytest.mark.parametrize(("header", "wait"), [("Retry-After: 7", 7.0), ("Retry-After: soon", None), ("X: 1", None)])
async def test_too_many_requests(header: str, wait: float | None) -> None:
    with scripted_server(http_answer(429, {"error": {"type": "rate_limit_error"}}, header)) as url:
        async with adapter(url) as gateway:
            with pytest.raises(GatewayUnavailable) as raised:
                await gateway.refund(refund_request("pay_1"))
    assert raised.value.retry_after == wait


@pytest.mark.parametrize("url", ["ftp://gateway", "gateway:80", ""])
def test_a_url_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        adapter(url)


REFUND_ID = UUID("01930000-0000-7000-8000-000000000001")
REFUND = {
    "id": "re_1",
    "payment": "pay_1",
    "reference": str(REFUND_ID),
    "status": "succeeded",
    "amount": "20.50",
    "currency": "USD",
    "failure_code": None,
    "created": "2026-11-22T10:00:00Z",
}


async def refund_answered_with(answer: bytes) -> Any:
    with scripted_server(answer) as url:
        async with adapter(url, 1.0) as gateway:
            return await gateway.refund(refund_request("pay_1", refund_id=REFUND_ID))


async def test_the_answer_that_fits() -> None:
    assert (await refund_answered_with(http_answer(201, REFUND))).status == "succeeded"
    pending = http_answer(200, {**REFUND, "status": "pending"})
    assert (await refund_answered_with(pending)).status == "pending"


async def test_a_success_that_says_failed_is_a_decline() -> None:
    failed = {**REFUND, "status": "failed", "failure_code": "account_closed"}
    with pytest.raises(GatewayDeclined, match="account_closed"):
        await refund_answered_with(http_answer(200, failed))


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(200, ""),
        http_answer(200, "not json"),
        http_answer(200, "[" * 100_000),
        http_answer(200, b"\xff\xfe\xff"),
        http_answer(200, []),
        http_answer(200, {}),
        http_answer(204, ""),
        http_answer(200, REFUND)[:-20],
        http_answer(200, " " * 2_200_000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"nonsense\r\n\r\n",
        b"",
        http_answer(302, "", "Location: /elsewhere"),
        http_answer(408, ""),
        http_answer(500, {"error": {"type": "api_error", "code": "x", "message": "y"}}),
        http_answer(502, "<html>"),
        http_answer(504, ""),
        http_answer(409, "<html>"),
        http_answer(409, {"error": "busy"}),
    ],
)
async def test_what_cannot_be_relied_on_is_unknown(answer: bytes) -> None:
    with pytest.raises(GatewayOutcomeUnknown) as raised:
        await refund_answered_with(answer)
    assert raised.value.may_have_moved_money


@pytest.mark.parametrize(
    "change",
    [
        {"reference": str(uuid4())},
        {"reference": "r-1"},
        {"reference": REFUND_ID.hex},
        {"payment": "pay_2"},
        {"amount": "20.51"},
        {"amount": 20.5},
        {"amount": "NaN"},
        {"amount": "-20.50"},
        {"currency": "EUR"},
        {"currency": "usd"},
        {"status": "done"},
        {"status": None},
        {"created": "yesterday"},
        {"created": "2026-11-22T10:00:00"},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"id": ""},
        {"id": 7},
        {"id": "x" * 256},
        {"failure_code": 3},
    ],
)
async def test_an_answer_about_something_else_is_unknown(change: dict[str, Any]) -> None:
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_answered_with(http_answer(200, {**REFUND, **change}))


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, "<html>", GatewayRejected, "http_400"),
        (403, {"error": {}}, GatewayRejected, "http_403"),
        (404, [], GatewayRejected, "http_404"),
        (413, {"error": {"code": 5, "message": None}}, GatewayRejected, "http_413"),
        (402, "", GatewayDeclined, "http_402"),
        (400, {"error": {"type": "card_error", "code": "stolen"}}, GatewayDeclined, "stolen"),
        (409, {"error": {"type": "invalid_request_error", "code": "c"}}, GatewayRejected, "c"),
    ],
)
async def test_definite_refusals(status: int, body: object, error: type[GatewayError], code: str) -> None:
    with pytest.raises(error) as raised:
        await refund_answered_with(http_answer(status, body))
    assert raised.value.code == code
    assert not raised.value.may_have_moved_money


async def test_long_messages_are_cut() -> None:
    error = {"error": {"type": "card_error", "code": "c" * 5000, "message": "m" * 5000}}
    with pytest.raises(GatewayDeclined) as raised:
        await refund_answered_with(http_answer(402, error))
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize("slowness", [{"hold_seconds": 3.0}, {"drip_seconds": 0.02}])
async def test_a_whole_call_has_a_deadline(slowness: dict[str, float]) -> None:
    with scripted_server(http_answer(200, REFUND), **slowness) as url:
        async with adapter(url, 0.3) as gateway:
            with pytest.raises(GatewayOutcomeUnknown, match="Timeout"):
                await gateway.refund(refund_request("pay_1", refund_id=REFUND_ID))


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [], "has_more": True},
        {"data": []},
        {"data": {}, "has_more": False},
        {"data": [1], "has_more": False},
        {"data": [{**REFUND, "reference": str(uuid4())}], "has_more": False},
    ],
)
async def test_a_look_up_that_cannot_be_read_never_says_none(answer: object) -> None:
    with scripted_server(http_answer(200, answer)) as url:
        async with adapter(url) as gateway:
            with pytest.raises(GatewayOutcomeUnknown):
                await gateway.find_refund(REFUND_ID)


async def test_a_look_up_that_finds_no_page_never_says_none() -> None:
    with scripted_server(http_answer(404, {"error": {}})) as url:
        async with adapter(url) as gateway:
            with pytest.raises(GatewayRejected):
                await gateway.find_payment(uuid4())


async def test_a_list_that_promises_more_and_gives_nothing_ends() -> None:
    with scripted_server(http_answer(200, {"data": [], "has_more": True})) as url:
        async with adapter(url) as gateway:
            with pytest.raises(GatewayOutcomeUnknown, match="promises"):
                await anext(gateway.list_transactions())


@pytest.mark.parametrize("method", ["capture_payment", "authorize", "capture", "void"])
async def test_a_payment_in_another_state_is_unknown(method: str) -> None:
    request = payment_request()
    answer = {
        **REFUND,
        "id": "pay_1",
        "reference": str(request.payment_id),
        "amount": "120.50",
        "amount_captured": "120.49",
        "amount_refunded": "0.00",
        "status": "authorized" if method in {"void", "capture"} else "captured",
    }
    with scripted_server(http_answer(200, answer)) as url:
        async with adapter(url) as gateway:
            argument: Any = request if method in {"capture_payment", "authorize"} else "pay_1"
            with pytest.raises(GatewayOutcomeUnknown, match="does not fit"):
                await getattr(gateway, method)(argument)
