"""What the jobs of one process share: connections, ports and services, each made on first use."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.database import Database
from app.services.access.tokens import TokenService
from app.services.documents.invoices import InvoiceService
from app.services.documents.links import FileLinks
from app.services.jobs.service import Claim, JobKind
from app.services.jobs.sweeps import SweepService
from app.services.notifications.service import NotificationService, is_message
from app.services.orders.service import STATEMENT as ORDER_STATEMENT
from app.services.orders.service import OrderService
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.gateway.port import PaymentGateway
from app.services.payments.reconciliation import PaymentReconciler
from app.services.payments.refunds import RefundService
from app.services.payments.service import PaymentService
from app.services.payments.unpaid import UnpaidOrders
from app.services.returns.attachments import AttachmentService
from app.services.returns.service import ReturnService
from app.tasks.runner import JOB_TIME_LIMIT, Handler, JobRunner, LastRites
from app.utils.clock import Clock, utc_now
from app.utils.email_sender import EmailSender, MailSender
from app.utils.invoice_generator import DocumentRenderer, renderer_for
from app.utils.messages import NotificationChannel
from app.utils.shop_time import ReturnWindow, ShopTime
from app.utils.storage import Storage, storage_for

POOL_SIZE = 3
"""A process does one job at a time: its transaction, the renewal of its lease, and one to spare."""


class Workbench:
    """Database, ports and services of one process, used on one event loop.

    Ports that are given are used as they are; the rest come from the settings, made when the first job needs them: a
    worker that only sends mail never loads the typesetter.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database | None = None,
        clock: Clock = utc_now,
        renderer: DocumentRenderer | None = None,
        storage: Storage | None = None,
        mail_sender: MailSender | None = None,
        gateway: PaymentGateway | None = None,
        channels: Mapping[str, NotificationChannel] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._given_database = database
        self._given_renderer = renderer
        self._given_storage = storage
        self._given_mail_sender = mail_sender
        self._given_gateway = gateway
        self._given_channels = channels
        self._own_gateway: HttpPaymentGateway | None = None

    @cached_property
    def database(self) -> Database:
        """The pool of this process."""
        return self._given_database or Database(self.settings, "articurated-worker", POOL_SIZE)

    @cached_property
    def gateway(self) -> PaymentGateway:
        """The payment gateway, with the one circuit breaker of this process."""
        if self._given_gateway is not None:
            return self._given_gateway
        self._own_gateway = HttpPaymentGateway.from_settings(self.settings)
        return self._own_gateway

    @cached_property
    def storage(self) -> Storage:
        """Where documents are kept."""
        return self._given_storage or storage_for(self.settings)

    @cached_property
    def invoices(self) -> InvoiceService:
        """Invoices and credit notes."""
        renderer = self._given_renderer or renderer_for(self.settings)
        return InvoiceService(self.database, renderer, self.storage, self.settings, self.clock)

    @cached_property
    def notifications(self) -> NotificationService:
        """Mail, SMS and chat."""
        mail_sender = self._given_mail_sender or EmailSender(self.settings, self.clock)
        return NotificationService(
            self.database, mail_sender, self.storage, self.settings, self.clock, self._given_channels
        )

    @cached_property
    def payments(self) -> PaymentService:
        """Money in."""
        return PaymentService(self.database, ORDER_STATEMENT, self.clock)

    @cached_property
    def refunds(self) -> RefundService:
        """Money out."""
        return RefundService(self.database, self.clock)

    @cached_property
    def orders(self) -> OrderService:
        """Orders, for the sweeps."""
        return OrderService(self.database, self.clock, ShopTime.from_settings(self.settings))

    @cached_property
    def unpaid_orders(self) -> UnpaidOrders:
        """What the provider holds for unpaid orders."""
        return UnpaidOrders(self.database, self.orders, self.gateway, self.clock)

    @cached_property
    def payment_reconciler(self) -> PaymentReconciler:
        """Our payments beside the gateway's books, for the sweeps."""
        return PaymentReconciler(self.database, self.gateway, self.unpaid_orders)

    @cached_property
    def returns(self) -> ReturnService:
        """Returns, for the sweeps."""
        return ReturnService(self.database, ReturnWindow.from_settings(self.settings), self.clock)

    @cached_property
    def attachments(self) -> AttachmentService:
        """Photos and papers of returns, for their sweep."""
        links = FileLinks.from_settings(self.settings, self.clock)
        return AttachmentService(self.database, self.storage, links, self.settings, self.clock)

    @cached_property
    def sweeps(self) -> SweepService:
        """What time alone makes due."""
        return SweepService(self.database, self.settings, self.clock)

    @cached_property
    def tokens(self) -> TokenService:
        """Revoked tokens, for their sweep."""
        return TokenService(self.database)

    def handlers(self) -> Mapping[JobKind, Handler]:
        """Return the table of what to do per kind of job; every kind is in it."""
        table: dict[JobKind, Handler] = {kind: self._notify for kind in JobKind if is_message(kind)}
        table[JobKind.ISSUE_INVOICE] = self._issue_invoice
        table[JobKind.ISSUE_CREDIT_NOTE] = self._issue_credit_note
        table[JobKind.CAPTURE_PAYMENT] = self._capture_payment
        table[JobKind.RELEASE_PAYMENT] = self._release_payment
        table[JobKind.PROCESS_REFUND] = self._process_refund
        return table

    def last_rites(self) -> Mapping[JobKind, LastRites]:
        """Return what else a burial writes, per kind of job."""
        table: dict[JobKind, LastRites] = {kind: self._give_message_up for kind in JobKind if is_message(kind)}
        table[JobKind.PROCESS_REFUND] = self.refunds.on_dead
        return table

    def runner(self, owner: str, time_limit: timedelta = JOB_TIME_LIMIT) -> JobRunner:
        """Return the runner of this process's jobs."""
        return JobRunner(
            self.database,
            self.settings,
            self.handlers(),
            last_rites=self.last_rites(),
            owner=owner,
            time_limit=time_limit,
        )

    async def close(self) -> None:
        """Close the connections that this workbench opened."""
        if self._own_gateway is not None:
            await self._own_gateway.aclose()
        if self._given_database is None and "database" in self.__dict__:
            await self.database.close()

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
