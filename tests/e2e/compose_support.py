"""The services of docker-compose.yml as local processes: the same commands, environment, order and health checks.

A name on Docker's network becomes a port on loopback, a path that only a container has becomes a folder. PostgreSQL
and Redis are the suite's servers, Mailpit is the project's own mail catcher. What is not installed in the image cannot
be imported.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from time import monotonic, sleep, time

from sqlalchemy import make_url

from app.config import ROOT
from app.local.binaries import postgres_install
from app.local.process import LOOPBACK, Process, choose_port, kill_group, session_pids, spawn, tail, wait_until
from devtools.embedded.stack import answers
from tests import compose_file, databases
from tests.databases import TestServers

GIVEN = ("db", "redis")
PORTS = {"api": [8000], "gateway": [8002], "mailpit": [1025, 8025], "flower": [5555]}
METRICS_PORT = 9101
PATIENCE_SECONDS = 120.0
REDIS_DATABASE = "14"

_PLACE = re.compile(
    r"(?P<storage>/app/storage)|(?P<root>/app\b)|(?P<tmp>/tmp)(?![\w-])|//(?P<host>[a-z]+):(?P<port>\d+)"
)
_BLOCKER = """
import sys

BLOCKED = frozenset({modules})

class NotInTheImage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{{name}} is not installed in the image", name=name)

sys.meta_path.insert(0, NotInTheImage())
"""


class ComposeProject:
    """The services that are up, and where.

    Args:
        folder: gets the volumes, each container's own folders, and the logs.
        environ: what `.env` says.
        database: name of a database of this project's own on the suite's server.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], servers: TestServers, database: str) -> None:
        self.folder = folder
        self.services = compose_file.services(environ)
        self.healthy: set[str] = set()
        self.completed: set[str] = set()
        self.processes: dict[str, Process] = {}
        self._servers = servers
        self._database = database
        self._look_again: dict[str, float] = {}
        self._ports = {(name, port): choose_port() for name, ports in PORTS.items() for port in ports}
        self._ports |= {(name, METRICS_PORT): choose_port() for name in self.services if name not in GIVEN}
        self._path = self._blocked_modules()

    def url(self, service: str, port: int) -> str:
        """Where a service is to be found."""
        return f"http://{LOOPBACK}:{self._ports[service, port]}"

    # --- up ---------------------------------------------------------------------------------------------

    def up(self, *wanted: str) -> None:
        """Start the services named, and what they wait for; all without a name. Returns when all are healthy."""
        names = self._with_dependencies(wanted or tuple(self.services))
        for name in names:
            if name not in GIVEN and self._has_health_check(name):
                assert not self.check_health(name), f"the health check of {name} is content before there is one"
        deadline = monotonic() + PATIENCE_SECONDS
        waiting = list(names)
        while set(names) - self.healthy - self.completed:
            for name in [name for name in waiting if self._may_start(name)]:
                waiting.remove(name)
                self._start(name)
            for name in set(self.processes) - self.healthy - self.completed:
                self._look(name)
            missing = sorted(set(names) - self.healthy - self.completed)
            assert monotonic() < deadline, "\n".join(f"{name} is not healthy:\n{self.log(name)}" for name in missing)
            sleep(0.1)

    def check_health(self, name: str) -> bool:
        """Run the health check of a service where it runs."""
        if name == "mailpit":
            return answers(self.url("mailpit", 8025) + "/")
        form, *words = self.services[name]["healthcheck"]["test"]
        command = ["sh", "-c", *words] if form == "CMD-SHELL" else words
        return self.run(name, command).returncode == 0

    def age_ready_files(self) -> list[str]:
        """Make each READY_FILE an hour old; return the services that have one."""
        aged = []
        for name in self.services:
            if (file := self._folder(name) / "ready").exists():
                os.utime(file, times=(time() - 3600, time() - 3600))
                aged.append(name)
        return aged

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` would."""
        return subprocess.run(
            self._words(name, command),
            env=self.environment(name),
            cwd=self._folder(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def environment(self, name: str) -> dict[str, str]:
        """Return the whole environment of a service: of the image, then of the service."""
        of_image = {key: self._local(name, value) for key, value in compose_file.image_environment().items()}
        of_service = {
            key: self._variable(name, key, value) for key, value in self.services[name]["environment"].items()
        }
        of_the_test = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": self._path}
        measured = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
        return {**of_image, **of_service, **of_the_test, **measured}

    def log(self, name: str) -> str:
        """Return the end of what a service said."""
        return tail(self.folder / "logs" / name, 20)

    def _has_health_check(self, name: str) -> bool:
        return "test" in self.services[name].get("healthcheck", {})

    def _start_interval(self, name: str) -> float:
        return compose_file.seconds(self.services[name]["healthcheck"]["start_interval"])

    def _with_dependencies(self, wanted: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        for name in wanted:
            found += self._with_dependencies(tuple(self.services[name].get("depends_on", {})))
            found.append(name)
        return list(dict.fromkeys(found))

    def _may_start(self, name: str) -> bool:
        reached = {"service_healthy": self.healthy, "service_completed_successfully": self.completed}
        conditions = self.services[name].get("depends_on", {})
        return all(other in reached[wanted["condition"]] for other, wanted in conditions.items())

    def _start(self, name: str) -> None:
        if name in GIVEN:
            if name == "db":
                self._make_database_login()
            self.healthy.add(name)
            return
        words = self._words(name, self.services[name].get("command", []))
        environment = self.environment(name)
        if name == "mailpit":
            ports = [str(self._ports["mailpit", port]) for port in PORTS["mailpit"]]
            module = ["-m", "devtools.embedded.mail_catcher", "--smtp-port", ports[0], "--http-port", ports[1]]
            words = [sys.executable, *module, "--data-dir", str(self._folder(name))]
            environment["PYTHONPATH"] = str(ROOT)
        self.processes[name] = spawn(words, log=self.folder / "logs" / name, env=environment, cwd=self._folder(name))

    def _look(self, name: str) -> None:
        status = self.processes[name].poll()
        if status is None:
            if self._has_health_check(name) and monotonic() >= self._look_again.get(name, 0.0):
                self._look_again[name] = monotonic() + self._start_interval(name)
                if self.check_health(name):
                    self.healthy.add(name)
            return
        assert status == 0, f"{name} ended with exit code {status}:\n{self.log(name)}"
        assert self.services[name]["restart"] == "no", f"{name} ended:\n{self.log(name)}"
        self.completed.add(name)

    def _make_database_login(self) -> None:
        """What the database's image does when it makes its data: run the file that is mounted for that."""
        database = self.services["db"]
        [script] = [volume.split(":")[0] for volume in database["volumes"] if "/docker-entrypoint-initdb.d/" in volume]
        url = databases.url_of(self._servers.superuser_url, self._database)
        command = [postgres_install() / "bin" / "psql", "--no-psqlrc", "--quiet", "-f", ROOT / script, url]
        subprocess.run(command, env=database["environment"], check=True, capture_output=True)

    # --- what Docker's network and file systems are here ------------------------------------------------

    def _variable(self, name: str, key: str, value: str) -> str:
        if key == "DATABASE_ADMIN_URL":
            return databases.url_of(self._servers.owner_url, self._database)
        if key == "DATABASE_URL":
            server = make_url(self._servers.app_url)
            local = make_url(value).set(host=server.host, port=server.port, database=self._database)
            return local.render_as_string(hide_password=False)
        if key == "REDIS_URL":
            return make_url(self._servers.redis_url).set(database=REDIS_DATABASE).render_as_string(hide_password=False)
        if key == "PROMETHEUS_HOST" or (value == "mailpit" and value in self.services):
            return LOOPBACK
        if key == "PROMETHEUS_PORT" or (key == "SMTP_PORT" and value == "1025"):
            return str(self._ports["mailpit" if key == "SMTP_PORT" else name, int(value)])
        return self._local(name, value)

    def _words(self, name: str, command: list[str]) -> list[str]:
        own = {str(port): str(self._ports[name, port]) for port in PORTS.get(name, [])}
        ports = re.compile(rf"(?<![\d.])({'|'.join(own)})(?![\d.])") if own else None
        words = [self._local(name, word).replace("0.0.0.0", LOOPBACK) for word in command]  # noqa: S104 - a container's
        return [ports.sub(lambda found: own[found[1]], word) for word in words] if ports else words

    def _local(self, name: str, text: str) -> str:
        def place(found: re.Match[str]) -> str:
            if found["storage"]:
                return str(self._storage(name))
            if found["root"]:
                return str(ROOT)
            if found["tmp"]:
                return str(self._folder(name))
            if found["host"] not in self.services:
                return found[0]  # Docker has no such name either.
            return f"//{LOOPBACK}:{self._ports[found['host'], int(found['port'])]}"

        return _PLACE.sub(place, text)

    def _folder(self, name: str) -> Path:
        """What is /tmp in the container, and the folder it runs in: nothing lies there."""
        folder = self.folder / "containers" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _storage(self, name: str) -> Path:
        mounts = [volume.split(":") for volume in self.services[name].get("volumes", [])]
        shared = [source for source, target, *_ in mounts if target == "/app/storage"]
        folder = self.folder / "volumes" / (shared[0] if shared else f"of-{name}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _blocked_modules(self) -> str:
        """Return a PYTHONPATH on which nothing is to be had that the image does not have."""
        lock = (ROOT / "requirements-image.txt").read_text(encoding="utf-8")
        installed = {_normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)} | {"coverage"}
        blocked = {
            module
            for module, owners in packages_distributions().items()
            if not installed & {_normal(each) for each in owners}
        }
        folder = self.folder / "image"
        folder.mkdir(parents=True)
        (folder / "sitecustomize.py").write_text(_BLOCKER.format(modules=sorted(blocked)), encoding="utf-8")
        return f"{folder}:{ROOT}"

    # --- down -------------------------------------------------------------------------------------------

    def down(self) -> dict[str, int]:
        """Stop what runs as `docker compose stop` does; return the exit codes. Nothing may be left behind.

        Raises:
            subprocess.TimeoutExpired: a service does not stop within its grace period.
        """
        running = {name: process for name, process in self.processes.items() if process.poll() is None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        began = monotonic()
        codes = {}
        for name, process in running.items():
            grace = compose_file.seconds(self.services[name].get("stop_grace_period", "10s"))
            codes[name] = process.wait(max(began + grace - monotonic(), 0.1))

            def left(leader: int = process.pid) -> list[int]:
                return [pid for pid in session_pids(leader) if pid != leader]

            # Python's helper for several processes ends by itself, once it has seen that they have.
            assert wait_until(lambda: not left(), seconds=PATIENCE_SECONDS), f"{name} left processes behind: {left()}"
        self.healthy -= set(running)
        return codes

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes.values():
            kill_group(process.pid)
            process.wait()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
