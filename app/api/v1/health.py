"""How the service is (contract section 5, NFR-003)."""

from fastapi import APIRouter, Response

from app.api.deps import ProcessServices
from app.api.responses import answer
from app.api.routes import OpenRoute
from app.schemas.system import HealthResponse, LiveResponse

router = APIRouter(prefix="/api/v1/health", tags=["System"], route_class=OpenRoute)


@router.get(
    "",
    response_model=HealthResponse,
    responses={503: {"model": HealthResponse, "description": "The database is away"}},
    summary="Health of the service and of what it depends on",
)
async def health(services: ProcessServices) -> Response:
    """Answer within two seconds. 503 only without the database: for any other part work waits, requests do not."""
    report = await services.health.check()
    return answer(report, 503 if report["status"] == "down" else 200)


@router.get("/live", response_model=LiveResponse, summary="Whether the process answers")
async def live() -> Response:
    """Look at nothing else: a process must not be restarted because something that it uses is away."""
    return answer({"status": "ok"})
