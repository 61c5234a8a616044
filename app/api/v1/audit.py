"""The audit trail (REQ-003)."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.schemas.state_history import AuditList, AuditProgress, AuditQuery, AuditVerification

router = APIRouter(prefix="/api/v1/audit", tags=["Audit"], route_class=ApiRoute)


@router.get("", response_model=AuditList, responses=refuses("FORBIDDEN"), summary="Search the audit trail")
async def search(query: Annotated[AuditQuery, Query()], context: Context) -> Response:
    """Oldest first; with `rejected=true`, the attempts that the transition table refused."""
    return answer(await context.services.audit.search(query, context.actor))


@router.get(
    "/verify",
    response_model=AuditVerification,
    responses={
        202: {"model": AuditProgress, "description": "Still at work: ask again for the result"},
        **refuses("FORBIDDEN", "SERVICE_UNAVAILABLE"),
    },
    summary="Verify the audit trail",
)
async def verify(context: Context) -> Response:
    """Walk every chain of hashes and replay every transition; `ok` is false when a row does not hold.

    One verification runs at a time; who asks while it runs gets its result. `verified_at` is the moment that it is about. A
    long one is answered 202 with its progress after ten seconds, and the next call joins it.
    """
    is_done, found = await context.services.verifications.verify(context.actor)
    return answer(found) if is_done else answer(found, 202, {"Retry-After": "5"})
