"""The two state machines as tables: the only place where a transition is made legal (REQ-001, REQ-002).

Runtime (`app.services.workflow.transitions`), the database guard (`state_transitions`), OpenAPI, `/state-machines`
and the diagrams are derived from these tables or compared with them when a process starts.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from app.core.enums import EntityType, OrderStatus, ReturnStatus

__all__ = [
    "INITIAL_STATES",
    "ORDER_TRANSITIONS",
    "RETURN_TRANSITIONS",
    "TRANSITIONS",
    "OrderStatus",
    "ReturnStatus",
    "StateMachine",
    "StateMachineError",
    "lint",
]

ORDER_TRANSITIONS: Mapping[OrderStatus, frozenset[OrderStatus]] = MappingProxyType(
    {
        OrderStatus.PENDING_PAYMENT: frozenset({OrderStatus.PAID, OrderStatus.CANCELLED}),
        OrderStatus.PAID: frozenset({OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.CANCELLED}),
        OrderStatus.PROCESSING_IN_WAREHOUSE: frozenset({OrderStatus.SHIPPED}),
        OrderStatus.SHIPPED: frozenset({OrderStatus.DELIVERED}),
        OrderStatus.DELIVERED: frozenset(),
        OrderStatus.CANCELLED: frozenset(),
    }
)

RETURN_TRANSITIONS: Mapping[ReturnStatus, frozenset[ReturnStatus]] = MappingProxyType(
    {
        ReturnStatus.REQUESTED: frozenset({ReturnStatus.APPROVED, ReturnStatus.REJECTED}),
        ReturnStatus.APPROVED: frozenset({ReturnStatus.IN_TRANSIT}),
        ReturnStatus.REJECTED: frozenset(),
        ReturnStatus.IN_TRANSIT: frozenset({ReturnStatus.RECEIVED}),
        ReturnStatus.RECEIVED: frozenset({ReturnStatus.COMPLETED}),
        ReturnStatus.COMPLETED: frozenset(),
    }
)

TRANSITIONS: Mapping[EntityType, Mapping[StrEnum, frozenset[StrEnum]]] = MappingProxyType(
    {
        EntityType.ORDER: MappingProxyType(
            {state: frozenset[StrEnum](targets) for state, targets in ORDER_TRANSITIONS.items()}
        ),
        EntityType.RETURN: MappingProxyType(
            {state: frozenset[StrEnum](targets) for state, targets in RETURN_TRANSITIONS.items()}
        ),
    }
)
"""Both tables by entity type, for code that treats both machines the same."""

INITIAL_STATES: Mapping[EntityType, StrEnum] = MappingProxyType(
    {EntityType.ORDER: OrderStatus.PENDING_PAYMENT, EntityType.RETURN: ReturnStatus.REQUESTED}
)


class StateMachineError(Exception):
    """A transition table that must not be run: the message says what is wrong with it."""


class StateMachine:
    """Pure questions to the tables; nothing here reads or writes anything."""

    @staticmethod
    def validate_order_transition(current: OrderStatus, new: OrderStatus) -> bool:
        """Return whether an order may go from `current` to `new`."""
        return new in ORDER_TRANSITIONS[current]

    @staticmethod
    def validate_return_transition(current: ReturnStatus, new: ReturnStatus) -> bool:
        """Return whether a return may go from `current` to `new`."""
        return new in RETURN_TRANSITIONS[current]

    @staticmethod
    def get_allowed_order_transitions(current: OrderStatus) -> list[OrderStatus]:
        """Return where an order may go from `current`, in the order of the states."""
        return [state for state in OrderStatus if state in ORDER_TRANSITIONS[current]]

    @staticmethod
    def get_allowed_return_transitions(current: ReturnStatus) -> list[ReturnStatus]:
        """Return where a return may go from `current`, in the order of the states."""
        return [state for state in ReturnStatus if state in RETURN_TRANSITIONS[current]]

    @staticmethod
    def allowed(entity_type: EntityType, current: str) -> list[StrEnum]:
        """Return where an entity in state `current` may go, in the order of the states.

        Raises:
            KeyError: `current` is no state of that machine.
        """
        table = TRANSITIONS[entity_type]
        targets = {str(state): targets for state, targets in table.items()}[current]
        return [state for state in table if state in targets]

    @staticmethod
    def edges(entity_type: EntityType) -> list[tuple[str, str]]:
        """Return every allowed `(from, to)` of one machine, in the order of the states."""
        table = TRANSITIONS[entity_type]
        return [(str(source), str(target)) for source in table for target in table if target in table[source]]


def lint(
    entity_type: EntityType, table: Mapping[StrEnum, frozenset[StrEnum]], states: type[StrEnum], initial: StrEnum
) -> None:
    """Refuse a table that misses a state, leads nowhere, or has states that cannot be reached.

    Raises:
        StateMachineError: the first fault found.
    """
    if missing := set(states) - set(table):
        raise StateMachineError(f"{entity_type}: no row for {sorted(missing)}")
    if unknown := {target for targets in table.values() for target in targets} - set(table):
        raise StateMachineError(f"{entity_type}: transition to unknown state {sorted(unknown)}")
    if loops := [state for state, targets in table.items() if state in targets]:
        raise StateMachineError(f"{entity_type}: transition to itself from {loops}")
    reached, frontier = {initial}, [initial]
    while frontier:
        for target in table[frontier.pop()] - reached:
            reached.add(target)
            frontier.append(target)
    if unreachable := set(table) - reached:
        raise StateMachineError(f"{entity_type}: no way from {initial} to {sorted(unreachable)}")
    if all(table.values()):
        raise StateMachineError(f"{entity_type}: no final state")


lint(EntityType.ORDER, TRANSITIONS[EntityType.ORDER], OrderStatus, OrderStatus.PENDING_PAYMENT)
lint(EntityType.RETURN, TRANSITIONS[EntityType.RETURN], ReturnStatus, ReturnStatus.REQUESTED)
