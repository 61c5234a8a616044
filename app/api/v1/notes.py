"""Notes of the staff on orders and returns."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.core.enums import EntityType
from app.schemas.common import PageQuery
from app.schemas.note import NoteCreate, NoteList, NoteResponse

router = APIRouter(prefix="/api/v1", route_class=ApiRoute)

_ORDER = refuses("FORBIDDEN", "ORDER_NOT_FOUND")
_RETURN = refuses("FORBIDDEN", "RETURN_NOT_FOUND")


@router.post(
    "/orders/{order_id}/notes",
    response_model=NoteResponse,
    status_code=201,
    responses=_ORDER,
    tags=["Orders"],
    summary="Add a note to an order",
)
async def add_to_order(order_id: UUID, data: NoteCreate, context: Context) -> Response:
    """For the staff alone; a note is never changed or removed."""
    return answer(await context.services.notes.add(EntityType.ORDER, order_id, data, context.actor), 201)


@router.get(
    "/orders/{order_id}/notes",
    response_model=NoteList,
    responses=_ORDER,
    tags=["Orders"],
    summary="List the notes on an order",
)
async def list_of_order(order_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Oldest first; for the staff alone."""
    return answer(await context.services.notes.list(EntityType.ORDER, order_id, page, context.actor))


@router.post(
    "/returns/{return_id}/notes",
    response_model=NoteResponse,
    status_code=201,
    responses=_RETURN,
    tags=["Returns"],
    summary="Add a note to a return",
)
async def add_to_return(return_id: UUID, data: NoteCreate, context: Context) -> Response:
    """For the staff alone; a note is never changed or removed."""
    return answer(await context.services.notes.add(EntityType.RETURN, return_id, data, context.actor), 201)


@router.get(
    "/returns/{return_id}/notes",
    response_model=NoteList,
    responses=_RETURN,
    tags=["Returns"],
    summary="List the notes on a return",
)
async def list_of_return(return_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Oldest first; for the staff alone."""
    return answer(await context.services.notes.list(EntityType.RETURN, return_id, page, context.actor))
