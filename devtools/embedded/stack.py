"""The parts of the system, in start order, and the environment each is given."""

import http.client
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.config import ROOT, Settings
from app.local.data_folder import Ports, default_data_dir
from app.local.postgres import EmbeddedPostgres
from app.local.process import LOOPBACK, accepts, port_is_free, session_pids, spawn
from app.utils.memory import api_processes
from devtools.embedded.api_processes import ApiProcesses
from devtools.embedded.broker import EmbeddedValkey
from devtools.embedded.child import Child, Phase, Supervised
from devtools.embedded.forked import Preload, fork, is_available

DEFAULT_API_PORT = 8000
FIRST_BACKUP_SECONDS = 600
"""A system that is only tried out makes no backup."""
STOP_ORDER = ("backup", "beat", "relay", "worker", "api", "gateway", "mail", "redis", "postgres")
COUNTING = ("api", "relay", "worker", "beat")
"""These share a folder for what they count, so that `/api/v1/metrics` shows all of it."""
PUBLISHED = ("api", "worker", "relay", "beat", "gateway", "postgres", "redis")


@dataclass(frozen=True)
class StackOptions:
    """What the one who starts the system chooses.

    Attributes:
        data_dir: folder of everything that lasts; made when absent.
        port: of the API; 0 any free one; None 8000, or any free one when that is taken.
        api_workers: processes that answer HTTP; None as many as memory allows, 2 at most.
        workers: processes that do jobs.
        json: say nothing but one JSON line when ready.
        environment: extra variables for every part.
    """

    data_dir: Path = field(default_factory=default_data_dir)
    port: int | None = None
    api_workers: int | None = None
    workers: int = 2
    json: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StackInfo:
    """Where a running system is to be found: the line of `up --json`.

    `mail` and `mail_smtp` are None when the configuration names its own mail server, `owner_database_url`
    when it names no owner. `pids` are process ids per part; parts that were not started here have none.
    """

    ready: bool
    api: str
    docs: str
    database_url: str
    owner_database_url: str | None
    redis_url: str
    mail: str | None
    mail_smtp: str | None
    gateway: str | None
    api_key: str | None
    data_dir: str
    pids: dict[str, list[int]]

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "StackInfo":
        """Rebuild it from the parsed line; members it does not know are left out."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """The members of the line."""
        return asdict(self)


class Stack:
    """The children of one system and how they find each other.

    Args:
        options: what was chosen.
        settings: configuration of this process; what it sets explicitly is left to the user.
    """

    def __init__(self, options: StackOptions, settings: Settings) -> None:
        self.options = options
        self.data_dir = options.data_dir.resolve()
        self.logs = self.data_dir / "logs"
        self._settings = settings
        self._chosen = settings.model_fields_set
        self._loading: Preload | None = None
        ports = Ports(self.data_dir)
        wanted = options.port
        if wanted is None:
            wanted = DEFAULT_API_PORT if port_is_free(DEFAULT_API_PORT) else 0
        self.api_port = ports.pick("api", wanted)
        self.postgres = None if "database_url" in self._chosen else EmbeddedPostgres(self.data_dir)
        self.redis = None if "redis_url" in self._chosen else EmbeddedValkey(self.data_dir)
        catches_mail = not {"smtp_host", "smtp_port"} & self._chosen
        self.smtp_port = ports.pick("smtp") if catches_mail else None
        self.mail_port = ports.pick("mail") if catches_mail else None
        self.gateway_port = None if "payment_gateway_url" in self._chosen else ports.pick("gateway")
        self.children = self._children()

    def info(self) -> StackInfo:
        """Addresses and current process ids."""
        api = f"http://{LOOPBACK}:{self.api_port}"
        key = self._settings.api_key
        # The new process of one that ended counts when it works.
        running = [child for child in self.children if not child.spare and child.phase is not Phase.STARTING]
        pids = {
            name: [pid for child in running if child.part == name for pid in _pids_of(child.pid)] for name in PUBLISHED
        }
        return StackInfo(
            ready=True,
            api=api,
            docs=f"{api}/docs",
            database_url=self.postgres.app_url if self.postgres else self._settings.database_url,
            owner_database_url=self.postgres.owner_url if self.postgres else self._settings.database_admin_url,
            redis_url=self.redis.url if self.redis else self._settings.redis_url,
            mail=f"http://{LOOPBACK}:{self.mail_port}" if self.mail_port else None,
            mail_smtp=f"{LOOPBACK}:{self.smtp_port}" if self.smtp_port else None,
            gateway=f"http://{LOOPBACK}:{self.gateway_port}"
            if self.gateway_port
            else self._settings.payment_gateway_url,
            api_key=key.get_secret_value() if key else None,
            data_dir=str(self.data_dir),
            pids=pids,
        )

    def connection(self) -> dict[str, str]:
        """Variables with which any process of the application reaches this system's services."""
        found: dict[str, str] = {}
        if self.postgres:
            found["DATABASE_URL"] = self.postgres.app_url
        if self.redis:
            found["REDIS_URL"] = self.redis.url
        if self.smtp_port:
            found |= {"SMTP_HOST": LOOPBACK, "SMTP_PORT": str(self.smtp_port)}
        if self.gateway_port:
            found["PAYMENT_GATEWAY_URL"] = f"http://{LOOPBACK}:{self.gateway_port}"
        if "storage_path" not in self._chosen:
            found["STORAGE_PATH"] = str(self.data_dir / "storage")
        return found

    def load(self) -> None:
        """Load the code of the parts here, so that they begin as copies of this process; see `forked`.

        Returns at once: the code is loaded while PostgreSQL starts. Does nothing where processes cannot begin so. What
        is loaded stays, so code that changes is not seen by a part that is started again.
        """
        if is_available():
            self._loading = Preload(self._counts)

    # --- children ---------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        children = []
        if self.postgres:
            children.append(_server("postgres", self.postgres, signal.SIGINT))
        if self.redis:
            children.append(_server("redis", self.redis, signal.SIGTERM))
        children.append(self._part("migrate", ["migrate"], stage=1, once=True, start_seconds=600))
        if self.mail_port and self.smtp_port:
            words = ["--smtp-port", self.smtp_port, "--http-port", self.mail_port, "--data-dir", self.data_dir]
            smtp, page = self.smtp_port, f"http://{LOOPBACK}:{self.mail_port}/"
            children.append(
                self._part(
                    "mail",
                    words,
                    module="devtools.embedded.mail_catcher",
                    stage=1,
                    ready=lambda: accepts(smtp) and answers(page),
                )
            )
        if self.gateway_port:
            words = ["gateway", "--port", self.gateway_port, "--data-dir", self.data_dir / "gateway"]
            url = f"http://{LOOPBACK}:{self.gateway_port}/health"
            children.append(self._part("gateway", words, stage=1, ready=lambda: answers(url)))
        children += self._api().children
        children.append(self._part("relay", ["relay"]))
        words = ["worker", "--concurrency", self.options.workers]
        children.append(self._part("worker", words, grace_seconds=30))
        children.append(self._part("beat", ["beat"]))
        if self.postgres:
            words = ["backup", "run", "--repository", self._backups, "--first-after", FIRST_BACKUP_SECONDS]
            children.append(self._part("backup", words, grace_seconds=60))
        return children

    def _api(self) -> ApiProcesses:
        """The processes of the API, with a spare where memory allows."""

        def start(words: list[str | int], mark: Path, descriptor: int) -> Supervised:
            return self._spawn("api", ["app", *words], mark, [descriptor])

        count = self.options.api_workers or api_processes()
        return ApiProcesses(
            self.api_port,
            count,
            has_spare=api_processes(others=2) > 1,
            start=start,
            marks=self.data_dir / "run",
            log=self.logs / "api.log",
        )

    def _spawn(self, name: str, words: list[Any], ready_file: Path, pass_fds: Sequence[int] = ()) -> Supervised:
        """Start a module of this application, the first of `words`; it makes `ready_file` when it works."""
        ready_file.parent.mkdir(exist_ok=True, mode=0o700)
        ready_file.unlink(missing_ok=True)
        if self._loading is not None:
            self._loading.wait()
            return fork(
                [str(word) for word in words],
                title=f"articurated {name} of {self.data_dir}",
                log=self.logs / f"{name}.log",
                environment=self._environment(name, ready_file),
                pass_fds=pass_fds,
                forget=self._forget_passwords,
            )
        # -P: a folder called `app` in the user's current folder must not shadow ours.
        command = [sys.executable, "-P", "-m", *words]
        environment = self._environment(name, ready_file)
        return spawn(command, log=self.logs / f"{name}.log", env=environment, pass_fds=pass_fds)

    def _part(
        self,
        name: str,
        words: list[Any],
        *,
        module: str = "app",
        ready: Callable[[], bool] | None = None,
        stage: int = 2,
        **settings: Any,
    ) -> Child:
        """A command of this application; without `ready` it touches READY_FILE when it works."""
        log = self.logs / f"{name}.log"
        ready_file = self.data_dir / "run" / f"{name}.ready"

        def launch() -> Supervised:
            return self._spawn(name, [module, *words], ready_file)

        return Child(name, launch, log, ready or ready_file.exists, stage=stage, **settings)

    def _environment(self, name: str, ready_file: Path) -> dict[str, str]:
        """The user's own environment, and on top of it what this system decides."""
        found = {**os.environ, **self.options.environment, **self.connection(), "READY_FILE": str(ready_file)}
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        found["PYTHONUNBUFFERED"] = "1"
        found["BEAT_SCHEDULE_FILE"] = str(self.data_dir / "beat-schedule")
        found["ARTICURATED_DATA_DIR"] = str(self.data_dir)
        if self.postgres:
            # Migrations alone get the owner's password: the application must not lift its own guards.
            found.pop("DATABASE_ADMIN_URL", None)
            if name == "migrate":
                found["DATABASE_ADMIN_URL"] = self.postgres.owner_url
        if name == "gateway":
            found["GATEWAY_DATA_DIR"] = str(self.data_dir / "gateway")
            found["PAYMENT_GATEWAY_API_KEY"] = self._settings.payment_gateway_api_key.get_secret_value()
            found["PAYMENT_WEBHOOK_SECRET"] = self._settings.payment_webhook_secret.get_secret_value()
            found["PAYMENT_WEBHOOK_URL"] = f"http://{LOOPBACK}:{self.api_port}/api/v1/payments/webhook"
        found.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if name in COUNTING:
            found["PROMETHEUS_MULTIPROC_DIR"] = str(self._counts)
        return found

    def _forget_passwords(self) -> None:
        if self.postgres:
            self.postgres.forget_passwords()

    @property
    def _backups(self) -> Path:
        return self._settings.backup_path or self.data_dir / "backups"

    @cached_property
    def _counts(self) -> Path:
        """The folder in which the processes of this run add up their counts; those of an earlier one would be added."""
        return _emptied(self.data_dir / "metrics")


def _server(name: str, server: EmbeddedPostgres | EmbeddedValkey, stop_signal: signal.Signals) -> Child:
    return Child(
        name,
        server.launch,
        server.log,
        server.ready,
        server.start,
        stop_signal=stop_signal,
        grace_seconds=30,
        start_seconds=600,
    )


def _pids_of(leader: int | None) -> list[int]:
    """The processes of a part, leader first, without Python's own bookkeeping helper."""
    if leader is None:
        return []
    return [pid for pid in session_pids(leader) if pid == leader or not _is_resource_tracker(pid)]


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _emptied(folder: Path) -> Path:
    """A folder for counters of this run; those of an earlier one would be added to them."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in folder.glob("*.db"):
        file.unlink()
    return folder


def answers(url: str) -> bool:
    """Whether an HTTP service answers this URL with a status below 500."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=2)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
