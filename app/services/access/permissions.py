"""Who may do what, as tables (NFR-004).

A transition's role depends on the state it leads to, so both machines' tables are read by target. What a
customer may see is narrowed to their own by `app.services.access.visibility`; a foreign record is not found, not forbidden.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus, ReturnStatus, Role
from app.utils.exceptions import ForbiddenError

_ALL = frozenset(Role)
_STAFF = frozenset({Role.WAREHOUSE, Role.MANAGER, Role.ADMIN})
_MANAGERS = frozenset({Role.MANAGER, Role.ADMIN})
_FOR_CUSTOMERS = _MANAGERS | {Role.CUSTOMER, Role.SERVICE}


class Action(StrEnum):
    """What a role is needed for, besides transitions."""

    CREATE_ORDER = "order.create"
    READ_ORDER = "order.read"
    CORRECT_ORDER = "order.correct"
    CORRECT_TRACKING = "order.correct_tracking"
    CREATE_RETURN = "return.create"
    READ_RETURN = "return.read"
    ADD_ATTACHMENT = "attachment.add"
    ADD_NOTE = "note.add"
    READ_NOTES = "note.read"
    SEARCH_AUDIT = "audit.search"
    READ_REFUNDS = "refund.read"
    READ_JOBS = "job.read"
    READ_NOTIFICATIONS = "notification.read"
    RESEND_MESSAGES = "notification.resend"
    READ_STATS = "stats.read"
    READ_CASES = "case.read"
    CLOSE_CASES = "case.close"
    RESOLVE_JOBS = "job.resolve"
    MANAGE_KEYS = "key.manage"


ACTIONS: Mapping[Action, frozenset[Role]] = MappingProxyType(
    {
        Action.CREATE_ORDER: _FOR_CUSTOMERS,
        Action.READ_ORDER: _ALL,
        Action.CORRECT_ORDER: _MANAGERS,
        Action.CORRECT_TRACKING: _STAFF,
        Action.CREATE_RETURN: _FOR_CUSTOMERS,
        Action.READ_RETURN: _ALL,
        Action.ADD_ATTACHMENT: _STAFF | {Role.CUSTOMER},
        Action.ADD_NOTE: _STAFF,
        Action.READ_NOTES: _STAFF,
        Action.SEARCH_AUDIT: _MANAGERS,
        Action.READ_REFUNDS: _MANAGERS,
        Action.READ_JOBS: _MANAGERS,
        Action.READ_NOTIFICATIONS: _MANAGERS,
        Action.RESEND_MESSAGES: _MANAGERS,
        Action.READ_STATS: _MANAGERS,
        Action.READ_CASES: _MANAGERS,
        Action.CLOSE_CASES: _MANAGERS,
        Action.RESOLVE_JOBS: frozenset({Role.ADMIN}),
        Action.MANAGE_KEYS: frozenset({Role.ADMIN}),
    }
)

TRANSITION_ROLES: Mapping[EntityType, Mapping[StrEnum, frozenset[Role]]] = MappingProxyType(
    {
        EntityType.ORDER: MappingProxyType(
            {
                OrderStatus.PENDING_PAYMENT: frozenset[Role](),
                OrderStatus.PAID: frozenset({Role.MANAGER, Role.ADMIN, Role.SERVICE}),
                OrderStatus.PROCESSING_IN_WAREHOUSE: _STAFF,
                OrderStatus.SHIPPED: _STAFF,
                OrderStatus.DELIVERED: _STAFF,
                OrderStatus.CANCELLED: _FOR_CUSTOMERS,
            }
        ),
        EntityType.RETURN: MappingProxyType(
            {
                ReturnStatus.REQUESTED: frozenset[Role](),
                ReturnStatus.APPROVED: _MANAGERS,
                ReturnStatus.REJECTED: _MANAGERS,
                # Warehouse too, so that a parcel that arrives before anyone marked it as sent can be received.
                ReturnStatus.IN_TRANSIT: _FOR_CUSTOMERS | {Role.WAREHOUSE},
                ReturnStatus.RECEIVED: _STAFF,
                ReturnStatus.COMPLETED: _MANAGERS,
            }
        ),
    }
)
"""Who may bring an entity into a state. No role can into an initial state; asking for it anyway is a
question to the transition table, which refuses and records it, for everyone who may change states at all."""


PRICING_ROLES = frozenset({Role.MANAGER, Role.ADMIN, Role.SERVICE})
"""Who may create orders, and so set their prices, where ORDERS_PRICED_BY is `service`."""


def customers_steps(entity_type: EntityType) -> list[str]:
    """Return the states into which a customer may bring their own entity.

    A caller of role `service` does so on the customer's behalf, and the audit row says so.
    """
    return [str(state) for state, roles in TRANSITION_ROLES[entity_type].items() if Role.CUSTOMER in roles]


def on_behalf_of(actor: Actor, customer_id: UUID) -> dict[str, str]:
    """Return what a record of something that a customer may do says of the caller who did it for them."""
    return {"on_behalf_of": str(customer_id)} if actor.role is Role.SERVICE else {}


def require(actor: Actor, action: Action | str) -> None:
    """Let the actor pass, or refuse.

    Raises:
        ForbiddenError: the actor's role is not among those of the action.
    """
    roles = ACTIONS[Action(action)]
    if actor.role is not None and actor.role not in roles:
        raise ForbiddenError(
            f"The role {actor.role} may not do this.",
            {"role": actor.role, "needed": sorted(str(role) for role in roles)},
        )


def may_enter(actor: Actor, entity_type: EntityType, state: str) -> bool:
    """Return whether the actor's role may bring an entity into `state`; SYSTEM may, within the tables."""
    return actor.role is None or actor.role in _entering(entity_type, state)


def _entering(entity_type: EntityType, state: str) -> frozenset[Role]:
    by_state = {str(target): roles for target, roles in TRANSITION_ROLES[entity_type].items()}
    return by_state[state] or frozenset().union(*by_state.values())


def require_transition(actor: Actor, entity_type: EntityType, state: str) -> None:
    """Let the actor ask for `state`, or refuse.

    Raises:
        ForbiddenError: the actor's role may not bring an entity into that state.
    """
    if not may_enter(actor, entity_type, state):
        needed = sorted(str(role) for role in _entering(entity_type, state))
        raise ForbiddenError(
            f"The role {actor.role} may not bring {'an order' if entity_type is EntityType.ORDER else 'a return'} to {state}.",
            {"role": actor.role, "requested_state": state, "needed": needed},
        )
