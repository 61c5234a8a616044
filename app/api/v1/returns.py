"""Returns (REQ-002)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.api.deps import Context
from app.api.http.conditional import IF_MATCH, if_match
from app.api.http.responses import answer, refuses, resource
from app.api.http.routing import ApiRoute
from app.core.enums import EntityType
from app.schemas.common import PageQuery
from app.schemas.return_request import (
    ReturnApprove,
    ReturnCreate,
    ReturnList,
    ReturnQuery,
    ReturnReject,
    ReturnResponse,
    ReturnStateUpdate,
)
from app.schemas.state_history import HistoryList, TransitionOptions

PREFIX = "/api/v1/returns"
router = APIRouter(prefix=PREFIX, tags=["Returns"], route_class=ApiRoute)

_MOVES = refuses("FORBIDDEN", "RETURN_NOT_FOUND", "INVALID_STATE_TRANSITION", "RECORD_TAMPERED", "VERSION_CONFLICT")
_MACHINE = {"x-state-machine": EntityType.RETURN, "parameters": [IF_MATCH]}


@router.post(
    "",
    response_model=ReturnResponse,
    status_code=201,
    responses=refuses("RETURN_NOT_ALLOWED", "FORBIDDEN", "ORDER_NOT_FOUND", "RETURN_ALREADY_EXISTS"),
    summary="Request a return",
)
async def create(data: ReturnCreate, context: Context) -> Response:
    """Only for a delivered order, within the return window, and one open return at a time. Without `items`, all of it.

    After a rejection, or after a return of a part, another may be requested for what is left.
    """
    requested = await context.services.returns.create(data, context.actor)
    return resource(requested, 201, {"Location": f"{PREFIX}/{requested['id']}"})


@router.get("", response_model=ReturnList, summary="List returns")
async def list_returns(query: Annotated[ReturnQuery, Query()], context: Context) -> Response:
    """Newest first. Customers see their own."""
    return answer(await context.services.returns.list(query, context.actor))


@router.get(
    "/{return_id}", response_model=ReturnResponse, responses=refuses("RETURN_NOT_FOUND"), summary="Read a return"
)
async def read(return_id: UUID, context: Context) -> Response:
    """Give the return. Customers see their own."""
    return resource(await context.services.returns.get(return_id, context.actor))


@router.patch(
    "/{return_id}/approve",
    response_model=ReturnResponse,
    responses=_MOVES,
    summary="Approve a return",
    openapi_extra=_MACHINE,
)
async def approve(return_id: UUID, data: ReturnApprove, request: Request, context: Context) -> Response:
    """Approve with notes; a restocking fee or a part of the amount may be given."""
    return resource(await context.services.returns.approve(return_id, data, context.actor, if_match(request)))


@router.patch(
    "/{return_id}/reject",
    response_model=ReturnResponse,
    responses=_MOVES,
    summary="Reject a return",
    openapi_extra=_MACHINE,
)
async def reject(return_id: UUID, data: ReturnReject, request: Request, context: Context) -> Response:
    """Reject with notes and a category."""
    return resource(await context.services.returns.reject(return_id, data, context.actor, if_match(request)))


@router.patch(
    "/{return_id}/state",
    response_model=ReturnResponse,
    responses=_MOVES,
    summary="Take a return a step further",
    openapi_extra=_MACHINE,
)
async def change_state(return_id: UUID, update: ReturnStateUpdate, request: Request, context: Context) -> Response:
    """Go through the steps after the review: IN_TRANSIT, RECEIVED, COMPLETED. The last one starts the refund."""
    return resource(await context.services.returns.transition(return_id, update, context.actor, if_match(request)))


router.add_api_route(
    "/{return_id}/state", change_state, methods=["POST"], response_model=ReturnResponse, include_in_schema=False
)


@router.get(
    "/{return_id}/history",
    response_model=HistoryList,
    responses=refuses("RETURN_NOT_FOUND"),
    summary="Read a return's history",
)
async def history(return_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Give every transition of the return, oldest first."""
    return answer(await context.services.returns.history(return_id, page, context.actor))


@router.get(
    "/{return_id}/transitions",
    response_model=TransitionOptions,
    responses=refuses("RETURN_NOT_FOUND"),
    summary="What can be done with a return now",
)
async def transitions(return_id: UUID, context: Context) -> Response:
    """Say for each state whether this caller could bring the return there now, and if not, why."""
    return answer(await context.services.returns.transitions(return_id, context.actor))
