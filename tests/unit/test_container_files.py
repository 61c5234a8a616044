"""Dockerfile and docker-compose.yml, looked at as files: there need not be a Docker engine.

tests/e2e/test_compose.py starts what they say as local processes; CI builds the image and runs it.
"""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli.main import cli
from app.config import ROOT, Settings
from app.core.enums import Queue
from tests import compose_file
from tests.compose_file import COMPOSE, DOCKERFILE

pytestmark = pytest.mark.req("DEV.2")

BIN = Path(sys.executable).parent
PASSWORDS = {
    "POSTGRES_PASSWORD": "of-the-owner",
    "DATABASE_PASSWORD": "of-the-application",
    "REDIS_PASSWORD": "of-redis",
    "FLOWER_BASIC_AUTH": "admin:of-flower",
    "GRAFANA_PASSWORD": "of-grafana",
}
RAW: dict[str, Any] = yaml.safe_load(COMPOSE)
SERVICES = compose_file.services(PASSWORDS, profiles=("development", "s3", "monitoring"))
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SETTLED = {name: service for name, service in OURS.items() if "PRIVATE_NETWORK_HOSTS" in service["environment"]}
ONE_SHOT = {"migrate", "s3-bucket"}

# What containers do not get: the owner's login (migrate alone has it), what the image does not have or decides by
# itself, and what belongs to Flower alone.
NOT_PASSED = {"DATABASE_ADMIN_URL", "INVOICE_RENDERER", "FLOWER_BASIC_AUTH"}
# Backups are made where PostgreSQL's programs are: not in this image.
NOT_PASSED |= {name.upper() for name in Settings.model_fields if name.startswith("backup_")}
# What they get, and not from .env.
FIXED = {"DATABASE_URL", "REDIS_URL", "STORAGE_PATH", "PROMETHEUS_PORT", "PROMETHEUS_HOST", "PUBLISHED_ADDRESS"}

services = pytest.mark.parametrize("name", SERVICES)


# --- by the tools made for it ----------------------------------------------------------------------------------


def test_compose_is_valid_by_its_schema() -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.req("DEV.3")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- the image -------------------------------------------------------------------------------------------------


@pytest.mark.req("DEV.3")
def test_the_image_runs_as_an_unprivileged_user() -> None:
    [user] = compose_file.instructions("USER")
    assert re.fullmatch(r"(?!0+:)\d+:(?!0+$)\d+", user), "a number, so that an orchestrator can see that it is not root"
    assert not re.search(r"\b(apt-get|apk|curl|gcc|sudo)\b", "\n".join(compose_file.instructions("RUN")))


@pytest.mark.req("DEV.3")
def test_the_image_starts_its_command_without_a_shell_between() -> None:
    for name in ("CMD", "ENTRYPOINT"):
        for line in compose_file.instructions(name):
            assert isinstance(json.loads(line), list)
    [command] = compose_file.instructions("CMD")
    assert json.loads(command) == SERVICES["api"]["command"]
    assert compose_file.instructions("STOPSIGNAL") == []  # SIGTERM


@pytest.mark.req("DEV.3")
def test_the_image_looks_at_the_health_as_compose_does() -> None:
    assert ["CMD", *compose_file.image_health_check()] == SERVICES["api"]["healthcheck"]["test"]
    assert "/api/v1/health/live" in compose_file.image_health_check()[-1]


@pytest.mark.req("DEV.3")
def test_base_images_are_named_by_tag_and_both_stages_have_the_same() -> None:
    [image] = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", image)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}", "base"}


@pytest.mark.req("DEV.3")
def test_what_is_copied_is_there_and_nothing_else_reaches_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert allowed == copied | {"requirements-image.txt"}
    assert all((ROOT / name).exists() for name in allowed)
    assert not any(fnmatch.fnmatch(".env", pattern) for pattern in allowed)


@pytest.mark.req("DEV.3")
def test_the_default_image_leaves_devtools_out_and_the_one_for_development_adds_it_alone() -> None:
    assert re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)[-1] == "production"
    assert not [line for line in compose_file.instructions("COPY") if "devtools" in line]
    added = compose_file.instructions("COPY", "development")
    assert [line for line in added if line not in compose_file.instructions("COPY")] == [
        "--from=build /devtools /app/devtools"
    ]
    assert {service["build"]["target"] for service in OURS.values()} == {"production"}
    development = compose_file.services(PASSWORDS | {"ARTICURATED_TARGET": "development"}, profiles=("development",))
    assert {service["build"]["target"] for service in development.values() if "build" in service} == {"development"}


def pins(name: str) -> dict[str, str]:
    """Return package → version of a lock."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE))


@pytest.mark.req("DEV.3")
def test_the_image_has_what_was_tested_and_no_servers() -> None:
    image, tested = pins("requirements-image.txt"), pins("requirements-dev.txt")
    assert {name: version for name, version in image.items() if tested.get(name) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(group: list[str]) -> set[str]:
        return {re.split(r"[\[<>=;]", requirement)[0].lower() for requirement in group}

    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) | names(extras["flower"]) <= set(image)
    assert names(extras["embedded"]) & set(image) == set()
    text = (ROOT / "requirements-image.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(image)


# --- every service ---------------------------------------------------------------------------------------------


@services
def test_each_service_has_a_health_check_or_ends(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert service["restart"] == "no"
        # `docker compose up --wait` fails on a container that ends, unless a service waits for just that.
        conditions = [other.get("depends_on", {}).get(name, {}).get("condition") for other in SERVICES.values()]
        assert "service_completed_successfully" in conditions
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
        assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


@services
@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_each_service_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    if name not in OURS and "versitygw" not in service["image"]:  # which is root without any of root's rights
        assert service["user"] not in {"root", "0", "0:0"}
    if name in OURS:
        assert "user" not in service, "the image's own"
        assert service["init"] is True


@services
@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_ports_are_published_on_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")
    if "ports" not in SERVICES[name]:
        return
    assert name in {"api", "flower", "mailpit", "gateway", "prometheus", "grafana"}
    assert "data" not in SERVICES[name].get("networks", []) or "default" in SERVICES[name]["networks"]


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
@pytest.mark.parametrize("name", ["db", "redis"])
def test_the_servers_are_reached_by_the_system_alone(name: str) -> None:
    assert "ports" not in SERVICES[name]
    assert SERVICES[name]["networks"] == ["data"]
    assert RAW["networks"]["data"] == {"internal": True}


@pytest.mark.req("NFR-006.4")
@pytest.mark.parametrize("name", SETTLED)
def test_what_may_report_a_fault_is_on_a_network_that_leaves(name: str) -> None:
    given = compose_file.services(PASSWORDS | {"SENTRY_DSN": "https://key@sentry.example/1"})[name]["environment"]
    assert given["SENTRY_DSN"]
    leaving = {network for network, options in RAW["networks"].items() if not (options or {}).get("internal")}
    assert leaving & set(SERVICES[name]["networks"])


@services
@pytest.mark.req("NFR-004.7")
def test_images_are_named_by_version_and_digest(name: str) -> None:
    image = SERVICES[name]["image"]
    pinned = re.search(r":v?\d+(\.\d+)+(-alpine)?@sha256:[0-9a-f]{64}$", image)
    assert image == "articurated:local" or pinned, image


def test_the_parts_are_the_ones_the_system_consists_of() -> None:
    wanted = {"db", "redis", "migrate", "api", "relay", "beat", "flower"}
    workers = {name for name in SERVICES if name.startswith("worker-")}
    for_development = {"mailpit", "gateway"}
    assert set(SERVICES) - workers == wanted | for_development | {"s3", "s3-bucket", "prometheus", "grafana"}
    assert set(compose_file.services(PASSWORDS, profiles=("development",))) - workers == wanted | for_development
    assert set(compose_file.services(PASSWORDS)) - workers == wanted
    queues = [SERVICES[name]["command"][3] for name in sorted(workers)]
    assert queues == sorted(queue.value for queue in Queue)
    assert SERVICES["db"]["image"].startswith("postgres:15")
    assert SERVICES["redis"]["image"].startswith("valkey/valkey:8")


@pytest.mark.parametrize("name", SETTLED)
def test_the_application_starts_after_the_migration(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert SERVICES["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}


@pytest.mark.req("REQ-004.10")
def test_a_stop_waits_for_what_is_being_done() -> None:
    """Longer than the API's 8 seconds and a worker's 20 and a little (app/cli/main.py, app/tasks/celery_app.py)."""
    for name, service in SETTLED.items():
        longest = {"api": 8, "relay": 5, "beat": 5}.get(name, 25)
        assert compose_file.seconds(service["stop_grace_period"]) > longest


def test_redis_forgets_nothing_and_its_password_is_on_no_command_line() -> None:
    command = SERVICES["redis"]["command"][-1]
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command
    assert PASSWORDS["REDIS_PASSWORD"] not in command
    assert "$REDIS_PASSWORD" in command


# --- commands and settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_commands_and_their_options_exist(name: str) -> None:
    program, verb, *words = SERVICES[name]["command"]
    assert program == "articurated"
    group: Any = typer.main.get_command(cli)
    group.commands[verb].make_context(verb, list(words))


@pytest.mark.parametrize("name", SETTLED)
def test_each_setting_reaches_the_application(name: str) -> None:
    """Those without a value here are passed on when they are set, and only then."""
    named = set(RAW["x-settings"]) - {"<<"} | {"DATABASE_URL", "REDIS_URL"}
    wanted = {field.upper() for field in Settings.model_fields} - NOT_PASSED
    assert named == wanted, f"x-settings of docker-compose.yml: {sorted(named ^ wanted)}"
    given = {field: f"value-of-{field}" for field in named}
    passed = compose_file.services(PASSWORDS | given)[name]["environment"]
    assert passed["PRIVATE_NETWORK_HOSTS"] == "db,redis,s3,value-of-PRIVATE_NETWORK_HOSTS"
    passed["PRIVATE_NETWORK_HOSTS"] = given["PRIVATE_NETWORK_HOSTS"]
    assert {key: passed[key] for key in named - FIXED} == {key: given[key] for key in named - FIXED}
    assert not set(SETTLED[name]["environment"]) & {"SECRET_KEY", "SELLER_NAME"}


@pytest.mark.req("DOC.5")
def test_what_is_not_read_from_the_file_is_listed() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy-with-compose.md").read_text(encoding="utf-8")
    [told] = re.findall(r"^- Not read from `\.env` are (.*?)^- ", page, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([A-Z_]{3,})`", told)) == (NOT_PASSED | FIXED) - {"FLOWER_BASIC_AUTH"}


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_the_owners_password_is_known_to_the_migration_alone() -> None:
    knowing = {name for name, service in SERVICES.items() if "of-the-owner" in str(service)}
    assert knowing == {"db", "migrate"}


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
@pytest.mark.parametrize("name", PASSWORDS)
def test_nothing_starts_without_a_password(name: str) -> None:
    for value in ({}, {name: ""}):
        with pytest.raises(compose_file.MissingVariableError, match=f"{name}: run ./dev env"):
            compose_file.services({key: kept for key, kept in PASSWORDS.items() if key != name} | value)


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_without_a_word_of_development_it_is_production() -> None:
    assert compose_file.image_environment()["ENVIRONMENT"] == "production"
    assert {service["environment"]["ENVIRONMENT"] for service in SETTLED.values()} == {"production"}
    assert SERVICES["gateway"]["environment"]["ENVIRONMENT"] == "production"
    # Neither gets a secret that production is judged by.
    for name in ("migrate", "flower"):
        assert SERVICES[name]["environment"]["ENVIRONMENT"] == "development"
        assert not {"SECRET_KEY", "PAYMENT_GATEWAY_API_KEY"} & set(RAW["services"][name]["environment"])


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_development_secrets_are_judged_by_where_the_ports_are_published() -> None:
    assert SERVICES["api"]["environment"]["PUBLISHED_ADDRESS"] == "127.0.0.1"
    given = PASSWORDS | {"PUBLISH_ADDRESS": "192.0.2.4", "COMPOSE_PROFILES": "development"}
    for name in ("api", "gateway"):
        assert compose_file.services(given)[name]["environment"]["PUBLISHED_ADDRESS"] == "192.0.2.4"


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_no_secret_is_in_the_file() -> None:
    for secret in ("dev_password", "development-", "dev-api-key", "sk_test"):
        assert secret not in COMPOSE


def test_each_variable_is_described_in_the_example_of_the_configuration() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    told = set(re.findall(r"^# ([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    used = {found["name"] for found in compose_file.VARIABLE.finditer(COMPOSE) if found["name"]}
    assert used <= told
    for_compose = set(re.findall(r"^# ([A-Z][A-Z0-9_]*)=", example.partition("# --- Docker Compose ")[2], re.MULTILINE))
    assert for_compose <= used | {"COMPOSE_PROFILES"}


def test_the_defaults_are_the_documented_ones() -> None:
    example = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    section = (ROOT / ".env.example").read_text().partition("# --- Docker Compose ")[2]
    for found in compose_file.VARIABLE.finditer(COMPOSE):
        if found["name"] and found["how"] == ":-" and f"# {found['name']}=" in section:
            assert example[found["name"]] == found["word"]


@pytest.mark.req("INT-004.1")
def test_one_line_moves_the_documents_to_s3() -> None:
    bucket = SERVICES["s3-bucket"]["entrypoint"][-1]
    environment = SERVICES["api"]["environment"]
    assert bucket == f"/data/{environment['AWS_S3_BUCKET']}"
    assert environment["AWS_ENDPOINT_URL"] == "http://s3:7070"
    assert environment["AWS_REGION"] in SERVICES["s3"]["command"]
    assert "STORAGE_TYPE" not in environment
    # Empty it means Amazon's own.
    assert compose_file.services(PASSWORDS | {"AWS_ENDPOINT_URL": ""})["api"]["environment"]["AWS_ENDPOINT_URL"] == ""
    assert SERVICES["s3"]["depends_on"] == {"s3-bucket": {"condition": "service_completed_successfully"}}
