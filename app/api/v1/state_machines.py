"""Both state machines as data, read from the tables that the service runs on."""

from typing import Any, TypedDict

from fastapi import APIRouter, Response

from app.api.http.responses import answer
from app.api.http.routing import OpenRoute
from app.core.enums import EntityType, OrderStatus, ReturnStatus
from app.schemas.system import StateMachinesResponse
from app.services.access.permissions import TRANSITION_ROLES
from app.services.jobs.service import JobKind
from app.services.orders import service as order_service
from app.services.returns import service as return_service
from app.services.workflow.state_machine import INITIAL_STATES, TRANSITIONS, StateMachine
from app.services.workflow.transitions import Effect

router = APIRouter(prefix="/api/v1/state-machines", tags=["System"], route_class=OpenRoute)

# What the machines' `MONEY` makes due: written there as SQL, for it needs rows of its own. A test drives every
# transition and compares the jobs that follow with what is said here.
_EFFECTS: dict[EntityType, tuple[Effect, ...]] = {
    EntityType.ORDER: (
        *order_service.EFFECTS,
        Effect(OrderStatus.PAID, JobKind.CAPTURE_PAYMENT),
        Effect(OrderStatus.CANCELLED, JobKind.PROCESS_REFUND, OrderStatus.PAID),
    ),
    EntityType.RETURN: (*return_service.EFFECTS, Effect(ReturnStatus.COMPLETED, JobKind.PROCESS_REFUND)),
}


# `from` is a word of Python's, hence this form.
TransitionView = TypedDict("TransitionView", {"from": str, "to": str, "roles": list[str], "jobs": list[str]})
"""One allowed transition: who may ask for it, and which jobs follow."""


class MachineView(TypedDict):
    """One state machine as data."""

    states: list[str]
    initial: str
    final: list[str]
    transitions: list[TransitionView]


def machine(entity_type: EntityType) -> MachineView:
    """Return one machine: states, initial, final, and each transition with its roles and jobs."""
    table = TRANSITIONS[entity_type]
    return {
        "states": [str(state) for state in table],
        "initial": str(INITIAL_STATES[entity_type]),
        "final": [str(state) for state, targets in table.items() if not targets],
        "transitions": [
            {
                "from": source,
                "to": target,
                "roles": sorted(str(role) for role in _roles(entity_type, target)),
                "jobs": sorted(
                    str(effect.kind)
                    for effect in _EFFECTS[entity_type]
                    if effect.to == target and effect.origin in {None, source}
                ),
            }
            for source, target in StateMachine.edges(entity_type)
        ],
    }


def _roles(entity_type: EntityType, target: str) -> frozenset[Any]:
    return next(roles for state, roles in TRANSITION_ROLES[entity_type].items() if state == target)


def machines() -> dict[str, MachineView]:
    """Return both machines."""
    return {"order": machine(EntityType.ORDER), "return": machine(EntityType.RETURN)}


@router.get("", response_model=StateMachinesResponse, summary="Both state machines as data")
async def read() -> Response:
    """List every allowed transition, who may ask for it, and which jobs follow. Nothing else is possible."""
    return answer(machines())
