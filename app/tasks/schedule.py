"""Periodic work: every sweep, with its interval, its queue and its time limit (REQ-001, REQ-002, REQ-004).

`SCHEDULE` is the table of all sweeps. `celery_app` makes beat's schedule and the routes from it; `scheduled_tasks` makes
the tasks that a tick calls.

A tick may come late, twice, from two beats at once, or not at all. Each sweep therefore does what is due under conditions
that the database checks; a second sweep finds nothing to do.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from app.config import JOB_TIME_LIMIT_SECONDS
from app.core.actor import SYSTEM_JOB
from app.core.enums import SWEEPS

if TYPE_CHECKING:
    # The relay needs the name of each task, and none of the services.
    from app.composition import Services

BATCH = 200
ROUNDS = 20
"""Batches in one tick. The rest waits for the next tick, so that other messages are not delayed for long."""

TIME_LIMIT = timedelta(seconds=JOB_TIME_LIMIT_SECONDS)
EVERY_MINUTE = timedelta(minutes=1)
HOURLY = timedelta(hours=1)
FOUR_TIMES_A_DAY = timedelta(hours=6)
"""For work that is needed once a day: a beat that loses its schedule at a restart starts counting again."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep.

    Attributes:
        name: of the sweep in logs and metrics, and the last part of its task's name. Processes of two releases send each
            other that name during an upgrade, so it never changes.
        work: what a tick does; returns how many cases it took on.
        interval: from one tick to the next.
        queue: of the ticks. It is one that every worker takes from.
        time_limit: a tick that takes longer is cancelled between two steps; lower than `celery_app.TIME_LIMIT_SECONDS`.
    """

    name: str
    work: Callable[["Services"], Awaitable[int]]
    interval: timedelta
    queue: str = SWEEPS
    time_limit: timedelta = TIME_LIMIT

    @property
    def task(self) -> str:
        """The name of its task in messages. It is kept when modules are renamed."""
        return f"app.tasks.scheduled_tasks.{self.name}"

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return (self.work.__doc__ or "").partition("\n")[0]


async def in_batches(sweep: Callable[[int], Awaitable[int]]) -> int:
    """Repeat a sweep until a batch comes back short; return how many it took in all."""
    total = 0
    for _ in range(ROUNDS):
        done = await sweep(BATCH)
        total += done
        if done < BATCH:
            break
    return total


async def _cancel_unpaid_orders(services: "Services") -> int:
    """Cancel, as SYSTEM, the orders that were not paid in time, once the provider was asked (REQ-001)."""
    ttl = services.settings.unpaid_order_ttl
    return await in_batches(lambda limit: services.unpaid_orders.cancel_overdue(ttl, limit))


async def _expire_unreviewed_returns(services: "Services") -> int:
    """Reject, as SYSTEM, the returns that no manager reviewed in time (REQ-002)."""
    expiry = timedelta(days=services.settings.return_expiry_days)
    return await in_batches(lambda limit: services.returns.expire_unreviewed(expiry, limit))


async def _remind_reviewers(services: "Services") -> int:
    """Remind the managers, once each, of returns whose review is overdue (REQ-002)."""
    return await in_batches(services.sweeps.remind_reviewers)


async def _send_daily_summary(services: "Services") -> int:
    """Make yesterday's summary due, once its hour has come (REQ-004)."""
    return int(await services.sweeps.summarise_yesterday())


async def _forget_idempotency_keys(services: "Services") -> int:
    """Delete the stored answers whose time is over, and the revocations of tokens that have expired since."""
    answers = await in_batches(services.sweeps.forget_idempotency_keys)
    return answers + await in_batches(services.tokens.forget_expired)


async def _remove_orphaned_attachments(services: "Services") -> int:
    """Remove what uploads that broke off left in the storage: each hour in one part of the returns (INT-004)."""
    return await services.attachments.remove_orphans(int(services.clock().timestamp()) // 3600)


async def _reconcile(services: "Services") -> int:
    """Look for work that should have been due and is not; there should never be any (REQ-004)."""
    return await services.sweeps.reconcile(BATCH)


async def _reconcile_payments(services: "Services") -> int:
    """Compare our payments with the gateway's records, book what a lost webhook did not report, and ask about the rest."""
    return await services.payment_reconciler.sweep(SYSTEM_JOB)


async def _collect_figures(services: "Services") -> int:
    """Collect the figures of the business for all processes, so that no request waits for it (NFR-002)."""
    return int(await services.stats.refresh())


SCHEDULE = (
    Sweep("cancel_unpaid_orders", _cancel_unpaid_orders, EVERY_MINUTE),
    Sweep("expire_unreviewed_returns", _expire_unreviewed_returns, EVERY_MINUTE),
    Sweep("remind_reviewers", _remind_reviewers, EVERY_MINUTE),
    Sweep("send_daily_summary", _send_daily_summary, EVERY_MINUTE),
    Sweep("forget_idempotency_keys", _forget_idempotency_keys, EVERY_MINUTE),
    Sweep("collect_figures", _collect_figures, EVERY_MINUTE),
    Sweep("remove_orphaned_attachments", _remove_orphaned_attachments, HOURLY),
    Sweep("reconcile", _reconcile, HOURLY),
    Sweep("reconcile_payments", _reconcile_payments, FOUR_TIMES_A_DAY),
)
"""Every sweep."""
