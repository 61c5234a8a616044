"""Jobs that gave up (REQ-004)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.schemas.operations import DeadLetterList, DeadLetterQuery, DeadLetterResolve, DeadLetterResponse

router = APIRouter(prefix="/api/v1/jobs/dead", tags=["Operations"], route_class=ApiRoute)

_RESOLVES = refuses("FORBIDDEN", "NOT_FOUND", "INVALID_STATE_TRANSITION")


@router.get("", response_model=DeadLetterList, responses=refuses("FORBIDDEN"), summary="List jobs that gave up")
async def list_dead(query: Annotated[DeadLetterQuery, Query()], context: Context) -> Response:
    """Newest first; those that someone has dealt with only on request."""
    return answer(await context.services.dead_letters.list(query, context.actor))


@router.post(
    "/{dead_letter_id}/retry", response_model=DeadLetterResponse, responses=_RESOLVES, summary="Try a job again"
)
async def retry(
    dead_letter_id: UUID, context: Context, data: Annotated[DeadLetterResolve | None, Body()] = None
) -> Response:
    """Make the job due at once, with all of its retries. The body may be left out."""
    note = data.note if data is not None else None
    return answer(await context.services.dead_letters.retry(dead_letter_id, context.actor, note))


@router.post(
    "/{dead_letter_id}/dismiss", response_model=DeadLetterResponse, responses=_RESOLVES, summary="Give a job up"
)
async def dismiss(
    dead_letter_id: UUID, context: Context, data: Annotated[DeadLetterResolve | None, Body()] = None
) -> Response:
    """Settle that the job will not be done; of a refund, only once it is sure whether it was paid. The body may be left out."""
    note = data.note if data is not None else None
    return answer(await context.services.dead_letters.dismiss(dead_letter_id, context.actor, note))
