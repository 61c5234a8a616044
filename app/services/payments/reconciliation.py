"""Our payments beside the gateway's records: how they can differ, and what can be repaired (INT-001).

Payments go on while the gateway's list is read. So what the list must have is what we had before, and what we must have
is what we have afterwards; what changed in between is no difference.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, func, select, text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core import error_tracking
from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, OrderStatus, PaymentState, RefundState
from app.database import Database
from app.models.case import Case
from app.models.payment import Payment, Refund
from app.services.cases.service import open_case
from app.services.ledger import payments as payment_ledger
from app.services.payments import money_in
from app.services.payments.gateway.port import GatewayError, GatewayTransaction, GatewayUnavailable, PaymentGateway
from app.services.payments.reconciled_decisions import decided, is_about
from app.services.payments.unpaid import Standing, UnpaidOrders
from app.services.workflow import tampering
from app.utils.exceptions import RecordTamperedError

logger = structlog.get_logger(__name__)

SWEPT_TRANSACTIONS = 50_000
"""How much of the gateway's list a tick reads, so that it ends in time; for more, the command is run from a scheduler."""

SWEPT_REPAIRS = 100
"""How many differences a tick takes on; the rest waits for the next one."""

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
    """How the gateway's records and ours can differ about a payment."""

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

_DECIDED = {
    **_ASKED,
    PaymentDifferenceKind.AMOUNT_DIFFERS: CaseKind.AMOUNT_MISMATCH,
    PaymentDifferenceKind.UNKNOWN_REFERENCE: CaseKind.UNKNOWN_REFERENCE,
}
"""Differences that are none any more once their case was closed → the kind of that case."""


class TooManyTransactionsError(Exception):
    """The gateway's list is longer than what a tick may read."""


@dataclass(frozen=True, slots=True)
class PaymentDifference:
    """One payment on which the records differ; order and payment are None where no order of ours is meant."""

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
    """What a comparison found; empty `differences` means that the records agree.

    Attributes:
        repaired: how many of the differences were booked, or released at the gateway.
        asked: how many of the others have a case.
        decided: how many more differences there are that a person has decided, by closing their case.
    """

    ours: int
    theirs: int
    differences: list[PaymentDifference]
    repaired: int
    asked: int
    decided: int


@dataclass(slots=True)
class _Theirs:
    """One payment as the gateway's movements add it up."""

    id: str
    reference: str
    currency: str
    reserved: Decimal = Decimal(0)
    captured: Decimal = Decimal(0)
    refunds: list[GatewayTransaction] = field(default_factory=list)
    voided: bool = False

    @property
    def refunded(self) -> Decimal:
        """What has gone back of it."""
        return sum((entry.amount for entry in self.refunds), Decimal(0))


@dataclass(slots=True)
class _GatewayPayments:
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

    async def sweep(self, actor: Actor) -> int:
        """Reconcile with repair, within the time of a tick; return how many differences there were.

        A gateway that cannot be asked, or whose list is too long for a tick, leaves all to the next tick or to the
        command.
        """
        try:
            report = await self.reconcile(actor, repair=True, at_most=SWEPT_TRANSACTIONS, repairs=SWEPT_REPAIRS)
        except GatewayError as fault:
            logger.warning("payments.not_compared", error=str(fault))
            return 0
        except TooManyTransactionsError:
            logger.error("payments.not_compared", error="too many transactions", limit=SWEPT_TRANSACTIONS)  # noqa: TRY400 - no fault
            return 0
        if (left := len(report.differences) - report.repaired) > 0:
            logger.error("payments.mismatched", left=left, repaired=report.repaired, cases=report.asked)
        return len(report.differences)

    async def reconcile(
        self, actor: Actor, *, repair: bool = False, at_most: int | None = None, repairs: int | None = None
    ) -> PaymentReconciliation:
        """Compare every payment with the gateway's transaction list.

        Args:
            repair: book what the gateway captured or refunded and we do not know of, release what it reserves for
                cancelled orders, and open a case for what a person must decide. No money is taken or paid here.
            at_most: how many of the gateway's transactions are read; all when absent.
            repairs: how many differences are taken on; all when absent.

        Raises:
            GatewayError: the list could not be read.
            TooManyTransactionsError: it has more than `at_most` transactions.
        """
        earlier = await self._ours()
        records = await self._theirs(at_most)
        ours = await self._ours()
        theirs = records.by_reference()
        differences = [
            difference
            for reference in sorted(ours.keys() | theirs.keys())
            for difference in _compare(
                reference, ours.get(reference), earlier.get(reference), theirs.get(reference, [])
            )
        ]
        found = len(differences)
        closed = await decided(self._database, [key for each in differences if (key := _case_key(each)) is not None])
        differences = [each for each in differences if not _is_decided(each, closed.get(_case_key(each) or ""))]
        repaired = asked = 0
        for difference in differences[:repairs] if repair else []:
            try:
                outcome = await self._repair(difference, records, actor)
            except GatewayUnavailable as fault:
                logger.warning("payments.not_repaired", reference=difference.reference, error=str(fault))
                break
            except GatewayError as fault:
                logger.warning("payments.not_repaired", reference=difference.reference, error=str(fault))
            except RecordTamperedError as fault:
                await tampering.report(self._database, fault)
            except (IntegrityError, DataError) as refusal:
                # One that the database refuses needs a person; the others do not wait for it.
                error_tracking.report(refusal)
                logger.critical("payments.repair_refused", reference=difference.reference, exc_info=refusal)
            else:
                repaired += outcome is Standing.BOOKED
                asked += outcome is Standing.UNDECIDED
        return PaymentReconciliation(
            len(ours), len(records.by_id), differences, repaired, asked, decided=found - len(differences)
        )

    async def _repair(self, difference: PaymentDifference, records: _GatewayPayments, actor: Actor) -> Standing:
        """Return BOOKED when the records agree now, UNDECIDED when a person was asked, NOTHING when neither."""
        if difference.order_id is None:
            return Standing.NOTHING
        if difference.kind is PaymentDifferenceKind.REFUNDS_DIFFER and difference.gateway_payment_id is not None:
            return await self._book_went_back(difference, records.by_id[difference.gateway_payment_id])
        if (kind := _ASKED.get(difference.kind)) is not None:
            return await self._ask(difference, kind)
        standing = await self._unpaid_orders.settle(difference.order_id, actor)
        is_released = difference.kind is PaymentDifferenceKind.RESERVED_AFTER_CANCEL and standing is Standing.NOTHING
        return Standing.BOOKED if is_released else standing

    async def _ask(self, difference: PaymentDifference, kind: CaseKind) -> Standing:
        async with self._database.transaction() as session:
            await _open_case(session, difference, kind)
        return Standing.UNDECIDED

    async def _book_went_back(self, difference: PaymentDifference, theirs: _Theirs) -> Standing:
        """Book what was refunded there without us, as far as it is not reserved for refunds of ours, with its case.

        It is the sum of their refunds that are none of ours, so booking it again changes nothing. No second case is
        opened for refunds that were reported one by one, each with a case, and that could be booked.
        """
        async with self._database.transaction() as session:
            payment = await payment_ledger.locked_payment(session, difference.order_id) if difference.order_id else None
            agrees = False
            foreign: list[GatewayTransaction] = []
            if payment is not None and (payment.state, payment.gateway_payment_id) == (
                PaymentState.CAPTURED,
                theirs.id,
            ):
                known = set(await session.scalars(select(Refund.id).where(Refund.payment_id == payment.id)))
                foreign = [entry for entry in theirs.refunds if entry.reference not in {str(ours) for ours in known}]
                total = sum((entry.amount for entry in foreign), Decimal(0))
                left = payment.captured_amount - payment.refund_reserved_amount
                if money_in.is_storable(total):
                    booked = max(payment.refunded_elsewhere_amount, min(total, left))
                    await payment_ledger.record_refunded_elsewhere(session, payment, booked)
                agrees = payment.refunded_elsewhere_amount == total and await _went_back(
                    session, payment, theirs.refunded
                )
            keys = [money_in.case_key(CaseKind.UNKNOWN_REFERENCE, entry.refund_id or entry.id) for entry in foreign]
            reported = await session.scalar(select(func.count()).where(Case.dedupe_key.in_(keys)))
            if not agrees or reported != len(foreign):
                await _open_case(session, difference, CaseKind.REFUNDED_ELSEWHERE)
            if agrees:
                logger.warning("refund_elsewhere.booked", order_id=str(difference.order_id), gateway_id=theirs.id)
        return Standing.BOOKED if agrees else Standing.UNDECIDED

    async def _ours(self) -> dict[str, OurPayment]:
        async with self._database.autocommit() as connection:
            return {str(row.order_id): row for row in await connection.execute(_OURS)}

    async def _transactions(self, at_most: int | None) -> AsyncIterator[GatewayTransaction]:
        read = 0
        async for entry in self._gateway.list_transactions():
            read += 1
            if at_most is not None and read > at_most:
                raise TooManyTransactionsError
            yield entry

    async def _theirs(self, at_most: int | None) -> _GatewayPayments:
        records = _GatewayPayments()
        async for entry in self._transactions(at_most):
            known = records.by_id.get(entry.payment_id)
            if known is None:
                known = records.by_id[entry.payment_id] = _Theirs(entry.payment_id, entry.reference, entry.currency)
            if entry.type == "refund":
                known.refunds.append(entry)
                continue
            known.reference = entry.reference
            if entry.type == "authorization":
                known.reserved += entry.amount
            elif entry.type == "capture":
                known.captured += entry.amount
            else:
                known.voided = True
        return records


async def _went_back(session: AsyncSession, payment: Payment, total: Decimal) -> bool:
    """Return whether what we know to have gone back, and what is under way, accounts for what went back there."""
    by_state = await session.execute(
        select(Refund.state, func.sum(Refund.amount)).where(Refund.payment_id == payment.id).group_by(Refund.state)
    )
    ours: dict[str, Decimal] = {state: amount for state, amount in by_state}  # noqa: C416 - typed rows
    paid = payment.refunded_elsewhere_amount + ours.get(RefundState.SUCCEEDED, Decimal(0))
    under_way = sum((ours.get(state, Decimal(0)) for state in (RefundState.PROCESSING, RefundState.UNKNOWN)), paid)
    return paid <= total <= under_way


async def _open_case(session: AsyncSession, difference: PaymentDifference, kind: CaseKind) -> None:
    facts = {
        "found_by": "reconciliation",
        "difference": str(difference.kind),
        "gateway_id": difference.gateway_payment_id,
        "our_amount": str(difference.our_amount),
        "their_amount": str(difference.their_amount),
    }
    await open_case(
        session,
        kind,
        entity_type=CaseEntity.PAYMENT,
        entity_id=difference.payment_id or UUID(int=0),
        order_id=difference.order_id,
        evidence=facts,
        dedupe_key=_case_key(difference) or money_in.case_key(kind, difference.reference),
    )


def _case_key(difference: PaymentDifference) -> str | None:
    """Return the dedupe key of the case about a difference; None where a case decides nothing."""
    kind = _DECIDED.get(difference.kind)
    if kind is None:
        return None
    if kind is CaseKind.REFUNDED_ELSEWHERE and difference.gateway_payment_id and difference.their_amount is not None:
        return money_in.went_back_key(difference.gateway_payment_id, difference.their_amount)
    return money_in.case_key(kind, difference.gateway_payment_id or difference.reference)


def _is_decided(difference: PaymentDifference, evidence: Mapping[str, Any] | None) -> bool:
    """Return whether a closed case is about this difference, and not about one that has grown since."""
    if evidence is None:
        return False
    is_amount = difference.kind is PaymentDifferenceKind.AMOUNT_DIFFERS
    return not is_amount or is_about(evidence, difference.their_amount)


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
    """Yield how the records differ about one reference."""
    captured = [payment for payment in theirs if payment.captured > 0]
    if ours is None:
        found = [
            _Found(PaymentDifferenceKind.UNKNOWN_REFERENCE, payment, None, payment.captured)
            for payment in captured
            if payment.captured > payment.refunded
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
    # A second payment that has gone back is settled.
    left = [payment for payment in captured if payment.captured > payment.refunded]
    own = next((payment for payment in captured if payment.id == ours.gateway_payment_id), None)
    total = sum((payment.captured for payment in captured), Decimal(0))
    twice = PaymentDifferenceKind.CAPTURED_MORE_THAN_ONCE
    if own is not None:
        others = [_Found(twice, other, ours.captured_amount, total) for other in left if other is not own]
        return others + _of_one(ours, earlier, own)
    if ours.gateway_payment_id is not None and not left:
        return _of_uncaptured(earlier, [])
    if len(left) > 1:
        kind = PaymentDifferenceKind.OTHER_PAYMENT if ours.gateway_payment_id is not None else twice
        return [_Found(kind, other, ours.captured_amount, total) for other in left]
    return _of_one(ours, earlier, (left or captured)[0])


def _of_one(ours: OurPayment, earlier: OurPayment, payment: _Theirs) -> list[_Found]:
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
