"""A plausible context for each mail, for tests and previews."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from app.utils import mail_contexts as contexts

_GREETED: Final = "Éléonore Marchetti"
_ORDER: Final = "ORD-2026-000318"
_INVOICE: Final = "INV-2026-000142"
_RETURN: Final = "RET-2026-000042"
_ADDRESS: Final = (_GREETED, "14 Via dei Coronari", "Interno 3", "00186 Roma", "Italy")
_WAREHOUSE: Final = ("ArtiCurated Returns", "8 Quai de la Loire", "75019 Paris", "France")
_REASON: Final = "The glaze is a different colour from the photograph."
_LINES: Final[tuple[contexts.MailLine, ...]] = (
    {"name": "Hand-thrown stoneware vase, ash glaze", "quantity": 1, "amount": Decimal("148.50")},
    {"name": "Linen table runner, natural indigo", "quantity": 2, "amount": Decimal("371.50")},
    {"name": "Walnut serving board with bronze inlay", "quantity": 1, "amount": Decimal("223.00")},
)
_ITEMS: Final[tuple[contexts.PickLine, ...]] = (
    {"name": "Hand-thrown stoneware vase, ash glaze", "sku": "ART-1000", "quantity": 1},
    {"name": "Linen table runner, natural indigo", "sku": "ART-1007", "quantity": 2},
    {"name": "Walnut serving board with bronze inlay", "sku": None, "quantity": 1},
)
_INSPECTED: Final[tuple[contexts.InspectedLine, ...]] = (
    {
        "name": "Hand-thrown stoneware vase, ash glaze",
        "accepted": 0,
        "damaged": 1,
        "missing": 0,
        "note": "Chipped at the rim. It was well packed.",
    },
)

_CONFIRMATION: Final[contexts.OrderConfirmation] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "order_date": "2026-11-19",
    "currency": "EUR",
    "lines": _LINES,
    "subtotal": Decimal("743.00"),
    "shipping": Decimal("18.00"),
    "tax": Decimal("148.60"),
    "total": Decimal("909.60"),
    "payment_method": "credit_card",
    "ship_to": _ADDRESS,
}
_SHIPPED: Final[contexts.OrderShipped] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "carrier": "DHL Express",
    "tracking_number": "JD014600006281230704",
    "items": _ITEMS,
    "ship_to": _ADDRESS,
}
_DELIVERED: Final[contexts.OrderDelivered] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "delivered_on": "2026-11-24",
    "return_until": "2026-12-24",
}
_CANCELLED: Final[contexts.OrderCancelled] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "currency": "EUR",
    "refund_amount": Decimal("909.60"),
}
_INVOICED: Final[contexts.InvoiceIssued] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "invoice_number": _INVOICE,
    "issued_on": "2026-11-22",
    "currency": "EUR",
    "total": Decimal("909.60"),
    "link": None,
    "link_until": None,
}
_CREDITED: Final[contexts.CreditNoteIssued] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "credit_note_number": "CN-2026-000017",
    "invoice_number": _INVOICE,
    "issued_on": "2026-12-03",
    "currency": "EUR",
    "total": Decimal("153.20"),
    "link": None,
    "link_until": None,
}
_RECEIVED: Final[contexts.ReturnReceived] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "items": _ITEMS[:1],
}
_ARRIVED: Final[contexts.ReturnArrived] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "refund_amount": Decimal("153.20"),
    "items": _ITEMS[:1],
}
_APPROVED: Final[contexts.ReturnApproved] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "currency": "EUR",
    "items": _ITEMS[:1],
    "restocking_fee": Decimal("25.00"),
    "refund_amount": Decimal("153.20"),
    "notes": "Please use the original box: the vase travels best in it.",
    "return_address": _WAREHOUSE,
}
_REJECTED: Final[contexts.ReturnRejected] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "category": "DAMAGE_NOT_COVERED",
    "notes": "The photographs show wear from the dishwasher.\nThe care card asks for washing by hand.",
}
_COMPLETED: Final[contexts.ReturnCompleted] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "currency": "EUR",
    "items": _ITEMS[:1],
    "restocking_fee": Decimal("25.00"),
    "inspected": _INSPECTED,
    "deduction_amount": Decimal("153.20"),
    "deduction_reason": "The vase came back in pieces.",
}
_REFUNDED: Final[contexts.RefundProcessed] = {
    "customer_name": _GREETED,
    "order_number": _ORDER,
    "return_number": _RETURN,
    "inspected": _INSPECTED,
    "deduction_amount": Decimal("20.00"),
    "deduction_reason": "The vase came back with a chipped rim.",
    "currency": "EUR",
    "amount": Decimal("153.20"),
    "transaction_id": "re_7d41c09be2",
    "payment_method": "credit_card",
    "processed_on": "2026-12-03",
}
_READY: Final[contexts.WarehouseOrderReady] = {
    "address_corrected": False,
    "order_number": _ORDER,
    "paid_at": "2026-11-19T14:05:11Z",
    "items": _ITEMS,
    "ship_to": _ADDRESS,
}
_AWAITING: Final[contexts.ReturnAwaitingReview] = {
    "order_number": _ORDER,
    "return_number": _RETURN,
    "customer_name": _GREETED,
    "reason": _REASON,
    "customer_notes": "I can send more photographs if they help.",
    "currency": "EUR",
    "order_total": Decimal("909.60"),
    "items": _ITEMS[:1],
    "requested_at": "2026-11-26T09:12:00Z",
    "review_by": "2026-11-27T09:12:00Z",
}
_OVERDUE: Final[contexts.ReturnReviewOverdue] = {
    "order_number": _ORDER,
    "return_number": _RETURN,
    "customer_name": _GREETED,
    "reason": _REASON,
    "requested_at": "2026-11-26T09:12:00Z",
    "hours_waiting": 25,
    "expires_at": "2026-12-03T09:12:00Z",
}
_GOODS: Final[contexts.GoodsReceived] = {
    "order_number": _ORDER,
    "return_number": _RETURN,
    "received_at": "2026-12-02T10:40:00Z",
    "items": _ITEMS[:1],
}
_FAILED: Final[contexts.JobFailed] = {
    "order_number": _ORDER,
    "dead_letter_id": "01937c55-01d2-7b1f-8a63-3c9a7720e54d",
    "kind": "refund.process",
    "entity_type": "REFUND",
    "entity_id": "01937c54-9a10-7e02-b1c4-d85e1f6a0b92",
    "attempts": 6,
    "was_retried": True,
    "failed_at": "2026-12-03T11:48:20Z",
    "error": "GatewayUnavailable: 503 from the payment gateway\nlast answer: service in maintenance",
}
_GATEWAY: Final[contexts.GatewayEventAlert] = {
    "event_id": "evt_01j8f2c7m4",
    "event_type": "payment.captured",
    "outcome": "PAID_AFTER_CANCEL",
    "order_number": _ORDER,
    "reference": "01937c54-2f6a-7c81-9d10-6b7e40c2a915",
    "gateway_id": "pay_5e90d17ab3",
    "reported": Decimal("909.60"),
    "reported_currency": "EUR",
    "expected": Decimal("909.60"),
    "expected_currency": "EUR",
    "received_at": "2026-11-19T14:05:11Z",
}
_CASE: Final[contexts.CaseOpened] = {
    "case_id": "01937c55-7c20-7a4e-9e11-52d0b94c1f3a",
    "kind": "AMOUNT_MISMATCH",
    "says": "The gateway moved another amount or currency than was agreed. Nothing was recorded here.",
    "order_number": _ORDER,
    "entity_type": "ORDER",
    "entity_id": "01937c54-2f6a-7c81-9d10-6b7e40c2a915",
    "evidence": (
        {"name": "Event id", "value": "evt_01j8f2c7m4"},
        {"name": "Expected", "value": "909.60 EUR"},
        {"name": "Gateway id", "value": "pay_5e90d17ab3"},
        {"name": "Reported", "value": "90.96 EUR"},
    ),
    "ways_out": (
        {"action": "ACCEPT", "how": "Take the amount that came in as the full payment: the unpaid order becomes PAID."},
        {
            "action": "REFUND",
            "how": "Give back what came in: the unpaid order is cancelled, and the refund starts at once.",
        },
        {"action": "LEAVE_AS_IS", "how": "Close with the reason why nothing has to be done."},
    ),
    "opened_at": "2026-11-19T14:05:11Z",
}
_SUMMARY: Final[contexts.DailySummary] = {
    "day": "2026-11-22",
    "orders_created": 41,
    "orders_by_state": {
        "PENDING_PAYMENT": 6,
        "PAID": 12,
        "PROCESSING_IN_WAREHOUSE": 9,
        "SHIPPED": 18,
        "DELIVERED": 1204,
        "CANCELLED": 37,
    },
    "returns_by_state": {"REQUESTED": 3, "APPROVED": 2, "IN_TRANSIT": 4, "RECEIVED": 1},
    "revenue": (
        {"currency": "EUR", "amount": Decimal("12480.50"), "count": 31},
        {"currency": "USD", "amount": Decimal("3190.00"), "count": 8},
    ),
    "refunds": ({"currency": "EUR", "amount": Decimal("423.20"), "count": 2},),
    "dead_jobs": 1,
}

SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "order_confirmation": _CONFIRMATION,
    "order_shipped": _SHIPPED,
    "order_delivered": _DELIVERED,
    "order_cancelled": _CANCELLED,
    "invoice": _INVOICED,
    "credit_note": _CREDITED,
    "return_received": _RECEIVED,
    "return_arrived": _ARRIVED,
    "return_completed": _COMPLETED,
    "return_approved": _APPROVED,
    "return_rejected": _REJECTED,
    "refund_processed": _REFUNDED,
    "warehouse_order_ready": _READY,
    "return_awaiting_review": _AWAITING,
    "return_review_overdue": _OVERDUE,
    "goods_received": _GOODS,
    "job_failed": _FAILED,
    "gateway_event": _GATEWAY,
    "case": _CASE,
    "daily_summary": _SUMMARY,
}
"""A context for each key of `mail_templates.TEMPLATES`."""
