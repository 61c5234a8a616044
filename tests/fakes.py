"""A payment gateway in memory, with a ledger of its own and faults that strike where a test wants them.

It keeps idempotency keys as Stripe does (the first answer under a key is the answer of that key, a decline too; a
second call while the first runs is refused) and, like real gateways, pays a refund as often as it is asked under new
keys. So a careless call shows in `moved`.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

from app.services.payments.gateway.port import (
    GatewayDeclined,
    GatewayOutcomeUnknown,
    GatewayPayment,
    GatewayRefund,
    GatewayRejected,
    GatewayTransaction,
    GatewayUnavailable,
    PaymentRequest,
    PaymentStatus,
    RefundRequest,
    TransactionType,
)

Operation = Literal["capture", "refund", "lookup", "void"]
Mode = Literal["decline", "reject", "unavailable", "lost", "late", "timeout_after", "pending"]
"""What the next call of an operation meets:

decline        refused for good, under its key for ever
reject         not accepted (4xx)
unavailable    not reached; certainly nothing was done
lost           nothing was done, but the caller cannot know
late           nothing is done at first, the caller gets no answer, and `catch_up` does it later
timeout_after  done, and the answer is lost
pending        accepted; `decide` says how it ended
"""
Hook = Callable[[], Awaitable[None]]
Moment = Literal["arrived", "moved"]

CREATED = datetime(2026, 11, 22, 10, tzinfo=UTC)
UNKNOWN = "No answer from the payment gateway."


class Stopwatch:
    """Monotonic seconds that pass when they are set."""

    seconds = 0.0

    def __call__(self) -> float:
        """Return how many have passed."""
        return self.seconds


class Killed(BaseException):
    """Plays a kill of the process: nothing that deals with errors may see it."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that moved."""

    kind: TransactionType
    reference: str
    payment_id: str
    object_id: str
    amount: Decimal
    currency: str


class FakeGateway:
    """Implements `PaymentGateway`.

    Attributes:
        movements: all money that moved, in order.
        calls: operation and idempotency key or reference of each call, in order.
        faults: per operation what the next calls meet, in turn; afterwards all is well.
        hooks: what to do once at a moment: when a call has `arrived`, or when its money has `moved` and the answer
            is still on its way.
        lookup: whether it can look up by reference.
    """

    def __init__(self) -> None:
        self.movements: list[Movement] = []
        self.calls: list[tuple[str, str]] = []
        self.faults: dict[Operation, list[Mode]] = defaultdict(list)
        self.hooks: dict[tuple[Operation, Moment], Hook] = {}
        self.lookup = True
        self.payments: dict[str, GatewayPayment] = {}
        self.refunds: dict[str, GatewayRefund] = {}
        self.tokens: list[str | None] = []
        self._answers: dict[str, Callable[[], Any]] = {}
        self._running: set[str] = set()
        self._late: list[tuple[str, Callable[[], Any]]] = []

    def moved(self, kind: TransactionType, reference: UUID) -> list[Decimal]:
        """Return the amounts of all movements of a kind for one of our references."""
        return [entry.amount for entry in self.movements if (entry.kind, entry.reference) == (kind, str(reference))]

    def keys(self, operation: str) -> list[str]:
        """Return the keys of all calls of an operation."""
        return [key for name, key in self.calls if name == operation]

    def charge(
        self,
        reference: UUID,
        amount: Decimal,
        currency: str = "USD",
        *,
        status: PaymentStatus = "captured",
        captured: Decimal | None = None,
    ) -> GatewayPayment:
        """Let the storefront have charged, or reserved, money under one of our references."""
        taken = (amount if captured is None else captured) if status == "captured" else Decimal(0)
        payment = GatewayPayment(
            id=f"pay_{uuid4().hex[:12]}",
            reference=reference,
            status=status,
            amount=amount,
            captured_amount=taken,
            refunded_amount=Decimal(0),
            currency=currency,
            failure_code=None,
            created=CREATED,
        )
        self.payments[payment.id] = payment
        if status == "authorized":
            self._move("authorization", str(reference), payment.id, payment.id, amount, currency)
        if taken:
            self._move("capture", str(reference), payment.id, payment.id, taken, currency)
        return payment

    def decide(self, refund_id: str, *, paid: bool) -> GatewayRefund:
        """End a pending refund."""
        refund = self.refunds[refund_id]
        assert refund.status == "pending"
        ended = replace(refund, status="succeeded" if paid else "failed", failure_code=None if paid else "bounced")
        self.refunds[refund_id] = ended
        if paid:
            self._pay_out(ended)
        return ended

    def catch_up(self) -> None:
        """Carry out what came late."""
        while self._late:
            key, work = self._late.pop(0)
            self._running.discard(key)
            self._answers[key] = _outcome(work)

    async def capture_payment(self, request: PaymentRequest) -> GatewayPayment:
        """See `PaymentGateway.capture_payment`."""
        self.tokens.append(request.payment_token)

        def work() -> GatewayPayment:
            existing = [found for found in self.payments.values() if found.reference == request.payment_id]
            if any(payment.status != "failed" for payment in existing):
                raise GatewayOutcomeUnknown("This reference has a payment.", "reference_exists")
            return self.charge(request.payment_id, request.amount, request.currency)

        found: GatewayPayment = await self._perform("capture", request.idempotency_key, work)
        return found

    async def authorize(self, request: PaymentRequest) -> GatewayPayment:
        """See `PaymentGateway.authorize`; nothing here ever reserves money."""
        raise AssertionError(f"nobody authorises, yet {request.payment_id} was")

    async def capture(self, gateway_payment_id: str, amount: Decimal | None = None) -> GatewayPayment:
        """See `PaymentGateway.capture`."""

        def work() -> GatewayPayment:
            payment = self.payments[gateway_payment_id]
            if payment.status != "authorized":
                raise GatewayRejected("payment_not_authorized", f"The payment is {payment.status}.", 409)
            taken = payment.amount if amount is None else amount
            self.payments[payment.id] = replace(payment, status="captured", captured_amount=taken)
            self._move("capture", str(payment.reference), payment.id, payment.id, taken, payment.currency)
            return self.payments[payment.id]

        found: GatewayPayment = await self._perform("capture", f"capture:{gateway_payment_id}", work)
        return found

    async def void(self, gateway_payment_id: str) -> GatewayPayment:
        """See `PaymentGateway.void`."""

        def work() -> GatewayPayment:
            payment = self.payments[gateway_payment_id]
            if payment.status != "authorized":
                raise GatewayRejected("payment_not_authorized", f"The payment is {payment.status}.", 409)
            self.payments[payment.id] = replace(payment, status="voided")
            self._move("void", str(payment.reference), payment.id, payment.id, payment.amount, payment.currency)
            return self.payments[payment.id]

        found: GatewayPayment = await self._perform("void", f"void:{gateway_payment_id}", work)
        return found

    async def refund(self, request: RefundRequest) -> GatewayRefund:
        """See `PaymentGateway.refund`."""
        pending = self.faults["refund"][:1] == ["pending"]

        def work() -> GatewayRefund:
            payment = self.payments[request.gateway_payment_id]
            if request.amount > payment.captured_amount - payment.refunded_amount:
                raise GatewayRejected("amount_exceeds_refundable", "Less is left.", 409)
            refund = self._new_refund(request, pending=pending)
            if not pending:
                self._pay_out(refund)
            return refund

        found: GatewayRefund = await self._perform("refund", request.idempotency_key, work, request)
        return found

    async def find_payment(self, reference: UUID) -> GatewayPayment | None:
        """See `PaymentGateway.find_payment`."""
        await self._look_up(reference)
        known = [payment for payment in self.payments.values() if payment.reference == reference]
        found = min(reversed(known), key=lambda payment: payment.status == "failed", default=None)
        await self._hook("lookup", "moved")
        return found

    async def find_refund(self, reference: UUID) -> GatewayRefund | None:
        """See `PaymentGateway.find_refund`."""
        await self._look_up(reference)
        rank = {"succeeded": 0, "pending": 1, "failed": 2}
        found = [refund for refund in self.refunds.values() if refund.reference == reference]
        return min(reversed(found), key=lambda refund: rank[refund.status], default=None)

    async def list_transactions(self, *, page_size: int = 100) -> AsyncIterator[GatewayTransaction]:
        """See `PaymentGateway.list_transactions`."""
        assert 1 <= page_size <= 100
        listed = list(self.movements)
        await self._hook("lookup", "arrived")
        for number, entry in enumerate(listed):
            yield GatewayTransaction(
                id=f"txn_{number}",
                type=entry.kind,
                reference=entry.reference,
                payment_id=entry.payment_id,
                refund_id=entry.object_id if entry.kind == "refund" else None,
                amount=entry.amount,
                currency=entry.currency,
                created=CREATED,
            )

    def _new_refund(self, request: RefundRequest, *, pending: bool = False, failed: bool = False) -> GatewayRefund:
        refund = GatewayRefund(
            id=f"re_{uuid4().hex[:12]}",
            payment_id=request.gateway_payment_id,
            reference=request.refund_id,
            status="failed" if failed else "pending" if pending else "succeeded",
            amount=request.amount,
            currency=request.currency,
            failure_code="ordered_decline" if failed else None,
            created=CREATED,
        )
        self.refunds[refund.id] = refund
        return refund

    def _pay_out(self, refund: GatewayRefund) -> None:
        payment = self.payments[refund.payment_id]
        self.payments[payment.id] = replace(payment, refunded_amount=payment.refunded_amount + refund.amount)
        self._move("refund", str(refund.reference), payment.id, refund.id, refund.amount, refund.currency)

    def _move(
        self, kind: TransactionType, reference: str, payment_id: str, object_id: str, amount: Decimal, currency: str
    ) -> None:
        self.movements.append(Movement(kind, reference, payment_id, object_id, amount, currency))

    async def _look_up(self, reference: UUID) -> None:
        self.calls.append(("lookup", str(reference)))
        await self._hook("lookup", "arrived")
        if not self.lookup:
            raise GatewayRejected("lookup_unsupported", "This gateway cannot look up by reference.")
        match self._fault("lookup"):
            case "unavailable":
                raise GatewayUnavailable("No connection to the payment gateway.")
            case "lost" | "timeout_after":
                raise GatewayOutcomeUnknown(UNKNOWN)

    async def _perform(
        self, operation: Operation, key: str, work: Callable[[], Any], request: RefundRequest | None = None
    ) -> Any:
        self.calls.append((operation, key))
        await self._hook(operation, "arrived")
        mode = self._fault(operation)
        if mode == "unavailable":
            raise GatewayUnavailable("No connection to the payment gateway.")
        if mode == "lost":
            raise GatewayOutcomeUnknown(UNKNOWN)
        if key in self._answers:
            return self._answers[key]()
        if key in self._running:
            raise GatewayOutcomeUnknown("A request with this key is still running.", "idempotency_key_in_use")
        if mode == "late":
            self._running.add(key)
            self._late.append((key, work))
            raise GatewayOutcomeUnknown(UNKNOWN)
        self._running.add(key)
        try:
            self._answers[key] = _outcome(lambda: self._carry_out(mode, request, work))
            await self._hook(operation, "moved")
        finally:
            self._running.discard(key)
        if mode == "timeout_after":
            raise GatewayOutcomeUnknown(UNKNOWN)
        return self._answers[key]()

    def _carry_out(self, mode: Mode | None, request: RefundRequest | None, work: Callable[[], Any]) -> Any:
        if mode == "reject":
            raise GatewayRejected("ordered_reject", "The request is wrong.", 422)
        if mode == "decline":
            if request is not None:
                self._new_refund(request, failed=True)
            raise GatewayDeclined("ordered_decline", "The gateway refused.")
        return work()

    def _fault(self, operation: Operation) -> Mode | None:
        return self.faults[operation].pop(0) if self.faults[operation] else None

    async def _hook(self, operation: Operation, moment: Moment) -> None:
        hook = self.hooks.pop((operation, moment), None)
        if hook is not None:
            await hook()


def _outcome(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return what gives the result of `work`, or raises its error, each time it is asked."""
    try:
        result = work()
    except (GatewayDeclined, GatewayRejected, GatewayOutcomeUnknown) as fault:
        refusal = fault

        def refused() -> Any:
            raise refusal

        return refused
    return lambda: result
