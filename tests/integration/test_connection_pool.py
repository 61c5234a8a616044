"""A process has so many connections to the database and no more, however many ask at once."""

import asyncio

import pytest
from sqlalchemy import text

from app.config import Settings
from app.database import Database


@pytest.mark.req("NFR-001.3")
async def test_forty_at_once_share_four_connections(settings: Settings) -> None:
    database = Database(settings.model_copy(update={"database_pool_size": 4}))

    async def who() -> int:
        async with database.autocommit() as connection:
            pid: int = (await connection.execute(text("SELECT pg_backend_pid() FROM pg_sleep(0.01)"))).scalar_one()
            return pid

    first = set(await asyncio.gather(*(who() for _ in range(40))))
    assert len(first) == 4
    assert await who() in first, "one that was used is used again"
    await database.close()
