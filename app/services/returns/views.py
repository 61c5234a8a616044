"""Returns as the services return them, with exact amounts: the API writes them as JSON numbers."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, cast
from uuid import UUID

from app.core.actor import Actor
from app.services.documents.links import LinkView


class ReturnItemView(TypedDict):
    """A returned line and what it is worth, with tax."""

    line_item_id: str
    quantity: int
    amount: Decimal


class InspectionItemView(TypedDict):
    """What was found of one line of a return."""

    line_item_id: str
    accepted: int
    damaged: int
    missing: int
    note: str | None


class ReturnView(TypedDict):
    """A return; for customers, the identity of others is None."""

    id: UUID
    return_number: str
    order_id: UUID
    customer_id: UUID
    status: str
    version: int
    reason: str
    customer_notes: str | None
    manager_notes: str | None
    rejection_reason: str | None
    items: list[ReturnItemView]
    items_amount: Decimal
    restocking_fee: Decimal
    refund_amount: Decimal
    inspection: list[InspectionItemView] | None
    deduction_amount: Decimal
    deduction_reason: str | None
    currency: str
    refund_transaction_id: str | None
    requested_by: UUID | None
    reviewed_by: UUID | None
    carrier: str | None
    tracking_number: str | None
    created_at: datetime
    updated_at: datetime
    approved_at: datetime | None
    rejected_at: datetime | None
    in_transit_at: datetime | None
    received_at: datetime | None
    completed_at: datetime | None


class AttachmentView(LinkView):
    """The record of an attachment, with a link to its bytes; for customers, the identity of the staff is None."""

    id: UUID
    return_id: UUID
    file_name: str
    media_type: str
    size: int
    sha256: str
    description: str | None
    uploaded_by: UUID | None
    uploaded_by_role: str
    created_at: datetime


def return_view(row: Mapping[Any, Any], actor: Actor) -> ReturnView:
    """Return a return row as `actor` sees it; for customers, the identity of others is omitted."""
    requested_by, reviewed_by = row["requested_by"], row["reviewed_by"]
    if actor.sees_only is not None:
        requested_by, reviewed_by = (requested_by if requested_by == actor.id else None), None
    return {
        "id": row["id"],
        "return_number": row["return_number"],
        "order_id": row["order_id"],
        "customer_id": row["customer_id"],
        "status": row["status"],
        "version": row["version"],
        "reason": row["reason"],
        "customer_notes": row["customer_notes"],
        "manager_notes": row["manager_notes"],
        "rejection_reason": row["rejection_reason"],
        "items": [_item(item) for item in row["items"]],
        "items_amount": row["items_amount"],
        "restocking_fee": row["restocking_fee"],
        "refund_amount": row["refund_amount"],
        "inspection": row["inspection"] and [_found(item) for item in row["inspection"]],
        "deduction_amount": row["deduction_amount"],
        "deduction_reason": row["deduction_reason"],
        "currency": row["currency"],
        "refund_transaction_id": row["refund_transaction_id"],
        "requested_by": requested_by,
        "reviewed_by": reviewed_by,
        "carrier": row["carrier"],
        "tracking_number": row["tracking_number"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "approved_at": row["approved_at"],
        "rejected_at": row["rejected_at"],
        "in_transit_at": row["in_transit_at"],
        "received_at": row["received_at"],
        "completed_at": row["completed_at"],
    }


# The keys of these two stay in the order in which they are stored, so that an answer has the same bytes each time.
def _item(stored: Mapping[str, Any]) -> ReturnItemView:
    return cast("ReturnItemView", {**stored, "amount": Decimal(stored["amount"])})


def _found(stored: Mapping[str, Any]) -> InspectionItemView:
    return cast("InspectionItemView", {"note": None, **stored})
