"""The payment gateway over HTTP (INT-001).

`gateway_transport` says which HTTP result is which error. What is added here: an answer that speaks of
another payment, amount or currency than was asked for is `GatewayOutcomeUnknown`, because something was done
and it may not be this; a 2xx whose object has `failed` is `GatewayDeclined`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from app.config import Settings
from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.metrics import metered
from app.services.payments.gateway.port import (
    GatewayDeclined,
    GatewayOutcomeUnknown,
    GatewayPayment,
    GatewayRefund,
    GatewayTransaction,
    PaymentRequest,
    RefundRequest,
    amount_text,
)
from app.services.payments.gateway.transport import GatewayTransport
from app.services.payments.gateway.wire import WireFormatError, read_payment, read_refund, read_transaction
from app.utils.json_values import JsonObject

_MAX_PAGE = 100
_REFUND_RANK = {"succeeded": 0, "pending": 1, "failed": 2}

_T = TypeVar("_T")


class HttpPaymentGateway:
    """`PaymentGateway` over HTTP, with reused connections and a circuit breaker. Close it with `aclose`.

    Belongs to the event loop that first uses it.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        timeout_seconds: float = 10.0,
        breaker: CircuitBreaker | None = None,
        refuse_mock: bool = False,
    ) -> None:
        """Make an adapter; nothing is sent.

        Args:
            base_url: of the gateway, http(s).
            api_key: secret that is sent as bearer token.
            timeout_seconds: for a whole call, from connecting to the last byte of the answer.
            breaker: the default opens after 5 failures for 30 s.
            refuse_mock: whether a mock gateway counts as no gateway, as it does in production.

        Raises:
            ValueError: `base_url` is not an http(s) URL.
        """
        self._transport = GatewayTransport(
            base_url=base_url,
            api_key=api_key,
            timeout_seconds=timeout_seconds,
            breaker=breaker or CircuitBreaker(),
            refuse_mock=refuse_mock,
        )

    @classmethod
    def from_settings(cls, settings: Settings, breaker: CircuitBreaker | None = None) -> Self:
        """Return an adapter for the configured gateway."""
        return cls(
            base_url=settings.payment_gateway_url,
            api_key=settings.payment_gateway_api_key.get_secret_value(),
            timeout_seconds=settings.payment_gateway_timeout_seconds,
            breaker=breaker,
            refuse_mock=settings.environment == "production",
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.aclose()

    @metered("capture_payment")
    async def capture_payment(self, request: PaymentRequest) -> GatewayPayment:
        """See `PaymentGateway.capture_payment`. Key `payment:<payment id>`."""
        payment = await self._pay(request, request.idempotency_key, capture=True)
        _require(
            holds=payment.status == "captured" and payment.captured_amount == request.amount,
            otherwise="was not captured in full",
        )
        return payment

    @metered("authorize")
    async def authorize(self, request: PaymentRequest) -> GatewayPayment:
        """See `PaymentGateway.authorize`. Key `authorization:<payment id>`.

        Raises:
            ValueError: no token; a payment received elsewhere cannot be reserved.
        """
        if request.payment_token is None:
            raise ValueError("a payment without a token cannot be authorised, only captured")
        payment = await self._pay(request, f"authorization:{request.payment_id}", capture=False)
        _require(holds=payment.status == "authorized", otherwise="was not authorised")
        return payment

    @metered("capture")
    async def capture(self, gateway_payment_id: str, amount: Decimal | None = None) -> GatewayPayment:
        """See `PaymentGateway.capture`. Key `capture:<gateway payment id>`.

        Raises:
            ValueError: `amount` is no amount of money.
        """
        body: dict[str, Any] = {}
        if amount is not None:
            body["amount"] = amount_text(amount)
        path = f"/v1/payments/{_segment(gateway_payment_id)}/capture"
        payment = _read(read_payment, await self._transport.call("POST", path, body, f"capture:{gateway_payment_id}"))
        _refuse_failed(payment)
        _require(
            holds=payment.id == gateway_payment_id
            and payment.status == "captured"
            and payment.captured_amount == (payment.amount if amount is None else amount),
            otherwise="was not captured as asked",
        )
        return payment

    @metered("void")
    async def void(self, gateway_payment_id: str) -> GatewayPayment:
        """See `PaymentGateway.void`. Key `void:<gateway payment id>`."""
        path = f"/v1/payments/{_segment(gateway_payment_id)}/void"
        payment = _read(read_payment, await self._transport.call("POST", path, {}, f"void:{gateway_payment_id}"))
        _require(holds=payment.id == gateway_payment_id and payment.status == "voided", otherwise="was not voided")
        return payment

    @metered("refund")
    async def refund(self, request: RefundRequest) -> GatewayRefund:
        """See `PaymentGateway.refund`. The key is the request's."""
        body = {
            "payment": request.gateway_payment_id,
            "reference": str(request.refund_id),
            "amount": amount_text(request.amount),
            "currency": request.currency,
            "reason": request.reason,
        }
        refund = _read(read_refund, await self._transport.call("POST", "/v1/refunds", body, request.idempotency_key))
        _require(
            holds=refund.reference == request.refund_id
            and refund.payment_id == request.gateway_payment_id
            and (refund.amount, refund.currency) == (request.amount, request.currency),
            otherwise="is about another refund",
        )
        _refuse_failed(refund)
        return refund

    @metered("find_payment")
    async def find_payment(self, reference: UUID) -> GatewayPayment | None:
        """See `PaymentGateway.find_payment`."""
        found = await self._find("/v1/payments", reference, read_payment)
        _require(
            holds=all(payment.reference == reference for payment in found),
            otherwise="is about another payment",
        )
        return min(reversed(found), key=lambda payment: payment.status == "failed", default=None)

    @metered("find_refund")
    async def find_refund(self, reference: UUID) -> GatewayRefund | None:
        """See `PaymentGateway.find_refund`."""
        found = await self._find("/v1/refunds", reference, read_refund)
        _require(holds=all(refund.reference == reference for refund in found), otherwise="is about another refund")
        return min(reversed(found), key=lambda refund: _REFUND_RANK[refund.status], default=None)

    async def list_transactions(self, *, page_size: int = _MAX_PAGE) -> AsyncIterator[GatewayTransaction]:
        """See `PaymentGateway.list_transactions`.

        Raises:
            ValueError: `page_size` is not 1 to 100.
        """
        if not 1 <= page_size <= _MAX_PAGE:
            raise ValueError(f"page_size must be 1 to {_MAX_PAGE}")
        query = {"limit": str(page_size)}
        more = True
        while more:
            page, more = await self._transactions(query)
            for transaction in page:
                yield transaction
            _require(holds=bool(page) or not more, otherwise="promises more and gives nothing")
            if page:
                query["after"] = page[-1].id

    @metered("list_transactions")
    async def _transactions(self, query: Mapping[str, str]) -> tuple[list[GatewayTransaction], bool]:
        records, more = _records(await self._transport.call("GET", "/v1/transactions", query))
        return [_read(read_transaction, record) for record in records], more

    async def _pay(self, request: PaymentRequest, key: str, *, capture: bool) -> GatewayPayment:
        body = {
            "reference": str(request.payment_id),
            "amount": amount_text(request.amount),
            "currency": request.currency,
            "payment_token": request.payment_token,
            "payment_method": request.payment_method,
            "capture": capture,
            "metadata": dict(request.metadata),
        }
        payment = _read(read_payment, await self._transport.call("POST", "/v1/payments", body, key))
        _require(
            holds=payment.reference == request.payment_id
            and (payment.amount, payment.currency) == (request.amount, request.currency),
            otherwise="is about another payment",
        )
        _refuse_failed(payment)
        return payment

    async def _find(self, path: str, reference: UUID, reader: Callable[[Any], _T]) -> list[_T]:
        answer = await self._transport.call("GET", path, {"reference": str(reference)})
        records, more = _records(answer)
        _require(holds=not more, otherwise="holds back some of what was looked up")
        return [_read(reader, record) for record in records]


def _read(reader: Callable[[Any], _T], value: Any) -> _T:
    try:
        return reader(value)
    except WireFormatError as fault:
        raise GatewayOutcomeUnknown(f"The payment gateway's answer cannot be read: {fault}.") from fault


def _records(answer: JsonObject) -> tuple[Sequence[object], bool]:
    """Return what a list holds and whether there is more: a list cut short in silence would look complete."""
    records, more = answer.get("data"), answer.get("has_more")
    if not isinstance(records, list) or not isinstance(more, bool):
        raise GatewayOutcomeUnknown("The payment gateway's answer cannot be read: it is not a list.")
    return records, more


def _require(*, holds: bool, otherwise: str) -> None:
    if not holds:
        raise GatewayOutcomeUnknown(f"The payment gateway's answer does not fit the request: it {otherwise}.")


def _refuse_failed(outcome: GatewayPayment | GatewayRefund) -> None:
    if outcome.status == "failed":
        raise GatewayDeclined(outcome.failure_code or "failed", "The payment gateway answered: failed.")


def _segment(gateway_id: str) -> str:
    """Return an id as one path segment.

    Raises:
        ValueError: it has characters that no id of a gateway has.
    """
    if not gateway_id.replace("_", "").replace("-", "").isalnum() or not gateway_id.isascii():
        raise ValueError("not the id of a gateway's payment")
    return gateway_id
