"""Cases on the wire."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from app.core.enums import CaseEntity, CaseKind, CaseState
from app.schemas.common import Answer, PageQuery, Pagination, Request, Timestamp, text_block


class CaseQuery(PageQuery):
    """Filters of `GET /cases`."""

    kind: Annotated[list[CaseKind], Field(max_length=20)] = Field(default_factory=list)
    state: CaseState | None = None
    order_id: UUID | None = None
    entity_type: CaseEntity | None = None
    entity_id: UUID | None = None


class CaseClose(Request):
    """`POST /cases/{id}/close`: what was decided, and which of the ways out was taken."""

    note: text_block(2000)  # type: ignore[valid-type]
    action: Annotated[str, Field(strict=True, max_length=40, pattern="^[A-Z_]+$")] | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"note": "The bank decided for us", "action": "RELEASE"}]}
    )


class WayOutResponse(Answer):
    """A legal way to end a case."""

    action: str
    how: str


class CaseResponse(Answer):
    """Something that a person must decide, the evidence, and the ways out."""

    id: UUID
    kind: CaseKind
    says: str
    entity_type: CaseEntity
    entity_id: UUID
    order_id: UUID | None
    order_number: str | None
    evidence: dict[str, Any]
    state: CaseState
    ways_out: list[WayOutResponse]
    version: int
    created_at: Timestamp
    closed_at: Timestamp | None
    closed_by: UUID | None
    close_note: str | None
    action: str | None


class CaseList(Answer):
    """A page of cases, newest first."""

    data: list[CaseResponse]
    pagination: Pagination
