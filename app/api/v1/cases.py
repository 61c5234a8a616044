"""Cases: what a person must decide."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses, resource
from app.api.http.routing import ApiRoute
from app.schemas.case import CaseClose, CaseList, CaseQuery, CaseResponse

router = APIRouter(prefix="/api/v1/cases", tags=["Operations"], route_class=ApiRoute)


@router.get("", response_model=CaseList, responses=refuses("FORBIDDEN"), summary="List what a person must decide")
async def list_cases(query: Annotated[CaseQuery, Query()], context: Context) -> Response:
    """Newest first, open and closed; each with its evidence and the ways out."""
    return answer(await context.services.cases.list(query, context.actor))


@router.get(
    "/{case_id}", response_model=CaseResponse, responses=refuses("FORBIDDEN", "NOT_FOUND"), summary="Read a case"
)
async def read(case_id: UUID, context: Context) -> Response:
    """Give a case."""
    return resource(await context.services.cases.get(case_id, context.actor))


@router.post(
    "/{case_id}/close",
    response_model=CaseResponse,
    responses=refuses("FORBIDDEN", "NOT_FOUND", "INVALID_STATE_TRANSITION"),
    summary="Close a case",
)
async def close(case_id: UUID, data: CaseClose, context: Context) -> Response:
    """Record what was decided, and carry out the way out that is named, if the system can.

    A case is closed once. A closed dispute that still holds refunds is released later with the action `RELEASE`; the
    answer is the case in which that decision is kept.
    """
    return resource(await context.services.cases.close(case_id, context.actor, data.note, data.action))
