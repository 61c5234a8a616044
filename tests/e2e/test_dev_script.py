"""`./dev`, the one script, in a checkout of its own with a space in its path and a substitute for uv: no network."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT

pytestmark = pytest.mark.e2e

UV = """#!/bin/sh
printf '%s\\n' "$*" >>"$UV_NOTES"
env | grep -E '^(UV_|SSL_CERT_FILE|HTTPS?_PROXY)' | sort >"$UV_NOTES.env"
case "$1" in
    --version) echo uv 0 ;;
    venv) for last; do :; done; exec "$BASE_PYTHON" -m venv --without-pip --clear "$last" ;;
    pip) sleep "${UV_SLOW:-0}"; exit "${UV_STATUS:-0}" ;;
esac
"""
MAIN = """
import os, signal, sys, time
if sys.argv[1:2] == ["demo"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
    print("waiting", os.getpid(), flush=True)
    time.sleep(600)
print(sys.argv[1:], os.getcwd(), flush=True)
sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Checkout:
    """A folder with the script, empty requirements and an `app` that prints how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uv_notes = folder.parent / "uv"
        folder.mkdir()
        for name in ("dev", "requirements-uv.txt"):
            shutil.copy2(ROOT / name, folder / name)
        for name in ("requirements.txt", "requirements-dev.txt"):
            (folder / name).write_text("")
        (folder / "app").mkdir()
        (folder / "app" / "__init__.py").write_text("")
        (folder / "app" / "__main__.py").write_text(MAIN)
        version = next(line for line in (ROOT / "dev").read_text().splitlines() if line.startswith("uv_version="))
        self.tools = folder / ".tools"
        uv = self.tools / f"uv-{version.partition('=')[2]}" / "bin" / "uv"
        uv.parent.mkdir(parents=True)
        uv.write_text(UV)
        uv.chmod(0o755)
        base = Path(getattr(sys, "_base_executable", sys.executable))
        self.environment = {
            "PATH": f"{base.parent}:/usr/bin:/bin",
            "HOME": str(folder.parent),
            "PYTHON": str(base),
            "BASE_PYTHON": str(base),
            "UV_NOTES": str(self.uv_notes),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def dev(
        self, *words: str, cwd: Path | None = None, given: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        return subprocess.run(
            [self.folder / "dev", *words],
            cwd=cwd,
            env=self.environment | (given or {}),
            capture_output=True,
            text=True,
            check=False,
        )

    def uv_calls(self) -> list[str]:
        """What uv was asked to do, its version aside."""
        return [line for line in self.uv_notes.read_text().splitlines() if line != "--version"]

    def uv_environment(self) -> dict[str, str]:
        """The variables that uv was called with."""
        lines = Path(f"{self.uv_notes}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("UV_NOTES"))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "my shop's folder ü")


@pytest.mark.req("DEV.1")
def test_a_first_run_makes_the_environment_and_a_second_only_runs(checkout: Checkout) -> None:
    first = checkout.dev("run", "--port", "0", cwd=Path("/"))
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"['up', '--port', '0'] {checkout.folder}\n"
    assert "environment ready" in first.stderr
    assert [call.split()[0] for call in checkout.uv_calls()] == ["venv", "pip"]
    assert "--require-hashes" in checkout.uv_calls()[1]
    second = checkout.dev("run")
    assert (second.returncode, second.stderr) == (0, "")
    assert len(checkout.uv_calls()) == 2


def test_the_exit_code_is_the_commands_own(checkout: Checkout) -> None:
    assert checkout.dev("run", given={"STATUS": "7"}).returncode == 7


def test_signals_reach_the_command_itself(checkout: Checkout) -> None:
    assert checkout.dev("setup").returncode == 0
    running = subprocess.Popen(
        [checkout.folder / "dev", "demo"], env=checkout.environment, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline().split() == ["waiting", str(running.pid)]
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 42
    running.stdout.close()


def test_the_command_works_from_anywhere_even_beside_another_app(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.dev("setup").returncode == 0
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    command = [str(checkout.folder / ".venv" / "bin" / "articurated"), "doctor"]
    found = subprocess.run(command, cwd=tmp_path, env=checkout.environment, capture_output=True, text=True, check=True)
    assert found.stdout == f"['doctor'] {tmp_path}\n"


def test_changed_requirements_are_installed_and_the_tools_kept(checkout: Checkout) -> None:
    assert checkout.dev("setup").returncode == 0
    assert checkout.dev("run").returncode == 0
    assert len(checkout.uv_calls()) == 2
    for name in ("requirements.txt", "requirements-dev.txt"):
        (checkout.folder / name).write_text("# changed\n")
    assert checkout.dev("run").returncode == 0
    assert checkout.uv_calls()[2].endswith("requirements-dev.txt")
    assert len(checkout.uv_calls()) == 3


def test_a_failed_setup_is_not_taken_for_done(checkout: Checkout) -> None:
    failed = checkout.dev("run", given={"UV_STATUS": "3"})
    assert failed.returncode == 3
    assert failed.stdout == ""
    assert checkout.dev("run").returncode == 0


def test_two_at_once_set_up_once(checkout: Checkout) -> None:
    command = [str(checkout.folder / "dev"), "run"]
    environment = checkout.environment | {"UV_SLOW": "1"}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert all(out.startswith("['up']") for out, _ in said)
    assert len(checkout.uv_calls()) == 2


def test_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    assert checkout.dev("setup").returncode == 0
    moved = checkout.folder.with_name("moved")
    checkout.folder.rename(moved)
    checkout.folder = moved
    found = checkout.dev("run")
    assert found.stdout == f"['up'] {moved}\n"
    assert len(checkout.uv_calls()) == 4


def test_what_pip_is_configured_with_is_handed_to_uv(checkout: Checkout, tmp_path: Path) -> None:
    wheels, mirror = tmp_path / "wheels", tmp_path / "mirror"
    wheels.mkdir()
    mirror.mkdir()
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\n"
        "index-url = https://user:secret@packages.example/index\n"
        f"extra-index-url = file://{mirror} file:///nowhere/index\n https://more.example/index\n"
        f"find-links = {wheels} /nowhere/wheels\n"
        "cert = /etc/ssl/own.pem\n"
        "timeout = 99\n"
        "[install]\n"
        "trusted-host = packages.example\n"
    )
    given = {"PIP_CONFIG_FILE": str(configuration), "PIP_PROXY": "http://proxy.example:3128"}
    found = checkout.dev("setup", given=given)
    assert found.returncode == 0, found.stderr
    assert "secret" not in found.stderr
    expected = {
        "UV_DEFAULT_INDEX": "https://user:secret@packages.example/index",
        "UV_INDEX": f"file://{mirror} https://more.example/index",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(wheels),
        "UV_INSECURE_HOST": "packages.example",
        "UV_HTTP_TIMEOUT": "99",
        "SSL_CERT_FILE": "/etc/ssl/own.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    assert expected.items() <= checkout.uv_environment().items()


def test_pips_environment_wins_over_its_files_and_uvs_own_over_both(checkout: Checkout, tmp_path: Path) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = https://file.example/index\n")
    given = {"PIP_CONFIG_FILE": str(configuration), "PIP_INDEX_URL": "https://environment.example/index"}
    assert checkout.dev("setup", given=given).returncode == 0
    assert checkout.uv_environment()["UV_DEFAULT_INDEX"] == "https://environment.example/index"
    (checkout.folder / "requirements-dev.txt").write_text("# changed\n")
    assert checkout.dev("setup", given=given | {"UV_DEFAULT_INDEX": "https://own.example/index"}).returncode == 0
    assert checkout.uv_environment()["UV_DEFAULT_INDEX"] == "https://own.example/index"


def test_without_uv_the_standard_library_does_it(checkout: Checkout) -> None:
    shutil.rmtree(checkout.tools)
    found = checkout.dev("run", given={"PIP_NO_INDEX": "1"})
    assert found.returncode == 0, found.stderr
    assert "uv is not to be had" in found.stderr
    assert found.stdout == f"['up'] {checkout.folder}\n"
    assert not checkout.uv_notes.exists()


def test_an_unsuitable_python_is_reported(checkout: Checkout, tmp_path: Path) -> None:
    old = tmp_path / "python-of-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    found = checkout.dev("setup", given={"PYTHON": str(old)})
    assert found.returncode == 1
    assert "not Python 3.11 or newer" in found.stderr


def test_an_unknown_verb_shows_the_known_ones(checkout: Checkout) -> None:
    found = checkout.dev("fly")
    assert found.returncode == 2
    assert "./dev VERB" in found.stderr
    assert checkout.dev("help").stdout == found.stderr


@pytest.mark.security
@pytest.mark.req("DEV.2", "NFR-004.7")
def test_passwords_are_made_once_and_what_is_set_stays(checkout: Checkout) -> None:
    file = checkout.folder / ".env"
    file.write_text("# mine\nREDIS_PASSWORD=my-own\nDATABASE_PASSWORD=")  # set, if to nothing, and no newline after it
    made = checkout.dev("env")
    assert made.returncode == 0, made.stderr
    lines = file.read_text().splitlines()
    assert lines[:3] == ["# mine", "REDIS_PASSWORD=my-own", "DATABASE_PASSWORD="]
    added = dict(line.split("=", 1) for line in lines[3:])
    chosen = {added.pop(name) for name in ("ENVIRONMENT", "COMPOSE_PROFILES", "ARTICURATED_TARGET")}
    assert chosen == {"development"}
    assert list(added) == ["POSTGRES_PASSWORD", "FLOWER_BASIC_AUTH", "GRAFANA_PASSWORD"]
    assert added["FLOWER_BASIC_AUTH"].startswith("admin:")
    secrets = [value.removeprefix("admin:") for value in added.values()]
    assert len(set(secrets)) == 3
    assert all(len(secret) == 48 for secret in secrets)
    assert not any(secret in made.stderr for secret in secrets)
    before = file.read_text()
    assert checkout.dev("env").returncode == 0
    assert file.read_text() == before
    told = checkout.dev("env", "production")
    assert told.returncode == 0
    for name in ("PAYMENT_GATEWAY_URL", "SMTP_HOST", "SMTP_TLS", "SELLER_NAME", "TRUSTED_PROXIES"):
        assert name in told.stderr
    after = file.read_text()
    for_production = dict(line.split("=", 1) for line in after.splitlines()[len(before.splitlines()) :])
    assert for_production["API_KEY"] == ""
    assert {"SECRET_KEY", "PAYMENT_GATEWAY_API_KEY", "PAYMENT_WEBHOOK_SECRET"} <= set(for_production)
    replaced = before.replace("ENVIRONMENT=development", "ENVIRONMENT=production")
    replaced = replaced.replace("COMPOSE_PROFILES=development", "COMPOSE_PROFILES=")
    assert after.startswith(replaced.replace("ARTICURATED_TARGET=development", "ARTICURATED_TARGET=production"))
    assert file.stat().st_mode & 0o077 == 0
    assert checkout.dev("env").returncode == 0
    assert file.read_text() == after, "what is for production stays for production"
    assert checkout.dev("env", "elsewhere").returncode == 1


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("monitoring,development", "monitoring"),
        ("development,s3", "s3"),
        ("s3,development,monitoring", "s3,monitoring"),
        ("development-tools", "development-tools"),
        ("s3", "s3"),
    ],
)
def test_production_leaves_the_profile_of_development_and_no_other(checkout: Checkout, given: str, left: str) -> None:
    file = checkout.folder / ".env"
    file.write_text(f"COMPOSE_PROFILES={given}\nSELLER_NAME=development\n")
    assert checkout.dev("env", "production").returncode == 0
    assert file.read_text().startswith(f"COMPOSE_PROFILES={left}\nSELLER_NAME=development\n")


def test_the_checks_end_with_the_coverage_of_each_component(checkout: Checkout) -> None:
    assert checkout.dev("setup").returncode == 0
    programs = checkout.folder / ".venv" / "bin"
    for name in ("ruff", "mypy", "lint-imports", "bandit", "coverage"):
        (programs / name).write_text('#!/bin/sh\n[ "$1" != json ] || echo "{}"\n')
        (programs / name).chmod(0o755)
    for name, code in (
        ("pytest", ""),
        ("tests/coverage_floors", "import sys; sys.exit(sys.stdin.read() != '{}\\n' or 3)"),
    ):
        module = checkout.folder / f"{name}.py"
        module.parent.mkdir(exist_ok=True)
        module.write_text(code)
    found = checkout.dev("check")
    assert found.returncode == 3, found.stdout + found.stderr
    assert "✗ coverage of each component failed" in found.stderr


@pytest.mark.parametrize("verb", ["test", "check"])
def test_tests_keep_their_bytecode(checkout: Checkout, verb: str) -> None:
    assert checkout.dev("setup").returncode == 0
    programs = checkout.folder / ".venv" / "bin"
    for name in ("ruff", "mypy", "lint-imports", "bandit", "coverage"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    (checkout.folder / "pytest.py").write_text("import sys; sys.exit(sys.dont_write_bytecode or 9)")
    assert checkout.dev(verb, given={"PYTHONDONTWRITEBYTECODE": "1"}).returncode == 9


@pytest.mark.req("DEV.5", "NFR-005.4")
def test_the_checks_stop_at_the_first_failure_with_its_code(checkout: Checkout) -> None:
    assert checkout.dev("setup").returncode == 0
    programs = checkout.folder / ".venv" / "bin"
    for name, status in (("ruff", 0), ("mypy", 5), ("lint-imports", 0)):
        (programs / name).write_text(f"#!/bin/sh\necho {name} ran\nexit {status}\n")
        (programs / name).chmod(0o755)
    found = checkout.dev("check")
    assert found.returncode == 5
    assert "✓ format" in found.stdout
    assert "✗ types failed" in found.stderr
    assert "lint-imports ran" not in found.stdout


@pytest.mark.req("DEV.1")
@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-image.txt"])
def test_the_locks_name_versions_and_hashes_and_nothing_of_a_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    pinned = [line for line in text.splitlines() if "==" in line]
    assert len(pinned) > 50
    assert all(line.endswith("\\") for line in pinned)
    runtime = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    both = {line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if "==" in line}
    assert {line.split(" ;")[0].rstrip(" \\") for line in runtime} <= {
        line.split(" ;")[0].rstrip(" \\") for line in both
    }
