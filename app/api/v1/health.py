"""How the service is (NFR-003)."""

import asyncio

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Scope

from app.api.deps import ProcessServices
from app.api.http.responses import answer, refuses
from app.api.http.routing import OpenRoute
from app.composition import Services
from app.dependencies import CREDENTIALS, authenticate
from app.schemas.system import HealthResponse, LiveResponse
from app.utils.exceptions import ServiceUnavailableError

# What is left of the two seconds beside the checks themselves.
_LOOK_UP_SECONDS = 0.4

router = APIRouter(prefix="/api/v1/health", tags=["System"], route_class=OpenRoute)


@router.get(
    "",
    response_model=HealthResponse,
    responses={
        **refuses("UNAUTHENTICATED", "RATE_LIMITED"),
        503: {"model": HealthResponse, "description": "The database is away"},
    },
    summary="Health of the service and of what it depends on",
)
async def read(request: Request, services: ProcessServices) -> Response:
    """Answer within two seconds. 503 only without the database: for any other part work waits, requests do not.

    Without credentials, the status and nothing else.
    """
    knows_caller = await _knows_caller(request.scope, services)
    report = await services.health.check()
    shown = report if knows_caller else {"status": report["status"]}
    return answer(shown, 503 if report["status"] == "down" else 200)


async def _knows_caller(scope: Scope, services: Services) -> bool:
    """Return whether a request has credentials that hold; without the database, those that it is needed for do not.

    Raises:
        UnauthenticatedError, RateLimitedError: wrong ones, as everywhere.
    """
    if not any(name in CREDENTIALS for name, _ in scope["headers"]):
        return False
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            await authenticate(scope, services)
    except (SQLAlchemyError, OSError, TimeoutError, ServiceUnavailableError):
        return False
    return True


@router.get("/live", response_model=LiveResponse, summary="Whether the process answers")
async def live() -> Response:
    """Look at nothing else: a process must not be restarted because something that it uses is away."""
    return answer({"status": "ok"})
