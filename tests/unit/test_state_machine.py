"""The two tables: every pair of states, the lint that runs at import, and what is derived from them."""

from enum import StrEnum
from itertools import product

import pytest

from app.core.enums import EntityType, OrderStatus, ReturnStatus, Role
from app.services.access import permissions
from app.services.workflow import diagrams
from app.services.workflow.state_machine import (
    INITIAL_STATES,
    ORDER_TRANSITIONS,
    RETURN_TRANSITIONS,
    TRANSITIONS,
    StateMachine,
    StateMachineError,
    lint,
)

LEGAL_ORDER = {
    (OrderStatus.PENDING_PAYMENT, OrderStatus.PAID),
    (OrderStatus.PENDING_PAYMENT, OrderStatus.CANCELLED),
    (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE),
    (OrderStatus.PAID, OrderStatus.CANCELLED),
    (OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED),
    (OrderStatus.SHIPPED, OrderStatus.DELIVERED),
}
LEGAL_RETURN = {
    (ReturnStatus.REQUESTED, ReturnStatus.APPROVED),
    (ReturnStatus.REQUESTED, ReturnStatus.REJECTED),
    (ReturnStatus.APPROVED, ReturnStatus.IN_TRANSIT),
    (ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED),
    (ReturnStatus.RECEIVED, ReturnStatus.COMPLETED),
}


@pytest.mark.req("REQ-001.2")
@pytest.mark.parametrize(("current", "new"), list(product(OrderStatus, repeat=2)))
def test_every_pair_of_order_states(current: OrderStatus, new: OrderStatus) -> None:
    legal = (current, new) in LEGAL_ORDER
    assert StateMachine.validate_order_transition(current, new) is legal
    assert (new in StateMachine.get_allowed_order_transitions(current)) is legal
    assert (new in StateMachine.allowed(EntityType.ORDER, current)) is legal
    assert ((current, new) in StateMachine.edges(EntityType.ORDER)) is legal


@pytest.mark.req("REQ-002.1")
@pytest.mark.parametrize(("current", "new"), list(product(ReturnStatus, repeat=2)))
def test_every_pair_of_return_states(current: ReturnStatus, new: ReturnStatus) -> None:
    legal = (current, new) in LEGAL_RETURN
    assert StateMachine.validate_return_transition(current, new) is legal
    assert (new in StateMachine.get_allowed_return_transitions(current)) is legal
    assert (new in StateMachine.allowed(EntityType.RETURN, current)) is legal
    assert ((current, new) in StateMachine.edges(EntityType.RETURN)) is legal


def test_unknown_state_is_no_state() -> None:
    with pytest.raises(KeyError):
        StateMachine.allowed(EntityType.ORDER, "REQUESTED")


@pytest.mark.req("REQ-001")
def test_tables_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        ORDER_TRANSITIONS[OrderStatus.DELIVERED] = frozenset({OrderStatus.PAID})  # type: ignore[index]
    with pytest.raises(TypeError):
        RETURN_TRANSITIONS[ReturnStatus.COMPLETED] = frozenset()  # type: ignore[index]
    with pytest.raises(TypeError):
        TRANSITIONS[EntityType.ORDER][OrderStatus.DELIVERED] = frozenset()  # type: ignore[index]


class Light(StrEnum):
    """A machine small enough to be wrong in one way at a time."""

    RED = "RED"
    GREEN = "GREEN"
    OFF = "OFF"


SOUND: dict[StrEnum, frozenset[StrEnum]] = {
    Light.RED: frozenset({Light.GREEN}),
    Light.GREEN: frozenset({Light.OFF}),
    Light.OFF: frozenset(),
}


def test_lint_passes_a_sound_table() -> None:
    lint(EntityType.ORDER, SOUND, Light, Light.RED)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({Light.OFF: None}, "no row for"),
        ({Light.GREEN: frozenset({"BLUE"})}, "unknown state"),
        ({Light.GREEN: frozenset({Light.GREEN, Light.OFF})}, "to itself"),
        ({Light.GREEN: frozenset({Light.RED})}, "no way from RED to"),
        ({Light.OFF: frozenset({Light.RED})}, "no final state"),
    ],
)
def test_lint_refuses_an_unsound_table(change: dict[StrEnum, frozenset[StrEnum] | None], fault: str) -> None:
    merged = {**SOUND, **change}
    table = {state: targets for state, targets in merged.items() if targets is not None}
    with pytest.raises(StateMachineError, match=fault):
        lint(EntityType.ORDER, table, Light, Light.RED)


@pytest.mark.parametrize("entity_type", list(TRANSITIONS))
def test_every_target_has_roles(entity_type: EntityType) -> None:
    roles = permissions.TRANSITION_ROLES[entity_type]
    assert set(roles) == set(TRANSITIONS[entity_type])
    reachable = {target for targets in TRANSITIONS[entity_type].values() for target in targets}
    assert {state for state, allowed in roles.items() if allowed} == reachable
    assert all(Role.ADMIN in roles[state] for state in reachable)


@pytest.mark.parametrize("entity_type", list(TRANSITIONS))
def test_mermaid_holds_exactly_the_table(entity_type: EntityType) -> None:
    lines = {line.strip() for line in diagrams.mermaid(entity_type).splitlines()}
    arrows = {tuple(line.split(" --> ")) for line in lines if "-->" in line}
    steps = {arrow for arrow in arrows if "[*]" not in arrow}
    assert steps == set(StateMachine.edges(entity_type))
    assert ("[*]", str(INITIAL_STATES[entity_type])) in arrows
    final = {str(state) for state, targets in TRANSITIONS[entity_type].items() if not targets}
    assert {source for source, target in arrows if target == "[*]"} == final


@pytest.mark.parametrize("entity_type", list(TRANSITIONS))
def test_svg_shows_every_state_and_step(entity_type: EntityType) -> None:
    drawn = diagrams.svg(entity_type)
    assert all(f">{state}</text>" in drawn for state in TRANSITIONS[entity_type])
    assert drawn.count("marker-end") == len(StateMachine.edges(entity_type))
