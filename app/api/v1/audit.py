"""The audit trail (contract section 5, REQ-003)."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.deps import Context
from app.api.responses import answer, refuses
from app.api.routes import ApiRoute
from app.schemas.state_history import AuditList, AuditQuery, AuditVerification
from app.services import permissions
from app.services.permissions import Action

router = APIRouter(prefix="/api/v1/audit", tags=["Audit"], route_class=ApiRoute)


@router.get("", response_model=AuditList, responses=refuses("FORBIDDEN"), summary="Search the audit trail")
async def search(query: Annotated[AuditQuery, Query()], context: Context) -> Response:
    """Oldest first; with `rejected=true`, the attempts that the transition table refused."""
    permissions.require(context.actor, Action.SEARCH_AUDIT)
    return answer(await context.services.audit.search(query))


@router.get(
    "/verify", response_model=AuditVerification, responses=refuses("FORBIDDEN"), summary="Verify the audit trail"
)
async def verify(context: Context) -> Response:
    """Walk every chain of hashes and replay every transition; `ok` is false when a row does not hold."""
    permissions.require(context.actor, Action.SEARCH_AUDIT)
    return answer(await context.services.audit.verify())
