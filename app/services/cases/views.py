"""Cases as the service returns them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row

from app.core.enums import CaseKind
from app.services.cases.kinds import MEANINGS


class WayOutView(TypedDict):
    """A legal way to end a case."""

    action: str
    how: str


class CaseView(TypedDict):
    """Something that a person must decide, the evidence, and the ways out."""

    id: UUID
    kind: str
    says: str
    entity_type: str
    entity_id: UUID
    order_id: UUID | None
    order_number: str | None
    evidence: Mapping[str, Any]
    state: str
    ways_out: list[WayOutView]
    version: int
    created_at: datetime
    closed_at: datetime | None
    closed_by: UUID | None
    close_note: str | None
    action: str | None


def case_view(row: Row[Any]) -> CaseView:
    """Return a case as the API shows it: what happened, to what, and what may be done about it."""
    columns = row._asdict()
    meaning = MEANINGS[CaseKind(columns["kind"])]
    return {
        "id": columns["id"],
        "kind": columns["kind"],
        "says": meaning.says,
        "entity_type": columns["entity_type"],
        "entity_id": columns["entity_id"],
        "order_id": columns["order_id"],
        "order_number": columns["order_number"],
        "evidence": columns["evidence"],
        "state": columns["state"],
        "ways_out": [{"action": way.action, "how": way.how} for way in meaning.ways_out],
        "version": columns["version"],
        "created_at": columns["created_at"],
        "closed_at": columns["closed_at"],
        "closed_by": columns["closed_by"],
        "close_note": columns["close_note"],
        "action": columns["action"],
    }
