"""The signing keys of an identity provider, as it publishes them (RFC 7517; NFR-004).

What a key can verify is fixed when the set is read, by the key: RSA is RS256, P-256 is ES256, Ed25519 is EdDSA.
A token names a key and must carry that key's algorithm. Left out, so that no token can make use of them:

    a symmetric key            every reader of the set could sign with it
    a private key              published by mistake, so no longer private
    RSA under 2048 bits        within reach of being factored
    `use` other than `sig`, `key_ops` without `verify`, `alg` other than the three above
    a key without `kid`, or a second one with the same `kid` and algorithm

One such key among good ones is left out and logged; it does not take the others down with it.
"""

from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from jwt import PyJWK, PyJWTError

from app.core.security import CredentialsError

MAXIMUM_BYTES = 65_536
MAXIMUM_KEYS = 100
MINIMUM_RSA_BITS = 2048
_MAXIMUM_KID = 256

ProviderKeys = Mapping[tuple[str, str], PyJWK]
"""(`kid`, algorithm) → key."""

logger = structlog.get_logger(__name__)


class KeySetError(Exception):
    """What was read is no usable set of keys; the message says why."""


class UnusableKeyError(Exception):
    """This key is left out; the message says why."""


def parse(document: bytes) -> ProviderKeys:
    """Return the usable keys of a JWK set. None is an answer too: an emptied set lets no caller in any more.

    Raises:
        KeySetError: too large, no JSON, no set, or too many keys.
    """
    if len(document) > MAXIMUM_BYTES:
        raise KeySetError(f"more than {MAXIMUM_BYTES} bytes")
    try:
        given = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise KeySetError("no JSON") from None
    keys = given.get("keys") if isinstance(given, dict) else None
    if not isinstance(keys, list) or len(keys) > MAXIMUM_KEYS:
        raise KeySetError(f"no object with a list `keys` of at most {MAXIMUM_KEYS}")
    found: dict[tuple[str, str], PyJWK] = {}
    for position, jwk in enumerate(keys):
        try:
            kid, key = _usable(jwk)
        except UnusableKeyError as fault:
            # The position alone: a kid is the provider's text, and a private key must not come near a log.
            logger.warning("jwks.key_left_out", position=position, reason=str(fault))
            continue
        if found.setdefault((kid, key.algorithm_name), key) is not key:
            logger.warning("jwks.key_left_out", position=position, reason="second with this kid and algorithm")
    return found


def _usable(jwk: Any) -> tuple[str, PyJWK]:
    """Return the `kid` and the key.

    Raises:
        UnusableKeyError: see the top of this module.
    """
    if not isinstance(jwk, dict):
        raise UnusableKeyError("no object")
    algorithm = _algorithm_of(jwk)
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAXIMUM_KID:
        raise UnusableKeyError("no kid")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKeyError("not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKeyError("not for verifying")
    if "d" in jwk:
        raise UnusableKeyError("private")
    try:
        key = PyJWK(jwk, algorithm)
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as fault:
        raise UnusableKeyError(type(fault).__name__) from None
    if algorithm == "RS256" and key.key.key_size < MINIMUM_RSA_BITS:
        raise UnusableKeyError(f"RSA under {MINIMUM_RSA_BITS} bits")
    return kid, key


def _algorithm_of(jwk: Mapping[str, Any]) -> str:
    """Return the one algorithm of a key."""
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            algorithm = "RS256"
        case "EC", "P-256":
            algorithm = "ES256"
        case "OKP", "Ed25519":
            algorithm = "EdDSA"
        case _:
            raise UnusableKeyError("neither RSA nor P-256 nor Ed25519")
    if jwk.get("alg", algorithm) != algorithm:
        raise UnusableKeyError("for another algorithm")
    return algorithm


def find(keys: ProviderKeys, header: Mapping[str, Any]) -> PyJWK | None:
    """Return the key that a token's header names, or None when the set does not have it.

    Raises:
        CredentialsError: the header names no key, or one that is there for another algorithm.
    """
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise CredentialsError("names no key")
    key = keys.get((kid, algorithm))
    if key is None and any(kid == known for known, _ in keys):
        raise CredentialsError("another algorithm than the key's")
    return key
