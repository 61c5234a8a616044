"""The audit trail on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from app.core.enums import VerificationState
from app.schemas.common import Answer, Flag, Moment, PageQuery, Pagination, Timestamp


class AuditRecord(Answer):
    """One transition: who brought what from where to where, when, and through what (REQ-003).

    For customers, `actor_id` and `ip_address` of others are null, and so are the hashes from that row on.
    """

    id: UUID
    entity_type: Literal["ORDER", "RETURN"]
    entity_id: UUID
    entity_number: str | None
    seq: int
    previous_state: str
    new_state: str
    actor_id: UUID | None
    actor_type: Literal["USER", "SYSTEM"]
    trigger: str
    metadata: dict[str, Any]
    ip_address: str | None
    created_at: Timestamp
    prev_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class RejectionRecord(Answer):
    """One attempt that the transition table refused."""

    id: UUID
    entity_type: Literal["ORDER", "RETURN"]
    entity_id: UUID
    entity_number: str | None
    current_state: str
    requested_state: str
    actor_id: UUID | None
    actor_type: Literal["USER", "SYSTEM"]
    trigger: str
    metadata: dict[str, Any]
    ip_address: str | None
    created_at: Timestamp


class AuditList(Answer):
    """A page of the audit trail, oldest first; of refused attempts with `rejected=true`."""

    data: list[AuditRecord] | list[RejectionRecord]
    pagination: Pagination


class HistoryList(Answer):
    """The history of one entity, oldest first."""

    data: list[AuditRecord]
    pagination: Pagination


class AuditQuery(PageQuery):
    """Filters of `GET /audit`; `from` is inclusive, `to` exclusive."""

    entity: Literal["ORDER", "RETURN"] | None = None
    entity_id: UUID | None = None
    from_: Annotated[Moment | None, Field(alias="from")] = None
    to: Moment | None = None
    actor: UUID | None = None
    state: Annotated[str, Field(max_length=50, pattern="^[A-Z_]+$")] | None = None
    rejected: Flag = False

    model_config = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True)


class AuditFault(Answer):
    """The first row that does not hold, and why."""

    entity_type: str
    entity_id: UUID
    seq: int | None
    fault: str


class AuditVerification(Answer):
    """The result of walking every chain and replaying every transition."""

    ok: bool
    entities: int
    rows: int
    fault: AuditFault | None
    verified_at: datetime


class AuditProgress(Answer):
    """A verification that is still at work; `rows_expected` is an estimate, null where there is none."""

    state: VerificationState
    rows_checked: int
    rows_expected: int | None
    started_at: Timestamp


class TransitionOption(Answer):
    """One thinkable next state: whether this caller may go there now, and if not, why."""

    to: str
    allowed: bool
    blocked_because: str | None


class TransitionOptions(Answer):
    """What is allowed now, for this caller, and why the rest is not."""

    current_state: str
    transitions: list[TransitionOption]
