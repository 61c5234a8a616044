"""The one place that makes services, for the API and for the workers."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from app.config import Settings
from app.core.key_cache import KeyCache, provider_keys
from app.database import Database
from app.services.access.idempotency import IdempotencyService
from app.services.access.keys import KeyService
from app.services.access.rate_limit import RateLimiter
from app.services.access.rate_limit_store import SharedWindows
from app.services.access.tokens import TokenService
from app.services.cases.service import CaseService
from app.services.documents.links import FileLinks
from app.services.notifications.log import NotificationLog
from app.services.notifications.resend import MessageResend
from app.services.operations.dead_letters import DeadLetterService
from app.services.operations.health import HealthService
from app.services.operations.stats import StatsService
from app.services.orders import service as order_service
from app.services.orders.corrections import CorrectionService
from app.services.orders.notes import NoteService
from app.services.orders.service import OrderService
from app.services.payments import decisions as payment_decisions
from app.services.payments.refunds import RefundService
from app.services.payments.service import PaymentService
from app.services.payments.unpaid import UnpaidOrders
from app.services.payments.webhooks import WebhookVerifier
from app.services.returns.service import ReturnService
from app.services.workflow.audit import AuditService
from app.services.workflow.verification import VerificationService
from app.utils.clock import Clock, utc_now
from app.utils.shop_time import ReturnWindow, ShopTime

if TYPE_CHECKING:
    from app.services.documents.files import FileService
    from app.services.documents.invoices import InvoiceService
    from app.services.jobs.sweeps import SweepService
    from app.services.notifications.service import NotificationService
    from app.services.payments.gateway.http import HttpPaymentGateway
    from app.services.payments.gateway.port import PaymentGateway
    from app.services.payments.reconciliation import PaymentReconciler
    from app.services.returns.attachments import AttachmentService
    from app.utils.email_sender import EmailSender
    from app.utils.invoice_generator import DocumentRenderer
    from app.utils.messages import NotificationChannel
    from app.utils.storage import Storage


@dataclass(frozen=True, slots=True)
class Ports:
    """What talks to the outside; each that is absent is made from the settings when it is first needed."""

    renderer: "DocumentRenderer | None" = None
    storage: "Storage | None" = None
    mail_sender: "NotificationChannel | None" = None
    gateway: "PaymentGateway | None" = None
    channels: "Mapping[str, NotificationChannel] | None" = None


class Services:
    """The services of a process on one pool, each made when it is first needed."""

    def __init__(
        self, settings: Settings, database: Database, clock: Clock = utc_now, ports: Ports | None = None
    ) -> None:
        self.settings = settings
        self.database = database
        self.clock = clock
        self.ports = ports or Ports()
        self._own_gateway: HttpPaymentGateway | None = None
        self._own_mail_sender: EmailSender | None = None
        self._owns_database = True
        shop_time = ShopTime.from_settings(settings)
        self.orders = OrderService(database, clock, shop_time, settings.prices_set_by)
        self.returns = ReturnService(database, ReturnWindow.from_settings(settings), clock)
        self.keys = KeyService(database)
        self.tokens = TokenService(database)
        self.idempotency = IdempotencyService(database)
        self.health = HealthService(database, settings)
        self.stats = StatsService(database, clock, review_hours=settings.return_review_sla_hours, shop_time=shop_time)

    @cached_property
    def audit(self) -> AuditService:
        """Search and verification of the audit trail."""
        return AuditService(self.database, self.clock)

    @cached_property
    def verifications(self) -> VerificationService:
        """Runs of the verification of the audit trail."""
        return VerificationService(self.database, self.settings)

    @cached_property
    def payments(self) -> PaymentService:
        """What the gateway reports."""
        return PaymentService(self.database, order_service.STATEMENT, self.clock)

    @cached_property
    def webhooks(self) -> WebhookVerifier:
        """Proves that webhooks are the gateway's."""
        return WebhookVerifier.from_settings(self.settings, self.clock)

    @cached_property
    def refunds(self) -> RefundService:
        """Money on its way back."""
        return RefundService(self.database, self.clock)

    @cached_property
    def dead_letters(self) -> DeadLetterService:
        """Jobs that gave up."""
        return DeadLetterService(self.database, self.clock)

    @cached_property
    def gateway(self) -> "PaymentGateway":
        """The payment provider, asked before an unpaid order is cancelled."""
        if self.ports.gateway is not None:
            return self.ports.gateway
        from app.services.payments.gateway.http import HttpPaymentGateway  # noqa: PLC0415

        self._own_gateway = HttpPaymentGateway.from_settings(self.settings)
        return self._own_gateway

    @cached_property
    def unpaid_orders(self) -> UnpaidOrders:
        """What the provider holds for unpaid orders."""
        return UnpaidOrders(self.database, self.orders, self.gateway, self.clock)

    @cached_property
    def payment_reconciler(self) -> "PaymentReconciler":
        """Our payments beside the gateway's records. An API process never uses it, nor the next two."""
        from app.services.payments.reconciliation import PaymentReconciler  # noqa: PLC0415

        return PaymentReconciler(self.database, self.gateway, self.unpaid_orders)

    @cached_property
    def sweeps(self) -> "SweepService":
        """What time alone makes due."""
        from app.services.jobs.sweeps import SweepService  # noqa: PLC0415

        return SweepService(self.database, self.settings, self.clock)

    @cached_property
    def notifications(self) -> "NotificationService":
        """Mail, SMS and chat."""
        from app.services.notifications.service import NotificationService  # noqa: PLC0415
        from app.utils.email_sender import EmailSender  # noqa: PLC0415

        mail_sender = self.ports.mail_sender
        if mail_sender is None:
            mail_sender = self._own_mail_sender = EmailSender(self.settings, self.clock)
        return NotificationService(
            self.database, mail_sender, self.storage, self.settings, self.clock, self.ports.channels
        )

    @cached_property
    def corrections(self) -> CorrectionService:
        """Corrections of orders."""
        return CorrectionService(self.database, self.clock)

    @cached_property
    def notes(self) -> NoteService:
        """Notes of the staff."""
        return NoteService(self.database, self.clock)

    @cached_property
    def cases(self) -> CaseService:
        """What a person must decide."""
        decisions = payment_decisions.decisions(order_service.STATEMENT)
        return CaseService(self.database, self.clock, decisions, payment_decisions.reopenings())

    @cached_property
    def notification_log(self) -> NotificationLog:
        """Messages, and whether they were delivered."""
        return NotificationLog(self.database)

    @cached_property
    def message_resend(self) -> MessageResend:
        """Messages to be sent again."""
        return MessageResend(self.database, self.settings, self.clock)

    @cached_property
    def invoices(self) -> "InvoiceService":
        """Issued documents. Storage and renderer are loaded with it: most processes never show one."""
        from app.services.documents.invoices import InvoiceService  # noqa: PLC0415
        from app.utils.invoice_generator import renderer_for  # noqa: PLC0415

        renderer = self.ports.renderer or renderer_for(self.settings)
        return InvoiceService(self.database, renderer, self.storage, self.settings, self.clock)

    @cached_property
    def storage(self) -> "Storage":
        """Where documents and attachments are kept."""
        from app.utils.storage import storage_for  # noqa: PLC0415

        return self.ports.storage or storage_for(self.settings)

    @cached_property
    def file_links(self) -> FileLinks:
        """Signs links to files, and knows its own."""
        return FileLinks.from_settings(self.settings, self.clock)

    @cached_property
    def attachments(self) -> "AttachmentService":
        """Photos and papers of returns."""
        from app.services.returns.attachments import AttachmentService  # noqa: PLC0415

        return AttachmentService(self.database, self.storage, self.file_links, self.settings, self.clock)

    @cached_property
    def files(self) -> "FileService":
        """What signed links lead to."""
        from app.services.documents.files import FileService  # noqa: PLC0415

        redirects = self.settings.file_link_delivery == "redirect"
        return FileService(self.database, self.storage, self.file_links, redirects=redirects)

    @cached_property
    def provider_keys(self) -> KeyCache | None:
        """Keys of the identity provider; None without one."""
        return provider_keys(self.settings)

    @cached_property
    def rate_limiter(self) -> RateLimiter | None:
        """Counts callers; None when there is no limit."""
        limit = self.settings.rate_limit_per_minute
        return RateLimiter(limit, SharedWindows(self.settings.redis_url), self.clock) if limit else None

    async def close(self) -> None:
        """Close every connection."""
        for part in (self.provider_keys, self.rate_limiter):
            if part is not None:
                await part.close()
        if self._own_gateway is not None:
            await self._own_gateway.aclose()
        if self._own_mail_sender is not None:
            await asyncio.to_thread(self._own_mail_sender.close)
        if "verifications" in vars(self):
            await self.verifications.close()
        await self.health.close()
        if self._owns_database:
            await self.database.close()
