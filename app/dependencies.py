"""What a web request is given: the services of this process, and who is calling (contract section 7)."""

import ipaddress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, cast

from fastapi import Request
from starlette.types import Scope

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import ActorType, Role, Trigger
from app.core.key_cache import KeyCache, KeySetUnavailableError, provider_keys
from app.core.security import (
    DEVELOPMENT_PRINCIPAL_ID,
    JWT_ALGORITHM,
    CredentialsError,
    Principal,
    VerifiedToken,
    read_provider_token,
    read_token,
    same_secret,
    token_header,
)
from app.database import Database
from app.services.access.idempotency import IdempotencyService
from app.services.access.keys import KeyService
from app.services.access.rate_limit import RateLimiter, Verdict
from app.services.access.rate_limit_store import WINDOW_SECONDS, SharedWindows
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
from app.services.returns.service import ReturnService
from app.services.workflow.audit import AuditService
from app.services.workflow.verification import VerificationService
from app.utils.clock import Clock, utc_now
from app.utils.exceptions import RateLimitedError, ServiceUnavailableError, UnauthenticatedError
from app.utils.shop_time import ReturnWindow, ShopTime

if TYPE_CHECKING:
    from app.services.documents.files import FileService
    from app.services.documents.invoices import InvoiceService
    from app.services.payments.gateway.http import HttpPaymentGateway
    from app.services.payments.gateway.port import PaymentGateway
    from app.services.returns.attachments import AttachmentService
    from app.utils.storage import Storage

ACTOR = "articurated.actor"
"""Where a request's scope holds its actor, for the access log."""

CREDENTIALS = frozenset({b"x-api-key", b"authorization"})
"""Headers that say who calls."""

RATE_LIMIT = "articurated.rate_limit"
"""Where a request's scope holds what its caller is told about the limit, for the headers of the answer."""


class Services:
    """The services of a process on one pool, each made when it is first needed."""

    def __init__(self, settings: Settings, database: Database, clock: Clock = utc_now) -> None:
        self.settings = settings
        self.database = database
        self.clock = clock
        self._own_gateway: HttpPaymentGateway | None = None
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
        from app.services.payments.gateway.http import HttpPaymentGateway  # noqa: PLC0415

        self._own_gateway = HttpPaymentGateway.from_settings(self.settings)
        return self._own_gateway

    @cached_property
    def unpaid_orders(self) -> UnpaidOrders:
        """What the provider holds for unpaid orders."""
        return UnpaidOrders(self.database, self.orders, self.gateway, self.clock)

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
    def notifications(self) -> NotificationLog:
        """What was told to whom."""
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

        return InvoiceService(self.database, renderer_for(self.settings), self.storage, self.settings, self.clock)

    @cached_property
    def storage(self) -> "Storage":
        """Where documents and attachments are kept."""
        from app.utils.storage import storage_for  # noqa: PLC0415

        return storage_for(self.settings)

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
        if "verifications" in vars(self):
            await self.verifications.close()
        await self.health.close()
        await self.database.close()


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who calls, and the services to serve them with."""

    actor: Actor
    services: Services


async def request_context(request: Request) -> RequestContext:
    """Return the context of a request that the route has authenticated."""
    return RequestContext(request.scope[ACTOR], request.app.state.services)


async def process_services(request: Request) -> Services:
    """Return the services, for routes that anyone may call."""
    return cast("Services", request.app.state.services)


async def admit(scope: Scope, services: Services) -> Actor:
    """Return who makes a request, which counts towards the caller's limit.

    Raises:
        UnauthenticatedError, ServiceUnavailableError: as in `authenticate`.
        RateLimitedError: too many requests of this caller, or too many failures from this address.
    """
    actor = await authenticate(scope, services)
    if services.rate_limiter is not None and actor.id is not None:
        _keep_to(scope, await services.rate_limiter.count_caller(actor.id))
    return actor


async def authenticate(scope: Scope, services: Services) -> Actor:
    """Return who makes a request, and leave it in the request's scope.

    A header that is there must hold, even beside another one that does. Failures count towards a limit of the
    address they come from. Beyond it, wrong credentials are answered 429. Right ones pass, so that a neighbour behind
    the same address cannot lock a caller out: a key has 256 random bits, and no number of guesses finds one. What the
    guesses cost is bounded: keys from such an address are looked up one at a time.

    Raises:
        UnauthenticatedError: no credentials, wrong ones, several of a kind, or two that disagree.
        RateLimitedError: the same, once too often from this address.
        ServiceUnavailableError: a provider's token, while the provider's keys cannot be had.
    """
    try:
        principal = await _principal(scope, services)
    except UnauthenticatedError:
        if services.rate_limiter is not None:
            _keep_to(scope, await services.rate_limiter.count_failure(client_address(scope)))
        raise
    actor = Actor(
        id=principal.id,
        type=ActorType.USER,
        trigger=Trigger.API_CALL,
        role=principal.role,
        customer_id=principal.customer_id,
        ip_address=client_address(scope),
    )
    scope[ACTOR] = actor
    return actor


def _keep_to(scope: Scope, verdict: Verdict) -> None:
    scope[RATE_LIMIT] = verdict
    if not verdict.allowed:
        raise RateLimitedError(verdict.limit, WINDOW_SECONDS, verdict.reset_seconds)


async def _principal(scope: Scope, services: Services) -> Principal:
    key, bearer = _credentials(scope)
    by_key = await _by_key(key, scope, services) if key is not None else None
    by_token = await _by_token(bearer, services) if bearer is not None else None
    principal = by_key or by_token
    if principal is None or (by_key is not None and by_token is not None and by_key != by_token):
        raise UnauthenticatedError
    return principal


def _credentials(scope: Scope) -> tuple[str | None, str | None]:
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in CREDENTIALS:
            if name in found:
                raise UnauthenticatedError
            found[name] = value.decode("latin-1")
    return found.get(b"x-api-key"), found.get(b"authorization")


async def _by_key(key: str, scope: Scope, services: Services) -> Principal:
    development_key = services.settings.api_key
    if development_key is not None and services.settings.environment != "production":
        expected = development_key.get_secret_value()
        if expected and same_secret(key, expected):
            return Principal(id=DEVELOPMENT_PRINCIPAL_ID, role=Role.ADMIN)
    limiter = services.rate_limiter
    is_suspect = limiter is not None and limiter.has_failed_too_often(client_address(scope))
    principal = await services.keys.authenticate(key, in_turn=is_suspect)
    if principal is None:
        raise UnauthenticatedError
    return principal


async def _by_token(authorization: str, services: Services) -> Principal:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError
    try:
        verified = await _verify(token.strip(" "), services)
    except CredentialsError:
        raise UnauthenticatedError from None
    except KeySetUnavailableError:
        raise ServiceUnavailableError("Tokens of the identity provider cannot be checked right now.") from None
    if await services.tokens.is_revoked(verified.token_id):
        raise UnauthenticatedError
    return verified.principal


async def _verify(token: str, services: Services) -> VerifiedToken:
    keys = services.provider_keys
    if keys is None:
        return read_token(services.settings, token)
    # What a token says of itself decides who is asked for the key, and nothing else: a secret of ours never
    # meets another algorithm, nor a key of the provider's the one of our secret.
    header = token_header(token)
    if header.get("alg") == JWT_ALGORITHM:
        return read_token(services.settings, token)
    return read_provider_token(services.settings, token, await keys.find(header))


def client_address(scope: Scope) -> str | None:
    """Return the caller's IP address, or None over a socket that has none."""
    client = scope.get("client")
    return _checked_address(client[0]) if client else None


@lru_cache(maxsize=4096)
def _checked_address(text: str) -> str | None:
    # Behind a proxy this is what a header said: an audit row takes no arbitrary text for an address.
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
