"""The row of a message in one round trip, where no limit and no earlier row prevents it (REQ-006).

Most messages are new and within the limits. For them, the locks of the limits, the counts, the row, and the jobs of the
short messages about the same event are one transaction of prepared statements (`Database.rows_together`). A message that
an earlier try recorded, or that is beyond a limit, gets nothing from it: `NotificationService` then reads what is there,
and decides in a session. The conditions are those of `limits`, which are written once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
from sqlalchemy import text

from app.config import Settings
from app.core.enums import NotificationState
from app.database import Database
from app.prepared import Bound, Prepared
from app.services.jobs.service import JobKind, queue_of
from app.services.notifications import limits
from app.services.notifications.rows import NewRow, Row

_LOCK: Final = Prepared(text(limits.LOCK.format(key="CAST(:key AS text)")))
_LOCK_CUSTOMER: Final = Prepared(
    text(
        f"SELECT ({limits.LOCK.format(key=limits.CUSTOMER_KEY)}) FROM ({limits.ACCOUNT}) AS account"  # noqa: S608 - constants
    )
)
_OPEN: Final = Prepared(
    text(f"""
WITH account AS ({limits.ACCOUNT}),
opened AS (
    INSERT INTO notifications (id, source_key, template, recipient, channel, entity_id, order_id, message_id, subject,
        created_at, state, customer_id)
    SELECT CAST(:id AS uuid), CAST(:source_key AS text), CAST(:template AS text), CAST(:recipient AS text),
        CAST(:channel AS text), CAST(:entity_id AS uuid), CAST(:order_id AS uuid), CAST(:message_id AS text),
        CAST(:subject AS text), CAST(:created_at AS timestamptz), '{NotificationState.PENDING}',
        (SELECT customer_id FROM account)
    WHERE NOT CAST(:is_limited AS boolean)
        OR ({limits.SENT_TO_RECIPIENT}) < CAST(:recipient_limit AS bigint)
        AND NOT EXISTS (SELECT FROM account
            WHERE ({limits.SENT_FOR_CUSTOMER.format(customer="account.customer_id")}) >= CAST(:customer_limit AS bigint))
    ON CONFLICT DO NOTHING
    RETURNING entity_id
),
short AS (
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, payload)
    SELECT s.kind, s.queue, o.entity_id, s.dedupe_key, s.payload
    FROM opened o, jsonb_to_recordset(CAST(:short AS jsonb)) AS s(kind text, queue text, dedupe_key text, payload jsonb)
    ON CONFLICT (dedupe_key) DO NOTHING
)
SELECT entity_id FROM opened
""")  # noqa: S608 - constants of this code base
)


@dataclass(frozen=True, slots=True)
class ShortJob:
    """The job of a short message about the same event."""

    kind: JobKind
    dedupe_key: str
    payload: Mapping[str, Any]


async def opened_at_once(database: Database, new: NewRow, short: Sequence[ShortJob], settings: Settings) -> Row | None:
    """Record a new message that may be sent, with the jobs of its short messages.

    Returns:
        Its row; None where an earlier try recorded it, or where a limit would suppress it. Nothing is written then.
    """
    is_limited = limits.is_limited(new)
    account = {"placed_order": new.order_id if limits.is_to_customer(new.channel, new.template) else None}
    values = {
        **account,
        **{name: getattr(new, name) for name in _COLUMNS},
        "channel": new.channel.value,
        "lowered": new.recipient.lower(),
        "is_limited": is_limited,
        "recipient_limit": settings.messages_per_recipient_per_hour,
        "customer_limit": settings.messages_per_customer_per_hour,
        "short": orjson.dumps([asdict(job) | {"queue": queue_of(job.kind)} for job in short]).decode(),
    }
    locks: list[Bound] = [(_LOCK, {"key": limits.recipient_key(new)}), (_LOCK_CUSTOMER, account)] if is_limited else []
    *_, rows = await database.rows_together(*locks, (_OPEN, values))
    if not rows:
        return None
    return Row(new.id, new.message_id, new.created_at, NotificationState.PENDING, is_new=True)


_COLUMNS: Final = (
    "id", "source_key", "template", "recipient", "entity_id", "order_id", "message_id", "subject", "created_at",
)  # fmt: skip
