"""What we install, build and run: pinned by hash, audited in CI, without rights it does not need (NFR-004).

`pip-audit` and `gitleaks` need the network, so they run in CI; here is tested that they do. The image and the compose
file have tests of their own in tests/unit/test_container_files.py.
"""

import re

import pytest
import yaml

from app.config import ROOT

pytestmark = [pytest.mark.req("NFR-004.7", "DEV"), pytest.mark.security]

LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-image.txt")
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


def test_installing_demands_the_hashes() -> None:
    script = (ROOT / "dev").read_text(encoding="utf-8")
    installing = [
        line for line in script.splitlines() if re.search(r"pip (sync|install).*(requirements|\$file|\$2)", line)
    ]
    assert installing
    assert script.count("--require-hashes") >= 2


def test_ci_looks_for_known_vulnerabilities_and_for_secrets() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = "\n".join(str(step.get("run", "")) for job in workflow["jobs"].values() for step in job["steps"])
    assert re.search(r"pip-audit .*--strict.*--require-hashes", steps)
    assert all(lock in steps for lock in LOCKS)
    assert "gitleaks" in steps
    assert workflow["permissions"] == {"contents": "read"}
