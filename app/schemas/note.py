"""Notes on the wire."""

from uuid import UUID

from pydantic import ConfigDict

from app.core.enums import Role
from app.schemas.common import Answer, Pagination, Request, Timestamp, text_block


class NoteCreate(Request):
    """`POST /orders/{id}/notes`, `POST /returns/{id}/notes`."""

    text: text_block(2000)  # type: ignore[valid-type]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Called the customer: the parcel may wait at the neighbour's"}]}
    )


class NoteResponse(Answer):
    """A note on an order or a return; the other one's id is null."""

    id: UUID
    order_id: UUID | None
    return_id: UUID | None
    text: str
    author_id: UUID
    author_role: Role
    created_at: Timestamp


class NoteList(Answer):
    """A page of notes, oldest first."""

    data: list[NoteResponse]
    pagination: Pagination
