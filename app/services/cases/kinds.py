"""What each kind of case means, and the ways out that are legal: the one table for API, mail, chat and command line."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.enums import CaseKind


@dataclass(frozen=True, slots=True)
class WayOut:
    """One legal way to end a case.

    Attributes:
        action: a stable code.
        how: what a person does, in one sentence.
    """

    action: str
    how: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a kind of case says, in one sentence, and its ways out; never none."""

    says: str
    ways_out: tuple[WayOut, ...]


_REFUND_THERE = WayOut(
    "REFUND_AT_GATEWAY", "Refund the amount in the gateway's own console, then close with its transaction id."
)
_LEAVE = WayOut("LEAVE_AS_IS", "Close with the reason why nothing has to be done.")
_TELL_CUSTOMER = WayOut("PAY_OUTSIDE", "Pay the customer another way, then close with the reference of that payment.")

MEANINGS: Mapping[CaseKind, Meaning] = {
    CaseKind.AMOUNT_MISMATCH: Meaning(
        "The gateway moved another amount or currency than was agreed. Nothing was recorded here.",
        (
            WayOut("ACCEPT", "Take the amount that came in as the full payment: the unpaid order becomes PAID."),
            WayOut("REFUND", "Give back what came in: the unpaid order is cancelled, and the refund starts at once."),
            _REFUND_THERE,
            _LEAVE,
        ),
    ),
    CaseKind.SECOND_PAYMENT: Meaning(
        "A second payment has arrived for an order. Only the first one counts here.", (_REFUND_THERE, _LEAVE)
    ),
    CaseKind.SECOND_REFUND: Meaning(
        "The gateway reports a refund other than the one recorded: money may have gone back twice.",
        (
            WayOut(
                "RECLAIM", "Agree with the customer on how the second amount comes back, then close with the terms."
            ),
            _LEAVE,
        ),
    ),
    CaseKind.REFUND_REVERSED: Meaning(
        "A refund that counted as paid has come back. The customer does not have the money.",
        (_TELL_CUSTOMER, _LEAVE),
    ),
    CaseKind.REFUNDED_ELSEWHERE: Meaning(
        "The gateway has refunded all or part of a payment, and no refund here says so.",
        (
            WayOut("CANCEL_ORDER", "Cancel the order if the customer no longer wants it, then close."),
            WayOut("COLLECT_AGAIN", "Ask the customer to pay again in a new order, then close with its number."),
            _LEAVE,
        ),
    ),
    CaseKind.UNKNOWN_REFERENCE: Meaning(
        "The gateway reports money under a reference that no order or refund here has.",
        (
            _REFUND_THERE,
            WayOut("FIND_ORDER", "Find the order that is meant, mark it PAID, then close with its number."),
        ),
    ),
    CaseKind.UNREADABLE_EVENT: Meaning(
        "The gateway sent a signed event about money that cannot be read. It is kept, and nothing was done about it.",
        (
            WayOut("COMPARE", "Run `articurated payments reconcile` and `articurated refunds reconcile`, then close."),
            _LEAVE,
        ),
    ),
    CaseKind.PAYMENT_NOT_CAPTURED: Meaning(
        "An order counts as paid here, and the gateway does not hold its money.",
        (
            WayOut("COLLECT_AGAIN", "Ask the customer to pay again in a new order, then close with its number."),
            WayOut("CANCEL_ORDER", "Cancel the order while it has not left, then close."),
            _LEAVE,
        ),
    ),
    CaseKind.DISPUTE: Meaning(
        "The customer disputes a payment at their bank. Refunds of the order are held.",
        (
            WayOut("RELEASE", "Let the refunds of the order go on."),
            WayOut(
                "KEEP",
                "Keep the refunds held, because the bank takes the money back. Closed so, the case may be closed once"
                " more with RELEASE.",
            ),
        ),
    ),
    CaseKind.UNDELIVERABLE_MESSAGE: Meaning(
        "A message was not delivered. The error in its evidence says why: it was refused for good, or a limit was reached.",
        (
            WayOut(
                "RESEND", "`articurated notifications resend ID`, with a corrected address where needed; then close."
            ),
            WayOut("REACH_OTHERWISE", "Reach the customer another way, then close with how."),
            _LEAVE,
        ),
    ),
    CaseKind.TAMPERED_RECORD: Meaning(
        "A record was changed outside the application, so the audit trail of its entity no longer holds.",
        (
            WayOut("RESTORE", "Restore the record from a backup, check with `articurated audit verify`, then close."),
            WayOut("EXPLAIN", "Close with who changed it, when, and why it is left so."),
        ),
    ),
    CaseKind.UNPRINTABLE_DOCUMENT: Meaning(
        "A document cannot be issued: no font that is installed can show one of its texts.",
        (
            WayOut("ADD_FONT", "Install a font that covers the text, `articurated jobs retry ID`, then close."),
            WayOut(
                "CORRECT_TEXT",
                "Correct the text where that may be done (the shop's own, in its settings), `articurated jobs retry ID`,"
                " then close.",
            ),
        ),
    ),
}
"""Every kind of case."""
