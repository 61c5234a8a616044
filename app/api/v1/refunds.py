"""Refunds."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses, resource
from app.api.http.routing import ApiRoute
from app.schemas.refund import RefundList, RefundQuery, RefundResponse
from app.services.access import permissions
from app.services.access.permissions import Action

router = APIRouter(prefix="/api/v1/refunds", tags=["Operations"], route_class=ApiRoute)


@router.get("", response_model=RefundList, responses=refuses("FORBIDDEN"), summary="List refunds")
async def list_refunds(query: Annotated[RefundQuery, Query()], context: Context) -> Response:
    """Newest first."""
    permissions.require(context.actor, Action.READ_REFUNDS)
    return answer(await context.services.refunds.list(query))


@router.get(
    "/{refund_id}", response_model=RefundResponse, responses=refuses("FORBIDDEN", "NOT_FOUND"), summary="Read a refund"
)
async def read(refund_id: UUID, context: Context) -> Response:
    """Give a refund and how far it has come. UNKNOWN means that the gateway is being asked, not paid again."""
    permissions.require(context.actor, Action.READ_REFUNDS)
    return resource(await context.services.refunds.get(refund_id))
