"""What the jobs of one process share: the services of `app.composition`, and the handler of each kind of job."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

# Loaded before the fork, so that the processes of a worker share the memory: `Services` loads them when they are needed.
import app.services.jobs.sweeps
import app.services.notifications.service
import app.services.payments.reconciliation  # noqa: F401
from app.composition import Ports, Services
from app.config import Settings
from app.database import Database
from app.services.jobs.service import Claim, JobKind
from app.services.notifications.kind import is_message
from app.tasks.runner import JOB_TIME_LIMIT, Handler, JobRunner, OnDeadLetter
from app.utils.clock import Clock, utc_now

POOL_SIZE = 5
"""A process does one job at a time. Two connections are for prepared statements: that of the job, and the renewal of its
lease, which must not wait. Three are for transactions: that of the job, one beside it, and one to spare."""


class WorkerServices(Services):
    """The services of one worker process, used on one event loop, and what to do per kind of job."""

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database | None = None,
        clock: Clock = utc_now,
        ports: Ports | None = None,
    ) -> None:
        """Take what is given; a database that is not is opened here, and closed with the services."""
        super().__init__(
            settings, database or Database(settings, "articurated-worker", POOL_SIZE, hints=True), clock, ports
        )
        self._owns_database = database is None

    def handlers(self) -> Mapping[JobKind, Handler]:
        """Return the table of what to do per kind of job; every kind is in it."""
        table: dict[JobKind, Handler] = {kind: self._notify for kind in JobKind if is_message(kind)}
        table[JobKind.ISSUE_INVOICE] = self._issue_invoice
        table[JobKind.ISSUE_CREDIT_NOTE] = self._issue_credit_note
        table[JobKind.CAPTURE_PAYMENT] = self._capture_payment
        table[JobKind.RELEASE_PAYMENT] = self._release_payment
        table[JobKind.PROCESS_REFUND] = self._process_refund
        return table

    def on_dead_letter(self) -> Mapping[JobKind, OnDeadLetter]:
        """Return what else is written with a dead letter, per kind of job."""
        table: dict[JobKind, OnDeadLetter] = {kind: self._give_message_up for kind in JobKind if is_message(kind)}
        table[JobKind.PROCESS_REFUND] = self.refunds.on_dead
        return table

    def runner(self, owner: str, time_limit: timedelta = JOB_TIME_LIMIT) -> JobRunner:
        """Return the runner of this process's jobs."""
        return JobRunner(
            self.database,
            self.settings,
            self.handlers(),
            on_dead_letter=self.on_dead_letter(),
            owner=owner,
            time_limit=time_limit,
        )

    # The services are looked up when a job comes, not when the table is made.
    async def _notify(self, claim: Claim) -> None:
        await self.notifications.send(claim)

    async def _give_message_up(self, session: AsyncSession, claim: Claim) -> None:
        await self.notifications.on_dead(session, claim)

    async def _issue_invoice(self, claim: Claim) -> None:
        await self.invoices.issue(claim)

    async def _issue_credit_note(self, claim: Claim) -> None:
        await self.invoices.issue_credit_note(claim)

    async def _capture_payment(self, claim: Claim) -> None:
        await self.payments.capture(claim, self.gateway)

    async def _release_payment(self, claim: Claim) -> None:
        await self.unpaid_orders.release(claim)

    async def _process_refund(self, claim: Claim) -> None:
        await self.refunds.process(claim, self.gateway)
