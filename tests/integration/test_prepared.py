"""Prepared statements have the settings, the errors and the replacements of SQLAlchemy's pool (NFR-001, NFR-003)."""

import asyncio
import re
from contextlib import suppress
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import String, bindparam, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.config import Settings
from app.core.actor import Actor
from app.database import Database, session_settings
from app.prepared import Prepared
from app.services.orders.service import OrderService
from tests.factories import order_create

pytestmark = pytest.mark.req("NFR-001")

PID = Prepared(text("SELECT pg_backend_pid() AS pid FROM pg_sleep(CAST(:seconds AS float8))"))


async def test_a_session_has_the_settings_of_every_other(database: Database, settings: Settings) -> None:
    names = session_settings(settings)
    [row] = await database.rows(
        Prepared(
            text("SELECT json_object_agg(name, current_setting(name)) AS held FROM unnest(CAST(:names AS text[])) name")
        ),
        names=list(names),
    )
    held = {**row["held"], "role": row["held"]["role"]}
    seconds = {name: re.sub(r"^(\d+)s$", r"\g<1>000", value) for name, value in held.items()}
    assert seconds == names


async def test_integers_of_any_size_share_one_statement_and_values_come_back_as_they_went(database: Database) -> None:
    statement = Prepared(
        text(
            "SELECT CAST(:n AS bigint) AS n, CAST(:id AS uuid) AS id, CAST(:document AS jsonb) AS document, :name AS name,"
            " (SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%its own mark%') AS prepared"
        ).bindparams(bindparam("document", type_=String), bindparam("name", type_=String))
    )
    wanted = uuid4()
    for number in (1, 70_000, 2**40):
        [row] = await database.rows(
            statement, n=number, id=wanted, document='{"a": [1.5, null]}', name="its own mark $1 %s :x"
        )
        assert (row["n"], row["id"], row["document"], row["name"]) == (
            number,
            wanted,
            {"a": [1.5, None]},
            "its own mark $1 %s :x",
        )
        assert row["prepared"] == 1


@pytest.mark.req("NFR-001.3")
async def test_a_process_has_no_more_connections_than_its_pool_size(settings: Settings) -> None:
    database = Database(settings.model_copy(update={"database_pool_size": 5}))
    both: set[int] = set()

    async def through_sqlalchemy() -> None:
        async with database.autocommit() as connection:
            both.add((await connection.execute(text("SELECT pg_backend_pid() FROM pg_sleep(0.01)"))).scalar_one())

    async def prepared() -> None:
        both.update(row["pid"] for row in await database.rows(PID, seconds=0.01))

    await asyncio.gather(*(way() for _ in range(20) for way in (through_sqlalchemy, prepared)))
    assert len(both) == 5
    one_after_another = {(await database.rows(PID, seconds=0))[0]["pid"] for _ in range(5)}
    assert len(one_after_another) == 1, "the one that was used last is used next"
    await database.close()


async def test_who_waits_too_long_for_a_connection_gets_the_error_of_the_pool(settings: Settings) -> None:
    database = Database(settings, pool_size=1)
    database._statements._wait_seconds = 0.05
    busy = asyncio.create_task(database.rows(PID, seconds=0.5))
    await asyncio.sleep(0.01)
    with pytest.raises(PoolTimeoutError):
        await database.rows(PID, seconds=0)
    await busy
    assert await database.rows(PID, seconds=0)
    await database.close()


async def test_errors_are_those_of_sqlalchemy_without_the_values(database: Database) -> None:
    with pytest.raises(ProgrammingError):
        await database.rows(Prepared(text("SELECT * FROM no_such_table")))
    insert = Prepared(
        text("INSERT INTO order_search (order_id, source, terms) VALUES (CAST(:id AS uuid), 'ada@example.com', '')")
    )
    with pytest.raises(IntegrityError) as caught:
        await database.rows(insert, id=uuid4())
    assert not caught.value.connection_invalidated
    assert "ada@example.com" not in str(caught.value)
    assert await database.rows(PID, seconds=0)


async def test_a_server_that_cannot_be_reached_is_an_operational_error(settings: Settings) -> None:
    away = Database(settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"}))
    with pytest.raises(OperationalError):
        await away.rows(PID, seconds=0)
    await away.close()


async def test_a_connection_that_is_lost_under_a_statement_says_so_and_is_replaced(
    database: Database, owner_connection: psycopg.Connection
) -> None:
    [row] = await database.rows(PID, seconds=0)
    task = asyncio.create_task(database.rows(PID, seconds=5))
    await asyncio.sleep(0.2)
    owner_connection.execute("SELECT pg_terminate_backend(%s, 5000)", [row["pid"]])
    with pytest.raises(DBAPIError) as caught:
        await task
    assert caught.value.connection_invalidated
    [replaced] = await database.rows(PID, seconds=0)
    assert replaced["pid"] != row["pid"]


async def test_a_cancelled_statement_ends_and_leaves_a_working_connection(
    database: Database, owner_connection: psycopg.Connection
) -> None:
    task = asyncio.create_task(database.rows(PID, seconds=30))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.rows(PID, seconds=0)
    running = owner_connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
    ).fetchone()
    assert running == (0,)


async def test_within_a_unit_of_work_a_statement_is_a_part_of_it(
    database: Database, customer_id: UUID, admin: Actor
) -> None:
    orders = OrderService(database)
    made: list[UUID] = []

    async def create_and_fail() -> None:
        async with database.unit_of_work():
            order = await orders.create(order_create(customer_id=customer_id), admin)
            assert (await orders.get(order["id"], admin))["order_number"] == order["order_number"]
            made.append(order["id"])
            raise LookupError

    with pytest.raises(LookupError):
        await create_and_fail()
    [row] = await database.rows(
        Prepared(text("SELECT count(*) AS n FROM orders WHERE id = CAST(:id AS uuid)")), id=made[0]
    )
    assert row["n"] == 0


LOCK = Prepared(text("SELECT pg_advisory_xact_lock(4711)"))
ADD = Prepared(
    text(
        "INSERT INTO jobs (kind, queue, entity_id, dedupe_key) VALUES ('k', :queue, uuid7(), :key) RETURNING id"
    ).bindparams(bindparam("queue", type_=String), bindparam("key", type_=String))
)
COUNT = Prepared(text("SELECT count(*) AS n FROM jobs"))


async def test_statements_together_are_one_transaction(database: Database) -> None:
    with pytest.raises(IntegrityError):
        await database.rows_together((ADD, {"queue": "refunds", "key": "a"}), (ADD, {"queue": "none", "key": "b"}))
    assert await database.rows(COUNT) == [{"n": 0}]
    [added], [counted] = await database.rows_together((ADD, {"queue": "refunds", "key": "a"}), (COUNT, {}))
    assert counted == {"n": 1}
    assert isinstance(added["id"], UUID)
    assert await database.rows(COUNT) == [{"n": 1}], "the connection is of use after a refusal"


async def test_a_statement_sees_what_was_committed_while_the_one_before_it_waited(database: Database) -> None:
    async with database.engine.connect() as other, other.begin() as transaction:
        await other.execute(text("SELECT pg_advisory_xact_lock(4711)"))
        waiting = asyncio.create_task(database.rows_together((LOCK, {}), (COUNT, {})))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await other.execute(
            text("INSERT INTO jobs (kind, queue, entity_id, dedupe_key) VALUES ('k', 'refunds', uuid7(), 'a')")
        )
        await transaction.commit()
    _, counted = await waiting
    assert counted == [{"n": 1}]


async def test_within_a_unit_of_work_statements_together_are_a_part_of_it(database: Database) -> None:
    with suppress(LookupError):
        async with database.unit_of_work():
            _, [counted] = await database.rows_together((ADD, {"queue": "refunds", "key": "a"}), (COUNT, {}))
            raise LookupError
    assert counted == {"n": 1}
    assert await database.rows(COUNT) == [{"n": 0}]
