"""Refunds."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses, resource
from app.api.http.routing import ApiRoute
from app.schemas.refund import RefundList, RefundQuery, RefundResponse

router = APIRouter(prefix="/api/v1/refunds", tags=["Operations"], route_class=ApiRoute)


@router.get("", response_model=RefundList, responses=refuses("FORBIDDEN"), summary="List refunds")
async def list_refunds(query: Annotated[RefundQuery, Query()], context: Context) -> Response:
    """Newest first."""
    return answer(await context.services.refunds.list(query, context.actor))


@router.get(
    "/{refund_id}", response_model=RefundResponse, responses=refuses("FORBIDDEN", "NOT_FOUND"), summary="Read a refund"
)
async def read(refund_id: UUID, context: Context) -> Response:
    """Give a refund and how far it has come. UNKNOWN means that the gateway is being asked, not paid again."""
    return resource(await context.services.refunds.get(refund_id, context.actor))
