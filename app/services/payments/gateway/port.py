"""The port to the payment provider, and what its failures mean for money (INT-001).

Services depend on `PaymentGateway` and on the errors below, never on an adapter. `gateway_http` holds the
adapter that speaks HTTP, `gateway_webhooks` reads what the provider reports by itself.

The errors answer one question: may money have moved because of this call?

    GatewayError
    ├── GatewayDeclined         no: the provider considered it and refused
    ├── GatewayRejected         no: our request is wrong, or our credentials are
    ├── GatewayUnavailable      no: the provider did not get it, or turned it away unread
    │   └── GatewayCircuitOpen  no: we did not even try; uses up no retry
    └── GatewayOutcomeUnknown   unknown: look it up by our reference before anything else

"No" is said of this call alone. An earlier call under the same key may still have moved money, which is why
a refund in an unknown state is looked up before it is sent again, and sent again only under the same key.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, Literal, Protocol
from uuid import UUID

from app.config import MONEY_LIMIT

PaymentStatus = Literal["authorized", "captured", "voided", "failed"]
RefundStatus = Literal["pending", "succeeded", "failed"]
TransactionType = Literal["authorization", "capture", "void", "refund"]

MOCK_HEADER = "articurated-mock-gateway"
"""By this header on every answer and webhook the mock gateway of this project identifies itself."""

_CENT = Decimal("0.01")


class GatewayError(Exception):
    """A call to the payment provider did not succeed.

    Attributes:
        may_have_moved_money: whether this very call may have had its effect.
        consumes_retry: whether the job that made the call has used up one of its retries.
        code: stable identifier, the provider's own where it gave one.
        message: one sentence for a person.
    """

    may_have_moved_money: ClassVar[bool] = False
    consumes_retry: ClassVar[bool] = True

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class GatewayDeclined(GatewayError):  # noqa: N818 - named for what it says of the money
    """The provider considered the request and refused it, e.g. `insufficient_funds`. No money moved."""


class GatewayRejected(GatewayError):  # noqa: N818 - named for what it says of the money
    """The provider did not accept the request (4xx): it is wrong, now and next time. No money moved.

    Attributes:
        status: HTTP status, or None where there was none. 401 and 403 mean that our credentials are wrong.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(code, message)
        self.status = status


class GatewayUnavailable(GatewayError):  # noqa: N818 - named for what it says of the money
    """The provider did not get the request, or turned it away unread (429). No money moved; try again later.

    Attributes:
        retry_after: seconds after which a new attempt makes sense, when known.
    """

    def __init__(self, message: str, retry_after: float | None = None, code: str = "unavailable") -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class GatewayCircuitOpen(GatewayUnavailable):
    """Nothing was sent, because the provider has failed repeatedly; it is left in peace for `retry_after`.

    The wait says nothing about the job that met it, so it uses up none of its retries.
    """

    consumes_retry = False

    def __init__(self, retry_after: float) -> None:
        super().__init__("The payment gateway has failed repeatedly.", retry_after, "circuit_open")


class GatewayOutcomeUnknown(GatewayError):  # noqa: N818 - named for what it says of the money
    """The request was sent and no answer that can be relied on came back. The money may have moved."""

    may_have_moved_money = True

    def __init__(self, message: str, code: str = "outcome_unknown") -> None:
        super().__init__(code, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """Money to take.

    Attributes:
        payment_id: our payment; the provider's `reference`.
        amount: more than zero, at most two decimals, in units of `currency`.
        currency: ISO 4217 code.
        payment_token: of the customer's card; None reports a payment received elsewhere.
        payment_method: what the customer chose, for the provider's records.
        metadata: short texts that the provider keeps with the payment.

    Raises:
        ValueError: the amount is not such an amount.
    """

    payment_id: UUID
    amount: Decimal
    currency: str
    payment_token: str | None = None
    payment_method: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse amounts that no provider could pay."""
        amount_text(self.amount)

    @property
    def idempotency_key(self) -> str:
        """The key under which the provider takes this money once, however often it is asked."""
        return f"payment:{self.payment_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """Money to give back.

    Attributes:
        refund_id: our refund; the provider's `reference`.
        gateway_payment_id: the provider's id of the captured payment.
        amount: more than zero, at most two decimals, in units of `currency`.
        currency: ISO 4217 code of the payment.
        idempotency_key: derived from the refund id, the same at every attempt.
        reason: for the provider's records.

    Raises:
        ValueError: the amount is not such an amount.
    """

    refund_id: UUID
    gateway_payment_id: str
    amount: Decimal
    currency: str
    idempotency_key: str
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse amounts that no provider could pay."""
        amount_text(self.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPayment:
    """A payment in the provider's records; `id` is the provider's, `reference` our payment id."""

    id: str
    reference: UUID
    status: PaymentStatus
    amount: Decimal
    captured_amount: Decimal
    refunded_amount: Decimal
    currency: str
    failure_code: str | None
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRefund:
    """A refund in the provider's records; `id` is the provider's, `reference` our refund id.

    `pending` means that the provider has accepted it and will report by webhook how it ended.
    """

    id: str
    payment_id: str
    reference: UUID
    status: RefundStatus
    amount: Decimal
    currency: str
    failure_code: str | None
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDispute:
    """A payment that its customer disputes at their bank, as an event reports it; the texts are the provider's.

    Attributes:
        payment_id: the provider's id of the payment.
        reference: our payment id, where the provider repeats it.
        status: e.g. `needs_response`, `won`, `lost`.
    """

    id: str
    payment_id: str | None
    reference: UUID | None
    amount: str | None
    currency: str | None
    reason: str | None
    status: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTransaction:
    """One movement in the provider's records.

    Attributes:
        reference: our payment id, or for a refund our refund id; any text where someone else made it.
        payment_id: the provider's id of the payment.
        refund_id: the provider's id of the refund, for refunds.
    """

    id: str
    type: TransactionType
    reference: str
    payment_id: str
    refund_id: str | None
    amount: Decimal
    currency: str
    created: datetime


class PaymentGateway(Protocol):
    """What the services ask of a payment provider.

    Every call raises `GatewayError` when it does not succeed, and ValueError for arguments that no provider
    could take (then nothing was sent).
    """

    async def capture_payment(self, request: PaymentRequest) -> GatewayPayment:
        """Take the money in one call: authorise and capture, or report what was received elsewhere.

        Returns:
            The payment, `captured`, with exactly the amount asked for.
        """
        ...

    async def authorize(self, request: PaymentRequest) -> GatewayPayment:
        """Reserve the money; `capture` takes it, `void` releases it. Needs a token."""
        ...

    async def capture(self, gateway_payment_id: str, amount: Decimal | None = None) -> GatewayPayment:
        """Take reserved money, all of it or `amount`; once per payment."""
        ...

    async def void(self, gateway_payment_id: str) -> GatewayPayment:
        """Release reserved money."""
        ...

    async def refund(self, request: RefundRequest) -> GatewayRefund:
        """Give money back.

        Returns:
            The refund, `succeeded` or `pending`, with exactly the amount asked for.
        """
        ...

    async def find_payment(self, reference: UUID) -> GatewayPayment | None:
        """Return the provider's payment for our payment id; None only when it says that there is none.

        Where several attempts exist, the one that did not fail.

        Raises:
            GatewayRejected: `lookup_unsupported` when this provider cannot look up by reference.
        """
        ...

    async def find_refund(self, reference: UUID) -> GatewayRefund | None:
        """Return the provider's refund for our refund id; None only when it says that there is none.

        Where several attempts exist, the one that succeeded, else a pending one, else the last.

        Raises:
            GatewayRejected: `lookup_unsupported` when this provider cannot look up by reference.
        """
        ...

    def list_transactions(self, *, page_size: int = 100) -> AsyncIterator[GatewayTransaction]:
        """Yield every movement in the provider's records, oldest first; fetched in pages of 1 to 100."""
        ...


def amount_text(amount: Decimal) -> str:
    """Return an amount as the gateway reads it: "120.50".

    Raises:
        ValueError: not more than zero, not finite, finer than a cent, or beyond what our records hold.
    """
    if not amount.is_finite() or not 0 < amount <= MONEY_LIMIT or amount != amount.quantize(_CENT):
        raise ValueError(f"not an amount of money that can be paid: {amount}")
    return str(amount.quantize(_CENT))
