"""Figures for people."""

from fastapi import APIRouter, Response

from app.api.deps import Context
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.schemas.operations import StatsResponse

router = APIRouter(prefix="/api/v1/stats", tags=["Operations"], route_class=ApiRoute)


@router.get("", response_model=StatsResponse, responses=refuses("FORBIDDEN"), summary="Figures of the business")
async def read(context: Context) -> Response:
    """Count orders, returns and jobs by state, money by currency, promises kept and missed, and how long returns take.

    As of `collected_at`: of this moment in a small shop, a minute or two ago in a large one.
    """
    return answer(await context.services.stats.collect(context.actor))
