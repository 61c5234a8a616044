"""The least coverage of each part, and the gate that `./dev check` ends with (TECHNICAL_PRD 6.3 and 9.1).

    coverage json --quiet --fail-under=0 -o - | python -m tests.coverage_floors

Lines and branches count alike. Where the two sections differ, the higher figure holds.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

FLOORS = {
    "app/services/workflow/state_machine.py": 100,
    "app/services/orders/service.py": 90,
    "app/services/returns/service.py": 90,
    "app/services/workflow/audit.py": 85,
    "app/api/v1/orders.py": 90,
    "app/api/v1/returns.py": 90,
    "app/api/v1/health.py": 100,
    "app/models/order.py": 90,
    "app/models/return_request.py": 90,
    "app/models/state_history.py": 85,
    "app/tasks/job_tasks.py": 85,
    "app/api/*": 90,
    "app/services/*": 85,
    "app/tasks/*": 80,
    "app/utils/*": 70,
    "*": 90,
}
"""Pattern of paths → percent that the files matching it have to reach together."""


@dataclass(frozen=True)
class Finding:
    """How far one component is covered."""

    component: str
    floor: int
    reached: float
    files: int

    @property
    def ok(self) -> bool:
        """Whether that is enough. A component that is not there any more is not covered."""
        return self.files > 0 and self.reached >= self.floor


def judge(files: Mapping[str, Any], floors: Mapping[str, int] = FLOORS) -> list[Finding]:
    """Compare with the floors.

    Args:
        files: path → facts, the member `files` of coverage's JSON report.
        floors: pattern → percent.
    """
    return [_finding(pattern, floor, files) for pattern, floor in floors.items()]


def _finding(pattern: str, floor: int, files: Mapping[str, Any]) -> Finding:
    matching = [facts["summary"] for path, facts in files.items() if fnmatch(path, pattern)]
    covered = sum(each["covered_lines"] + each["covered_branches"] for each in matching)
    there = sum(each["num_statements"] + each["num_branches"] for each in matching)
    return Finding(pattern, floor, 100 * covered / there if there else 100.0, len(matching))


def table(findings: list[Finding]) -> str:
    """Return the findings as aligned lines."""
    width = max(len(each.component) for each in findings)
    return "\n".join(
        f"{'✓' if each.ok else '✗'} {each.component:{width}}  {each.reached:6.2f} %  at least {each.floor} %"
        + ("" if each.files else "  no such file")
        for each in findings
    )


def main() -> int:
    """Read the report from standard input; the exit code is 1 when any component falls short."""
    findings = judge(json.load(sys.stdin)["files"])
    sys.stdout.write(f"{table(findings)}\n")
    short = [each.component for each in findings if not each.ok]
    if short:
        sys.stderr.write(f"Not covered enough: {', '.join(short)}\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
