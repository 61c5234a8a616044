"""Our payments beside the gateway's books: how they can differ, and what can be repaired (INT-001).

Payments go on while the gateway's list is read. So what the list must have is what we had before, and what we must have
is what we have afterwards; what changed in between is no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, OrderStatus, PaymentState
from app.database import Database
from app.services import money_in
from app.services.case_service import open_case
from app.services.payment_gateway import PaymentGateway
from app.services.unpaid_orders import Standing, UnpaidOrders

# What may have gone back at the gateway: what we know of, and at most what is on its way besides.
_OURS = text("""
    SELECT o.id AS order_id, o.order_number, o.status, p.id AS payment_id, p.state, p.captured_amount, p.currency,
        coalesce(p.accepted_amount, p.amount) AS expected_amount, p.gateway_payment_id,
        p.refunded_elsewhere_amount + coalesce(f.paid, 0) AS refunded,
        p.refunded_elsewhere_amount + coalesce(f.paid, 0) + coalesce(f.under_way, 0) AS refunded_at_most
    FROM payments p JOIN orders o ON o.id = p.order_id
    LEFT JOIN (
        SELECT payment_id, sum(amount) FILTER (WHERE state = 'SUCCEEDED') AS paid,
            sum(amount) FILTER (WHERE state IN ('PROCESSING', 'UNKNOWN')) AS under_way
        FROM refunds GROUP BY payment_id
    ) f ON f.payment_id = p.id
""")

OurPayment = Row[*tuple[Any, ...]]


class PaymentDifferenceKind(StrEnum):
    """How the gateway's books and ours can differ about a payment."""

    CAPTURED_BUT_NOT_RECORDED = "CAPTURED_BUT_NOT_RECORDED"
    RECORDED_BUT_NOT_CAPTURED = "RECORDED_BUT_NOT_CAPTURED"
    CAPTURED_MORE_THAN_ONCE = "CAPTURED_MORE_THAN_ONCE"
    OTHER_PAYMENT = "OTHER_PAYMENT"
    AMOUNT_DIFFERS = "AMOUNT_DIFFERS"
    REFUNDS_DIFFER = "REFUNDS_DIFFER"
    RESERVED_AFTER_CANCEL = "RESERVED_AFTER_CANCEL"
    UNKNOWN_REFERENCE = "UNKNOWN_REFERENCE"


_ASKED = {
    PaymentDifferenceKind.RECORDED_BUT_NOT_CAPTURED: CaseKind.PAYMENT_NOT_CAPTURED,
    PaymentDifferenceKind.REFUNDS_DIFFER: CaseKind.REFUNDED_ELSEWHERE,
    PaymentDifferenceKind.CAPTURED_MORE_THAN_ONCE: CaseKind.SECOND_PAYMENT,
    PaymentDifferenceKind.OTHER_PAYMENT: CaseKind.SECOND_PAYMENT,
}
"""Differences that a person must decide → the case that a repair opens; of the rest the gateway is asked."""


@dataclass(frozen=True, slots=True)
class PaymentDifference:
    """One payment on which the books differ; order and payment are None where no order of ours is meant."""

    kind: PaymentDifferenceKind
    reference: str
    order_id: UUID | None
    order_number: str | None
    payment_id: UUID | None
    gateway_payment_id: str | None
    our_amount: Decimal | None
    their_amount: Decimal | None


@dataclass(frozen=True, slots=True)
class PaymentReconciliation:
    """What a comparison found; empty `differences` means that the books agree.

    Attributes:
        repaired: how many of the differences were booked, or released at the gateway.
        asked: how many of them opened a case.
    """

    ours: int
    theirs: int
    differences: list[PaymentDifference]
    repaired: int
    asked: int


@dataclass(slots=True)
class _Theirs:
    """One payment as the gateway's movements add it up."""

    id: str
    reference: str
    currency: str
    reserved: Decimal = Decimal(0)
    captured: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    voided: bool = False


@dataclass(slots=True)
class _Books:
    """The gateway's payments, by its own ids and by our references."""

    by_id: dict[str, _Theirs] = field(default_factory=dict)

    def by_reference(self) -> dict[str, list[_Theirs]]:
        """Return the payments under each of our references."""
        found: dict[str, list[_Theirs]] = {}
        for payment in self.by_id.values():
            found.setdefault(payment.reference, []).append(payment)
        return found


class PaymentReconciler:
    """Compares payments, and repairs the differences whose cause is certain."""

    def __init__(self, database: Database, gateway: PaymentGateway, unpaid_orders: UnpaidOrders) -> None:
        self._database = database
        self._gateway = gateway
        self._unpaid_orders = unpaid_orders

    async def reconcile(self, actor: Actor, *, repair: bool = False) -> PaymentReconciliation:
        """Compare every payment with the gateway's transaction list.

        Args:
            repair: book what the gateway captured and we do not know of, release what it reserves for cancelled
                orders, and open a case for what a person must decide. No money is taken here.
        """
        earlier = await self._ours()
        books = await self._theirs()
        ours = await self._ours()
        theirs = books.by_reference()
        differences = [
            difference
            for reference in sorted(ours.keys() | theirs.keys())
            for difference in _compare(
                reference, ours.get(reference), earlier.get(reference), theirs.get(reference, [])
            )
        ]
        repaired = asked = 0
        for difference in differences if repair else []:
            outcome = await self._repair(difference, actor)
            repaired += outcome is Standing.BOOKED
            asked += outcome is Standing.UNDECIDED
        return PaymentReconciliation(len(ours), len(books.by_id), differences, repaired, asked)

    async def _repair(self, difference: PaymentDifference, actor: Actor) -> Standing:
        """Return BOOKED when the books agree now, UNDECIDED when a person was asked, NOTHING when neither."""
        if difference.order_id is None:
            return Standing.NOTHING
        if (kind := _ASKED.get(difference.kind)) is not None:
            return await self._ask(difference, kind)
        standing = await self._unpaid_orders.settle(difference.order_id, actor)
        is_released = difference.kind is PaymentDifferenceKind.RESERVED_AFTER_CANCEL and standing is Standing.NOTHING
        return Standing.BOOKED if is_released else standing

    async def _ask(self, difference: PaymentDifference, kind: CaseKind) -> Standing:
        facts = {
            "found_by": "reconciliation",
            "difference": str(difference.kind),
            "gateway_id": difference.gateway_payment_id,
            "our_amount": str(difference.our_amount),
            "their_amount": str(difference.their_amount),
        }
        key = money_in.case_key(kind, difference.gateway_payment_id or difference.reference)
        async with self._database.transaction() as session:
            await open_case(
                session,
                kind,
                entity_type=CaseEntity.PAYMENT,
                entity_id=difference.payment_id or UUID(int=0),
                order_id=difference.order_id,
                evidence=facts,
                dedupe_key=key,
            )
        return Standing.UNDECIDED

    async def _ours(self) -> dict[str, OurPayment]:
        async with self._database.autocommit() as connection:
            return {str(row.order_id): row for row in await connection.execute(_OURS)}

    async def _theirs(self) -> _Books:
        books = _Books()
        async for entry in self._gateway.list_transactions():
            known = books.by_id.get(entry.payment_id)
            if known is None:
                known = books.by_id[entry.payment_id] = _Theirs(entry.payment_id, entry.reference, entry.currency)
            if entry.type == "refund":
                known.refunded += entry.amount
                continue
            known.reference = entry.reference
            if entry.type == "authorization":
                known.reserved += entry.amount
            elif entry.type == "capture":
                known.captured += entry.amount
            else:
                known.voided = True
        return books


@dataclass(frozen=True, slots=True)
class _Found:
    """A difference: which payment of the gateway, and both amounts."""

    kind: PaymentDifferenceKind
    payment: _Theirs | None
    our_amount: Decimal | None
    their_amount: Decimal | None


def _compare(
    reference: str, ours: OurPayment | None, earlier: OurPayment | None, theirs: list[_Theirs]
) -> Iterator[PaymentDifference]:
    """Yield how the books differ about one reference."""
    captured = [payment for payment in theirs if payment.captured > 0]
    if ours is None:
        found = [
            _Found(PaymentDifferenceKind.UNKNOWN_REFERENCE, payment, None, payment.captured) for payment in captured
        ]
    elif captured:
        found = _of_captured(ours, earlier or ours, captured)
    else:
        found = _of_uncaptured(earlier, theirs)
    for each in found:
        known = ours.gateway_payment_id if ours is not None else None
        yield PaymentDifference(
            kind=each.kind,
            reference=reference,
            order_id=ours.order_id if ours is not None else None,
            order_number=ours.order_number if ours is not None else None,
            payment_id=ours.payment_id if ours is not None else None,
            gateway_payment_id=each.payment.id if each.payment is not None else known,
            our_amount=each.our_amount,
            their_amount=each.their_amount,
        )


def _of_captured(ours: OurPayment, earlier: OurPayment, captured: list[_Theirs]) -> list[_Found]:
    if len(captured) > 1:
        total = sum((payment.captured for payment in captured), Decimal(0))
        other = next((payment for payment in captured if payment.id != ours.gateway_payment_id), captured[0])
        return [_Found(PaymentDifferenceKind.CAPTURED_MORE_THAN_ONCE, other, ours.captured_amount, total)]
    [payment] = captured
    kind = _difference(ours, earlier, payment)
    if kind is None:
        return []
    if kind is PaymentDifferenceKind.REFUNDS_DIFFER:
        return [_Found(kind, payment, ours.refunded, payment.refunded)]
    return [_Found(kind, payment, ours.captured_amount, payment.captured)]


def _of_uncaptured(earlier: OurPayment | None, theirs: list[_Theirs]) -> list[_Found]:
    if earlier is None:
        return []
    if earlier.gateway_payment_id is not None and earlier.captured_amount > 0:
        return [_Found(PaymentDifferenceKind.RECORDED_BUT_NOT_CAPTURED, None, earlier.captured_amount, None)]
    if earlier.status != OrderStatus.CANCELLED:
        return []
    return [
        _Found(PaymentDifferenceKind.RESERVED_AFTER_CANCEL, payment, None, payment.reserved)
        for payment in theirs
        if payment.reserved > 0 and not payment.voided
    ]


def _difference(ours: OurPayment, earlier: OurPayment, theirs: _Theirs) -> PaymentDifferenceKind | None:
    fits = (theirs.captured, theirs.currency) == (ours.expected_amount, ours.currency)
    if ours.state != PaymentState.CAPTURED:
        if theirs.refunded >= theirs.captured:
            return None if ours.status == OrderStatus.CANCELLED else PaymentDifferenceKind.REFUNDS_DIFFER
        return PaymentDifferenceKind.CAPTURED_BUT_NOT_RECORDED if fits else PaymentDifferenceKind.AMOUNT_DIFFERS
    if not fits:
        return PaymentDifferenceKind.AMOUNT_DIFFERS
    if ours.gateway_payment_id not in (None, theirs.id):
        return PaymentDifferenceKind.OTHER_PAYMENT
    if not earlier.refunded <= theirs.refunded <= ours.refunded_at_most:
        return PaymentDifferenceKind.REFUNDS_DIFFER
    return None
