"""A PostgreSQL with a standby that streams from it, both of this run: for tests of replicas and of failover.

They are started here even when the environment names servers: a given server is never paused or killed.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.local.postgres import START_SECONDS, EmbeddedPostgres, _users_of
from app.local.process import EmbeddedError, stop, tail, wait_until, write_state
from tests import databases

DATABASE = "replicated"
WAIT_SECONDS = 60.0
"""Only how long a broken one is waited for: each wait ends when its condition holds."""


class Standby(EmbeddedPostgres):
    """A server that begins as a copy of another one, and streams from it."""

    def __init__(self, data_dir: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(data_dir, durable=False)
        self._primary = primary

    def prepare(self) -> None:
        """Take over the primary's passwords, then as ever."""
        self.home.mkdir(parents=True, exist_ok=True)
        write_state(self.home / "secrets.json", self._primary._secrets)
        super().prepare()

    def _initdb(self) -> None:
        # Run as the server's user, which may make nothing in `home` itself.
        unfinished = self.home / "unfinished"
        unfinished.mkdir(mode=0o700)
        if self._identity:
            shutil.chown(unfinished, self._identity.uid, self._identity.gid)
        process = self.run_program(
            "pg_basebackup",
            *("--pgdata", unfinished, "--dbname", self._primary.superuser_url),
            *("--wal-method", "stream", "--checkpoint", "fast", "--write-recovery-conf", "--no-sync"),
        )
        try:
            status = process.wait(START_SECONDS)
        finally:
            stop(process, signal.SIGTERM, 1)
        if status:
            raise EmbeddedError(f"pg_basebackup failed:\n{tail(self.log)}")
        unfinished.rename(self.cluster)

    def _make_roles(self) -> None:
        # They came with the copy; here it is enough to be let in.
        psycopg.connect(self.superuser_url, connect_timeout=3).close()
        self._roles_made = True


class Pair:
    """A primary with a migrated database, and its standby."""

    def __init__(self, primary: EmbeddedPostgres, standby: Standby) -> None:
        self.primary = primary
        self.standby = standby

    @property
    def primary_url(self) -> str:
        """The application's login on the primary."""
        return databases.url_of(self.primary.app_url, DATABASE)

    @property
    def standby_url(self) -> str:
        """The application's login on the standby."""
        return databases.url_of(self.standby.app_url, DATABASE)

    @property
    def url_of_both(self) -> str:
        """The application's login on the one that takes writes."""
        url = make_url(self.primary_url)
        plain, _, rest = self.primary_url.partition(f"{url.host}:{url.port}")
        hosts = f"{url.host}:{self.primary.port},{url.host}:{self.standby.port}"
        return f"{plain}{hosts}{rest}?target_session_attrs=read-write"

    def pause_replay(self) -> None:
        """Let the standby receive, and show nothing new; return once it has stopped."""
        self._ask(self.standby, "SELECT pg_wal_replay_pause()")
        self._wait(self.standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")

    def resume_replay(self) -> None:
        """Let the standby show what it received."""
        self._ask(self.standby, "SELECT pg_wal_replay_resume()")

    def wait_until_caught_up(self) -> None:
        """Return once the standby shows all that the primary has written."""
        (position,) = self._ask(self.primary, "SELECT pg_current_wal_lsn()")
        self._wait(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'")

    def acknowledge_on_both(self) -> None:
        """From now on a commit is answered once the standby has it too."""
        self._ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._ask(self.primary, "SELECT pg_reload_conf()")
        self._wait(self.primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")

    def kill_primary(self) -> None:
        """End the primary as a power cut would: at once, with all of its processes, and nothing said to anyone."""
        process = self.primary.process
        assert process is not None
        process.kill()
        # Each of its processes leads a session of its own.
        while left := _users_of(self.primary.cluster):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def promote(self) -> None:
        """Make the standby the primary."""
        self._ask(self.standby, "SELECT pg_promote(wait => false)")
        self._wait(self.standby, "SELECT NOT pg_is_in_recovery()")

    @staticmethod
    def _ask(server: EmbeddedPostgres, question: str) -> tuple[object, ...]:
        with psycopg.connect(server.superuser_url, autocommit=True) as connection:
            answer = connection.execute(question.encode())
            return (answer.fetchone() or ()) if answer.description else ()

    def _wait(self, server: EmbeddedPostgres, question: str) -> None:
        assert wait_until(lambda: self._ask(server, question) == (True,), seconds=WAIT_SECONDS), question


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """Yield a running pair; both end with the block."""
    primary = EmbeddedPostgres(folder / "primary", durable=False)
    standby = Standby(folder / "standby", primary)
    try:
        primary.start()
        # The throwaway servers of tests do not wait for commits; what roles have set goes before the command line.
        with psycopg.connect(primary.superuser_url, autocommit=True) as connection:
            connection.execute("ALTER ROLE ALL SET synchronous_commit = 'on'")
        servers = databases.TestServers(
            primary.owner_url, primary.app_url, primary.superuser_url, "", DATABASE, given=False
        )
        databases.create_database(servers, DATABASE, None)
        databases.migrate(databases.url_of(primary.owner_url, DATABASE), primary.app_url)
        standby.start()
        yield Pair(primary, standby)
    finally:
        standby.stop()
        primary.stop()
