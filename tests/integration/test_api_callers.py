"""Who a request is from: keys, tokens, both, and neither."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.composition import Services
from app.config import Settings
from app.core.enums import Role
from app.core.security import DEVELOPMENT_PRINCIPAL_ID, Principal, issue_token
from app.database import Database
from app.services.access.keys import REMEMBERED_SECONDS, KeyService
from app.utils.exceptions import InvalidInputError, NotFoundError
from tests.conftest import MovableClock
from tests.fakes import Stopwatch
from tests.integration.conftest import API_KEY, Connect, error_of, new_order

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]

ORDERS = "/api/v1/orders"


def token(settings: Settings, role: Role = Role.MANAGER, principal: UUID | None = None, **lifetime: float) -> str:
    """Return a token that holds for a minute by default."""
    whom = Principal(principal or uuid4(), role, uuid4() if role is Role.CUSTOMER else None)
    return issue_token(settings, whom, timedelta(**lifetime or {"minutes": 1}), datetime.now(UTC))


def pieces_of(secret: bytes, length: int = 8) -> list[bytes]:
    """Return each part of a secret that is as long as nothing else holds by chance."""
    return [secret[start : start + length] for start in range(len(secret) - length + 1)]


def everything_stored(connection: psycopg.Connection) -> bytes:
    """Return each value of each table: bytes as they are, the rest as text."""
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    rows = [row for (table,) in tables for row in connection.execute(f"SELECT * FROM {table}".encode())]
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)


@pytest.mark.req("NFR-004.1")
async def test_each_kind_of_credentials_is_taken(
    connect: Connect, owner_database: Database, settings: Settings
) -> None:
    made = await KeyService(owner_database).create(Role.WAREHOUSE, "scanner", None)
    for headers in (
        {"X-API-Key": API_KEY},
        {"X-API-Key": made["key"]},
        {"Authorization": f"Bearer {token(settings)}"},
        {"Authorization": f"bearer {token(settings)}"},
        {"X-API-Key": made["key"], "Authorization": f"Bearer {token(settings, Role.WAREHOUSE, made['id'])}"},
    ):
        response = await connect(**headers).get(ORDERS)
        assert response.status_code == 200, headers


@pytest.mark.req("NFR-004.1")
async def test_everything_else_is_no_caller(connect: Connect, owner_database: Database, settings: Settings) -> None:
    made = await KeyService(owner_database).create(Role.ADMIN, "ci", None)
    key, bearer = made["key"], f"Bearer {token(settings)}"
    wrong: list[dict[str, str]] = [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "dev-api-kez"},
        {"X-API-Key": key[:-1] + ("A" if key[-1] != "A" else "B")},
        {"X-API-Key": key + "x"},
        {"X-API-Key": key.upper()},
        {"X-API-Key": "ack_" + "0" * 8 + "_" + "A" * 43},
        {"X-API-Key": "x" * 10_000},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": bearer.replace("Bearer", "Basic")},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": bearer.removeprefix("Bearer ")},
        {"Authorization": f"Bearer {token(settings, seconds=-1)}"},
        # One that holds does not make up for one that does not.
        {"X-API-Key": key, "Authorization": "Bearer x.y.z"},
        {"X-API-Key": "wrong", "Authorization": bearer},
        {"X-API-Key": "", "Authorization": bearer},
        # Two that hold and name different callers.
        {"X-API-Key": key, "Authorization": bearer},
    ]
    for headers in wrong:
        response = await connect(**headers).get(ORDERS)
        assert response.status_code == 401, headers
        assert error_of(response)["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("name", [b"x-api-key", b"authorization"])
async def test_a_header_given_twice_is_no_caller(
    name: bytes, connect: Connect, services: Services, settings: Settings
) -> None:
    value = API_KEY.encode() if name == b"x-api-key" else f"Bearer {token(settings)}".encode()
    response = await connect().get(ORDERS, headers=[(name, value), (name, value)])
    assert response.status_code == 401


async def test_bytes_that_are_no_text_are_no_caller(connect: Connect) -> None:
    for name in (b"x-api-key", b"authorization"):
        for value in (b"\xff\xfe\xe9", b"Bearer \xff.\xe9.\xff"):
            response = await connect().get(ORDERS, headers=[(name, value)])
            assert response.status_code == 401


@pytest.mark.req("NFR-004.7")
async def test_the_development_key_opens_nothing_in_production(connect: Connect, services: Services) -> None:
    services.settings = services.settings.model_copy(update={"environment": "production"})
    assert (await connect(**{"X-API-Key": API_KEY}).get(ORDERS)).status_code == 401


@pytest.mark.req("NFR-004.2")
async def test_a_revoked_key_is_dead_within_five_seconds(owner_database: Database) -> None:
    watch = Stopwatch()
    keys, elsewhere = KeyService(owner_database, watch), KeyService(owner_database, watch)
    made = await keys.create(Role.MANAGER, "till", None)
    assert await keys.authenticate(made["key"]) == Principal(made["id"], Role.MANAGER)
    await elsewhere.revoke(made["id"])
    watch.seconds = 1
    assert await keys.authenticate(made["key"]) is not None, "remembered, or the cache is of no use"
    watch.seconds = 5
    assert await keys.authenticate(made["key"]) is None


async def test_the_process_that_revokes_forgets_at_once(owner_database: Database) -> None:
    keys = KeyService(owner_database)
    made = await keys.create(Role.CUSTOMER, "shop", uuid4())
    assert await keys.authenticate(made["key"]) is not None
    await keys.revoke(made["id"])
    await keys.revoke(made["id"])
    assert await keys.authenticate(made["key"]) is None
    with pytest.raises(NotFoundError):
        await keys.revoke(uuid4())


@pytest.mark.req("NFR-004.9")
async def test_a_key_is_shown_once_and_stored_nowhere(
    owner_database: Database, owner_connection: psycopg.Connection
) -> None:
    keys = KeyService(owner_database)
    made = await keys.create(Role.ADMIN, "root of all", None)
    next_one = await keys.rotate(made["id"])
    secrets = [key["key"].rpartition(f"{key['prefix']}_")[2] for key in (made, next_one)]
    for key in (made, next_one):
        assert await keys.authenticate(key["key"]) is not None
    stored = everything_stored(owner_connection)
    assert made["prefix"].encode() in stored
    for secret in secrets:
        for piece in pieces_of(secret.encode()) + pieces_of(base64.urlsafe_b64decode(f"{secret}=")):
            assert piece not in stored
            assert piece.hex().encode() not in stored
    [listed, _] = await keys.list()
    assert listed["prefix"] == made["prefix"]
    assert "sha256" not in listed
    assert not [secret for secret in secrets if secret in str(listed)]


@pytest.mark.req("NFR-004.2")
async def test_when_a_key_was_used_is_noted_once_a_minute(
    owner_database: Database, owner_connection: psycopg.Connection
) -> None:
    watch = Stopwatch()
    keys = KeyService(owner_database, watch)
    made = await keys.create(Role.MANAGER, "till", None)

    async def used() -> datetime | None:
        watch.seconds += REMEMBERED_SECONDS
        await keys.authenticate(made["key"])
        found: datetime | None = (await keys.list())[0]["last_used_at"]
        return found

    assert (await keys.list())[0]["last_used_at"] is None
    first = await used()
    assert first is not None
    assert await used() == first
    owner_connection.execute("UPDATE api_keys SET last_used_at = last_used_at - interval '61 seconds'")
    later = await used()
    assert later is not None
    assert later >= first


@pytest.mark.parametrize(
    ("role", "name", "customer_id"),
    [
        (Role.CUSTOMER, "shop", None),
        (Role.ADMIN, "x", UUID(int=1)),
        (Role.ADMIN, " ", None),
        (Role.ADMIN, "x" * 101, None),
        (Role.ADMIN, "a\0b", None),
        (Role.ADMIN, "a\nb", None),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    role: Role, name: str, customer_id: UUID | None, owner_database: Database
) -> None:
    with pytest.raises(InvalidInputError):
        await KeyService(owner_database).create(role, name, customer_id)


@pytest.mark.req("REQ-003.1")
async def test_the_audit_trail_names_who_acted_and_from_where(
    api: httpx2.AsyncClient, owner_database: Database, connect: Connect, settings: Settings, clock: MovableClock
) -> None:
    order = await new_order(api)
    made = await KeyService(owner_database).create(Role.MANAGER, "till", None)
    bearer = uuid4()
    await connect(**{"X-API-Key": made["key"]}).patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "PAID"})
    await connect(
        Authorization=f"Bearer {token(settings, Role.WAREHOUSE, bearer)}", **{"X-Forwarded-For": "203.0.113.1"}
    ).patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "PROCESSING_IN_WAREHOUSE"})
    await api.patch(f"{ORDERS}/{order['id']}/state", json={"new_state": "SHIPPED"})
    history = (await api.get(f"{ORDERS}/{order['id']}/history")).json()["data"]
    assert [row["actor_id"] for row in history] == [str(made["id"]), str(bearer), str(DEVELOPMENT_PRINCIPAL_ID)]
    assert {(row["actor_type"], row["trigger"], row["ip_address"]) for row in history} == {
        ("USER", "API_CALL", "192.0.2.9")
    }
