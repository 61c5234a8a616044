"""Refunds on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.core.enums import RefundReason, RefundState
from app.schemas.common import Answer, PageQuery, Pagination, Timestamp


class RefundQuery(PageQuery):
    """Filters of `GET /refunds`."""

    state: Annotated[list[RefundState], Field(max_length=5)] = Field(default_factory=list)
    order_id: UUID | None = None


class RefundResponse(Answer):
    """A refund and how far it got."""

    id: UUID
    order_id: UUID
    return_id: UUID | None
    return_number: str | None
    payment_id: UUID
    reason: RefundReason
    state: RefundState
    version: int
    amount: float
    currency: str
    gateway_refund_id: str | None
    last_error: str | None
    created_at: Timestamp
    updated_at: Timestamp
    succeeded_at: Timestamp | None


class OrderRefund(Answer):
    """A refund of an order, as its customer sees it."""

    id: UUID
    return_id: UUID | None
    return_number: str | None
    reason: RefundReason
    state: RefundState
    amount: float
    currency: str
    created_at: Timestamp
    succeeded_at: Timestamp | None


class OrderRefundList(Answer):
    """A page of an order's refunds, newest first."""

    data: list[OrderRefund]
    pagination: Pagination


class RefundList(Answer):
    """A page of refunds, newest first."""

    data: list[RefundResponse]
    pagination: Pagination
