"""Tokens and keys that change hands: a provider's tokens over HTTP, secrets and keys that are replaced (NFR-004)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token, token_id_of
from app.database import Database
from app.main import create_app
from app.services.access.keys import REMEMBERED_SECONDS, KeyService
from app.services.access.tokens import TokenService
from app.services.access.views import NewKeyView
from app.utils.exceptions import InvalidInputError, NotFoundError
from tests.conftest import MovableClock
from tests.fakes import Stopwatch
from tests.identity_provider import AUDIENCE, ISSUER, jwk, key_server, key_set, token
from tests.integration.conftest import LOGINS, Connect, Login, error_of, new_order

pytestmark = [pytest.mark.req("NFR-004.2"), pytest.mark.security]

ORDERS = "/api/v1/orders"


class Callers:
    """An application with other settings than the rest, and clients of it."""

    def __init__(self, settings: Settings, database: Database, clock: MovableClock) -> None:
        self.services = Services(settings, database, clock)
        self.application = create_app(settings, self.services)

    async def get(self, bearer: str, path: str = ORDERS) -> httpx2.Response:
        """Ask with a bearer token."""
        transport = httpx2.ASGITransport(app=self.application, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {bearer}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await client.get(path)


# --- tokens of an identity provider ------------------------------------------------------------------------------


@pytest.fixture
async def with_provider(
    settings: Settings, database: Database, clock: MovableClock, tmp_path: Path
) -> AsyncIterator[Callers]:
    """An application that knows one key of a provider, beside its own secret."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk("RS256", "r1"), jwk("ES256", "e1"), jwk("EdDSA", "d1")))
    changes = {"jwks_file": path, "jwks_issuer": ISSUER, "jwks_audience": AUDIENCE}
    callers = Callers(settings.model_copy(update=changes), database, clock)
    yield callers
    assert callers.services.provider_keys is not None
    await callers.services.provider_keys.close()


@pytest.mark.req("NFR-004.1")
async def test_tokens_of_the_provider_and_our_own_are_taken(with_provider: Callers, settings: Settings) -> None:
    ours = issue_token(settings, Principal(uuid4(), Role.MANAGER), timedelta(minutes=1), datetime.now(UTC))
    for bearer in (token("RS256", "r1"), token("ES256", "e1"), token("EdDSA", "d1"), ours):
        assert (await with_provider.get(bearer)).status_code == 200
    assert (await with_provider.get(token("ES256", "e1", role="warehouse"), "/api/v1/stats")).status_code == 403
    for bearer in (
        token("ES256", "e1", iss="articurated", aud="articurated-api"),
        token("ES256", "e2"),
        token("ES256", None),
        token("ES256", "r1"),
        token("ES256", "e1", number=5),
    ):
        refused = await with_provider.get(bearer)
        assert refused.status_code == 401
        assert error_of(refused)["code"] == "UNAUTHENTICATED"


@pytest.mark.req("NFR-004.1")
async def test_without_a_provider_its_tokens_are_refused(connect: Connect) -> None:
    for kind in ("RS256", "ES256", "EdDSA"):
        client = connect(Authorization=f"Bearer {token(kind)}")
        assert (await client.get(ORDERS)).status_code == 401


@pytest.mark.req("NFR-004.1")
async def test_while_the_provider_s_keys_cannot_be_had_its_tokens_are_neither_good_nor_bad(
    settings: Settings, database: Database, clock: MovableClock
) -> None:
    with key_server(b"") as server:
        server.status = 500
        changes = {"jwks_url": server.url, "jwks_issuer": ISSUER, "jwks_audience": AUDIENCE}
        callers = Callers(settings.model_copy(update=changes), database, clock)
        answer = await callers.get(token())
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "SERVICE_UNAVAILABLE"
        assert "retry-after" in answer.headers
        ours = issue_token(settings, Principal(uuid4(), Role.MANAGER), timedelta(minutes=1), datetime.now(UTC))
        assert (await callers.get(ours)).status_code == 200
        assert (await callers.get("x.y.z")).status_code == 401
        assert callers.services.provider_keys is not None
        await callers.services.provider_keys.close()


# --- a secret that is replaced -----------------------------------------------------------------------------------


async def test_tokens_under_the_previous_secret_hold_while_it_is_named(
    settings: Settings, database: Database, clock: MovableClock
) -> None:
    def under(secret: str, previous: str = "") -> Settings:
        return Settings(**{**settings.model_dump(), "secret_key": secret, "secret_key_previous": previous})

    old, new, older = "o" * 40, "n" * 40, "x" * 40
    whom = Principal(uuid4(), Role.MANAGER)
    signed = {
        secret: issue_token(under(secret), whom, timedelta(minutes=1), datetime.now(UTC))
        for secret in (old, new, older)
    }
    during = Callers(under(new, previous=old), database, clock)
    answers = {secret: (await during.get(bearer)).status_code for secret, bearer in signed.items()}
    assert answers == {old: 200, new: 200, older: 401}
    fresh = issue_token(during.services.settings, whom, timedelta(minutes=1), datetime.now(UTC))
    after = Callers(under(new), database, clock)
    assert (await after.get(fresh)).status_code == 200, "nothing new is signed with the old secret"
    assert (await after.get(signed[old])).status_code == 401
    expired = issue_token(under(old), whom, timedelta(seconds=-1), datetime.now(UTC))
    assert (await during.get(expired)).status_code == 401


# --- tokens that are revoked -------------------------------------------------------------------------------------


async def test_a_revoked_token_is_dead_at_once_here_and_within_five_seconds_elsewhere(
    with_provider: Callers, settings: Settings, database: Database
) -> None:
    watch = Stopwatch()
    here, elsewhere = with_provider, TokenService(database, watch)
    whom = Principal(uuid4(), Role.MANAGER)
    for kept, bearer in (
        (
            issue_token(settings, whom, timedelta(minutes=1), datetime.now(UTC)),
            issue_token(settings, whom, timedelta(minutes=1), datetime.now(UTC)),
        ),
        (token("ES256", "e1", jti="provider-1"), token("ES256", "e1", jti="provider-2")),
        (token("ES256", "e1"), token("ES256", "e1")),
    ):
        token_id = token_id_of(bearer)
        assert (await here.get(bearer)).status_code == 200
        assert not await elsewhere.is_revoked(token_id)
        await here.services.tokens.revoke(token_id)
        refused = await here.get(bearer)
        assert (refused.status_code, error_of(refused)["code"]) == (401, "UNAUTHENTICATED")
        assert (await here.get(kept)).status_code == 200
        watch.seconds += REMEMBERED_SECONDS
        assert await elsewhere.is_revoked(token_id)


async def test_revoking_twice_changes_nothing_and_a_strange_id_is_refused(database: Database) -> None:
    tokens = TokenService(database)
    assert await tokens.revoke("t-1") == await tokens.revoke("t-1")
    for strange in ("", "x" * 256, "a\x00b"):
        with pytest.raises(InvalidInputError) as refused:
            await tokens.revoke(strange)
        assert "jti" in str(refused.value.details)


async def test_who_is_busy_costs_no_query_for_each_request(database: Database) -> None:
    watch = Stopwatch()
    tokens = TokenService(database, watch)
    assert not await tokens.is_revoked("t-1")
    await TokenService(database).revoke("t-1")
    watch.seconds += REMEMBERED_SECONDS - 0.1
    assert not await tokens.is_revoked("t-1"), "it was looked up less than five seconds ago"
    watch.seconds += 0.1
    assert await tokens.is_revoked("t-1")


@pytest.mark.req("NFR-004.6")
async def test_a_revocation_stays_until_its_token_has_expired(
    database: Database, login: Login, owner_connection: psycopg.Connection
) -> None:
    tokens = TokenService(database)
    await tokens.revoke("t-1")
    for who in LOGINS:
        for statement in (
            "DELETE FROM revoked_tokens",
            "UPDATE revoked_tokens SET expires_at = created_at + interval '1 s'",
            "TRUNCATE revoked_tokens",
        ):
            with pytest.raises(psycopg.Error):
                login(who).execute(statement)
    assert await tokens.forget_expired(10) == 0
    # As if a month had passed.
    owner_connection.execute("ALTER TABLE revoked_tokens DISABLE TRIGGER guard_revocation")
    owner_connection.execute(
        "INSERT INTO revoked_tokens (token_id, created_at, expires_at)"
        " SELECT 'old-' || n, now() - interval '32 d', now() - interval '1 s' FROM generate_series(1, 3) n"
    )
    owner_connection.execute("ALTER TABLE revoked_tokens ENABLE ALWAYS TRIGGER guard_revocation")
    assert [await tokens.forget_expired(2) for _ in range(3)] == [2, 1, 0]
    assert await tokens.is_revoked("t-1")


# --- keys that end -----------------------------------------------------------------------------------------------


def lifetime_of(key: NewKeyView) -> timedelta:
    assert key["expires_at"] is not None
    return key["expires_at"] - key["created_at"]


async def test_a_key_ends_when_it_was_made_to(owner_database: Database) -> None:
    """At the very moment, also where it is remembered: the process knows how long it still has."""
    watch = Stopwatch()
    keys = KeyService(owner_database, watch)
    made = await keys.create(Role.MANAGER, "till", None, timedelta(seconds=2.5))
    lasting = await keys.create(Role.MANAGER, "till", None, timedelta(days=1))
    assert lifetime_of(made) == timedelta(seconds=2.5)
    for key in (made["key"], lasting["key"]):
        assert await keys.authenticate(key) is not None
    ends = [until for until, _ in keys._remembered.values()]
    assert 0 < ends[0] <= 2.5
    assert ends[1] == REMEMBERED_SECONDS


async def test_an_ended_key_opens_nothing(owner_database: Database, owner_connection: psycopg.Connection) -> None:
    watch = Stopwatch()
    keys = KeyService(owner_database, watch)
    made = await keys.create(Role.MANAGER, "till", None, timedelta(days=1))
    owner_connection.execute("UPDATE api_keys SET expires_at = now() + interval '1 hour'")
    assert await KeyService(owner_database).authenticate(made["key"]) == Principal(made["id"], Role.MANAGER)
    owner_connection.execute("UPDATE api_keys SET expires_at = now()")
    assert await KeyService(owner_database).authenticate(made["key"]) is None


async def test_a_successor_is_the_same_caller(owner_database: Database) -> None:
    keys, customer = KeyService(owner_database), uuid4()
    first = await keys.create(Role.CUSTOMER, "shop", customer)
    second = await keys.rotate(first["id"])
    third = await keys.rotate(second["id"])
    assert len({first["key"], second["key"], third["key"]}) == 3
    same = {await keys.authenticate(made["key"]) for made in (first, second, third)}
    assert same == {Principal(first["id"], Role.CUSTOMER, customer)}
    assert [third[name] for name in ("name", "role", "customer_id", "principal_id")] == [
        "shop",
        "customer",
        customer,
        first["id"],
    ]
    listed = {row["id"]: row for row in await keys.list()}
    assert listed[first["id"]]["successor_id"] == second["id"]
    assert listed[first["id"]]["expires_at"] == second["created_at"] + timedelta(hours=24)
    assert listed[third["id"]]["expires_at"] is None
    assert all("sha256" not in row for row in listed.values())


async def test_both_keys_hold_in_the_overlap_and_the_old_one_ends_with_it(
    owner_database: Database, owner_connection: psycopg.Connection
) -> None:
    keys = KeyService(owner_database)
    old = await keys.create(Role.MANAGER, "till", None)
    new = await keys.rotate(old["id"], timedelta(hours=1))
    for made in (old, new):
        assert await KeyService(owner_database).authenticate(made["key"]) is not None
    owner_connection.execute("UPDATE api_keys SET expires_at = expires_at - interval '1 hour'")
    assert await KeyService(owner_database).authenticate(old["key"]) is None
    assert await KeyService(owner_database).authenticate(new["key"]) is not None


async def test_without_an_overlap_the_old_key_is_dead_within_five_seconds(owner_database: Database) -> None:
    watch = Stopwatch()
    keys, elsewhere = KeyService(owner_database, watch), KeyService(owner_database, watch)
    old = await keys.create(Role.MANAGER, "till", None)
    for service in (keys, elsewhere):
        assert await service.authenticate(old["key"]) is not None
    new = await keys.rotate(old["id"], timedelta(0))
    assert await keys.authenticate(old["key"]) is None, "the process that rotates forgets at once"
    watch.seconds = REMEMBERED_SECONDS
    assert await elsewhere.authenticate(old["key"]) is None
    assert await elsewhere.authenticate(new["key"]) is not None


async def test_a_successor_lives_as_long_as_its_predecessor_was_made_for(owner_database: Database) -> None:
    keys = KeyService(owner_database)
    old = await keys.create(Role.MANAGER, "till", None, timedelta(days=90))
    new = await keys.rotate(old["id"], timedelta(days=200))
    assert lifetime_of(new) == timedelta(days=90)
    old_row = next(row for row in await keys.list() if row["id"] == old["id"])
    assert old_row["expires_at"] == old["expires_at"], "an overlap prolongs nothing"
    newer = await keys.rotate(new["id"], timedelta(hours=1), timedelta(days=7))
    assert lifetime_of(newer) == timedelta(days=7)


async def test_what_cannot_be_rotated(owner_database: Database, owner_connection: psycopg.Connection) -> None:
    keys = KeyService(owner_database)
    rotated, revoked, ended = [(await keys.create(Role.MANAGER, "till", None))["id"] for _ in range(3)]
    successor = await keys.rotate(rotated)
    await keys.revoke(revoked)
    owner_connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", [ended])
    for key_id in (rotated, revoked, ended):
        with pytest.raises(InvalidInputError) as refused:
            await keys.rotate(key_id)
        assert (str(successor["id"]) in str(refused.value.details)) == (key_id == rotated)
    with pytest.raises(NotFoundError):
        await keys.rotate(uuid4())
    assert len(await keys.list()) == 4


async def test_of_many_who_rotate_a_key_at_once_one_does(
    owner_database: Database, owner_connection: psycopg.Connection
) -> None:
    keys = KeyService(owner_database)
    old = await keys.create(Role.MANAGER, "till", None)
    waiting = (
        "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
        " WHERE NOT l.granted AND a.datname = current_database()"
    )
    with owner_connection.transaction():
        # All of them are under way before the first can finish.
        owner_connection.execute("SELECT FROM api_keys WHERE id = %s FOR UPDATE", [old["id"]])
        rotating = [asyncio.create_task(keys.rotate(old["id"])) for _ in range(8)]
        async with asyncio.timeout(30):
            while owner_connection.execute(waiting).fetchone() != (8,):
                await asyncio.sleep(0.02)
                owner_connection.execute("SELECT pg_stat_clear_snapshot()")
    made = await asyncio.gather(*rotating, return_exceptions=True)
    assert sum(isinstance(one, dict) for one in made) == 1
    assert sum(isinstance(one, InvalidInputError) for one in made) == 7
    assert len(await keys.list()) == 2


async def test_the_audit_trail_sees_one_caller_under_both_keys(
    owner_database: Database, connect: Connect, api: httpx2.AsyncClient
) -> None:
    order = await new_order(api)
    old = await KeyService(owner_database).create(Role.MANAGER, "till", None)
    new = await KeyService(owner_database).rotate(old["id"])
    for made, state in ((old, "PAID"), (new, "PROCESSING_IN_WAREHOUSE")):
        client = connect(**{"X-API-Key": made["key"]})
        moved = await client.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": state})
        assert moved.status_code == 200
    history = (await api.get(f"{ORDERS}/{order['id']}/history")).json()["data"]
    assert [UUID(row["actor_id"]) for row in history] == [old["id"]] * 2
