"""Job rows and their guarantees (REQ-004).

PostgreSQL holds the truth: a job exists from the transaction that made it due until one worker's last
write, which requires the fence of its claim. Redis and Celery only carry wake-ups; losing or doubling a
message changes nothing. All times are the database's, so no clock of a worker matters.

    PENDING ──relay──▶ PUBLISHED ──claim──▶ RUNNING ──finish──▶ SUCCEEDED
       ▲                                       │
       └──────── failed, budget left ──────────┤
                                               └─ budget spent ─▶ DEAD ─▶ (retried) PENDING | DISMISSED

`failures` pays for tries that raised, `claims` for all tries that cost something: a worker that is killed
uses no retry, but a job that kills every worker does end in the dead letters. A try that was put back
because it could not even begin (an open circuit breaker), or whose answer is still to come (a refund that the
gateway has not decided), costs neither.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.enums import JobState, Queue
from app.database import hint_jobs
from app.models.job import DeadLetter, Job


class JobKind(StrEnum):
    """Every kind of job; a message's kind names its channel (`notify` is mail) and its template."""

    ISSUE_INVOICE = "invoice.issue"
    ISSUE_CREDIT_NOTE = "credit_note.issue"
    CAPTURE_PAYMENT = "payment.capture"
    RELEASE_PAYMENT = "payment.release"
    PROCESS_REFUND = "refund.process"
    NOTIFY_ORDER_CONFIRMATION = "notify.order_confirmation"
    NOTIFY_ORDER_SHIPPED = "notify.order_shipped"
    NOTIFY_ORDER_DELIVERED = "notify.order_delivered"
    NOTIFY_ORDER_CANCELLED = "notify.order_cancelled"
    NOTIFY_INVOICE = "notify.invoice"
    NOTIFY_CREDIT_NOTE = "notify.credit_note"
    NOTIFY_RETURN_RECEIVED = "notify.return_received"
    NOTIFY_RETURN_APPROVED = "notify.return_approved"
    NOTIFY_RETURN_REJECTED = "notify.return_rejected"
    NOTIFY_REFUND_PROCESSED = "notify.refund_processed"
    NOTIFY_WAREHOUSE_ORDER_READY = "notify.warehouse_order_ready"
    NOTIFY_RETURN_AWAITING_REVIEW = "notify.return_awaiting_review"
    NOTIFY_RETURN_REVIEW_OVERDUE = "notify.return_review_overdue"
    NOTIFY_GOODS_RECEIVED = "notify.goods_received"
    NOTIFY_JOB_FAILED = "notify.job_failed"
    NOTIFY_DAILY_SUMMARY = "notify.daily_summary"
    NOTIFY_GATEWAY_EVENT = "notify.gateway_event"
    NOTIFY_CASE = "notify.case"
    NOTIFY_RETURN_ARRIVED = "notify.return_arrived"
    NOTIFY_RETURN_COMPLETED = "notify.return_completed"
    SMS_ORDER_SHIPPED = "sms.order_shipped"
    SMS_ORDER_DELIVERED = "sms.order_delivered"
    SMS_REFUND_PROCESSED = "sms.refund_processed"
    CHAT_JOB_FAILED = "chat.job_failed"
    CHAT_CASE = "chat.case"
    CHAT_GATEWAY_EVENT = "chat.gateway_event"
    CHAT_RETURN_REVIEW_OVERDUE = "chat.return_review_overdue"
    CHAT_DAILY_SUMMARY = "chat.daily_summary"


_QUEUES = {
    "invoice": Queue.INVOICES,
    "credit_note": Queue.INVOICES,
    "payment": Queue.REFUNDS,
    "refund": Queue.REFUNDS,
    "notify": Queue.NOTIFICATIONS,
    "sms": Queue.NOTIFICATIONS,
    "chat": Queue.NOTIFICATIONS,
}


def queue_of(kind: JobKind) -> Queue:
    """Return the queue that carries `kind`: money, documents and messages do not wait for each other."""
    return _QUEUES[kind.partition(".")[0]]


_ENTITIES = {
    "invoice.issue": "ORDER",
    "credit_note.issue": "REFUND",
    "payment.capture": "PAYMENT",
    "payment.release": "ORDER",
    "refund.process": "REFUND",
    "invoice": "INVOICE",
    "credit_note": "CREDIT_NOTE",
    "refund_processed": "REFUND",
    "daily_summary": "DAILY_SUMMARY",
    "job_failed": "DEAD_LETTER",
    "gateway_event": "GATEWAY_REFERENCE",
    "case": "CASE",
}
"""Job, or message of any channel → what its entity id names."""


def entity_of(kind: JobKind) -> str:
    """Return what the entity id of a kind of job names; unlisted messages are about returns or orders."""
    word, _, name = kind.partition(".")
    if listed := _ENTITIES.get(name if word in {"notify", "sms", "chat"} else kind):
        return listed
    return "RETURN" if "return" in name or "goods" in name else "ORDER"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failing job is tried again, and how long it waits; data, not code.

    Attributes:
        retries: tries after the first.
        base: wait before the first retry, in seconds; doubles from there.
        cap: longest wait, in seconds.
        jitter: each wait is spread by ± this fraction, so that a broken dependency is not met by all at once.
    """

    retries: int
    base: float
    cap: float
    jitter: float = 0.1

    def delay(self, failures: int) -> timedelta:
        """Return the wait after the given number of failures (1 = the first)."""
        seconds = min(self.cap, self.base * 2.0 ** min(failures - 1, 62))
        return timedelta(seconds=seconds * random.uniform(1 - self.jitter, 1 + self.jitter))  # noqa: S311 - spread, not secrecy


def policy_for(queue: Queue, settings: Settings) -> RetryPolicy:
    """Return the retry policy of a queue from the settings (REQ-004)."""
    name = {Queue.INVOICES: "invoice", Queue.REFUNDS: "refund", Queue.NOTIFICATIONS: "notification"}[queue]
    return RetryPolicy(
        retries=getattr(settings, f"{name}_retries"),
        base=getattr(settings, f"{name}_retry_base_seconds"),
        cap=getattr(settings, f"{name}_retry_cap_seconds"),
    )


class LeaseLostError(Exception):
    """Another worker holds the job, or finished it: what this one did must not be committed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a job; `fence` is what its last write must show.

    `waited_seconds` is how long the job had been due when it was claimed, `age_seconds` how long ago it was made; both
    by the database's clock.
    """

    job_id: UUID
    kind: JobKind
    queue: Queue
    entity_id: UUID
    dedupe_key: str
    payload: Mapping[str, Any]
    failures: int
    claims: int
    fence: int
    owner: str
    last_error: str | None = None
    waited_seconds: float = 0.0
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A job that ended in the dead letters."""

    dead_letter_id: UUID
    job_id: UUID
    kind: JobKind
    entity_id: UUID
    error: str


async def add(
    session: AsyncSession,
    kind: JobKind,
    entity_id: UUID,
    dedupe_key: str,
    payload: Mapping[str, Any] | None = None,
) -> bool:
    """Make a job due in the caller's transaction; return False when `dedupe_key` made one before."""
    statement = (
        pg_insert(Job)
        .values(
            kind=kind, queue=queue_of(kind), entity_id=entity_id, dedupe_key=dedupe_key, payload=dict(payload or {})
        )
        .on_conflict_do_nothing(index_elements=[Job.dedupe_key])
        .returning(Job.id)
    )
    is_new = (await session.execute(statement)).first() is not None
    if is_new:
        hint_jobs(session)
    return is_new


async def make_due_now(session: AsyncSession, dedupe_key: str) -> None:
    """Make a job that waits for its time due now; one that runs, or has ended, stays as it is."""
    await session.execute(
        update(Job)
        .where(Job.dedupe_key == dedupe_key, Job.state == JobState.PENDING, Job.run_at > func.now())
        .values(run_at=func.now())
    )


def _held(held: Claim) -> ColumnElement[bool]:
    return and_(Job.id == held.job_id, Job.fence == held.fence, Job.state == JobState.RUNNING)


async def require_held(session: AsyncSession, held: Claim) -> None:
    """Lock the job's row and make sure that it is still this worker's, before something irrevocable.

    Raises:
        LeaseLostError: it is not.
    """
    row = await session.execute(select(Job.id).where(_held(held)).with_for_update(key_share=True))
    if row.first() is None:
        raise LeaseLostError(f"job {held.job_id} is no longer held under fence {held.fence}")


async def finish(session: AsyncSession, held: Claim) -> None:
    """Mark the job done, in the transaction that holds its effect.

    Raises:
        LeaseLostError: the job is no longer this worker's; the caller's transaction must roll back.
    """
    await _write_under_fence(
        session, held, state=JobState.SUCCEEDED, finished_at=func.now(), lease_owner=None, lease_until=None
    )


async def _write_under_fence(session: AsyncSession, held: Claim, **values: Any) -> None:
    result = await session.execute(update(Job).where(_held(held)).values(**values).returning(Job.id))
    if result.first() is None:
        raise LeaseLostError(f"job {held.job_id} is no longer held under fence {held.fence}")


async def dead_letter(session: AsyncSession, held: Claim, error: str) -> DeadLettered:
    """End the job in the dead letters, with the alert mail due in the same transaction.

    Raises:
        LeaseLostError: the job is no longer this worker's.
    """
    await _write_under_fence(
        session,
        held,
        state=JobState.DEAD,
        failures=Job.failures + 1,
        last_error=error,
        finished_at=func.now(),
        lease_owner=None,
        lease_until=None,
    )
    dead_letter_id = (
        await session.execute(
            insert(DeadLetter)
            .values(
                job_id=held.job_id,
                kind=held.kind,
                entity_id=held.entity_id,
                error=error,
                failures=held.failures + 1,
                claims=held.claims,
            )
            .returning(DeadLetter.id)
        )
    ).scalar_one()
    # An alert that cannot be mailed raises no alert of its own: it would never end.
    if held.kind is not JobKind.NOTIFY_JOB_FAILED:
        await add(session, JobKind.NOTIFY_JOB_FAILED, dead_letter_id, f"{JobKind.NOTIFY_JOB_FAILED}:{dead_letter_id}")
    return DeadLettered(dead_letter_id, held.job_id, held.kind, held.entity_id, error)
