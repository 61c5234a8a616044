"""What is measured: databases on one durable server, and the API with all that it does in production."""

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.config import Settings
from app.local.data_folder import default_data_dir, make_data_dir
from app.local.postgres import EmbeddedPostgres
from app.local.process import Process, choose_port, spawn, stop, tail, wait_until
from benchmarks import cpu
from benchmarks.builds import THIS, Build
from benchmarks.works import BenchmarkError
from devtools.embedded.stack import answers

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database under measurement.

    Attributes:
        build: whose tables it has.
        owner_url: login that owns the tables.
        app_url: login of the application.
        superuser_url: login that may ask for a checkpoint; None when there is none.
        postmaster: process id of the server when it runs on this machine, for its CPU time.
        folder: for logs, scripts and samples; gone at the end.
    """

    build: Build
    owner_url: str
    app_url: str
    superuser_url: str | None
    postmaster: int | None
    folder: Path

    def run(self, *words: str) -> str:
        """Run a verb of the build's `articurated` on this database, as its owner where that is needed.

        Raises:
            BenchmarkError: it failed.
        """
        environment = environment_of(self, {"DATABASE_ADMIN_URL": self.owner_url})
        return self.build.run(words, environment, self.folder)

    def settle(self) -> None:
        """Leave no work behind for the measurement: statistics and visibility up to date, dirty pages written."""
        with psycopg.connect(_plain(self.owner_url), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        if self.superuser_url is not None:
            with psycopg.connect(_plain(self.superuser_url), autocommit=True) as connection:
                connection.execute("CHECKPOINT")

    def last_fault(self) -> str:
        """Return the last error that the API logged, for a message; empty when there is none."""
        lines = [line for log in self.folder.glob("api-*.log") for line in log.read_text().splitlines()]
        return next((line[:2000] for line in reversed(lines) if '"level":"error"' in line or line[:1] != "{"), "")

    def settings(self) -> Settings:
        """Return the settings with which tools of the application reach it."""
        return Settings(_env_file=None, environment="testing", database_url=self.app_url, log_level="WARNING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A PostgreSQL server on which databases are made for a measurement.

    Attributes:
        admin_url: login that may create databases and copy those of this server.
        owner_url: login that is to own them.
        app_url: login of the application.
        superuser_url: as in `Target`.
        postmaster: as in `Target`.
        folder: each database gets one in it; gone at the end.
        cleanup: what takes the databases away again; None when the whole server goes.
    """

    admin_url: str
    owner_url: str
    app_url: str
    superuser_url: str | None
    postmaster: int | None
    folder: Path
    cleanup: ExitStack | None

    def database(self, name: str, build: Build = THIS, copy_of: Target | None = None) -> Target:
        """Make a database with the tables of a build.

        Args:
            name: of the database's folder, and the end of its own name.
            build: whose migrations make its tables.
            copy_of: target of that build to copy, rows and statistics included, which has no connection now.

        Raises:
            BenchmarkError: it could not be made.
        """
        database = f"articurated_benchmark_{os.getpid()}_{name}"
        template = "" if copy_of is None else f' TEMPLATE "{make_url(copy_of.owner_url).database}"'
        owner = make_url(self.owner_url).username
        statement = f'CREATE DATABASE "{database}" OWNER "{owner}"{template}'
        try:
            with psycopg.connect(_plain(self.admin_url), autocommit=True) as connection:
                connection.execute(statement.encode())
        except psycopg.Error as fault:
            raise BenchmarkError(f"DATABASE_URL must name a login that may create databases: {fault}") from fault
        if self.cleanup is not None:
            self.cleanup.callback(self._drop, database)
        folder = self.folder / name
        folder.mkdir()
        made = Target(
            build=build,
            owner_url=_with_database(self.owner_url, database),
            app_url=_with_database(self.app_url, database),
            superuser_url=self.superuser_url,
            postmaster=self.postmaster,
            folder=folder,
        )
        if copy_of is None:
            made.run("migrate")
        return made

    def _drop(self, database: str) -> None:
        with psycopg.connect(_plain(self.admin_url), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'.encode())


@contextmanager
def server(database_url: str | None) -> Iterator[Server]:
    """Have a server for databases, which are taken away again.

    Args:
        database_url: login on a server to make them on, which may create databases; None starts an embedded
            server with durable settings, its files beside those of the application.

    Raises:
        BenchmarkError: there is none.
    """
    with ExitStack() as stack:
        base = default_data_dir()
        make_data_dir(base)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-", dir=base)))
        if database_url is None:
            postgres = EmbeddedPostgres(folder)
            stack.callback(postgres.stop)
            postgres.start()
            yield Server(
                admin_url=postgres.superuser_url,
                owner_url=postgres.owner_url,
                app_url=postgres.app_url,
                superuser_url=postgres.superuser_url,
                postmaster=postgres.pid,
                folder=folder,
                cleanup=None,
            )
            return
        try:
            superuser, postmaster = _facts_of(database_url)
        except psycopg.Error as fault:
            raise BenchmarkError(f"DATABASE_URL must name a login that may create databases: {fault}") from fault
        yield Server(
            admin_url=database_url,
            owner_url=database_url,
            app_url=database_url,
            superuser_url=database_url if superuser else None,
            postmaster=postmaster,
            folder=folder,
            cleanup=stack,
        )


@contextmanager
def target(database_url: str | None) -> Iterator[Target]:
    """Make one migrated database of this build and take it away again; see `server`."""
    with server(database_url) as found:
        yield found.database("api")


def _with_database(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _facts_of(url: str) -> tuple[bool, int | None]:
    """Return whether a login is a superuser, and the server's main process when it is one of this machine."""
    with psycopg.connect(_plain(url)) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        backend = connection.info.backend_pid
        local = cpu.available() and cpu.name_of(backend) in {"postgres", "postmaster"}
        return row == (True,), cpu.parent_of(backend) if local else None


def environment_of(target: Target, more: Mapping[str, str]) -> dict[str, str]:
    """Return a configuration that owes nothing to the caller's own."""
    known = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    return {
        **inherited,
        "PYTHONPATH": str(target.build.root),
        "ENVIRONMENT": "testing",
        "DATABASE_URL": target.app_url,
        "SECRET_KEY": secrets.token_hex(32),
        "API_KEY": "",
        "RATE_LIMIT_PER_MINUTE": "0",
        "PAYMENT_GATEWAY_API_KEY": secrets.token_hex(16),
        "PAYMENT_WEBHOOK_SECRET": secrets.token_hex(16),
        "STORAGE_PATH": str(target.folder / "storage"),
        **more,
    }


@dataclass(frozen=True, slots=True)
class Api:
    """The running API: where it listens, and the process ids that its processes descend from."""

    ports: list[int]
    pids: list[int]

    def connections_per_process(self) -> list[int]:
        """Return how many connections each of its processes holds now, most first."""
        members = [pid for root in self.pids for pid in cpu.tree(root)]
        held = [sum(cpu.connections_of(pid, port) for port in self.ports) for pid in members]
        return sorted((count for count in held if count), reverse=True)


@contextmanager
def api(target: Target, processes: int, pool_size: int | None, *, one_port: bool) -> Iterator[Api]:
    """Run the build's `articurated api` with its logs and metrics; no relay, worker or beat beside it.

    Args:
        target: its database, with the build.
        processes: how many serve.
        pool_size: database connections of each; None leaves it to the API.
        one_port: all processes listen on one port, where the system deals out connections as it likes.
            Otherwise each has its own, and the load generator deals out evenly as a load balancer does.

    Raises:
        BenchmarkError: it did not start.
    """
    metrics = target.folder / "metrics"
    metrics.mkdir()
    more = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)} if processes > 1 else {}
    if pool_size is not None:
        more["DATABASE_POOL_SIZE"] = str(pool_size)
    with ExitStack() as stack:
        found = Api([], [])
        for number in range(1 if one_port else processes):
            log = target.folder / f"api-{number}.log"
            port = choose_port()
            workers = processes if one_port else 1
            process = spawn(
                target.build.command("api", "--port", str(port), "--workers", str(workers)),
                log=log,
                env=environment_of(target, more),
                cwd=target.folder,
            )
            stack.callback(stop, process, signal.SIGTERM, 15)
            _await(process, port, log)
            found.ports.append(port)
            found.pids.append(process.pid)
        yield found


def _await(process: Process, port: int, log: Path) -> None:
    url = f"http://127.0.0.1:{port}/api/v1/health/live"
    if not wait_until(lambda: answers(url), seconds=START_SECONDS, alive=lambda: process.poll() is None):
        raise BenchmarkError(f"the API did not start:\n{tail(log)}")
