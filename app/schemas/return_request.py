"""Returns on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.core.enums import RejectionReason, ReturnStatus
from app.schemas.common import (
    QUERY_TEXT_PATTERN,
    Answer,
    Count,
    CreatedQuery,
    Money,
    Pagination,
    Request,
    Timestamp,
    text_block,
    text_line,
)


class ReturnItemCreate(Request):
    """Which line comes back, and how many of it."""

    line_item_id: UUID
    quantity: Count


class ReturnCreate(Request):
    """`POST /returns`. Without `items`, all that is left comes back."""

    order_id: UUID
    reason: text_block(1000)  # type: ignore[valid-type]
    customer_notes: text_block(2000) | None = None  # type: ignore[valid-type]
    items: Annotated[list[ReturnItemCreate], Field(min_length=1, max_length=200)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"order_id": "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60", "reason": "Glaze is cracked"}]
        }
    )


class ReturnApprove(Request):
    """`PATCH /returns/{id}/approve`. Without `refund_amount`: the returned lines less the fee."""

    notes: text_block(2000)  # type: ignore[valid-type]
    restocking_fee: Money | None = None
    refund_amount: Money | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"notes": "Photos show the crack", "restocking_fee": 10}]}
    )


class ReturnReject(Request):
    """`PATCH /returns/{id}/reject`."""

    notes: text_block(2000)  # type: ignore[valid-type]
    rejection_reason: RejectionReason

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"notes": "Worn on receipt of the photos", "rejection_reason": "POLICY_VIOLATION"}]
        }
    )


Pieces = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


class InspectionItem(Request):
    """What was found of one line of a return; the three counts add up to its quantity in the return."""

    line_item_id: UUID
    accepted: Pieces = 0
    damaged: Pieces = 0
    missing: Pieces = 0
    note: text_block(500) | None = None  # type: ignore[valid-type]


class ReturnStateUpdate(Request):
    """`PATCH /returns/{id}/state`: for the steps after the review.

    The last three fields are for the step to COMPLETED: the refund is what was approved less `deduction_amount`, which
    needs its reason. The mail to the customer states the inspection and the reason.
    """

    new_state: ReturnStatus
    reason: text_block(500) | None = None  # type: ignore[valid-type]
    carrier: text_line(100) | None = None  # type: ignore[valid-type]
    tracking_number: text_line(100) | None = None  # type: ignore[valid-type]
    inspection: Annotated[list[InspectionItem], Field(min_length=1, max_length=200)] | None = None
    deduction_amount: Money | None = None
    deduction_reason: text_block(500) | None = None  # type: ignore[valid-type]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"new_state": "IN_TRANSIT", "carrier": "La Poste", "tracking_number": "6A12345678901"},
                {
                    "new_state": "COMPLETED",
                    "inspection": [
                        {
                            "line_item_id": "0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60",
                            "accepted": 1,
                            "damaged": 1,
                            "missing": 0,
                            "note": "Chipped at the foot",
                        }
                    ],
                    "deduction_amount": 40,
                    "deduction_reason": "One vase came back chipped",
                },
            ]
        }
    )


class ReturnItemResponse(Answer):
    """A returned line and what it is worth, with tax."""

    line_item_id: UUID
    quantity: int
    amount: float


class InspectionItemResponse(Answer):
    """What was found of one line of a return."""

    line_item_id: UUID
    accepted: int
    damaged: int
    missing: int
    note: str | None


class ReturnResponse(Answer):
    """A return. For customers, `reviewed_by` is null, and `requested_by` where it is not they themselves."""

    id: UUID
    return_number: str
    order_id: UUID
    customer_id: UUID
    status: ReturnStatus
    version: int
    reason: str
    customer_notes: str | None
    manager_notes: str | None
    rejection_reason: RejectionReason | None
    items: list[ReturnItemResponse]
    items_amount: float
    restocking_fee: float
    refund_amount: float
    inspection: list[InspectionItemResponse] | None
    deduction_amount: float
    deduction_reason: str | None
    currency: str
    refund_transaction_id: str | None
    requested_by: UUID | None
    reviewed_by: UUID | None
    carrier: str | None
    tracking_number: str | None
    created_at: Timestamp
    updated_at: Timestamp
    approved_at: Timestamp | None
    rejected_at: Timestamp | None
    in_transit_at: Timestamp | None
    received_at: Timestamp | None
    completed_at: Timestamp | None


class ReturnList(Answer):
    """A page of returns, newest first."""

    data: list[ReturnResponse]
    pagination: Pagination


class ReturnQuery(CreatedQuery):
    """Filters of `GET /returns`."""

    status: Annotated[list[ReturnStatus], Field(max_length=6)] = Field(default_factory=list)
    customer_id: UUID | None = None
    order_id: UUID | None = None
    return_number: Annotated[str, Field(max_length=50, json_schema_extra={"pattern": QUERY_TEXT_PATTERN})] | None = None
