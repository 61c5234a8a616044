"""Keys and tokens: what holds, and everything that must not."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest

from app.config import Settings
from app.core.enums import Role
from app.core.security import (
    KEY_SHAPE,
    CredentialsError,
    Principal,
    issue_token,
    key_digest,
    new_key,
    read_token,
    same_secret,
    token_id_of,
)

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

SETTINGS = Settings(_env_file=None, environment="testing")
SECRET = SETTINGS.secret_key.get_secret_value()
ID = UUID("0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60")
HOUR = timedelta(hours=1)
# When the tests were read; they may run an hour later.
NOW = datetime.now(UTC)


def claims(**changes: Any) -> dict[str, Any]:
    given = {
        "iss": "articurated",
        "aud": "articurated-api",
        "sub": str(ID),
        "role": "manager",
        "exp": NOW + 12 * HOUR,
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def signed(body: dict[str, Any]) -> str:
    """Sign anything, also what the library would refuse to."""
    plain = {name: int(value.timestamp()) if isinstance(value, datetime) else value for name, value in body.items()}
    signing_input = unsigned({"alg": "HS256", "typ": "JWT"}, plain).rstrip(".")
    digest = hmac.new(SECRET.encode(), signing_input.encode(), hashlib.sha256).digest()
    return f"{signing_input}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def unsigned(header: dict[str, Any], body: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, body)]
    return ".".join([*parts, ""])


@pytest.mark.req("NFR-004.1")
def test_a_key_is_long_random_and_kept_as_its_hash() -> None:
    made = {new_key() for _ in range(50)}
    assert len({key for key, _ in made}) == 50
    for key, prefix in made:
        assert KEY_SHAPE.fullmatch(key)
        assert key.startswith(f"ack_{prefix}_")
        assert len(key.rpartition(f"{prefix}_")[2]) * 6 >= 256  # bits of the random part
        assert key_digest(key) == hashlib.sha256(key.encode()).digest()


@pytest.mark.parametrize("role", list(Role))
def test_a_token_gives_back_whom_it_was_issued_for(role: Role) -> None:
    principal = Principal(ID, role, ID if role is Role.CUSTOMER else None)
    assert read_token(SETTINGS, issue_token(SETTINGS, principal, HOUR, datetime.now(UTC))).principal == principal


@pytest.mark.req("NFR-004.1")
@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - timedelta(seconds=1)},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"nbf": NOW + 6 * HOUR},
        {"iat": NOW + 6 * HOUR},
        {"aud": "another-api"},
        {"aud": None},
        {"iss": "another"},
        {"iss": None},
        {"sub": None},
        {"sub": "not-a-uuid"},
        {"sub": 17},
        {"role": "root"},
        {"role": None},
        {"role": ["admin"]},
        {"role": "customer"},
        {"role": "customer", "customer_id": "not-a-uuid"},
        {"role": "admin", "customer_id": str(ID)},
        {"customer_id": 5},
        # Older than a day, or to last for more than one.
        {"iat": NOW - 25 * HOUR},
        {"exp": NOW + 26 * HOUR},
        {"jti": ""},
        {"jti": 5},
        {"jti": "a\x00b"},
        {"jti": "x" * 256},
    ],
)
def test_a_claim_that_does_not_hold_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, signed(claims(**changes)))


def test_the_claims_of_these_tests_hold_when_unchanged() -> None:
    assert read_token(SETTINGS, signed(claims())).principal.role is Role.MANAGER


@pytest.mark.req("NFR-004.1")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS384", "RS256", "ES256"])
def test_the_algorithm_is_ours_to_choose(algorithm: str) -> None:
    body = claims(exp=int(NOW.timestamp()) + 12 * 3600)
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, unsigned({"alg": algorithm, "typ": "JWT"}, body))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_hmac_under_our_secret_is_refused(algorithm: str) -> None:
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, jwt.encode(claims(), SECRET * 3, algorithm=algorithm))


@pytest.mark.parametrize("header", [{"kid": "../../etc/passwd"}, {"jku": "https://evil.example/keys"}])
def test_what_a_header_names_is_never_followed(header: dict[str, str]) -> None:
    foreign = jwt.encode(claims(), "another secret of sufficient length, really", algorithm="HS256", headers=header)
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, foreign)
    assert read_token(SETTINGS, jwt.encode(claims(), SECRET, algorithm="HS256", headers=header)).principal.id == ID


def deep_header() -> str:
    opening = base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"[" * 1400).decode().rstrip("=")
    return f"{opening}.e30.AAAA"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "é.è.à",
        "\udcff.x.y",
        "x" * 100_000,
        deep_header(),
        "bnVsbA.bnVsbA.AAAA",
        "W10.W10.AAAA",
        "null",
    ],
)
def test_rubbish_is_refused_and_nothing_worse(token: str) -> None:
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, token)


def test_a_tampered_token_is_refused() -> None:
    token = jwt.encode(claims(role="warehouse"), SECRET, algorithm="HS256")
    head, body, signature = token.split(".")
    forged = jwt.encode(claims(role="admin"), SECRET, algorithm="HS256").split(".")[1]
    assert body != forged
    with pytest.raises(CredentialsError):
        read_token(SETTINGS, f"{head}.{forged}.{signature}")


@pytest.mark.parametrize("customer_id", [None, ID])
def test_only_customers_speak_for_a_customer(customer_id: UUID | None) -> None:
    with pytest.raises(ValueError, match="customer"):
        Principal(ID, Role.CUSTOMER if customer_id is None else Role.ADMIN, customer_id)


def test_secrets_of_any_characters_are_compared() -> None:
    assert same_secret("dév\udcff", "dév\udcff")
    assert not same_secret("dev-api-key", "dev-api-kez")
    assert not same_secret("", "x")


@pytest.mark.req("NFR-004.1")
def test_the_maximum_age_is_a_setting() -> None:
    strict = SETTINGS.model_copy(update={"token_max_age_minutes": 60})
    aged = signed(claims(iat=NOW - 2 * HOUR))
    assert read_token(SETTINGS, aged).principal.id == ID
    with pytest.raises(CredentialsError, match="TOKEN_MAX_AGE_MINUTES"):
        read_token(strict, aged)


@pytest.mark.req("NFR-004.1")
def test_each_token_has_an_id_by_which_it_can_be_revoked() -> None:
    made = [issue_token(SETTINGS, Principal(ID, Role.MANAGER), HOUR, NOW) for _ in range(2)]
    assert len({read_token(SETTINGS, token).token_id for token in made}) == 2
    assert read_token(SETTINGS, signed(claims(jti="t-1"))).token_id == token_id_of(signed(claims(jti="t-1"))) == "t-1"
    plain = signed(claims())
    assert read_token(SETTINGS, plain).token_id == token_id_of(plain)
    assert token_id_of(plain) == f"sha256:{hashlib.sha256(plain.rpartition('.')[0].encode()).hexdigest()}"
    assert token_id_of(plain) != token_id_of(signed(claims(role="admin")))
    with pytest.raises(CredentialsError):
        token_id_of("no token")
