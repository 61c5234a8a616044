"""The gate that holds each component to its share of coverage."""

import io
import json
from typing import Any

import pytest

from app.config import ROOT
from tests import coverage_floors
from tests.coverage_floors import FLOORS, judge

pytestmark = pytest.mark.req("TEST.2")


def facts(covered: int, of: int, branches: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Return what coverage tells about a file."""
    summary = {"covered_lines": covered, "num_statements": of}
    return {"summary": {**summary, "covered_branches": branches[0], "num_branches": branches[1]}}


def report_of(**instead: dict[str, Any]) -> dict[str, Any]:
    """Return a report in which all is covered, but for the components given by the name of their file."""
    paths = [pattern.replace("*", "any.py") for pattern in FLOORS if pattern != "*"]
    return {path: instead.get(path.rpartition("/")[2].removesuffix(".py"), facts(1000, 1000)) for path in paths}


def test_what_reaches_every_floor_passes() -> None:
    assert all(finding.ok for finding in judge(report_of()))


@pytest.mark.parametrize("component", [pattern for pattern in FLOORS if "*" not in pattern])
def test_a_component_below_its_floor_is_named(
    component: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, floor = component.rpartition("/")[2].removesuffix(".py"), FLOORS[component]
    at, below = report_of(**{name: facts(floor, 100)}), report_of(**{name: facts(floor * 10 - 1, 1000)})
    assert all(finding.ok for finding in judge(at) if finding.component == component)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"files": below})))
    assert coverage_floors.main() == 1
    said = capsys.readouterr()
    assert component in said.err
    assert f"✗ {component}" in said.out


def test_branches_count_as_lines_do() -> None:
    machine = facts(100, 100, branches=(39, 40))
    [finding] = [each for each in judge(report_of(state_machine=machine)) if each.component.endswith("machine.py")]
    assert not finding.ok
    assert finding.reached == pytest.approx(100 * 139 / 140)


def test_a_group_is_judged_as_a_whole() -> None:
    files = {"app/utils/one.py": facts(0, 30), "app/utils/deep/two.py": facts(70, 70), "app/x.py": facts(0, 500)}
    [finding] = judge(files, {"app/utils/*": 70})
    assert (finding.ok, finding.reached, finding.files) == (True, 70, 2)
    [finding] = judge({**files, "app/utils/three.py": facts(0, 1)}, {"app/utils/*": 70})
    assert not finding.ok


def test_a_component_that_is_gone_does_not_pass() -> None:
    [finding] = judge(report_of(), {"app/services/gone.py": 10})
    assert not finding.ok


def test_the_components_exist() -> None:
    assert [pattern for pattern in FLOORS if "*" not in pattern and not (ROOT / pattern).exists()] == []
