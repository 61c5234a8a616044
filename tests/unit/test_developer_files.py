"""CI, hooks and templates, validated by the schemas of those who read them, and against the files they name."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import ROOT

pytestmark = pytest.mark.req("DEV.5")

BIN = Path(sys.executable).parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CI: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
STEPS = [step for job in CI["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/ci.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/wish.yml"),
    ],
)
def test_files_of_the_forge_are_valid(schema: str, file: str) -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", schema, file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_form_and_workflow_is_among_them() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.yml")}
    assert len(found) == 5


@pytest.mark.security
@pytest.mark.req("NFR-004.7")
def test_ci_may_read_and_no_more() -> None:
    assert CI["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in CI["jobs"].values())
    for step in STEPS:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+(\.\d+)*", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        # What others may name (a branch, a title) must not become part of a script.
        assert "${{" not in step.get("run", "")


def test_ci_runs_what_a_developer_runs_on_every_python_that_is_promised() -> None:
    assert CI["concurrency"]["cancel-in-progress"] is True
    check = CI["jobs"]["check"]
    assert [step["run"] for step in check["steps"] if "run" in step][-1] == ".ci/run"
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert check["strategy"]["matrix"]["python"] == [
        promised.rpartition(" ")[2] for promised in classifiers if re.search(r":: 3\.\d+$", promised)
    ]
    assert check["services"]["postgres"]["image"].startswith("postgres:15")
    assert check["services"]["redis"]["image"].startswith("redis:7")
    assert "./dev check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.security
@pytest.mark.req("NFR-004.10")
def test_ci_skips_no_test_of_the_html_invoice_for_want_of_pango() -> None:
    [step] = [step for step in CI["jobs"]["check"]["steps"] if step.get("name") == "Pango"]
    assert not {"if", "continue-on-error"} & set(step)
    [installed] = re.findall(r"^sudo apt-get install (.+)$", step["run"], re.MULTILINE)
    assert {"libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0"} <= set(installed.split())


def test_ci_does_the_rest_too() -> None:
    script = "\n".join(step.get("run", "") for step in STEPS)
    for command in (
        "docker compose build",
        "docker compose up --no-build --wait",
        "articurated demo --api",
        "promtool check config",
        "promtool test rules /etc/prometheus/alerts.test.yml",
        "pip-audit",
        "gitleaks",
        "mkdocs build --strict",
        "tests/security/test_fuzz.py",
    ):
        assert command in script, command


def test_the_scripts_of_ci_name_what_exists() -> None:
    script = "\n".join(step.get("run", "") for step in STEPS)
    verbs = set(re.findall(r"^  (\w+) ", subprocess.check_output([ROOT / "dev", "help"], text=True), re.MULTILINE))
    assert set(re.findall(r"\./dev (\w+)", script)) <= verbs
    for path in re.findall(r"(?:^|\s)((?:tests|\.ci)/[\w./-]+)", script):
        assert (ROOT / path).exists(), path
    for program in re.findall(r"\.venv/bin/([\w-]+)", script):
        assert (BIN / program).exists(), program


@pytest.mark.parametrize("job", CI["jobs"])
def test_scripts_of_ci_are_valid_shell(job: str) -> None:
    for step in CI["jobs"][job]["steps"]:
        if "run" in step:
            subprocess.run(["bash", "-n"], input=step["run"].encode(), check=True)


def test_hooks_are_valid_and_their_tools_are_installed() -> None:
    done = subprocess.run(
        [str(BIN / "pre-commit"), "validate-config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert [repository["repo"] for repository in HOOKS] == ["local"]
    for hook in HOOKS[0]["hooks"]:
        assert hook["language"] == "system"
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert (BIN / program).exists(), program


def test_the_secrets_that_may_be_committed_are_the_ones_production_refuses() -> None:
    allowed = tomllib.loads((ROOT / ".gitleaks.toml").read_text())["allowlists"]
    config = (ROOT / "app" / "config.py").read_text(encoding="utf-8")
    for pattern in allowed[0]["regexes"]:
        assert re.search(pattern, config), pattern


def test_the_levels_of_tests_that_are_told_exist() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    for level in ("e2e", "security", "performance"):
        assert f"./dev test -m {level}" in told
        assert any(marker.startswith(f"{level}:") for marker in markers)
    for folder in re.findall(r"`\./dev test (tests/[\w/.]+)", told):
        assert (ROOT / folder).exists()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", told):
        assert (ROOT / link).exists(), link


@pytest.mark.req("TEST.1")
@pytest.mark.parametrize(
    ("folder", "level"), [("e2e", "e2e"), ("performance", "performance"), ("security", "security")]
)
def test_every_test_of_a_level_carries_its_marker(folder: str, level: str) -> None:
    for file in (ROOT / "tests" / folder).glob("test_*.py"):
        source = file.read_text(encoding="utf-8")
        marked = re.search(r"^pytestmark = (.*?)$(?=\n\S|\n\n)", source, re.MULTILINE | re.DOTALL)
        assert marked, f"{file.name} has no marker"
        assert f"pytest.mark.{level}" in marked[1], f"{file.name} is not marked {level}"


@pytest.mark.req("DOC.1")
def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]
