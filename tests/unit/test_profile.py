"""What `TEST_PROFILE` changes, and what sets it."""

import os
import subprocess
import sys

import pytest
import yaml

from app.config import ROOT

COUNTS = "import hypothesis; from tests.profile import examples, load; load(); print(examples(60), hypothesis.settings().max_examples)"


def counts(profile: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TEST_PROFILE": profile}
    return subprocess.run(
        [sys.executable, "-c", COUNTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("profile", "expected"), [("", "15 25"), ("local", "15 25"), ("ci", "60 100"), ("nightly", "600 1000")]
)
def test_a_profile_sets_the_number_of_examples(profile: str, expected: str) -> None:
    assert counts(profile).stdout.strip() == expected


def test_a_profile_that_is_not_known_is_refused() -> None:
    assert "must be one of local, ci, nightly" in counts("CI").stderr


def test_checks_use_the_profile_of_ci_and_the_weekly_run_that_of_the_night() -> None:
    checks = (ROOT / "dev").read_text(encoding="utf-8").split("\ncheck() {", 1)[1].split("\n}", 1)[0]
    assert 'export TEST_PROFILE="${TEST_PROFILE:-ci}"' in checks
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    [step] = [step for step in jobs["fuzz"]["steps"] if "TEST_PROFILE" in step.get("env", {})]
    assert step["env"]["TEST_PROFILE"] == "nightly"
    assert "tests/unit" in step["run"]
    assert "tests/integration" in step["run"]
