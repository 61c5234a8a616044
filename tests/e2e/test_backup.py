"""The drill: a running system is backed up, goes on, and is restored to moments of its past; row by row, and every file."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.config import ROOT
from app.local.postgres import SUPERUSER, EmbeddedPostgres
from tests.e2e.conftest import Journey, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.req("NFR-003.5"), pytest.mark.xdist_group("stack")]

KEY = "a key for backups of thirty-two characters or more"
TABLES = (
    "orders",
    "order_line_items",
    "state_history",
    "events",
    "invoices",
    "invoice_series",
    "attachments",
    "refunds",
)
TO_SHIPPED = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")


class Operator:
    """Someone with a shell on the machine of the running system."""

    def __init__(self, journey: Journey, repository: Path) -> None:
        self._journey = journey
        self._repository = repository

    def types(self, *words: str | Path, expect: int = 0, key: str = KEY) -> Any:
        """Run `articurated` with these words; return what it prints as JSON, or its complaint."""
        environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        environment |= {
            "ARTICURATED_DATA_DIR": self._journey.stack.info.data_dir,
            "BACKUP_PATH": str(self._repository),
            "BACKUP_ENCRYPTION_KEY": key,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-P", "-m", "app", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stderr
        return done.stderr if done.returncode == 1 and not done.stdout else json.loads(done.stdout)


def rows(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return table → a hash of all that is in it."""
    found = {}
    for table in TABLES:
        question = f"SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table} AS t"
        found[table] = connection.execute(question.encode()).fetchone()[0]  # type: ignore[index]
    return found


def triggers_of(connection: psycopg.Connection[Any]) -> set[tuple[str, str, str]]:
    """Return table, name and state of each trigger; `A` is one that fires under every setting of a session."""
    question = "SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal"
    found = {(str(table), str(name), str(state)) for table, name, state in connection.execute(question)}
    assert ("state_history", "A") in {(table, state) for table, _, state in found}
    return found


@contextmanager
def started(data_dir: Path) -> Iterator[psycopg.Connection[Any]]:
    """Run the database of a data folder, as `articurated up` does, and connect to it."""
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
        with psycopg.connect(str(server.known_login(SUPERUSER)), autocommit=True) as connection:
            yield connection
    finally:
        server.stop()


def shipped(journey: Journey, name: str) -> tuple[str, bytes]:
    """Return an order whose invoice is stored and mailed, and the invoice."""
    to = f"{name}@example.com"
    order = journey.order(customer_email=to)
    journey.move(order, *TO_SHIPPED)
    eventually("invoice mailed", lambda: any("nvoice" in mail["subject"] for mail in journey.mails(to)))
    idle = "SELECT count(*) = 0 FROM jobs WHERE state IN ('PENDING', 'PUBLISHED', 'RUNNING')"
    eventually("nothing more to do", lambda: journey.rows(idle)[0][0])
    return order["id"], journey.call("GET", f"/orders/{order['id']}/invoice")


def documents(data_dir: Path) -> set[str]:
    """Return the hashes of the files in a restored storage."""
    return {
        hashlib.sha256(file.read_bytes()).hexdigest() for file in (data_dir / "storage").rglob("*") if file.is_file()
    }


def test_a_system_is_restored_to_a_point_a_time_and_its_newest_state(journey: Journey, tmp_path: Path) -> None:
    if not journey.stack.info.pids["postgres"]:
        pytest.skip("given servers are backed up by their own login")
    operator = Operator(journey, tmp_path / "backups")
    with psycopg.connect(str(journey.stack.info.owner_database_url), autocommit=True) as live:
        _, first = shipped(journey, "before-the-backup")
        backup = operator.types("backup", "--json")
        assert backup["documents"] >= 1
        assert backup["missing_documents"] == []
        _, second = shipped(journey, "before-the-point")
        at_point = rows(live)
        triggers = triggers_of(live)
        operator.types("backup", "point", "before-the-mistake", "--json")
        complaint = operator.types("backup", "point", "before-the-mistake", expect=1)
        assert "there is a restore point before-the-mistake already" in complaint
        mistake, third = shipped(journey, "the-mistake")
        at_time = rows(live)
        [(moment,)] = journey.rows("SELECT clock_timestamp()")
        time.sleep(0.01)  # Commits are stamped to the microsecond: the next one is later than the target.
        last, _ = shipped(journey, "after-the-mistake")
        at_end = rows(live)
        operator.types("backup", "collect", "--json")

    listed = operator.types("backup", "list", "--json")
    assert [each["id"] for each in listed["backups"]] == [backup["id"]]
    assert [each["name"] for each in listed["points"]] == ["before-the-mistake"]
    assert listed["encrypted"]
    assert operator.types("backup", "verify", "--json") == {"ok": True, "faults": []}

    def restored(to: str, expected: dict[str, str]) -> Path:
        data_dir = tmp_path / "restored" / to.replace(":", "-")
        report = operator.types("restore", "--to", to, "--data-dir", data_dir, "--json")
        assert report["missing_documents"] == []
        assert report["audit_rows"] > 0
        assert report["seconds"] > 0
        with started(data_dir) as connection:
            assert rows(connection) == expected
            assert triggers_of(connection) == triggers
            analysed = "SELECT count(*) > 0 FROM pg_statistic WHERE starelid = 'orders'::regclass"
            assert connection.execute(analysed).fetchone() == (True,)
            known = connection.execute("SELECT count(*) FROM invoices WHERE state = 'ISSUED'").fetchone()
            assert known == (report["documents"],)
        return data_dir

    point = restored("before-the-mistake", at_point)
    hashes = [hashlib.sha256(each).hexdigest() for each in (first, second, third)]
    assert set(hashes[:2]) <= documents(point)
    assert hashes[2] not in documents(point)
    assert set(hashes) <= documents(restored(moment.isoformat(), at_time))
    restored("latest", at_end)

    nothing_is_overwritten_nor_readable(operator, tmp_path, point, (mistake, last))


def nothing_is_overwritten_nor_readable(
    operator: Operator, tmp_path: Path, taken: Path, secrets: tuple[str, ...]
) -> None:
    """Try what must fail, on the backups of the drill."""
    refused = operator.types("restore", "--to", "latest", "--data-dir", taken, expect=1)
    assert "is not empty" in refused
    assert (taken / "postgres" / "cluster").is_dir()
    other = tmp_path / "with-another-key"
    assert "BACKUP_ENCRYPTION_KEY" in operator.types("restore", "--data-dir", other, expect=1, key=KEY + "!")
    assert not other.exists() or not list(other.iterdir())
    for secret in (*secrets, "before-the-backup"):
        assert not any(
            secret.encode() in file.read_bytes() for file in (tmp_path / "backups").rglob("*") if file.is_file()
        )
    segment = max((tmp_path / "backups" / "wal").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    faults = operator.types("backup", "verify", "--quick", "--json", expect=1)["faults"]
    assert faults == [f"wal/{segment.name} is not what was written"]
