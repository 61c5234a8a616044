"""Tokens of an identity provider: which keys of its set count, what they verify, and which settings are taken."""

from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError
from structlog.testing import capture_logs

from app.config import Settings
from app.core import jwks
from app.core.enums import Role
from app.core.key_cache import provider_keys
from app.core.security import (
    PROVIDER_JWT_MAXIMUM_LENGTH,
    CredentialsError,
    Principal,
    read_provider_token,
    token_header,
)
from tests.identity_provider import (
    AUDIENCE,
    ISSUER,
    as_jwk,
    claims,
    jwk,
    key_server,
    key_set,
    knows,
    private_key,
    token,
)

pytestmark = [pytest.mark.req("NFR-004.1"), pytest.mark.security]

KINDS = ("RS256", "ES256", "EdDSA")
SETTINGS = Settings(_env_file=None, environment="testing", jwks_issuer=ISSUER, jwks_audience=AUDIENCE)


def read(signed: str, *keys: dict[str, Any]) -> Principal:
    """Return whom a token stands for under a set of these keys."""
    found = jwks.find(jwks.parse(key_set(*keys)), token_header(signed))
    if found is None:
        raise CredentialsError("unknown key")
    return read_provider_token(SETTINGS, signed, found).principal


# --- what a set's keys verify ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_verifies_what_it_signed(kind: str) -> None:
    customer = UUID(int=7)
    whom = read(token(kind, role="customer", customer_id=str(customer)), jwk(kind))
    assert (whom.role, whom.customer_id) == (Role.CUSTOMER, customer)


def test_two_keys_hold_beside_each_other_while_one_takes_over() -> None:
    both = (jwk("ES256", "old", 1), jwk("ES256", "new", 2))
    for kid, number in (("old", 1), ("new", 2)):
        assert read(token("ES256", kid, number), *both).role is Role.MANAGER
        with pytest.raises(CredentialsError):
            read(token("ES256", kid, 3 - number), *both)


@pytest.mark.parametrize(
    "left_out",
    [
        jwk("small RSA"),
        jwk("RS256", use="enc"),
        jwk("RS256", alg="RS512"),
        jwk("RS256", alg="PS256"),
        jwk("RS256", alg="HS256"),
        jwk("RS256", key_ops=["encrypt"]),
        jwk("RS256", key_ops="verify"),
        jwk("RS256", kid=None),
        jwk("RS256", kid=""),
        {**jwk("RS256"), "kid": 7},
        jwk("RS256", kid="k" * 1000),
        jwk("RS256", n="!!"),
        jwk("RS256", n=None),
        jwk("RS256", e="AA"),
        jwk("ES384"),
        jwk("ES256", crv="P-521"),
        jwk("ES256", x=jwk("ES256", number=9)["x"]),
        jwk("ES256", alg="EdDSA"),
        jwk("EdDSA", crv="Ed448"),
        jwk("EdDSA", x="AAAA"),
        {**as_jwk(private_key("ES256")), "kid": "k1"},
        {**as_jwk(private_key("RS256")), "kid": "k1"},
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"},
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0", "alg": "none"},
        {"kty": ["RSA"], "kid": "k1"},
        {},
        [],
        "key",
        None,
    ],
)
def test_a_key_that_must_not_verify_is_left_out_and_harms_no_other(left_out: Any) -> None:
    with capture_logs() as logs:
        found = jwks.parse(orjson.dumps({"keys": [left_out, jwk("ES256", "good")]}))
    assert list(found) == [("good", "ES256")]
    [entry] = logs
    assert (entry["event"], entry["position"]) == ("jwks.key_left_out", 0)


def test_a_second_key_of_the_same_name_is_left_out() -> None:
    keys = (jwk("ES256", "k1", 1), jwk("ES256", "k1", 2))
    assert read(token("ES256", "k1", 1), *keys)
    with pytest.raises(CredentialsError):
        read(token("ES256", "k1", 2), *keys)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b"<html>",
        b"\xff",
        b"[" * 2000,
        b'{"keys": []}'.ljust(70_000),
    ],
)
def test_what_is_no_set_is_refused(document: bytes) -> None:
    with pytest.raises(jwks.KeySetError):
        jwks.parse(document)


def test_too_many_keys_are_refused_and_none_is_an_answer() -> None:
    assert jwks.parse(key_set()) == {}
    with pytest.raises(jwks.KeySetError):
        jwks.parse(orjson.dumps({"keys": [{}] * 101}))


# --- tokens ------------------------------------------------------------------------------------------------------


def test_the_algorithm_is_the_keys() -> None:
    """A token under an RSA key's public half as an HMAC secret, the classic; and each key under each other name."""
    public = private_key("RS256").public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    keys = (jwk("RS256"), jwk("ES256", "e1"), jwk("EdDSA", "d1"))
    for secret in (pem, pem.strip(), orjson.dumps(jwk("RS256"))):
        with pytest.raises(CredentialsError):
            read(by_hmac(secret), *keys)
    for algorithm in ("none", "None", "", "RS512", "PS256", "ES256", "EdDSA", "HS256"):
        forged = with_header(token("RS256"), alg=algorithm)
        with pytest.raises(CredentialsError):
            read(forged, *keys)
    with pytest.raises(CredentialsError):
        read(jwt.encode(claims(), private_key("RS256"), algorithm="RS512", headers={"kid": "k1"}), *keys)


def by_hmac(secret: bytes) -> str:
    """Sign as HS256 with what the library would refuse as a secret."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    unsigned = with_header(token("RS256"), alg="HS256").rpartition(".")[0]
    digest = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{jwt.utils.base64url_encode(digest).decode()}"


def with_header(signed: str, **changes: Any) -> str:
    """Return a token with another header, and so with a signature that is not its own."""
    header = {**jwt.get_unverified_header(signed), **changes}
    given = {name: value for name, value in header.items() if value is not None}
    return ".".join([jwt.utils.base64url_encode(orjson.dumps(given)).decode(), *signed.split(".")[1:]])


def test_a_token_must_name_a_key_that_is_there() -> None:
    for kid in (None, "k2", "K1", ""):
        with pytest.raises(CredentialsError):
            read(token("ES256", kid), jwk("ES256"))


@pytest.mark.parametrize("pointer", ["jku", "x5u"])
async def test_a_key_that_a_token_brings_along_is_not_looked_at(pointer: str) -> None:
    mine = private_key("ES256", 66)
    with key_server(key_set(jwk("ES256", "k1", 66))) as elsewhere:
        headers = {"kid": "k1", pointer: elsewhere.url, "jwk": jwk("ES256", "k1", 66)}
        forged = jwt.encode(claims(), mine, algorithm="ES256", headers=headers)
        with pytest.raises(CredentialsError):
            read(forged, jwk("ES256"))
        assert elsewhere.fetches == []


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": -60},
        {"exp": None},
        {"nbf": 60},
        {"iat": 60},
        {"aud": "another"},
        {"aud": None},
        {"iss": "articurated"},
        {"iss": None},
        {"sub": None},
        {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"role": "root"},
        {"role": ["manager"]},
        {"role": None},
        {"role": "customer"},
        {"customer_id": str(UUID(int=1))},
    ],
)
def test_claims_are_held_to_what_they_must_be(changes: dict[str, Any]) -> None:
    now = claims()["iat"].timestamp()
    shifted = {name: now + value if isinstance(value, int) else value for name, value in changes.items()}
    with pytest.raises(CredentialsError):
        read(token("ES256", **shifted), jwk("ES256"))


def test_a_provider_s_clock_may_be_a_little_off() -> None:
    now = claims()["iat"].timestamp()
    assert read(token("ES256", exp=now - 2, iat=now - 60), jwk("ES256"))
    assert read(token("ES256", nbf=now + 3), jwk("ES256"))
    with pytest.raises(CredentialsError):
        read(token("ES256", exp=now - 6), jwk("ES256"))


def test_a_token_of_any_length_is_not_read() -> None:
    assert read(token("ES256", groups=["x" * 3000]), jwk("ES256"))
    with pytest.raises(CredentialsError):
        read(token("ES256", groups=["x" * PROVIDER_JWT_MAXIMUM_LENGTH]), jwk("ES256"))


# --- settings ----------------------------------------------------------------------------------------------------


def production(**values: Any) -> dict[str, Any]:
    return {
        "environment": "production",
        "payment_gateway_url": "https://gateway.example",
        "smtp_host": "mail.example",
        "smtp_port": 587,
        "secret_key": "a-signing-secret-of-our-own-0123456789",
        "api_key": "",
        "payment_gateway_api_key": "own",
        "payment_webhook_secret": "whsec_a-webhook-secret-of-our-own-0123",
        "database_url": "postgresql://own@db/orders?sslmode=verify-full",
        **values,
    }


@pytest.mark.parametrize(
    "values",
    [
        {"jwks_url": "http://login.example/keys"},
        {"jwks_url": "http://127.0.0.1.evil.example/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https://"},
        {"jwks_url": "https://me:secret@login.example/keys"},
        {"jwks_url": "https://login.example/keys#x"},
        {"jwks_url": "https://login.example/keys", "jwks_file": "/keys.json"},
        production(jwks_url="http://127.0.0.1/keys"),
        {"jwks_refresh_seconds": 0},
        production(secret_key_previous="short"),
        production(secret_key_previous="development-secret-key-not-for-production"),
        production(rate_limit_per_minute=0),
        {"trusted_proxies": "*"},
        {"trusted_proxies": "10.0.0.1, *"},
        {"trusted_proxies": "0.0.0.0/0"},
        {"trusted_proxies": "::/0"},
        {"trusted_proxies": "proxy.example"},
        {"trusted_proxies": "10.0.0.1/8"},
    ],
)
def test_settings_that_would_open_a_door_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **values)


def test_settings_that_are_safe_are_taken() -> None:
    for values in (
        production(
            jwks_url="https://login.example/keys?v=1", secret_key_previous="the-signing-secret-before-that-0123456"
        ),
        {"jwks_url": "http://localhost:8080/keys", "jwks_refresh_seconds": 1},
        {"jwks_url": "http://[::1]:8080/keys"},
        {"jwks_url": "", "jwks_file": ""},
    ):
        Settings(_env_file=None, **values)
    proxies = Settings(_env_file=None, trusted_proxies="10.0.0.0/8, 192.0.2.1,2001:db8::1,").proxies
    assert proxies == ["10.0.0.0/8", "192.0.2.1", "2001:db8::1"]


async def test_the_settings_name_the_source(tmp_path: Path) -> None:
    assert provider_keys(SETTINGS) is None
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk("ES256")))
    from_settings = provider_keys(Settings(_env_file=None, jwks_file=path))
    assert from_settings is not None
    assert await knows(from_settings, "k1")
    await from_settings.close()
    with key_server(key_set(jwk("ES256"))) as server:
        from_settings = provider_keys(Settings(_env_file=None, jwks_url=server.url))
        assert from_settings is not None
        assert await knows(from_settings, "k1")
        await from_settings.close()
        assert server.fetches[0]["accept-encoding"] == "identity", "a small body must not unfold into a large one"
