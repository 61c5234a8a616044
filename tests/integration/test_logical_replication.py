"""A database moves to another server by logical replication: guards pass what is applied, then hold again (NFR-003)."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.composition import Services
from app.config import Settings, get_settings
from app.database import Database
from app.local.postgres import START_SECONDS, EmbeddedPostgres
from app.local.process import wait_until
from app.main import create_app
from app.models import Base
from app.services.operations import guard_manifest
from app.services.operations import replication as replication_service
from app.services.operations.guard_manifest import always_triggers
from app.services.operations.replication import FILLED_BY_MIGRATIONS, NUMBERED, Content, replicated_tables
from app.services.operations.schema_check import SchemaMismatchError, guard_differences, verify_schema
from devtools.seed import seed
from tests import databases
from tests.databases import TestServers
from tests.integration.conftest import API_KEY, TO_DELIVERED, new_order
from tests.replication import WAIT_SECONDS

pytestmark = [
    pytest.mark.req("NFR-003"),
    pytest.mark.req("REQ-003"),
    pytest.mark.xdist_group("logical_replication"),
]

OLD, NEW, SLOT = "old", "new", "articurated"


class Move:
    """Two migrated databases of one server, and what a person does at each of them."""

    def __init__(self, server: EmbeddedPostgres, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.servers = TestServers(server.owner_url, server.app_url, server.superuser_url, "", "", given=False)
        self._settings = settings
        self._monkeypatch = monkeypatch

    def url(self, login: str, database: str) -> str:
        """Return the address of a database for `owner`, `app` or `superuser`."""
        return databases.url_of(getattr(self.server, f"{login}_url"), database)

    def at(self, database: str) -> Settings:
        """Return the settings of the system that works on a database."""
        urls = {"database_url": self.url("app", database), "database_admin_url": self.url("owner", database)}
        return self._settings.model_copy(update={**urls, "database_pool_size": 5})

    def command(self, database: str, *words: str) -> tuple[int, str]:
        """Run `articurated replication …` against a database; return its exit code and what it said."""
        self._monkeypatch.setenv("DATABASE_URL", self.url("app", database))
        self._monkeypatch.setenv("DATABASE_ADMIN_URL", self.url("owner", database))
        get_settings.cache_clear()
        try:
            done = CliRunner().invoke(cli, ["replication", *words])
        finally:
            get_settings.cache_clear()
        return done.exit_code, done.output + str(done.exception or "")

    def ask(self, database: str, statement: str) -> Any:
        """Carry out a statement as the superuser; return the first value of its answer."""
        with psycopg.connect(self.url("superuser", database), autocommit=True) as connection:
            answer = connection.execute(statement.encode())
            row = answer.fetchone() if answer.description else None
            return row[0] if row else None

    def subscribe(self) -> None:
        """Begin to copy and to apply."""
        # A server that subscribes to itself would wait for itself to make the slot.
        self.ask(OLD, f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        self.ask(
            NEW,
            f"CREATE SUBSCRIPTION {SLOT} CONNECTION '{self.url('superuser', OLD)}' PUBLICATION articurated"
            f" WITH (create_slot = false, slot_name = '{SLOT}')",
        )

    def wait_until_caught_up(self) -> None:
        """Return once the new database has all that the old one has."""
        copied = "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'"
        assert wait_until(lambda: bool(self.ask(NEW, copied)), seconds=WAIT_SECONDS), self.server.log.read_text()[
            -3000:
        ]
        with psycopg.connect(self.url("superuser", OLD), autocommit=True) as connection:
            # Commits do not wait for the log here: one that does brings those before it along.
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'articurated', 'caught up')")
        here = self.ask(OLD, "SELECT pg_current_wal_lsn()::text")
        sent = f"SELECT confirmed_flush_lsn >= '{here}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        assert wait_until(lambda: bool(self.ask(OLD, sent)), seconds=WAIT_SECONDS), self.server.log.read_text()[-3000:]

    def begin_again(self) -> None:
        """Make the new database again, without a subscription."""
        self.forget_subscription()
        databases.drop_database(self.servers, NEW)
        self.create(NEW)

    def create(self, name: str) -> None:
        """Make a migrated database."""
        databases.create_database(self.servers, name, None)
        databases.migrate(databases.url_of(self.server.owner_url, name), self.server.app_url)

    def stop_applying(self) -> None:
        """Disable the subscription; return once its workers have ended."""
        self.ask(NEW, f"ALTER SUBSCRIPTION {SLOT} DISABLE")
        quiet = "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL"
        assert wait_until(lambda: bool(self.ask(NEW, quiet)), seconds=WAIT_SECONDS)

    def forget_subscription(self) -> None:
        """Drop the subscription, if there is one, and its slot."""
        if self.ask(NEW, "SELECT count(*) FROM pg_subscription"):
            self.ask(NEW, f"ALTER SUBSCRIPTION {SLOT} DISABLE")
            self.ask(NEW, f"DROP SUBSCRIPTION {SLOT}")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server whose log can be decoded."""
    with tempfile.TemporaryDirectory(prefix="articurated-logical-") as folder:
        server = EmbeddedPostgres(Path(folder), durable=False)
        try:
            server.start()
            with psycopg.connect(server.superuser_url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET wal_level = logical")
            server.stop()
            server.launch()
            assert wait_until(server.ready, seconds=START_SECONDS)
            yield server
        finally:
            server.stop()


@pytest.fixture
def move(server: EmbeddedPostgres, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    move = Move(server, settings, monkeypatch)
    for name in (OLD, NEW):
        move.create(name)
    yield move
    move.forget_subscription()
    for name in (OLD, NEW):
        databases.drop_database(move.servers, name)


def api_of(services: Services, settings: Settings) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=create_app(settings, services), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"X-API-Key": API_KEY})


async def trade(settings: Settings, count: int) -> None:
    """Create orders, deliver them, and take one line of each back."""
    services = Services(settings, Database(settings))
    async with api_of(services, settings) as api:
        for _ in range(count):
            order = await new_order(api)
            for state in TO_DELIVERED:
                answer = await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": state})
                assert answer.is_success, answer.text
            body = {"order_id": order["id"], "reason": "too blue"}
            assert (await api.post("/api/v1/returns", json=body)).is_success
    await services.close()


async def differences_of(settings: Settings, *, restricted: bool = False) -> list[str]:
    database = Database(settings, pool_size=1)
    try:
        if restricted:
            await verify_schema(database, restricted=True)
        return await guard_differences(database)
    finally:
        await database.close()


async def content_of(settings: Settings) -> Content:
    owner = Database(settings, pool_size=1, as_owner=True)
    try:
        return await replication_service.content(owner)
    finally:
        await owner.close()


def test_a_shop_moves_while_it_trades(move: Move) -> None:
    seed(move.at(OLD), 60, seed_value=7, on_progress=lambda _: None)
    code, said = move.command(OLD, "prepare", "--on", "publisher")
    assert (code, f"has {len(replicated_tables())} tables" in said) == (0, True), said
    code, said = move.command(NEW, "prepare", "--on", "subscriber")
    assert (code, f"{len(always_triggers())} guards" in said) == (0, True), said

    # The state has a name, and production does not start in it.
    [named] = asyncio.run(differences_of(move.at(NEW)))
    assert named.startswith("prepared as a subscriber of a logical replication since 2")
    assert f"{len(always_triggers())} triggers fire only as origin" in named
    with pytest.raises(SchemaMismatchError, match="prepared as a subscriber"):
        asyncio.run(differences_of(move.at(NEW), restricted=True))

    move.subscribe()
    asyncio.run(trade(move.at(OLD), 5))
    move.wait_until_caught_up()
    asyncio.run(trade(move.at(OLD), 5))

    # Not before the subscription has ended, or a write would be lost.
    code, said = move.command(NEW, "finish")
    assert (code, "still writes to this database" in said) == (1, True), said
    assert move.ask(NEW, "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A'") == 0
    move.wait_until_caught_up()
    move.stop_applying()
    code, said = move.command(NEW, "finish", "--publisher", move.url("owner", OLD), "--json")
    assert code == 0, said
    report = json.loads(said)
    assert report["differing"] == []
    assert report["rows"]["orders"] == 70
    assert report["audit"]["rows"] == move.ask(OLD, "SELECT count(*) FROM state_history")
    assert report["sequences"]["order_number_seq"] == move.ask(OLD, "SELECT last_value FROM order_number_seq") == 70

    # The guards hold, for a superuser in replica mode too, and the shop trades on.
    assert asyncio.run(differences_of(move.at(NEW), restricted=True)) == []
    for statement in (
        "UPDATE state_history SET trigger = 'x'",
        "UPDATE orders SET version = version + 5",
    ):
        with psycopg.connect(move.url("superuser", NEW)) as connection:
            connection.execute("SET session_replication_role = replica")
            with pytest.raises(psycopg.Error, match=r"append-only|goes from version"):
                connection.execute(statement.encode())
    assert move.ask(NEW, "SELECT count(*) FROM pg_class WHERE relname = 'orders' AND reltuples = 70") == 1
    asyncio.run(trade(move.at(NEW), 1))
    assert move.ask(NEW, "SELECT max(order_number) LIKE '%-000071' FROM orders")


def test_without_preparing_the_guards_stop_what_arrives(move: Move) -> None:
    """Guards fire for applied rows too, and a row that arrives in a late state passes none of them."""
    asyncio.run(trade(move.at(OLD), 2))
    assert move.command(OLD, "prepare", "--on", "publisher")[0] == 0
    before = len(move.server.log.read_text())
    move.subscribe()
    # The copy of a table is tried again and again, by a worker of its own.
    guard = "payments: a payment begins PENDING, with nothing captured"
    assert wait_until(lambda: guard in move.server.log.read_text()[before:], seconds=WAIT_SECONDS)
    assert move.ask(NEW, "SELECT sync_error_count > 0 FROM pg_stat_subscription_stats")
    for table in ("payments", "state_history"):
        assert move.ask(NEW, f"SELECT count(*) FROM {table}") == 0, table

    move.begin_again()
    assert move.command(NEW, "prepare", "--on", "subscriber")[0] == 0
    move.subscribe()
    asyncio.run(trade(move.at(OLD), 1))
    move.wait_until_caught_up()
    for table in ("orders", "state_history", "events", "jobs", "payments", "return_requests"):
        there = move.ask(OLD, f"SELECT count(*) FROM {table}")
        assert (move.ask(NEW, f"SELECT count(*) FROM {table}"), there > 0) == (there, True), table


def test_what_did_not_arrive_is_named(move: Move) -> None:
    move.command(OLD, "prepare", "--on", "publisher")
    move.command(NEW, "prepare", "--on", "subscriber")
    move.subscribe()
    asyncio.run(trade(move.at(OLD), 2))
    move.wait_until_caught_up()
    move.stop_applying()
    asyncio.run(trade(move.at(OLD), 1))
    with psycopg.connect(move.url("superuser", NEW)) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE orders SET customer_name = 'Nobody'")
    code, said = move.command(NEW, "finish", "--publisher", move.url("owner", OLD))
    assert code == 1
    assert "differs: orders has 2 rows, in the other database 3" in said
    assert "The audit trail holds" in said
    # Numbers that the publisher gave are never given again, although their orders are not here.
    assert move.ask(NEW, "SELECT last_value FROM order_number_seq") == 3
    assert asyncio.run(differences_of(move.at(NEW))) == []


def test_content_that_differs_is_named_where_counts_agree(move: Move) -> None:
    asyncio.run(trade(move.at(OLD), 1))
    there = asyncio.run(content_of(move.at(OLD)))
    move.ask(OLD, "UPDATE jobs SET last_error = 'another'")
    here = asyncio.run(content_of(move.at(OLD)))
    assert replication_service.differences(here, there) == [
        "jobs has the same number of rows as in the other database, with other content"
    ]


def test_without_the_publisher_sequences_go_past_what_is_there(move: Move) -> None:
    seed(move.at(OLD), 20, seed_value=3, on_progress=lambda _: None)
    move.command(OLD, "prepare", "--on", "publisher")
    move.command(NEW, "prepare", "--on", "subscriber")
    move.subscribe()
    move.wait_until_caught_up()
    move.stop_applying()
    code, said = move.command(NEW, "finish")
    assert (code, "not compared" in said) == (0, True), said
    assert move.ask(NEW, "SELECT last_value FROM order_number_seq") == 20


def test_a_database_in_use_is_no_subscriber(move: Move) -> None:
    seed(move.at(OLD), 5, seed_value=3, on_progress=lambda _: None)
    code, said = move.command(OLD, "prepare", "--on", "subscriber")
    assert (code, "holds data (" in said and "orders" in said) == (1, True), said
    assert move.ask(OLD, "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A'") == len(always_triggers())
    code, said = move.command(OLD, "finish")
    assert (code, "was not prepared as a subscriber" in said) == (1, True), said


def test_each_step_may_be_repeated(move: Move) -> None:
    for _ in range(2):
        assert move.command(OLD, "prepare", "--on", "publisher")[0] == 0
        assert move.command(NEW, "prepare", "--on", "subscriber")[0] == 0


def test_a_guard_that_is_off_is_named_beside_the_state(move: Move) -> None:
    move.command(NEW, "prepare", "--on", "subscriber")
    move.ask(NEW, "ALTER TABLE orders DISABLE TRIGGER guard_state_change")
    found = asyncio.run(differences_of(move.at(NEW)))
    assert len(found) == 2
    assert found[1] == "trigger orders.guard_state_change is off"


def test_a_server_whose_log_cannot_be_sent_is_no_publisher(
    settings: Settings, clean_database: None, servers: TestServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if servers.given:
        pytest.skip("a given server may write such a log")
    for name in ("database_url", "database_admin_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    get_settings.cache_clear()
    done = CliRunner().invoke(cli, ["replication", "prepare", "--on", "publisher"])
    get_settings.cache_clear()
    assert "ALTER SYSTEM SET wal_level = logical" in str(done.exception)


def test_every_table_and_sequence_is_taken_along() -> None:
    assert set(replicated_tables()) | FILLED_BY_MIGRATIONS == {*Base.metadata.tables, "alembic_version"}
    assert set(Base.metadata._sequences) == set(NUMBERED)
    # Changes of a row are sent by its primary key.
    assert all(f"{table}.pk_{table}" in guard_manifest.expected()[0]["constraint"] for table in replicated_tables())
