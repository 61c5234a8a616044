"""Metrics for Prometheus (NFR-006)."""

from fastapi import APIRouter, Request, Response

from app.api.deps import ProcessServices
from app.api.http.routing import OpenRoute
from app.core import exposition
from app.dependencies import authenticate
from app.utils.clock import utc_now

router = APIRouter(prefix="/api/v1/metrics", tags=["System"], route_class=OpenRoute)


@router.get(
    "",
    response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Metrics for Prometheus",
)
async def read(request: Request, services: ProcessServices) -> Response:
    """Give the counts of these processes, and the state of the work. In production, only to managers."""
    is_open = services.settings.environment != "production"
    actor = None if is_open else await authenticate(request.scope, services)
    figures, times = await services.health.scrape(actor)
    gauges = None
    if figures is not None:
        gauges = exposition.job_gauges(
            figures.waiting,
            figures.oldest_due_seconds,
            figures.dead_letters,
            figures.retrying,
            figures.overdue,
            figures.open_cases,
        )
    now = utc_now()
    ages = ((now - times.backup).total_seconds(), (now - times.log).total_seconds()) if times else None
    backups = exposition.backup_gauges(ages, services.settings.backup_every_hours * 3600)
    return Response(exposition.of_api(gauges, backups), media_type=exposition.CONTENT_TYPE)
