"""Who acts, and through what: the part of every audit row that answers "who did it, and how"."""

from dataclasses import dataclass
from uuid import UUID

from app.core.enums import ActorType, Role, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A caller with credentials, or the system itself.

    Attributes:
        id: principal id of the credentials; None for SYSTEM.
        role: what the caller may do; None for SYSTEM, which may do all that the tables allow.
        customer_id: the customer a caller of role `customer` speaks for.
        trigger: API_CALL, WEBHOOK, BACKGROUND_JOB or CLI.
        ip_address: of a user's action (REQ-003).
        operator: who used the command line: a name, since no credentials are checked there.
    """

    id: UUID | None
    type: ActorType
    trigger: Trigger
    role: Role | None = None
    customer_id: UUID | None = None
    ip_address: str | None = None
    operator: str | None = None

    @property
    def sees_only(self) -> UUID | None:
        """The one customer whose records this actor may see; None when it may see all."""
        return self.customer_id if self.role is Role.CUSTOMER else None


SYSTEM_JOB = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.BACKGROUND_JOB)
"""The system at work in the background: sweeps, refunds, invoices."""
