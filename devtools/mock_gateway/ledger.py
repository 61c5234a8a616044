"""The movements: authorise, capture, void, refund. Each runs inside one transaction of the store.

A refusal writes nothing; a decline writes the failed payment or refund and its event, as card networks
do, and answers 402. Money is moved in minor units, and the schema's checks refuse what these rules would
let slip.

Tokens with a meaning of their own (every other token is accepted):
    tok_declined            declined, `card_declined`
    tok_insufficient_funds  declined, `insufficient_funds`
    tok_expired_card        declined, `expired_card`
    tok_processing_error    declined, `processing_error`
    tok_refund_fails        captured; each refund of it fails later with `refund_declined`
A payment without a token was received elsewhere (bank transfer, cash) and is reported, so that it can be
refunded and reconciled: it is captured at once, `source` is `reported`.
"""

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from devtools.mock_gateway.clock import Clock, new_id, rfc3339
from devtools.mock_gateway.errors import error_body, invalid
from devtools.mock_gateway.events import DeliveryPlan, Outbox
from devtools.mock_gateway.money import to_minor, to_text
from devtools.mock_gateway.store import Store
from devtools.mock_gateway.wire import payment_wire, refund_wire

Movement = Literal["authorization", "capture", "void", "refund"]

_DECLINED_TOKENS = {
    "tok_declined": "card_declined",
    "tok_insufficient_funds": "insufficient_funds",
    "tok_expired_card": "expired_card",
    "tok_processing_error": "processing_error",
}
_REFUND_FAILS = "tok_refund_fails"
_CARD_NUMBER = re.compile(r"(?:[0-9][ -]?){12,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and the object to answer with."""

    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentOrder:
    """A payment to make; `amount` is a decimal string, `reference` the caller's own id for it."""

    reference: str
    amount: str
    currency: str
    token: str | None
    method: str | None
    capture: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """A refund to make of the gateway's `payment`; `reference` is the caller's own id for it."""

    payment: str
    reference: str
    amount: str
    currency: str
    reason: str | None


class Ledger:
    """The ledger. Each method is called inside `Store.transaction`.

    `plan` says how the events of the movement are delivered; `decline` is the code with which an
    ordered fault declines it.
    """

    def __init__(self, store: Store, outbox: Outbox, clock: Clock) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock

    def authorize(self, order: PaymentOrder, plan: DeliveryPlan, decline: str | None) -> Answer:
        """Authorise a payment, and capture it when asked to or when it is reported.

        Raises:
            RefusalError: 400 for a bad amount or a card number; 409 `reference_exists` with the existing id.
        """
        minor = to_minor(order.amount, order.currency)
        if order.token is not None and _CARD_NUMBER.fullmatch(order.token):
            raise invalid("token_invalid", "A card number is not a token; card data is never accepted here.")
        existing = self._store.row(
            "SELECT id FROM payments WHERE reference = ? AND status <> 'failed'", order.reference
        )
        if existing is not None:
            raise invalid(
                "reference_exists",
                f"Payment {existing['id']} already has this reference.",
                status=409,
                payment=existing["id"],
            )
        refused = decline or _DECLINED_TOKENS.get(order.token or "")
        payment = self._insert_payment(order, minor, refused)
        if refused is not None:
            return self._declined(payment, refused, plan)
        if order.token is not None:
            self._move("authorization", payment, minor)
            self._outbox.add("payment.authorized", self.payment_object(payment["id"]), plan)
        if order.capture or order.token is None:
            self._capture(payment, minor, plan)
        return Answer(200, self.payment_object(payment["id"]))

    def capture(self, payment_id: str, amount: str | None, plan: DeliveryPlan, decline: str | None) -> Answer:
        """Capture an authorised payment once, in full or in part; the rest is released.

        Raises:
            RefusalError: 404 unknown payment, 409 when it is not authorised, 400 for a bad amount.
        """
        payment = self._payment(payment_id)
        minor = payment["amount"] if amount is None else to_minor(amount, payment["currency"])
        _require_authorized(payment)
        if minor > payment["amount"]:
            raise invalid("amount_too_large", "More than was authorised cannot be captured.")
        if decline is not None:
            self._store.write(
                "UPDATE payments SET status = 'failed', failure_code = ? WHERE id = ?", decline, payment_id
            )
            return self._declined(payment, decline, plan)
        self._capture(payment, minor, plan)
        return Answer(200, self.payment_object(payment_id))

    def void(self, payment_id: str, plan: DeliveryPlan) -> Answer:
        """Release an authorised payment that was not captured.

        Raises:
            RefusalError: 404 unknown payment, 409 when it is not authorised.
        """
        payment = self._payment(payment_id)
        _require_authorized(payment)
        self._store.write("UPDATE payments SET status = 'voided' WHERE id = ?", payment_id)
        self._move("void", payment, payment["amount"])
        self._outbox.add("payment.voided", self.payment_object(payment_id), plan)
        return Answer(200, self.payment_object(payment_id))

    def refund(self, order: RefundOrder, plan: DeliveryPlan, decline: str | None) -> Answer:
        """Pay money back, never more than was captured less what was refunded.

        The reference of a refund is not unique: a gateway pays as often as it is asked, and only the
        idempotency key and the caller's own care prevent a second one.

        Raises:
            RefusalError: 404 unknown payment, 400 bad amount or currency, 409 `payment_not_captured` or
                `amount_exceeds_refundable`.
        """
        payment = self._payment(order.payment)
        minor = to_minor(order.amount, order.currency)
        if order.currency != payment["currency"]:
            raise invalid("currency_mismatch", f"The payment was made in {payment['currency']}.")
        if payment["status"] != "captured":
            raise invalid("payment_not_captured", f"The payment is {payment['status']}.", status=409)
        left = payment["captured"] - payment["refunded"]
        if minor > left:
            left_text = to_text(left, payment["currency"])
            raise invalid("amount_exceeds_refundable", f"Only {left_text} is left.", status=409, refundable=left_text)
        refused = decline or ("refund_declined" if payment["refuses_refunds"] else None)
        refund_id = self._insert_refund(order, minor, refused)
        if refused is None:
            self._store.write("UPDATE payments SET refunded = refunded + ? WHERE id = ?", minor, payment["id"])
            self._move("refund", payment, minor, refund_id=refund_id, reference=order.reference)
        refund = self.refund_object(refund_id)
        self._outbox.add("refund.succeeded" if refused is None else "refund.failed", refund, plan)
        if refused is not None:
            body = error_body("card_error", refused, "The refund was declined.", refund=refund_id)
            return Answer(402, body)
        return Answer(200, refund)

    def payment_object(self, payment_id: str) -> dict[str, Any]:
        """Return a payment as it goes over the wire.

        Raises:
            RefusalError: 404 when there is none.
        """
        return payment_wire(self._payment(payment_id))

    def refund_object(self, refund_id: str) -> dict[str, Any]:
        """Return a refund as it goes over the wire.

        Raises:
            RefusalError: 404 when there is none.
        """
        row = self._store.row("SELECT * FROM refunds WHERE id = ?", refund_id)
        if row is None:
            raise invalid("resource_missing", f"No refund {refund_id}.", status=404)
        return refund_wire(row)

    def _payment(self, payment_id: str) -> sqlite3.Row:
        row = self._store.row("SELECT * FROM payments WHERE id = ?", payment_id)
        if row is None:
            raise invalid("resource_missing", f"No payment {payment_id}.", status=404)
        return row

    def _insert_payment(self, order: PaymentOrder, minor: int, refused: str | None) -> sqlite3.Row:
        payment_id = new_id("pay")
        self._store.write(
            "INSERT INTO payments (id, reference, currency, amount, status, source, method,"
            " refuses_refunds, failure_code, metadata, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            payment_id,
            order.reference,
            order.currency,
            minor,
            "authorized" if refused is None else "failed",
            "reported" if order.token is None else "token",
            order.method,
            order.token == _REFUND_FAILS,
            refused,
            json.dumps(dict(order.metadata)),
            rfc3339(self._clock()),
        )
        return self._payment(payment_id)

    def _insert_refund(self, order: RefundOrder, minor: int, refused: str | None) -> str:
        refund_id = new_id("re")
        self._store.write(
            "INSERT INTO refunds (id, payment, reference, currency, amount, status, reason, failure_code,"
            " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            refund_id,
            order.payment,
            order.reference,
            order.currency,
            minor,
            "succeeded" if refused is None else "failed",
            order.reason,
            refused,
            rfc3339(self._clock()),
        )
        return refund_id

    def _declined(self, payment: sqlite3.Row, code: str, plan: DeliveryPlan) -> Answer:
        self._outbox.add("payment.failed", self.payment_object(payment["id"]), plan)
        body = error_body("card_error", code, "The payment was declined.", payment=payment["id"])
        return Answer(402, body)

    def _capture(self, payment: sqlite3.Row, minor: int, plan: DeliveryPlan) -> None:
        self._store.write("UPDATE payments SET status = 'captured', captured = ? WHERE id = ?", minor, payment["id"])
        self._move("capture", payment, minor)
        self._outbox.add("payment.captured", self.payment_object(payment["id"]), plan)

    def _move(
        self,
        movement: Movement,
        payment: sqlite3.Row,
        minor: int,
        *,
        refund_id: str | None = None,
        reference: str | None = None,
    ) -> None:
        self._store.write(
            "INSERT INTO transactions (id, type, payment, refund, reference, currency, amount, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            new_id("txn"),
            movement,
            payment["id"],
            refund_id,
            reference or payment["reference"],
            payment["currency"],
            minor,
            rfc3339(self._clock()),
        )


def _require_authorized(payment: sqlite3.Row) -> None:
    if payment["status"] != "authorized":
        raise invalid("payment_not_authorized", f"The payment is {payment['status']}.", status=409)
