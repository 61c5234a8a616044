"""Which order a row of work is about: jobs and dead letters hold the id of an entity of any table."""

from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import aliased

from app.models.case import Case
from app.models.invoice import Invoice
from app.models.order import Order
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest

_HOLDERS: tuple[Any, ...] = (ReturnRequest, Refund, Payment, Invoice, Case)


def order_id_of(entity_id: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression for the order that the entity with this id belongs to; NULL where there is none.

    Ids are UUIDv7, so one names a row of one table at most.
    """
    # The row around is named outright: within the look-up of a number it is two levels away.
    around = getattr(entity_id, "table", None)

    def belongs_to(holder: Any, column: Any) -> ColumnElement[Any]:
        return select(column).where(holder.id == entity_id).correlate(around).scalar_subquery()

    itself = aliased(Order)
    holders = [aliased(holder) for holder in _HOLDERS]
    own = belongs_to(itself, itself.id)
    return func.coalesce(own, *(belongs_to(holder, holder.order_id) for holder in holders)).label("order_id")


def order_number_of(order_id: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression for the number of an order; NULL where the id is."""
    named = aliased(Order)
    return select(named.order_number).where(named.id == order_id).scalar_subquery().label("order_number")
