"""The page about upgrading PostgreSQL is followed: from a real PostgreSQL 15 to the embedded 18, both ways (DOC.5)."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from sqlalchemy import make_url

from app.config import ROOT, Settings
from app.local.binaries import postgres_install
from app.local.postgres import START_SECONDS, SUPERUSER, EmbeddedPostgres
from app.local.process import Process, stop, tail, wait_until, write_private
from devtools.seed import seed
from tests import databases
from tests.e2e.docs_shown import Example, compare, examples
from tests.replication import WAIT_SECONDS

OLD_INSTALL = Path("/usr/lib/postgresql/15")
PAGE = ROOT / "docs" / "how-to" / "upgrade-postgresql.md"
ORDERS = 60

pytestmark = [
    pytest.mark.req("NFR-003"),
    pytest.mark.req("DOC.5"),
    pytest.mark.xdist_group("upgrade_postgresql"),
    pytest.mark.skipif(
        not (OLD_INSTALL / "bin" / "postgres").exists(),
        reason=f"needs a PostgreSQL 15 to upgrade from, in {OLD_INSTALL} (Debian: postgresql-15)",
    ),
]


class OldPostgres(EmbeddedPostgres):
    """A server of Debian's PostgreSQL 15."""

    # Version 16 brought this setting.
    throwaway: ClassVar = {
        name: value for name, value in EmbeddedPostgres.throwaway.items() if name != "scram_iterations"
    }

    def run_program(self, program: str, *arguments: str | Path, install: Path | None = None) -> Process:
        """Start a program of PostgreSQL 15."""
        return super().run_program(program, *arguments, install=install or OLD_INSTALL)

    def _initdb(self) -> None:
        # Version 15 has no built-in locale provider.
        unfinished, password = self.home / "unfinished", self.home / "password"
        unfinished.mkdir(mode=0o700)
        write_private(password, self._secrets[SUPERUSER])
        if self._identity:
            for path in (unfinished, password):
                os.chown(path, self._identity.uid, self._identity.gid)
        process = self.run_program(
            "initdb",
            *("--pgdata", unfinished, "--username", SUPERUSER, "--pwfile", password, "--no-sync"),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
        )
        try:
            status = process.wait(START_SECONDS)
        finally:
            stop(process, signal.SIGTERM, 1)
            password.unlink()
        assert status == 0, tail(self.log)
        unfinished.rename(self.cluster)


@dataclass(frozen=True)
class Servers:
    """The server that is left, with a shop in it, and the one that is gone to."""

    old: EmbeddedPostgres
    new: EmbeddedPostgres

    def at(self, server: EmbeddedPostgres, login: str, password: str) -> str:
        """Return the address of the shop for a login."""
        url = make_url(server.superuser_url).set(username=login, password=password, database="shop")
        return url.render_as_string(hide_password=False)


def as_superuser(server: EmbeddedPostgres, script: str, database: str = "postgres") -> list[tuple[object, ...]]:
    """Carry out the statements of a script; return the rows of the last."""
    rows: list[tuple[object, ...]] = []
    with psycopg.connect(databases.url_of(server.superuser_url, database), autocommit=True) as connection:
        for statement in filter(str.strip, script.split(";")):
            answer = connection.execute(statement.encode())
            rows = answer.fetchall() if answer.description else []
    return rows


@pytest.fixture(scope="module")
def upgrade() -> Iterator[Servers]:
    """A shop on PostgreSQL 15 whose log can be decoded, and an empty server of 18."""
    with tempfile.TemporaryDirectory(prefix="articurated-upgrade-") as folder:
        old = OldPostgres(Path(folder, "old"), durable=False)
        new = EmbeddedPostgres(Path(folder, "new"), durable=False)
        try:
            old.start()
            as_superuser(old, "ALTER SYSTEM SET wal_level = logical")
            old.stop()
            old.launch()
            assert wait_until(old.ready, seconds=START_SECONDS)
            new.start()
            found = Servers(old, new)
            for server in (old, new):
                as_superuser(server, section_sql("## The new server")[0])
            owner, app = (found.at(old, f"shop_{name}", f"{name.upper()}_PASSWORD") for name in ("owner", "app"))
            run(
                Path(folder),
                "articurated migrate",
                DATABASE_ADMIN_URL=owner,
                DATABASE_URL=app,
                DATABASE_ROLE="shop_role",
            )
            shop = Settings(_env_file=None, environment="testing", database_url=app, database_role="shop_role")
            seed(shop, ORDERS, seed_value=11, on_progress=lambda _: None)
            yield found
        finally:
            old.stop()
            new.stop()


@pytest.fixture(autouse=True)
def _a_new_database(upgrade: Servers) -> None:
    """Give the database of the new server as its superuser makes it."""
    as_superuser(upgrade.new, "DROP DATABASE IF EXISTS shop WITH (FORCE); CREATE DATABASE shop OWNER shop_owner")


def section(heading: str) -> str:
    """Return what is under a heading of the page."""
    return PAGE.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]


def section_sql(heading: str) -> list[str]:
    """Return the SQL blocks under a heading of the page."""
    return re.findall(r"^ *```sql\n(.*?)^ *```$", section(heading), re.MULTILINE | re.DOTALL)


def section_sh(heading: str, folder: Path) -> list[Example]:
    """Return the shell blocks under a heading of the page, each with what it shows."""
    file = folder / "section.md"
    file.write_text(re.sub(r"^   ", "", section(heading), flags=re.MULTILINE), encoding="utf-8")
    return examples(file)


def run(folder: Path, shell: str, **variables: str) -> str:
    """Type something; return what came out."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "articurated").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m app "$@"\n', encoding="utf-8")
    (programs / "articurated").chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e"],
        input=shell,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shell}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


def follow(servers: Servers, folder: Path, example: Example) -> None:
    """Type a block of the page on these servers, and compare what it shows."""
    [names] = section_sh("## The new server", folder)
    shell = f"{names.shell}\n{example.shell}"
    for server, name in ((servers.old, "old.example:5432"), (servers.new, "new.example:5432")):
        at = make_url(server.superuser_url)
        assert name in shell
        shell = shell.replace(name, f"{at.host}:{at.port}")
    shell = shell.replace("sslmode=verify-full", "sslmode=prefer").replace(
        "/usr/lib/postgresql/18", str(postgres_install())
    )
    compare(example, run(folder, shell))


def the_shop_is_on_the_new_server(servers: Servers, folder: Path) -> None:
    """Look at what the page promises: version, guards, login, rows."""
    [names] = section_sh("## The new server", folder)
    follow(servers, folder, Example(f"{names.shell}\narticurated doctor --json >doctor.json || true"))
    said = (folder / "doctor.json").read_text(encoding="utf-8")
    assert re.search(r'"part": ?"database",\s*"level": ?"ok",\s*"says": ?"PostgreSQL 18', said), said
    for part in ("guards", "login", "session"):
        assert re.search(rf'"part": ?"{part}",\s*"level": ?"ok"', said), said
    counts = (
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM state_history), last_value FROM order_number_seq"
    )
    [there] = as_superuser(servers.old, counts, "shop")
    assert as_superuser(servers.new, counts, "shop") == [there]
    assert there[0] == there[2] == ORDERS
    with (
        psycopg.connect(servers.at(servers.new, "shop_owner", "OWNER_PASSWORD")) as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        owner.execute("UPDATE state_history SET trigger = 'another'")


def test_dump_and_restore(upgrade: Servers, tmp_path: Path) -> None:
    for example in section_sh("## Dump and restore", tmp_path):
        follow(upgrade, tmp_path, example)
    the_shop_is_on_the_new_server(upgrade, tmp_path)


def test_logical_replication(upgrade: Servers, tmp_path: Path) -> None:
    heading = "## Logical replication"
    publisher, subscriber, finish = section_sh(heading, tmp_path)
    subscribe, copied, sent, unsubscribe = section_sql(heading)
    follow(upgrade, tmp_path, publisher)
    follow(upgrade, tmp_path, subscriber)
    old = make_url(upgrade.old.superuser_url)
    for name, own in {"old.example": old.host, "5432": old.port, "SUPERUSER_PASSWORD": old.password}.items():
        assert name in subscribe
        subscribe = subscribe.replace(name, str(own))
    as_superuser(upgrade.new, subscribe, "shop")
    try:
        answers = ((upgrade.new, copied, [(0,)]), (upgrade.old, sent, [(True,)]))
        for server, question, answer in answers:
            assert wait_until(
                lambda server=server, question=question, answer=answer: (
                    as_superuser(server, question, "shop") == answer
                ),  # type: ignore[misc]
                seconds=WAIT_SECONDS,
            ), tail(upgrade.new.log)
    finally:
        as_superuser(upgrade.new, unsubscribe, "shop")
    follow(upgrade, tmp_path, finish)
    the_shop_is_on_the_new_server(upgrade, tmp_path)
