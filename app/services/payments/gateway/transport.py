"""One HTTP call to the payment gateway, and how its result is read (INT-001).

GatewayUnavailable (nothing was carried out)
    connect refused or timed out, no free connection: no byte of the request was sent
    429: turned away before it was read
    a mock gateway answers in production: no money moved, even if it says so
GatewayCircuitOpen
    not tried
GatewayOutcomeUnknown (it may have been carried out)
    time-out or reset once sending has begun
    5xx, 408, 1xx, 3xx: a proxy that gave up, or a gateway that failed half-way
    2xx that is no JSON object: something was done, who knows what
    any `idempotency_error`, 409 in flight or 400 reused: an earlier call under this key ran or runs
    409 `reference_exists`, or without a readable error: an earlier call may have made it
GatewayDeclined
    402 or a `card_error`: considered and refused
GatewayRejected
    every other 4xx: the request is wrong

A look-up that gets 404 is `GatewayRejected`, never "there is none": a wrong URL must not make a refund look
unpaid. The gateway says "none" with 200 and an empty list.

Nothing here repeats a call by itself: when to try again is decided where the retry is recorded.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import httpx2

from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.port import (
    MOCK_HEADER,
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRejected,
    GatewayUnavailable,
)
from app.utils.json_values import JsonObject
from app.utils.redaction import redact_foreign_text

_MAX_ANSWER_BYTES = 2_097_152
_MAX_CONNECT_SECONDS = 5.0
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_RETRY_AFTER = re.compile(r"[0-9]{1,5}", re.ASCII)
# Servers close idle connections after about five seconds; a request that meets that moment has an unknown
# outcome for nothing, so ours are given up well before.
_KEEPALIVE_SECONDS = 2.0
_NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class GatewayTransport:
    """Reused connections to one gateway, behind a circuit breaker. Belongs to one event loop."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        timeout_seconds: float,
        breaker: CircuitBreaker,
        refuse_mock: bool = False,
    ) -> None:
        """Make a transport; nothing is sent.

        Args:
            base_url: of the gateway, http(s).
            api_key: secret that is sent as bearer token.
            timeout_seconds: for a whole call, from connecting to the last byte of the answer.
            breaker: counts the failures.
            refuse_mock: whether to send nothing to a mock gateway, and to accept none of its answers.

        Raises:
            ValueError: `base_url` is not an http(s) URL.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("the payment gateway's URL must begin with http:// or https://")
        self._deadline = timeout_seconds
        self._breaker = breaker
        self._refuse_mock = refuse_mock
        self._is_identified = not refuse_mock
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            headers={
                "Authorization": f"Bearer {api_key}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "articurated",
            },
            timeout=httpx2.Timeout(
                timeout_seconds,
                connect=min(timeout_seconds / 2, _MAX_CONNECT_SECONDS),
                pool=timeout_seconds / 4,
            ),
            limits=httpx2.Limits(max_connections=32, keepalive_expiry=_KEEPALIVE_SECONDS),
            follow_redirects=False,
            trust_env=False,  # a proxy in the environment is not asked to carry payments
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def call(
        self, method: Literal["GET", "POST"], path: str, fields: Mapping[str, Any], key: str | None = None
    ) -> JsonObject:
        """Make one call.

        Args:
            method: GET or POST.
            path: below the base URL.
            fields: the JSON body of a POST, the query of a GET.
            key: idempotency key.

        Returns:
            The JSON object of a 2xx answer.

        Raises:
            GatewayError: see the top of this module.
        """
        request = self._client.build_request(
            method,
            path,
            json=dict(fields) if method == "POST" else None,
            params=dict(fields) if method == "GET" else None,
            headers={} if key is None else {"Idempotency-Key": key},
        )
        with self._breaker.guard():
            await self._identify()
            status, answer = await self._exchange(request)
        if httpx2.codes.is_success(status):
            return answer
        raise _refusal(status, answer)

    async def _identify(self) -> None:
        """Ask an unknown gateway for its health before anything else is sent to it: its answer says what it is.

        Raises:
            GatewayUnavailable: it is a mock gateway, or does not answer; nothing was sent.
        """
        if self._is_identified:
            return
        # Without our key: who would get it is not known before the answer.
        request = self._client.build_request("GET", "/health")
        del request.headers["Authorization"]
        try:
            async with asyncio.timeout(self._deadline):
                response = await self._client.send(request, stream=True)
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, TimeoutError) as fault:
            raise GatewayUnavailable(f"No answer from the payment gateway: {_name(fault)}.") from fault
        self._refuse_a_mock(response)
        # A proxy that answers for a gateway that is away says nothing about the gateway.
        self._is_identified = not httpx2.codes.is_server_error(response.status_code)

    def _refuse_a_mock(self, response: httpx2.Response) -> None:
        if self._refuse_mock and MOCK_HEADER in response.headers:
            message = "PAYMENT_GATEWAY_URL leads to a mock gateway, which moves no money."
            raise GatewayUnavailable(message, code="mock_gateway")

    async def _exchange(self, request: httpx2.Request) -> tuple[int, JsonObject]:
        """Send and read. Returns a 2xx or 4xx status and its JSON object ({} when a 4xx has none).

        Raises:
            GatewayUnavailable: nothing was sent, 429, or a mock gateway answered.
            GatewayOutcomeUnknown: anything else that is no readable answer.
        """
        try:
            async with asyncio.timeout(self._deadline):
                response = await self._client.send(request, stream=True)
                try:
                    self._refuse_a_mock(response)
                    body = await _read_body(response)
                finally:
                    await response.aclose()
        except _NOTHING_SENT as fault:
            raise GatewayUnavailable(f"No connection to the payment gateway: {_name(fault)}.") from fault
        except (httpx2.HTTPError, httpx2.StreamError, TimeoutError) as fault:
            raise GatewayOutcomeUnknown(f"No answer from the payment gateway: {_name(fault)}.") from fault
        status = response.status_code
        if status == httpx2.codes.TOO_MANY_REQUESTS:
            message = "The payment gateway wants fewer requests."
            raise GatewayUnavailable(message, _retry_after(response), "rate_limited")
        if not (httpx2.codes.is_success(status) or httpx2.codes.is_client_error(status)):
            raise GatewayOutcomeUnknown(f"The payment gateway answered {status}.", f"http_{status}")
        if status == httpx2.codes.REQUEST_TIMEOUT:
            raise GatewayOutcomeUnknown("The payment gateway answered 408.", "http_408")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            return status, answer
        if httpx2.codes.is_client_error(status):
            return status, {}
        raise GatewayOutcomeUnknown("The payment gateway's answer is not a JSON object.")


async def _read_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise GatewayOutcomeUnknown("The payment gateway's answer is too large to be one.")
    return bytes(body)


def _refusal(status: int, answer: Mapping[str, Any]) -> GatewayError:
    """Return what a 4xx means: see the top of this module."""
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    kind = error.get("type")
    code = _code(error.get("code"), f"http_{status}")
    message = _text(error.get("message"), f"HTTP {status}")
    earlier_call = kind == "idempotency_error" or (
        status == httpx2.codes.CONFLICT and (not error or code == "reference_exists")
    )
    if earlier_call:
        return GatewayOutcomeUnknown(message, code)
    if status == httpx2.codes.PAYMENT_REQUIRED or kind == "card_error":
        return GatewayDeclined(code, message)
    return GatewayRejected(code, message, status)


def _text(value: Any, default: str) -> str:
    """Return a text of the gateway's, fit to be kept beside a job."""
    return redact_foreign_text(value) if isinstance(value, str) and value else default


def _code(value: Any, default: str) -> str:
    """Return a code of the gateway's; what is none says nothing that can be relied on."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else default


def _retry_after(response: httpx2.Response) -> float | None:
    value: str = response.headers.get("Retry-After", "")
    return float(value) if _RETRY_AFTER.fullmatch(value) else None


def _name(fault: Exception) -> str:
    return f"{type(fault).__name__} {fault}".strip()
