"""What an actor may see: a customer their own, every other caller and the system all (NFR-004).

Every query that a customer can reach has one of these conditions. What it leaves out is answered as not found.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from app.core.actor import Actor
from app.models.order import Order
from app.models.return_request import ReturnRequest


def visible_orders(actor: Actor) -> ColumnElement[bool]:
    """Return the condition that an order is one that `actor` may see."""
    return _own(Order.customer_id, actor)


def visible_returns(actor: Actor) -> ColumnElement[bool]:
    """Return the condition that a return is one that `actor` may see."""
    return _own(ReturnRequest.customer_id, actor)


def _own(column: InstrumentedAttribute[UUID], actor: Actor) -> ColumnElement[bool]:
    return true() if actor.sees_only is None else column == actor.sees_only


def visible_sql(entity: str, sees_only: str) -> str:
    """Return the same condition for a statement that is written as text.

    Args:
        entity: the alias of the table `orders` or `return_requests`.
        sees_only: the SQL expression that holds `Actor.sees_only`.
    """
    return f"({sees_only} IS NULL OR {entity}.customer_id = {sees_only})"


def owned_sql(entity: str, owner: str) -> str:
    """Return the same condition for a statement whose reader is a customer, so that an index of customers serves it.

    Args:
        entity: as of `visible_sql`.
        owner: the SQL expression that holds `Actor.sees_only`, which is not NULL.
    """
    return f"{entity}.customer_id = {owner}"
