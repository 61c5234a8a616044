"""What each mail is told: one typed context a template, of plain values that survive JSON (REQ-006).

Amounts are decimals or their text, days and moments are objects or ISO 8601 text; a day is the shop's, and a moment is
shown in the zone that it is given in. An optional fact is
None, never missing: a template that asks for something it was not given fails at once.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TypedDict

Amount = Decimal | str
Day = date | str
Moment = datetime | str


class MailLine(TypedDict):
    """One position: pieces and their net amount together."""

    name: str
    quantity: int
    amount: Amount


class PickLine(TypedDict):
    """One position for the warehouse: what to look for, and no money."""

    name: str
    sku: str | None
    quantity: int


class InspectedLine(TypedDict):
    """What was found of one returned line."""

    name: str
    accepted: int
    damaged: int
    missing: int
    note: str | None


class MoneyFigure(TypedDict):
    """A sum in one currency over `count` cases."""

    currency: str
    amount: Amount
    count: int


class _ToCustomer(TypedDict):
    """Every customer mail greets by name, if there is one, and names the order."""

    customer_name: str | None
    order_number: str


class _AboutReturn(_ToCustomer):
    """A customer mail about a return names it."""

    return_number: str


class OrderConfirmation(_ToCustomer):
    """`order_confirmation`: the order is paid."""

    order_date: Day
    currency: str
    lines: Sequence[MailLine]
    subtotal: Amount
    shipping: Amount
    tax: Amount
    total: Amount
    payment_method: str | None
    ship_to: Sequence[str]


class OrderShipped(_ToCustomer):
    """`order_shipped`: it is on its way."""

    carrier: str | None
    tracking_number: str | None
    items: Sequence[PickLine]
    ship_to: Sequence[str]


class OrderDelivered(_ToCustomer):
    """`order_delivered`: `return_until` is the last day on which a return can be asked for."""

    delivered_on: Day
    return_until: Day


class OrderCancelled(_ToCustomer):
    """`order_cancelled`: `refund_amount` when money is on its way back."""

    currency: str
    refund_amount: Amount | None


class _WithDocument(_ToCustomer):
    """The PDF is attached; where it was too large for the mail server, `link` leads to it until the end of a day."""

    link: str | None
    link_until: Day | None


class InvoiceIssued(_WithDocument):
    """`invoice`: the order's invoice is issued."""

    invoice_number: str
    issued_on: Day
    currency: str
    total: Amount


class CreditNoteIssued(_WithDocument):
    """`credit_note`: a credit note is issued; `return_number` when it is for a return."""

    credit_note_number: str
    invoice_number: str
    return_number: str | None
    issued_on: Day
    currency: str
    total: Amount


class ReturnReceived(_AboutReturn):
    """`return_received`: the request has come in."""

    items: Sequence[PickLine]


class ReturnArrived(_AboutReturn):
    """`return_arrived`: the goods have, and are being inspected; the refund that was agreed may be none."""

    refund_amount: Amount
    items: Sequence[PickLine]


class ReturnApproved(_AboutReturn):
    """`return_approved`: under which conditions, and how to send it back."""

    currency: str
    items: Sequence[PickLine]
    restocking_fee: Amount
    refund_amount: Amount
    notes: str | None
    return_address: Sequence[str]


class ReturnRejected(_AboutReturn):
    """`return_rejected`: `category` is a RejectionReason value, `notes` the manager's words."""

    category: str
    notes: str | None


class _Inspection(TypedDict):
    """What the inspection found where there is something to say, and what is deducted for it, if anything."""

    inspected: Sequence[InspectedLine]
    deduction_amount: Amount | None
    deduction_reason: str | None


class ReturnCompleted(_AboutReturn, _Inspection):
    """`return_completed`: the goods are inspected, and no money is paid back."""

    currency: str
    items: Sequence[PickLine]
    restocking_fee: Amount


class RefundProcessed(_ToCustomer, _Inspection):
    """`refund_processed`: the money has moved; `return_number` when it is for a return."""

    return_number: str | None
    currency: str
    amount: Amount
    transaction_id: str
    payment_method: str | None
    processed_on: Day


class WarehouseOrderReady(TypedDict):
    """`warehouse_order_ready`: pick and pack this; once more when its address was corrected before it was shipped."""

    address_corrected: bool
    order_number: str
    paid_at: Moment
    items: Sequence[PickLine]
    ship_to: Sequence[str]


class ReturnAwaitingReview(TypedDict):
    """`return_awaiting_review`: a manager's decision is due by `review_by`."""

    order_number: str
    return_number: str
    customer_name: str | None
    reason: str
    customer_notes: str | None
    currency: str
    order_total: Amount
    items: Sequence[PickLine]
    requested_at: Moment
    review_by: Moment


class ReturnReviewOverdue(TypedDict):
    """`return_review_overdue`: the review SLA has passed; at `expires_at` SYSTEM rejects the request."""

    order_number: str
    return_number: str
    customer_name: str | None
    reason: str
    requested_at: Moment
    hours_waiting: int
    expires_at: Moment


class GoodsReceived(TypedDict):
    """`goods_received`: returned pieces to inspect and restock."""

    order_number: str
    return_number: str
    received_at: Moment
    items: Sequence[PickLine]


class JobFailed(TypedDict):
    """`job_failed`: a job waits in the dead-letter list as `dead_letter_id`.

    `was_retried`: it has used its last retry; otherwise its error is one that another try does not mend, and it was not
    tried again.
    """

    dead_letter_id: str
    order_number: str | None
    kind: str
    entity_type: str
    entity_id: str
    attempts: int
    was_retried: bool
    failed_at: Moment
    error: str


class GatewayEventAlert(TypedDict):
    """`gateway_event`: the gateway reports what changes a payment or refund, and the system acts on it by itself.

    `order_number` is None where no order of ours is meant, the amounts where one side knows of none.
    """

    event_id: str
    event_type: str
    outcome: str
    order_number: str | None
    reference: str
    gateway_id: str
    reported: Amount | None
    reported_currency: str
    expected: Amount | None
    expected_currency: str
    received_at: Moment


class Evidence(TypedDict):
    """One fact of a case."""

    name: str
    value: str


class WayOut(TypedDict):
    """One legal way to end a case."""

    action: str
    how: str


class CaseOpened(TypedDict):
    """`case`: a person must decide something. `order_number` is None where no order is known."""

    case_id: str
    kind: str
    says: str
    order_number: str | None
    entity_type: str
    entity_id: str
    evidence: Sequence[Evidence]
    ways_out: Sequence[WayOut]
    opened_at: Moment


class DailySummary(TypedDict):
    """`daily_summary`: the figures of one day, and how things stand at its end."""

    day: Day
    orders_created: int
    orders_by_state: Mapping[str, int]
    returns_by_state: Mapping[str, int]
    revenue: Sequence[MoneyFigure]
    refunds: Sequence[MoneyFigure]
    dead_jobs: int
