"""Our refunds beside the gateway's records: how they can differ, and the comparison of one."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from app.core.enums import RefundState
from app.services.payments.gateway.port import GatewayTransaction, PaymentGateway

SAMPLE_REFUND_PREFIX = "sample_"
"""How the gateway's id of a refund begins that is sample data: no gateway was asked for it."""


class DifferenceKind(StrEnum):
    """How the gateway's records and ours can differ about a refund."""

    PAID_BUT_NOT_RECORDED = "PAID_BUT_NOT_RECORDED"
    RECORDED_BUT_NOT_PAID = "RECORDED_BUT_NOT_PAID"
    PAID_MORE_THAN_ONCE = "PAID_MORE_THAN_ONCE"
    AMOUNT_DIFFERS = "AMOUNT_DIFFERS"
    UNKNOWN_REFERENCE = "UNKNOWN_REFERENCE"


@dataclass(frozen=True, slots=True)
class Difference:
    """One refund on which the records differ; the order is None where the gateway's payment is none of ours."""

    kind: DifferenceKind
    reference: str
    our_amount: Decimal | None
    their_amount: Decimal | None
    gateway_refund_id: str | None
    order_id: UUID | None = None
    order_number: str | None = None
    gateway_payment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison found; empty `differences` means that the records agree.

    Attributes:
        ours: how many refunds were compared; `samples`: how many were not, as sample data.
        decided: how many more differences there are that are booked as refunded elsewhere, or that a person has
            decided by closing their case.
    """

    ours: int
    theirs: int
    differences: list[Difference]
    repaired: int
    samples: int = 0
    decided: int = 0


@dataclass(slots=True)
class GatewayRefunds:
    """The gateway's refunds by our reference, more than one where it paid more than once, and sums by its payment."""

    by_reference: dict[str, list[GatewayTransaction]] = field(default_factory=dict)
    captured: dict[str, Decimal] = field(default_factory=dict)
    refunded: dict[str, Decimal] = field(default_factory=dict)

    def foreign(self, ours: Iterable[str]) -> dict[str, Decimal]:
        """Return, by the gateway's payment, what went back under references that are none of ours."""
        known = set(ours)
        found: dict[str, Decimal] = {}
        for reference, entries in self.by_reference.items():
            for entry in entries if reference not in known else []:
                found[entry.payment_id] = found.get(entry.payment_id, Decimal(0)) + entry.amount
        return found


def is_sample(ours: Row[*tuple[Any, ...]]) -> bool:
    """Return whether a refund of ours is sample data."""
    return str(ours.gateway_refund_id or "").startswith(SAMPLE_REFUND_PREFIX)


async def refunds_at(gateway: PaymentGateway) -> GatewayRefunds:
    """Return the gateway's refunds."""
    records = GatewayRefunds()
    async for entry in gateway.list_transactions():
        if entry.type == "refund":
            records.by_reference.setdefault(entry.reference, []).append(entry)
            records.refunded[entry.payment_id] = records.refunded.get(entry.payment_id, Decimal(0)) + entry.amount
        elif entry.type == "capture":
            records.captured[entry.payment_id] = records.captured.get(entry.payment_id, Decimal(0)) + entry.amount
    return records


def compare(
    reference: str,
    ours: Row[*tuple[Any, ...]] | None,
    theirs: list[GatewayTransaction],
    earlier: Row[*tuple[Any, ...]] | None,
) -> Difference | None:
    """Return how the records differ about one refund, or None.

    Args:
        ours: our row after the gateway's list was read; `earlier`: before, for refunds go on meanwhile.
    """
    their_amount = sum((entry.amount for entry in theirs), Decimal(0)) if theirs else None
    if ours is None:
        kind = DifferenceKind.UNKNOWN_REFERENCE
    elif len(theirs) > 1:
        kind = DifferenceKind.PAID_MORE_THAN_ONCE
    elif theirs and (their_amount, theirs[0].currency) != (ours.amount, ours.currency):
        kind = DifferenceKind.AMOUNT_DIFFERS
    elif theirs and ours.state != RefundState.SUCCEEDED:
        kind = DifferenceKind.PAID_BUT_NOT_RECORDED
    elif not theirs and earlier is not None and earlier.state == RefundState.SUCCEEDED:
        kind = DifferenceKind.RECORDED_BUT_NOT_PAID
    else:
        return None
    our_amount = ours.amount if ours is not None else None
    return Difference(
        kind=kind,
        reference=reference,
        our_amount=our_amount,
        their_amount=their_amount,
        gateway_refund_id=theirs[0].refund_id if theirs else None,
        order_id=ours.order_id if ours is not None else None,
        order_number=ours.order_number if ours is not None else None,
        gateway_payment_id=theirs[0].payment_id if theirs else ours.gateway_payment_id if ours is not None else None,
    )
