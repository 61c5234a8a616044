"""`docker-compose.yml` and `Dockerfile` as Docker would read them, as far as this project uses their languages."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from app.config import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<word>[^}]*))?\})")

Service = dict[str, Any]


class MissingVariableError(Exception):
    """A variable that has no default is not set, or empty."""


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME-default}`, `${NAME:-default}`, `${NAME?message}` and `${NAME:?message}`.

    Raises:
        MissingVariableError: as the file asks for, or where Docker would put an empty text and only warn.
    """

    def value(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        given = environ.get(found["name"])
        how = found["how"] or "?"
        if given is not None and (given or not how.startswith(":")):
            return given
        if how.endswith("-"):
            return found["word"]
        raise MissingVariableError(f"{found['name']}: {found['word'] or 'not set'}")

    return VARIABLE.sub(value, text)


def services(environ: Mapping[str, str], profiles: tuple[str, ...] = ()) -> dict[str, Service]:
    """Return the services that would be started, everything filled in.

    Profiles are those named here and in COMPOSE_PROFILES.
    A variable of a service that has no value is passed on from `environ`, or is not there.
    """
    found = _filled(yaml.safe_load(COMPOSE), environ)["services"]
    profiles = (*profiles, *environ.get("COMPOSE_PROFILES", "").split(","))
    chosen = {
        name: service
        for name, service in found.items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }
    for service in chosen.values():
        passed = service.get("environment", {})
        service["environment"] = {
            name: environ[name] if value is None else str(value)
            for name, value in passed.items()
            if value is not None or name in environ
        }
    return chosen


def _filled(node: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, environ) for value in node]
    return interpolate(node, environ) if isinstance(node, str) else node


def seconds(duration: str) -> float:
    """Read a duration such as `10s`; the file uses no other unit."""
    return float(duration.removesuffix("s"))


def stage(target: str) -> str:
    """Return the instructions that make a stage of the Dockerfile, with those of the stages that it is built on."""
    _, *stages = re.split(r"^FROM (\S+) AS (\w+)\n", DOCKERFILE, flags=re.MULTILINE)
    made = {name: (base, text) for base, name, text in zip(stages[::3], stages[1::3], stages[2::3], strict=True)}
    base, text = made[target]
    return stage(base) + text if base in made else text


def instructions(name: str, target: str = "production") -> list[str]:
    """Return what follows an instruction for each time that a stage of the Dockerfile has it, on one line each."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", stage(target), flags=re.MULTILINE))
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    """Return what ENV sets in the image."""
    return dict(word.split("=", 1) for line in instructions("ENV") for word in line.split())


def image_health_check() -> list[str]:
    """Return the command of HEALTHCHECK, in exec form."""
    [line] = instructions("HEALTHCHECK")
    command: list[str] = json.loads(line.partition("CMD ")[2])
    return command
