"""The audit trail and the possible transitions, as the services return them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID


class RecordView(TypedDict):
    """One transition; what the reader may not see is None."""

    id: UUID
    entity_type: str
    entity_id: UUID
    entity_number: str | None
    seq: int
    previous_state: str
    new_state: str
    actor_id: UUID | None
    actor_type: str
    trigger: str
    metadata: Mapping[str, Any]
    ip_address: str | None
    created_at: datetime
    prev_hash: str | None
    hash: str | None


class RejectionView(TypedDict):
    """One attempt that the transition table refused."""

    id: UUID
    entity_type: str
    entity_id: UUID
    entity_number: str | None
    current_state: str
    requested_state: str
    actor_id: UUID | None
    actor_type: str
    trigger: str
    metadata: Mapping[str, Any]
    ip_address: str | None
    created_at: datetime


class FaultView(TypedDict):
    """The first row that does not hold; `seq` is None when it is the row of the entity itself."""

    entity_type: str
    entity_id: UUID
    seq: int | None
    fault: str


class ReportView(TypedDict):
    """What a verification of the trail found; `fault` is None when the whole trail holds."""

    ok: bool
    entities: int
    rows: int
    fault: FaultView | None


class VerificationView(ReportView):
    """The result of a verification, and the moment whose rows it read."""

    verified_at: datetime


class TransitionOptionView(TypedDict):
    """One state: whether the caller may bring the entity there now, and if not, why."""

    to: str
    allowed: bool
    blocked_because: str | None


class TransitionOptionsView(TypedDict):
    """The current state, and every state as the next one."""

    current_state: str
    transitions: list[TransitionOptionView]


def record_view(row: Mapping[Any, Any]) -> RecordView:
    """Return a history row as the API shows it."""
    return {
        "id": row["id"],
        "entity_type": row["entity_type"],
        "entity_id": row["entity_id"],
        "entity_number": row["entity_number"],
        "seq": row["seq"],
        "previous_state": row["previous_state"],
        "new_state": row["new_state"],
        "actor_id": row["actor_id"],
        "actor_type": row["actor_type"],
        "trigger": row["trigger"],
        "metadata": row["metadata"],
        "ip_address": row["ip_address"],
        "created_at": row["created_at"],
        "prev_hash": bytes(row["prev_hash"]).hex(),
        "hash": bytes(row["hash"]).hex(),
    }


def rejection_view(row: Mapping[Any, Any]) -> RejectionView:
    """Return a refused attempt as the API shows it."""
    return {
        "id": row["id"],
        "entity_type": row["entity_type"],
        "entity_id": row["entity_id"],
        "entity_number": row["entity_number"],
        "current_state": row["current_state"],
        "requested_state": row["requested_state"],
        "actor_id": row["actor_id"],
        "actor_type": row["actor_type"],
        "trigger": row["trigger"],
        "metadata": row["metadata"],
        "ip_address": row["ip_address"],
        "created_at": row["created_at"],
    }
