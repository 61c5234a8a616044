"""A setting is described in app/config.py alone; `.env.example`, the page and docker-compose.yml are made from that."""

import ast
import re
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import pytest
import yaml
from pydantic import Field

from app.config import ROOT, Settings
from tools.documentation import settings, variables

pytestmark = pytest.mark.req("NFR-005.3", "DOC.5")

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
NAMES = sorted(Settings.model_fields)

# Variables that other programs define: the system, Python, PostgreSQL, Celery and pgBackRest.
FOREIGN = {"PATH", "PYTHONPATH", "PGSSLMODE", "REMAP_SIGTERM", "PGBACKREST_CONFIG"}


class WithOneMore(Settings):
    """The settings with a new one, in the group of the last field."""

    parcels_at_once: int = Field(5, ge=1, le=9, description="Parcels that `one` order may have.")


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_is_described_in_one_line(name: str) -> None:
    text = Settings.model_fields[name].description
    assert text
    assert re.fullmatch(r"\S[^\n|]*\.", text), text


@pytest.mark.parametrize("name", NAMES)
def test_the_description_names_each_choice(name: str) -> None:
    [described] = [setting for setting in settings.settings() if setting.name == name.upper()]
    # `X | None` has its choices one level deeper.
    kind = Settings.model_fields[name].annotation
    choices = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    for choice in [value for part in choices for value in get_args(part)]:
        assert f"`{choice}`" in described.description


def test_a_new_setting_is_in_every_file() -> None:
    assert settings.example(WithOneMore).partition("\n# --- Docker Compose ")[0] == (
        settings.example().partition("\n# --- Docker Compose ")[0]
        + "\n# Parcels that one order may have. From 1 to 9.\n# PARCELS_AT_ONCE=5\n"
    )
    row = "| `PARCELS_AT_ONCE` | `5` | Parcels that `one` order may have. From 1 to 9. |"
    assert set(settings.with_tables(PAGE, WithOneMore).splitlines()) - set(PAGE.splitlines()) == {row}
    passed = yaml.safe_load(settings.with_settings(COMPOSE, WithOneMore))["x-settings"]
    assert passed == yaml.safe_load(COMPOSE)["x-settings"] | {"PARCELS_AT_ONCE": None}


def test_a_setting_without_a_description_is_refused() -> None:
    class Undescribed(Settings):
        parcels_at_once: int = 5

    with pytest.raises(ValueError, match=r"PARCELS_AT_ONCE in app/config\.py needs a description"):
        settings.settings(Undescribed)


def test_what_was_changed_by_hand_is_made_new() -> None:
    changed = PAGE.replace("| `DATABASE_POOL_SIZE` | `10` |", "| `DATABASE_POOL_SIZE` | `11` |")
    assert changed != PAGE
    assert settings.with_tables(changed) == PAGE
    changed = COMPOSE.replace("  SELLER_NAME:\n", "")
    assert changed != COMPOSE
    assert settings.with_settings(changed) == COMPOSE


def test_a_value_in_compose_takes_the_place_of_the_generated_line() -> None:
    chosen = COMPOSE.replace("  # generated: settings\n", "  LOG_LEVEL: DEBUG\n  # generated: settings\n")
    assert chosen != COMPOSE
    made = settings.with_settings(chosen)
    assert made.count("  LOG_LEVEL:") == 1
    assert yaml.safe_load(made)["x-settings"]["LOG_LEVEL"] == "DEBUG"


def test_text_around_the_tables_is_kept() -> None:
    added = PAGE.replace("\n## Redis\n", "\nA sentence.\n\n## Redis\n")
    assert settings.with_tables(added) == added


@pytest.mark.parametrize("mark", ["<!-- generated: Redis -->", "<!-- generated: Docker Compose -->"])
def test_a_missing_table_is_an_error(mark: str) -> None:
    with pytest.raises(ValueError, match=r"docs/configuration\.md must have these generated blocks"):
        settings.with_tables(PAGE.replace(mark, ""))
    with pytest.raises(ValueError, match=r"docs/configuration\.md must have these generated blocks"):
        settings.with_tables(PAGE.replace(mark, "<!-- generated: Others -->"))


def test_a_missing_block_of_compose_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"docker-compose\.yml must have these generated blocks"):
        settings.with_settings(COMPOSE.replace("  # generated: settings\n", ""))


def trees() -> Iterator[ast.AST]:
    """Yield each node of our code."""
    for folder in ("app", "devtools"):
        for file in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def read_from_the_environment() -> Iterator[str]:
    """Yield each name that our code reads with `os.environ` or `os.getenv`, or from a mapping called `environ`."""
    for node in trees():
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="environ") | ast.Name(id="environ"))
                | ast.Attribute(attr="getenv"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
            case ast.Subscript(
                value=ast.Attribute(attr="environ") | ast.Name(id="environ"), slice=ast.Constant(value=str(name))
            ):
                yield name
            case _:
                pass


def test_each_variable_that_the_code_reads_is_described() -> None:
    described = {variable.name for variable in variables.PROCESSES} | {name.upper() for name in NAMES}
    read = set(read_from_the_environment())
    assert {"READY_FILE", "PAYMENT_WEBHOOK_URL"} <= read
    assert read - described - FOREIGN == set()


def test_each_described_variable_is_in_the_code() -> None:
    texts = {node.value for node in trees() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {variable.name for variable in variables.PROCESSES} - texts == set()
