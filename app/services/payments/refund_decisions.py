"""Which differences about refunds are settled: booked as refunded elsewhere, gone back whole, or decided by a person."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, select

from app.core.enums import CaseKind
from app.database import Database
from app.models.payment import Payment
from app.services.payments import money_in
from app.services.payments.gateway.port import GatewayTransaction
from app.services.payments.reconciled_decisions import decided, is_about
from app.services.payments.refund_reconciliation import Difference, DifferenceKind, GatewayRefunds


async def undecided(
    database: Database,
    differences: Sequence[Difference],
    records: GatewayRefunds,
    ours: Mapping[str, Row[*tuple[Any, ...]]],
) -> list[Difference]:
    """Return the differences that are not settled.

    Args:
        ours: our refunds, by their id as text.
    """
    if not differences:
        return []
    foreign = records.foreign(ours)
    elsewhere = await _refunded_elsewhere(database, [each.gateway_payment_id for each in differences])
    asked = {each.reference: _questions(each, records, ours.get(each.reference)) for each in differences}
    keys = [key for by_entry, together in asked.values() for key in (*by_entry, *together)]
    closed = await decided(database, keys)

    def is_settled(difference: Difference) -> bool:
        payment_id = difference.gateway_payment_id or ""
        if difference.kind is DifferenceKind.UNKNOWN_REFERENCE:
            booked = elsewhere.get(payment_id)
            if booked is not None and foreign.get(payment_id, Decimal(0)) <= booked:
                return True
            captured = records.captured.get(payment_id, Decimal(0))
            if booked is None and 0 < captured <= records.refunded.get(payment_id, Decimal(0)):
                return True  # A second payment, or one for something else, of which nothing is left there.
        by_entry, together = asked[difference.reference]
        if difference.kind is DifferenceKind.AMOUNT_DIFFERS:
            by_entry = [key for key in by_entry if is_about(closed.get(key, {}), difference.their_amount)]
        return any(key in closed for key in together) or (bool(by_entry) and all(key in closed for key in by_entry))

    return [each for each in differences if not is_settled(each)]


def _questions(
    difference: Difference, records: GatewayRefunds, ours: Row[*tuple[Any, ...]] | None
) -> tuple[list[str], list[str]]:
    """Return the dedupe keys of the cases that decide a difference: all of the first list, or one of the second."""
    payment_id = difference.gateway_payment_id
    entries = records.by_reference.get(difference.reference, [])
    together = []
    if payment_id is not None and entries:
        together = [money_in.went_back_key(payment_id, records.refunded[payment_id])]
    match difference.kind:
        case DifferenceKind.UNKNOWN_REFERENCE:
            kinds = (CaseKind.SECOND_PAYMENT, CaseKind.UNKNOWN_REFERENCE)
            together += [money_in.case_key(kind, payment_id) for kind in kinds if payment_id is not None]
            return _keys(CaseKind.UNKNOWN_REFERENCE, entries), together
        case DifferenceKind.PAID_MORE_THAN_ONCE:
            known = ours.gateway_refund_id if ours is not None else None
            return _keys(CaseKind.SECOND_REFUND, [each for each in entries if each.refund_id != known]), together
        case DifferenceKind.AMOUNT_DIFFERS:
            return _keys(CaseKind.AMOUNT_MISMATCH, entries), together
        case DifferenceKind.RECORDED_BUT_NOT_PAID if ours is not None and ours.gateway_refund_id:
            return [money_in.case_key(CaseKind.REFUND_REVERSED, ours.gateway_refund_id)], []
    return [], []


def _keys(kind: CaseKind, entries: Sequence[GatewayTransaction]) -> list[str]:
    return [money_in.case_key(kind, entry.refund_id or entry.id) for entry in entries]


async def _refunded_elsewhere(database: Database, payment_ids: Sequence[str | None]) -> dict[str, Decimal]:
    """Return what is booked as refunded elsewhere, by the gateway's ids of payments that are ours."""
    wanted = {payment_id for payment_id in payment_ids if payment_id is not None}
    statement = select(Payment.gateway_payment_id, Payment.refunded_elsewhere_amount).where(
        Payment.gateway_payment_id.in_(wanted)
    )
    async with database.autocommit() as connection:
        return {
            str(row.gateway_payment_id): row.refunded_elsewhere_amount for row in await connection.execute(statement)
        }
