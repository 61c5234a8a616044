"""Credentials: random API keys, kept as hashes, and signed tokens (NFR-004).

A key has 256 random bits, so a fast hash is the right one: there is nothing to guess, and a slow hash would
cost 200 ms a request. Our own tokens are HS256; those of an identity provider are what its keys say
(`app.core.jwks`). The algorithm is never the token's to choose.
"""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

from app.config import Settings
from app.core.enums import Role
from app.utils.json_values import JsonObject

KEY_SHAPE = re.compile(r"ack_([0-9a-f]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
JWT_ALGORITHM = "HS256"
# Ours are around 300 characters; a longer one is not worth decoding. A provider's carry claims for others too.
JWT_MAXIMUM_LENGTH = 2048
PROVIDER_JWT_MAXIMUM_LENGTH = 8192
# A provider's clock is not ours.
PROVIDER_LEEWAY_SECONDS = 5
TOKEN_ID_LENGTH = 255
_REQUIRED_CLAIMS = ["exp", "aud", "iss", "sub"]
# RecursionError and OverflowError: the header is parsed before any signature is checked.
_FAULTS = (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError, OverflowError)

DEVELOPMENT_PRINCIPAL_ID = UUID("00000000-0000-7000-8000-00000000d0e5")
"""The principal of `API_KEY` in development: always the same, so that audit rows agree."""


class CredentialsError(Exception):
    """The credentials do not hold. The reason is for our tests alone: an answer does not give it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The principal of some credentials: an id for the audit trail, a role, and for customers whose records."""

    id: UUID
    role: Role
    customer_id: UUID | None = None

    def __post_init__(self) -> None:
        """Refuse a customer without a customer id, and a customer id without a customer.

        Raises:
            ValueError: one of the two.
        """
        if (self.role is Role.CUSTOMER) != (self.customer_id is not None):
            raise ValueError("a customer id belongs to the role customer, and only there")


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose signature and claims hold; whether it was revoked, the database knows.

    Attributes:
        principal: whom it was issued to.
        token_id: by which it can be revoked, see `token_id_of`.
    """

    principal: Principal
    token_id: str


def new_key() -> tuple[str, str]:
    """Return a new API key, to be shown once, and its prefix, by which people recognise it."""
    prefix = secrets.token_hex(4)
    return f"ack_{prefix}_{secrets.token_urlsafe(32)}", prefix


def key_digest(key: str) -> bytes:
    """Return what is stored of a key: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def same_secret(given: str, expected: str) -> bool:
    """Return whether two secrets are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def issue_token(
    settings: Settings, principal: Principal, lifetime: timedelta, now: datetime, token_id: str | None = None
) -> str:
    """Return a signed token for `principal`, valid from `now` for `lifetime`; its `jti` is a random one when absent."""
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": str(principal.id),
        "jti": token_id or secrets.token_urlsafe(16),
        "role": str(principal.role),
        "iat": now,
        "exp": now + lifetime,
    }
    if principal.customer_id is not None:
        claims["customer_id"] = str(principal.customer_id)
    return jwt.encode(claims, settings.secret_key.get_secret_value(), algorithm=JWT_ALGORITHM)


def token_header(token: str) -> JsonObject:
    """Return what a token says of itself, none of it checked: good for choosing where to look, no more.

    Raises:
        CredentialsError: no token.
    """
    if len(token) > PROVIDER_JWT_MAXIMUM_LENGTH:
        raise CredentialsError("too long")
    try:
        return jwt.get_unverified_header(token)
    except _FAULTS as fault:
        raise CredentialsError(type(fault).__name__) from fault


def read_token(settings: Settings, token: str) -> VerifiedToken:
    """Return whom a token of ours was issued to. `SECRET_KEY_PREVIOUS`, where set, still verifies.

    Raises:
        CredentialsError: not signed by us, with another algorithm, expired, older than TOKEN_MAX_AGE_MINUTES, not valid
            until later, for another audience or from another issuer, or without a claim that is needed.
    """
    if len(token) > JWT_MAXIMUM_LENGTH:
        raise CredentialsError("too long")
    previous = settings.secret_key_previous.get_secret_value()
    try:
        try:
            claims = _claims_of_ours(settings, token, settings.secret_key.get_secret_value())
        except jwt.InvalidSignatureError:
            if not previous:
                raise
            claims = _claims_of_ours(settings, token, previous)
        return _verified(settings, token, claims)
    except _FAULTS as fault:
        raise CredentialsError(type(fault).__name__) from fault


def _claims_of_ours(settings: Settings, token: str, secret: str) -> JsonObject:
    return jwt.decode(
        token,
        secret,
        algorithms=[JWT_ALGORITHM],
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        options={"require": _REQUIRED_CLAIMS},
    )


def read_provider_token(settings: Settings, token: str, key: jwt.PyJWK) -> VerifiedToken:
    """Return the principal of a token of the identity provider.

    Args:
        settings: whose issuer and audience it must name.
        token: whose header named `key`.
        key: of the provider's set; its algorithm is the only one taken.

    Raises:
        CredentialsError: as for `read_token`.
    """
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=settings.jwks_audience or settings.jwt_audience,
            issuer=settings.jwks_issuer or settings.jwt_issuer,
            leeway=PROVIDER_LEEWAY_SECONDS,
            options={"require": _REQUIRED_CLAIMS},
        )
        return _verified(settings, token, claims)
    except _FAULTS as fault:
        raise CredentialsError(type(fault).__name__) from fault


def token_id_of(token: str) -> str:
    """Return the id by which a token is revoked: its `jti` (RFC 7519, 4.1.7), or a hash of what was signed without one.

    The token is not verified. The hash leaves the signature out, whose text can be changed without a change of its bytes.

    Raises:
        CredentialsError: no token, or a `jti` that cannot be kept.
    """
    try:
        return _token_id(token, jwt.decode(token, options={"verify_signature": False}))
    except _FAULTS as fault:
        raise CredentialsError(type(fault).__name__) from fault


def _token_id(token: str, claims: JsonObject) -> str:
    token_id = claims.get("jti")
    if token_id is None:
        return f"sha256:{hashlib.sha256(token.rpartition('.')[0].encode()).hexdigest()}"
    if not isinstance(token_id, str) or not 0 < len(token_id) <= TOKEN_ID_LENGTH or not token_id.isprintable():
        raise CredentialsError("a jti that cannot be kept")
    return token_id


def _verified(settings: Settings, token: str, claims: JsonObject) -> VerifiedToken:
    """Return what the claims of a proven token say.

    The maximum age is counted from `iat`; a token without one must expire within it.

    Raises:
        CredentialsError: too old, or a `jti` that cannot be kept.
        ValueError, TypeError, KeyError: a claim is not what it should be.
    """
    maximum, now = settings.token_max_age_minutes * 60, time.time()
    issued_at = claims.get("iat")
    seconds = now - float(issued_at) if issued_at is not None else float(claims["exp"]) - now
    if seconds > maximum:
        raise CredentialsError("older than TOKEN_MAX_AGE_MINUTES")
    return VerifiedToken(_principal(claims), _token_id(token, claims))


def _principal(claims: JsonObject) -> Principal:
    customer_id = claims.get("customer_id")
    return Principal(
        id=UUID(str(claims["sub"])),
        role=Role(claims["role"]),
        customer_id=None if customer_id is None else UUID(str(customer_id)),
    )
