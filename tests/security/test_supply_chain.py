"""What we install, build and run: pinned by hash, audited in CI, without rights it does not need (NFR-004).

`pip-audit` and `gitleaks` need the network, so they run in CI; here is tested that they do, and that what they find
counts. The image and the compose file have tests of their own in tests/unit/test_container_files.py.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import ROOT

pytestmark = [pytest.mark.req("NFR-004.7", "DEV"), pytest.mark.security]

LOCKS = ("requirements.txt", "requirements-image.txt", "requirements-dev.txt")
_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*(?:\[[a-z,]+\])?)==(\S+)", re.IGNORECASE)


def blocks(lock: str) -> list[str]:
    """Return each requirement of a lock file with its hashes, as one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_pinned_by_hash_and_comes_from_no_named_index(lock: str) -> None:
    found = blocks(lock)
    assert len(found) > 30
    for line in found:
        assert _PINNED.match(line), line
        assert "--hash=sha256:" in line, line
        assert "://" not in line, line


def test_what_production_installs_is_what_was_tested() -> None:
    pins = {lock: {_PINNED.match(line)[0] for line in blocks(lock)} for lock in LOCKS}  # type: ignore[index]
    assert pins["requirements.txt"] <= pins["requirements-dev.txt"]
    assert pins["requirements-image.txt"] <= pins["requirements-dev.txt"]


def test_the_installer_itself_is_pinned_by_hash() -> None:
    script = (ROOT / "dev").read_text(encoding="utf-8")
    [version] = re.findall(r"^uv_version=(.+)$", script, re.MULTILINE)
    [uv] = blocks("requirements-uv.txt")
    assert uv.startswith(f"uv=={version} ")
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", uv)) > 10, "one for each platform"
    [fetching] = re.findall(r'-m pip install (?:.|\n)*?requirements-uv\.txt"', script)
    assert "--require-hashes" in fetching


def test_actions_and_images_of_ci_are_pinned_by_digest() -> None:
    steps = [step for job in CI["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert len(actions) > 5
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    images = [service["image"] for job in CI["jobs"].values() for service in job.get("services", {}).values()]
    images += re.findall(r"docker run .*?(\S+/\S+:v\S+)", "\n".join(step.get("run", "") for step in steps))
    assert len(images) == 3
    assert all(re.search(r":v?\d\S*@sha256:[0-9a-f]{64}$", image) for image in images), images


def test_installing_demands_the_hashes() -> None:
    script = (ROOT / "dev").read_text(encoding="utf-8")
    installing = [
        line for line in script.splitlines() if re.search(r"pip (sync|install).*(requirements|\$file|\$2)", line)
    ]
    assert installing
    assert script.count("--require-hashes") >= 2


# --- CI ----------------------------------------------------------------------------------------------------------

CI: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
SUPPLY = CI["jobs"]["supply"]
CONDITIONS = {"if", "needs", "continue-on-error", "strategy"}
AUDIT = ["--strict", "--disable-pip", "--require-hashes", "--requirement"]


def run_step(naming: str, folder: Path, fails_on: str = "nothing") -> tuple[int, list[list[str]]]:
    """Run the one step whose script names a tool, as CI's shell would, with tools that only note what they are asked.

    Args:
        naming: what the script names.
        folder: an empty one, to run in.
        fails_on: a word of its command line on which a tool fails.

    Returns:
        The step's exit code, and the words of each call.
    """
    [script] = [step["run"] for step in SUPPLY["steps"] if naming in step.get("run", "")]
    for tool in (folder / ".venv" / "bin" / "pip-audit", folder / "bin" / "docker"):
        tool.parent.mkdir(parents=True)
        tool.write_text(
            "#!/bin/sh\nprintf '%s\\t' \"$@\" >>calls; printf '\\n' >>calls\n"
            'for word; do if [ "$word" = "$FAILS_ON" ]; then exit 1; fi; done\n'
        )
        tool.chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "FAILS_ON": fails_on}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=False)
    calls = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return done.returncode, [line.rstrip("\t").split("\t") for line in calls]


def test_ci_looks_for_known_vulnerabilities_and_for_secrets(tmp_path: Path) -> None:
    """What is exempted from the audit is to be named here too."""
    (tmp_path / "audit").mkdir()
    assert run_step("pip-audit", tmp_path / "audit") == (0, [[*AUDIT, lock] for lock in LOCKS])
    (tmp_path / "scan").mkdir()
    code, [words] = run_step("gitleaks", tmp_path / "scan")
    assert code == 0
    assert {"git", "/repository"} <= set(words)
    assert any(word.startswith("ghcr.io/gitleaks/gitleaks:v") for word in words)
    assert "--exit-code" not in " ".join(words)
    assert CI["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(("naming", "word"), [*(("pip-audit", lock) for lock in LOCKS), ("gitleaks", "git")])
def test_what_is_found_fails_the_step(naming: str, word: str, tmp_path: Path) -> None:
    code, _ = run_step(naming, tmp_path, fails_on=word)
    assert code != 0


def test_nothing_keeps_the_looking_from_being_done_or_its_failure_from_counting() -> None:
    # YAML 1.1 reads `on` as true.
    assert CI[True]["push"] == {"branches": ["main"]}
    assert "pull_request" in CI[True]
    assert CI[True]["pull_request"] is None
    assert not CONDITIONS & set(SUPPLY)
    for step in SUPPLY["steps"]:
        assert not CONDITIONS & set(step), step
    # Unless told otherwise, a script is run by `bash -e`, as above.
    shells = [CI, SUPPLY, *SUPPLY["steps"]]
    assert not any({"defaults", "shell"} & set(part) for part in shells)
