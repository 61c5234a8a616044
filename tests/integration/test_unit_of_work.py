"""`Database.unit_of_work`: all that happens in it is one transaction, however the services go about it."""

import asyncio
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.database import Database, after_commit
from tests.databases import unguarded

pytestmark = pytest.mark.req("NFR-003")

INSERT = text("INSERT INTO invoice_series (kind, year, last_number) VALUES ('INVOICE', :year, 1)")


@pytest.fixture(autouse=True)
def _numbers_without_documents(owner_connection: psycopg.Connection) -> Iterator[None]:
    """Let a series have numbers that no document took: any table does here."""
    with unguarded(owner_connection, "invoice_series"):
        yield


async def years(database: Database) -> list[int]:
    """Return what is committed."""
    async with database.autocommit() as connection:
        rows = await connection.execute(text("SELECT year FROM invoice_series ORDER BY year"))
        return list(rows.scalars())


async def add(database: Database, year: int) -> None:
    """Add a row in a transaction."""
    async with database.transaction() as session:
        await session.execute(INSERT, {"year": year})


async def test_both_ways_of_use_commit_with_it(database: Database) -> None:
    async with database.unit_of_work():
        await add(database, 2001)
        async with database.autocommit() as connection:
            await connection.execute(INSERT, {"year": 2002})
        await add(database, 2003)
        assert await asyncio.create_task(_seen_from_outside(database)) == []
    assert await years(database) == [2001, 2002, 2003]


async def _seen_from_outside(database: Database) -> list[int]:
    async with database.engine.connect() as connection:
        return list((await connection.execute(text("SELECT year FROM invoice_series"))).scalars())


async def test_what_it_raises_undoes_all_of_it(database: Database) -> None:
    async def fail() -> None:
        async with database.unit_of_work():
            await add(database, 2001)
            async with database.autocommit() as connection:
                await connection.execute(INSERT, {"year": 2002})
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await years(database) == []


async def test_a_transaction_that_fails_within_leaves_nothing_and_the_rest_goes_on(database: Database) -> None:
    async with database.unit_of_work():
        await add(database, 2001)
        with pytest.raises(DBAPIError):
            await add(database, 2001)
        with pytest.raises(LookupError):
            await _half(database, 2002)
        await add(database, 2003)
    assert await years(database) == [2001, 2003]


async def _half(database: Database, year: int) -> None:
    async with database.transaction() as session:
        await session.execute(INSERT, {"year": year})
        raise LookupError


async def test_another_database_does_not_join(database: Database, settings: Settings) -> None:
    other = Database(settings)
    with pytest.raises(LookupError):
        await _beside(database, other)
    assert await years(database) == [2002]
    await other.close()


async def _beside(database: Database, other: Database) -> None:
    async with database.unit_of_work():
        await add(database, 2001)
        await add(other, 2002)
        raise LookupError


async def test_what_outlives_it_is_not_part_of_it(database: Database) -> None:
    is_over = asyncio.Event()

    async def later() -> None:
        await is_over.wait()
        await add(database, 2001)

    async with database.unit_of_work():
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    is_over.set()
    await task
    assert await years(database) == [2001]
    await add(database, 2002)
    assert await years(database) == [2001, 2002]


async def test_cancelled_it_undoes_all_of_it_and_gives_its_connection_back(
    settings: Settings, database: Database
) -> None:
    narrow = Database(settings, pool_size=1)
    began = asyncio.Event()

    async def work() -> None:
        async with narrow.unit_of_work():
            await add(narrow, 2001)
            began.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await years(narrow) == []
    await narrow.close()


# --- what is to follow a commit ---------------------------------------------------------------------------------------


async def test_what_commits_by_itself_is_followed_at_once(database: Database) -> None:
    followed: list[int] = []
    async with database.autocommit() as connection:
        await connection.execute(INSERT, {"year": 2001})
        after_commit(connection, partial(followed.append, 2001))
        assert followed == [2001]


async def test_a_transaction_is_followed_once_it_is_committed(database: Database) -> None:
    followed: list[int] = []
    await _followed(database, 2001, followed)
    assert followed == [2001]
    with pytest.raises(DBAPIError):
        await _followed(database, 2001, followed)
    with pytest.raises(LookupError):
        await _followed(database, 2002, followed, fails=True)
    assert followed == [2001]


async def _followed(database: Database, year: int, followed: list[int], *, fails: bool = False) -> None:
    async with database.transaction() as session:
        after_commit(session, partial(followed.append, year))
        await session.execute(INSERT, {"year": year})
        if fails:
            raise LookupError


async def test_only_what_a_unit_keeps_is_followed_and_only_at_its_end(database: Database) -> None:
    followed: list[int] = []
    async with database.unit_of_work():
        await _followed(database, 2001, followed)
        with pytest.raises(LookupError):
            await _followed(database, 2002, followed, fails=True)
        async with database.autocommit() as connection:
            await connection.execute(INSERT, {"year": 2003})
            after_commit(connection, partial(followed.append, 2003))
        assert followed == []
    assert followed == await years(database) == [2001, 2003]


async def test_what_a_unit_undoes_is_not_followed(database: Database) -> None:
    followed: list[int] = []

    async def fail() -> None:
        async with database.unit_of_work() as connection:
            await _followed(database, 2001, followed)
            after_commit(connection, partial(followed.append, 2002))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert followed == []
