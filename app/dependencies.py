"""What a web request is given: the services of this process, and who is calling."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from fastapi import Request
from starlette.types import Scope

from app.composition import Services
from app.core.actor import Actor
from app.core.enums import ActorType, Role, Trigger
from app.core.key_cache import KeySetUnavailableError
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
from app.request_state import state_of
from app.services.access.rate_limit import Verdict
from app.services.access.rate_limit_store import WINDOW_SECONDS
from app.utils.exceptions import RateLimitedError, ServiceUnavailableError, UnauthenticatedError

CREDENTIALS = frozenset({b"x-api-key", b"authorization"})
"""Headers that say who calls."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who calls, and the services to serve them with."""

    actor: Actor
    services: Services


def context_of(request: Request) -> RequestContext:
    """Return the context of a request that the route has authenticated."""
    return RequestContext(state_of(request.scope).caller, request.app.state.services)


async def request_context(request: Request) -> RequestContext:
    """Return `context_of`, as a dependency of FastAPI."""
    return context_of(request)


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
    """Return who makes a request, and note it in the request's state.

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
    state_of(scope).actor = actor
    return actor


def _keep_to(scope: Scope, verdict: Verdict) -> None:
    state_of(scope).rate_limit = verdict
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
