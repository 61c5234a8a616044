"""What the clock makes due, tick by tick (REQ-001, REQ-002, REQ-004).

A tick may come late, twice, from two beats at once, or not at all: each task does what is due, under the
conditions that the database checks, and finds nothing to do when it was done.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from app.core import monitoring
from app.core.actor import SYSTEM_JOB
from app.services.returns.attachments import PARTS
from app.tasks.celery_app import task
from app.tasks.worker_process import current
from app.tasks.worker_services import WorkerServices

logger = structlog.get_logger(__name__)

BATCH = 200
ROUNDS = 20
"""At most this many batches a tick; the rest waits for the next one, as other messages wait behind this."""


async def in_batches(sweep: Callable[[int], Awaitable[int]]) -> int:
    """Repeat a sweep until a batch comes back short; return how many it took in all."""
    total = 0
    for _ in range(ROUNDS):
        done = await sweep(BATCH)
        total += done
        if done < BATCH:
            break
    return total


def _tick(name: str, work: Callable[[WorkerServices], Awaitable[int]]) -> None:
    done = current().run(work)
    monitoring.swept(name, done)
    if done:
        logger.info("sweep done", sweep=name, count=done)


@task("app.tasks.scheduled_tasks.cancel_unpaid_orders")
def cancel_unpaid_orders() -> None:
    """Cancel, as SYSTEM, the orders that were not paid in time, once the provider was asked (REQ-001)."""

    async def work(bench: WorkerServices) -> int:
        ttl = bench.settings.unpaid_order_ttl
        return await in_batches(lambda limit: bench.unpaid_orders.cancel_overdue(ttl, limit))

    _tick("cancel_unpaid_orders", work)


@task("app.tasks.scheduled_tasks.expire_unreviewed_returns")
def expire_unreviewed_returns() -> None:
    """Reject, as SYSTEM, the returns that no manager reviewed in time (REQ-002)."""

    async def work(bench: WorkerServices) -> int:
        expiry = timedelta(days=bench.settings.return_expiry_days)
        return await in_batches(lambda limit: bench.returns.expire_unreviewed(expiry, limit))

    _tick("expire_unreviewed_returns", work)


@task("app.tasks.scheduled_tasks.remind_reviewers")
def remind_reviewers() -> None:
    """Remind the managers, once each, of returns whose review is overdue (REQ-002)."""

    async def work(bench: WorkerServices) -> int:
        return await in_batches(bench.sweeps.remind_reviewers)

    _tick("remind_reviewers", work)


@task("app.tasks.scheduled_tasks.send_daily_summary")
def send_daily_summary() -> None:
    """Make yesterday's summary due, once its hour has come (REQ-004)."""

    async def work(bench: WorkerServices) -> int:
        return int(await bench.sweeps.summarise_yesterday())

    _tick("send_daily_summary", work)


@task("app.tasks.scheduled_tasks.forget_idempotency_keys")
def forget_idempotency_keys() -> None:
    """Delete the stored answers whose time is over, and the revocations of tokens that have expired since."""

    async def work(bench: WorkerServices) -> int:
        answers = await in_batches(bench.sweeps.forget_idempotency_keys)
        return answers + await in_batches(bench.tokens.forget_expired)

    _tick("forget_idempotency_keys", work)


@task("app.tasks.scheduled_tasks.remove_orphaned_attachments")
def remove_orphaned_attachments() -> None:
    """Remove what uploads that broke off left in the storage: each hour in one part of the returns (INT-004)."""

    async def work(bench: WorkerServices) -> int:
        hour = int(bench.clock().timestamp()) // 3600
        return await bench.attachments.remove_orphans(hour % PARTS)

    _tick("remove_orphaned_attachments", work)


@task("app.tasks.scheduled_tasks.reconcile")
def reconcile() -> None:
    """Look for work that should have been due and is not; there should never be any (REQ-004)."""

    async def work(bench: WorkerServices) -> int:
        return await bench.sweeps.reconcile(BATCH)

    _tick("reconcile", work)


@task("app.tasks.scheduled_tasks.reconcile_payments")
def reconcile_payments() -> None:
    """Compare our payments with the gateway's books, book what a lost webhook did not report, and ask about the rest."""

    async def work(bench: WorkerServices) -> int:
        return await bench.payment_reconciler.sweep(SYSTEM_JOB)

    _tick("reconcile_payments", work)
