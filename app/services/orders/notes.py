"""Notes of the staff on orders and returns: added, never changed, and not for customers (REQ-005)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.actor import Actor
from app.core.enums import EntityType
from app.database import Database
from app.models.note import Note
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.schemas.common import PageQuery
from app.schemas.note import NoteCreate
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.paging import Page
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.exceptions import OrderNotFoundError, ReturnNotFoundError

Subject = Literal[EntityType.ORDER, EntityType.RETURN]

_NOTE = Note.__table__.c


class NoteView(TypedDict):
    """A note on an order or a return; the id of the other one is None."""

    id: UUID
    order_id: UUID | None
    return_id: UUID | None
    text: str
    author_id: UUID
    author_role: str
    created_at: datetime


class NoteService:
    """Notes on orders and returns."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def add(self, subject: Subject, entity_id: UUID, data: NoteCreate, actor: Actor) -> NoteView:
        """Add a note; return it.

        Raises:
            ForbiddenError: the role may not.
            OrderNotFoundError, ReturnNotFoundError: there is no such order or return.
        """
        permissions.require(actor, Action.ADD_NOTE)
        now = self._clock()
        values = {
            "id": uuid7(now),
            _column(subject): entity_id,
            "text": data.text,
            "author_id": actor.id,
            "author_role": actor.role,
            "created_at": now,
        }
        async with self._database.transaction() as session:
            await _require_subject(await session.connection(), subject, entity_id)
            row = (await session.execute(insert(Note).values(values).returning(*_NOTE))).one()
        return note_view(row._mapping)

    async def list(self, subject: Subject, entity_id: UUID, page: PageQuery, actor: Actor) -> Page[NoteView]:
        """Return a page of the notes on an order or a return, oldest first.

        Raises:
            ForbiddenError: the role may not.
            OrderNotFoundError, ReturnNotFoundError: there is no such order or return.
        """
        permissions.require(actor, Action.READ_NOTES)
        async with self._database.autocommit() as connection:
            await _require_subject(connection, subject, entity_id)
            return await pages.fetch_page(
                connection,
                select(*_NOTE).where(_NOTE[_column(subject)] == entity_id),
                (_NOTE.created_at, _NOTE.id),
                page,
                lambda row: note_view(row._mapping),
                newest_first=False,
            )


def note_view(row: Mapping[Any, Any]) -> NoteView:
    """Return a note row as the staff see it."""
    return {
        "id": row["id"],
        "order_id": row["order_id"],
        "return_id": row["return_id"],
        "text": row["text"],
        "author_id": row["author_id"],
        "author_role": row["author_role"],
        "created_at": row["created_at"],
    }


def _column(subject: Subject) -> str:
    return "order_id" if subject is EntityType.ORDER else "return_id"


async def _require_subject(connection: AsyncConnection, subject: Subject, entity_id: UUID) -> None:
    if subject is EntityType.ORDER:
        if (await connection.execute(select(Order.id).where(Order.id == entity_id))).first() is None:
            raise OrderNotFoundError(entity_id)
    elif (await connection.execute(select(ReturnRequest.id).where(ReturnRequest.id == entity_id))).first() is None:
        raise ReturnNotFoundError(entity_id)
