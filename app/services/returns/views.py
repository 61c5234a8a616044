"""Returns as the API shows them."""

from collections.abc import Mapping
from typing import Any

from app.core.actor import Actor


def return_view(row: Mapping[Any, Any], actor: Actor) -> dict[str, Any]:
    """Return a return row as the API shows it to `actor`; for customers, the identity of others is omitted."""
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
        "items": [{**item, "amount": float(item["amount"])} for item in row["items"]],
        "items_amount": float(row["items_amount"]),
        "restocking_fee": float(row["restocking_fee"]),
        "refund_amount": float(row["refund_amount"]),
        "inspection": row["inspection"] and [{"note": None, **item} for item in row["inspection"]],
        "deduction_amount": float(row["deduction_amount"]),
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
