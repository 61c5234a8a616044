"""CI, hooks and templates, validated by the schemas of those who read them, and against the files they name."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
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
    assert check["services"]["redis"]["image"].startswith("valkey/valkey:8")
    assert "./dev check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.security
@pytest.mark.req("NFR-004.10")
def test_ci_skips_no_test_of_the_html_invoice_for_want_of_pango() -> None:
    [step] = [step for step in CI["jobs"]["check"]["steps"] if step.get("name") == "Pango"]
    assert not {"if", "continue-on-error"} & set(step)
    [installed] = re.findall(r"^sudo apt-get install (.+)$", step["run"], re.MULTILINE)
    assert {"libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0"} <= set(installed.split())


def commands(script: str) -> Iterator[str]:
    """Yield the lines of a script, those joined that a quote or a backslash holds together."""
    held = ""
    for line in script.replace("\\\n", " ").splitlines():
        held += line + "\n"
        if held.count("'") % 2 == 0 and held.count('"') % 2 == 0:
            yield held
            held = ""
    assert not held.strip(), held


def certain_words(command: str) -> list[str]:
    """Return the words of a command; none of one whose failure changes nothing."""
    words = shlex.split(command, comments=True)
    return [] if {"!", "||", "|", ";"} & set(words) else words


def commands_of_ci(ci: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return the words of each command that a job runs, and whose failure fails the job.

    Left out are comments, steps that may fail, steps with a condition of their own, and what is behind `||` or `!`.
    """
    found: dict[str, list[list[str]]] = {}
    for name, job in ci["jobs"].items():
        found[name] = []
        for step in job["steps"]:
            if "run" not in step or "if" in step or step.get("continue-on-error") or job.get("continue-on-error"):
                continue
            found[name] += filter(None, map(certain_words, commands(step["run"])))
    return found


REQUIRED_OF_CI = [
    ("check", [".ci/run"]),
    ("image", ["docker", "compose", "build"]),
    ("image", ["docker", "compose", "up", "--no-build", "--wait"]),
    ("image", ["articurated", "demo", "--api"]),
    ("image", ["articurated", "doctor"]),
    ("image", ["promtool", "check", "config"]),
    ("image", ["promtool", "test", "rules", "/etc/prometheus/alerts.test.yml"]),
    ("docs", [".venv/bin/mkdocs", "build", "--strict"]),
    ("fuzz", ["./dev", "test", "-n", "0", "tests/security/test_fuzz.py"]),
]


def runs(ci: dict[str, Any], job: str, wanted: list[str]) -> bool:
    """Return whether a job runs a command with these words, one after another."""
    return any(words[at : at + len(wanted)] == wanted for words in commands_of_ci(ci)[job] for at in range(len(words)))


@pytest.mark.parametrize(
    ("job", "wanted"), REQUIRED_OF_CI, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_ci_does_the_rest_too(job: str, wanted: list[str]) -> None:
    assert runs(CI, job, wanted)
    assert CI["jobs"][job].get("if") in {
        None,
        "github.event_name == 'schedule' || github.event_name == 'workflow_dispatch'",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"run": "# .venv/bin/mkdocs build --strict"},
        {"run": ".venv/bin/mkdocs build --strict || true"},
        {"run": "echo '.venv/bin/mkdocs build --strict'"},
        {"if": "false"},
        {"continue-on-error": True},
    ],
)
def test_a_command_of_ci_that_cannot_fail_does_not_count(change: dict[str, Any]) -> None:
    step = {"run": ".venv/bin/mkdocs build --strict"}
    assert runs({"jobs": {"docs": {"steps": [step]}}}, "docs", step["run"].split())
    assert not runs({"jobs": {"docs": {"steps": [step | change]}}}, "docs", step["run"].split())


def test_ci_looks_for_known_vulnerabilities_and_secrets() -> None:
    """The first runs in a loop over the locks, the second in a container."""
    job = CI["jobs"]["supply"]
    assert not {"if", "continue-on-error"} & set(job)
    steps = {step["name"]: step for step in job["steps"] if "name" in step}
    audit = steps["Known vulnerabilities of what is installed"]
    secrets = steps["Secrets, in all of the history"]
    assert not {"if", "continue-on-error"} & (set(audit) | set(secrets))
    loop, audited, done = audit["run"].strip().splitlines()
    assert shlex.split(loop)[:3] == ["for", "lock", "in"]
    assert {lock.strip(";") for lock in shlex.split(loop)[3:-1]} == {
        path.name for path in ROOT.glob("requirements*.txt")
    } - {"requirements-uv.txt"}, "uv alone, which only ./dev runs, is no part of what is served"
    assert certain_words(audited)[:2] == [".venv/bin/pip-audit", "--strict"]
    assert done == "done"
    words = certain_words(secrets["run"])
    assert words[:2] == ["docker", "run"]
    assert any(re.fullmatch(r"ghcr\.io/gitleaks/gitleaks:\S+", word) for word in words)
    assert words[-1] == "/repository"


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


def test_the_documented_levels_of_tests_exist() -> None:
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
