"""`.env.example` and docs/configuration.md say what app/config.py says: every setting, its default, nothing else."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from app.config import ROOT, Settings

WHOLE_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
EXAMPLE = WHOLE_EXAMPLE.partition("# --- Docker Compose ")[0]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
NAMES = sorted(name.upper() for name in Settings.model_fields)

_ASSIGNMENT = re.compile(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]*)` \| (.*?) \| (.+) \|$", re.MULTILINE)


def written_default(name: str) -> str:
    """Return the default of a setting as a person would write it; paths from the checkout."""
    value = Settings.model_fields[name.lower()].default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix()
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def documented_defaults() -> dict[str, str]:
    """Return name → default of the tables of settings; what is empty or absent is in words there."""
    tables = CONFIGURATION.partition("## Variables of single processes")[0]
    return {name: "" if cell in {"(none)", "(empty)"} else cell.strip("`") for name, cell, _ in _ROW.findall(tables)}


@pytest.mark.req("NFR-005.3")
def test_the_example_names_every_setting_once_and_nothing_else() -> None:
    assert sorted(name for name, _ in _ASSIGNMENT.findall(EXAMPLE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_example_holds_the_default(name: str) -> None:
    value = dict(_ASSIGNMENT.findall(EXAMPLE))[name]
    assert value.strip('"') == written_default(name)


def test_each_setting_of_the_example_has_one_line_that_explains_it() -> None:
    lines = WHOLE_EXAMPLE.splitlines()
    for number, line in enumerate(lines):
        if _ASSIGNMENT.match(line):
            assert re.match(r"# \S.*\.$", lines[number - 1]), f"nothing explains {line}"
            assert lines[number - 2] == "", f"more than one line explains {line}"


def test_a_copy_of_the_example_chooses_nothing() -> None:
    """What is set counts as chosen: a copied DATABASE_URL would keep `./dev run` from starting PostgreSQL."""
    assert [line for line in WHOLE_EXAMPLE.splitlines() if line and not line.startswith("#")] == []


def test_the_example_uncommented_is_read_back_as_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.upper() in NAMES]:
        monkeypatch.delenv(name)
    # A default of None has no spelling in such a file: those lines stay comments.
    given = [f"{name}={value}" for name, value in _ASSIGNMENT.findall(EXAMPLE) if value]
    file = tmp_path / "uncommented.env"
    file.write_text("\n".join(given), encoding="utf-8")

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_file=file, extra="ignore")

    class Untouched(Settings):
        model_config = SettingsConfigDict(env_file=None, extra="ignore")

    monkeypatch.chdir(ROOT)
    read, default = FromFile().model_dump(), Untouched().model_dump()
    read["storage_path"] = read["storage_path"].absolute()
    assert read == default


@pytest.mark.req("DOC.5")
def test_the_configuration_page_names_every_setting_once_and_nothing_else() -> None:
    tables = CONFIGURATION.partition("## Variables of single processes")[0]
    assert sorted(name for name, _, _ in _ROW.findall(tables)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_page_holds_the_default(name: str) -> None:
    assert documented_defaults()[name] == written_default(name)
