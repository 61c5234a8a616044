"""The table: on the screen, as Markdown, and as JSON with every round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.options import Options
from benchmarks.samples import Comparison, Measurement, middle, middle_cpu
from benchmarks.works import LINES, LISTED_ROWS, Work

LABELS = {
    Work.TRANSITION: "order transition",
    Work.READ: f"get an order with its {LINES} lines",
    Work.CREATE: f"create an order, {LINES} lines",
    Work.LIST: f"list {LISTED_ROWS} orders by status",
}
HEADINGS = (
    "work",
    "pgbench",
    "API",
    "ratio (rounds)",
    "pgbench p50 / p95 / p99",
    "API p50 / p95 / p99",
    "p95 ratio",
    "PostgreSQL CPU, pgbench / API",
    "API CPU",
    "load CPU",
)
TIMES = "\N{MULTIPLICATION SIGN}"
BUSY = 0.05
"""From this share of the machine on, other processes are worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a measurement found.

    Attributes:
        environment: of `benchmarks.environment.describe`.
        orders: in the table at the end of the preparations.
        split: connections per API process, the least even round.
        findings: of `benchmarks.checks`.
    """

    options: Options
    environment: Mapping[str, Any]
    orders: int
    split: Sequence[int]
    comparisons: Mapping[Work, Comparison]
    findings: Sequence[str]

    def errors(self) -> dict[str, int]:
        """Return every answer that was not as expected → how often, over all counted rounds."""
        found: dict[str, int] = {}
        for work, comparison in self.comparisons.items():
            for what, count in comparison.errors().items():
                found[f"{work}: {what}"] = count
        return found

    def markdown(self) -> str:
        """Return the report as Markdown."""
        return "\n".join([*self._conditions(), "", *self._table(), "", *self._remarks(), ""])

    def _conditions(self) -> list[str]:
        facts, options = self.environment, self.options
        settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
        pool = options.pool_size or "the default"
        where = (
            f"Commit {facts['commit']}, {facts['taken_at']}. {facts['cores']} cores ({facts['cpu']}), {facts['system']},"
            f" {facts['file_system']}, Python {facts['python']}."
        )
        how = (
            f"{self.orders:,} orders in the table, {options.connections} connections, {options.api_processes} API"
            f" processes (database pool each: {pool}; connections served: {' + '.join(map(str, self.split)) or 'unknown'}),"
            f" {options.rounds} rounds of {options.seconds:g} s a side, after {options.ramp:g} s run-up each, interleaved,"
            " one warm-up round not counted. Database, API and load generator share the machine."
        )
        database = f"PostgreSQL {facts['postgresql']} ({settings}); {facts['pgbench']}, `-M prepared`."
        return [where, database, how]

    def _table(self) -> list[str]:
        lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        for work, sides in self.comparisons.items():
            ratios = sorted(sides.ratios("throughput"))
            cells = [
                LABELS[work],
                f"{middle(sides.pgbench, 'throughput'):,.0f} /s",
                f"{middle(sides.api, 'throughput'):,.0f} /s",
                f"**{sides.ratio('throughput'):.2f} {TIMES}** ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                _latencies(sides.pgbench),
                _latencies(sides.api),
                f"{sides.ratio('p95_ms'):.2f} {TIMES}",
                f"{_cpu(sides.pgbench, 'postgres')} / {_cpu(sides.api, 'postgres')}",
                _cpu(sides.api, "api"),
                _cpu(sides.api, "load"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def _remarks(self) -> list[str]:
        remarks = [*self.findings]
        measured = [m for sides in self.comparisons.values() for m in (*sides.pgbench, *sides.api)]
        shares = [m.others_cpu for m in measured if m.others_cpu is not None]
        if shares:
            share, worst = median(shares), max(shares)
            remarks.append(f"Other processes took {share:.0%} of the machine's CPU (median; at most {worst:.0%}).")
            if share > BUSY:
                remarks.append("**The machine was busy with other things: absolute figures are too low.**")
        if not self.environment["durable"]:
            remarks.append("**Not durable: fsync, synchronous_commit or full_page_writes is off.**")
        errors = self.errors()
        answered = sum(m.answered for m in measured)
        remarks.append(f"{answered:,} operations were answered as expected, {sum(errors.values()):,} were not.")
        remarks += [f"**{count:,} {TIMES} {what}**" for what, count in errors.items()]
        return remarks

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for a JSON file."""
        return {
            "environment": dict(self.environment),
            "orders": self.orders,
            "connections": self.options.connections,
            "api_processes": self.options.api_processes,
            "connections_per_process": list(self.split),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "errors": self.errors(),
            "findings": list(self.findings),
            "works": {
                str(work): {
                    "throughput_ratio": sides.ratio("throughput"),
                    "p95_ratio": sides.ratio("p95_ms"),
                    "pgbench": [measurement.as_dict() for measurement in sides.pgbench],
                    "api": [measurement.as_dict() for measurement in sides.api],
                }
                for work, sides in self.comparisons.items()
            },
        }

    def write(self, folder: Path) -> list[Path]:
        """Write both forms and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = self.environment["taken_at"].replace(":", "").replace("+0000", "Z")
        markdown, data = folder / f"{stem}.md", folder / f"{stem}.json"
        markdown.write_text(self.markdown(), encoding="utf-8")
        data.write_bytes(orjson.dumps(self.as_dict(), option=orjson.OPT_INDENT_2))
        return [markdown, data]


def _latencies(side: Sequence[Measurement]) -> str:
    return " / ".join(f"{middle(side, figure):.1f}" for figure in ("p50_ms", "p95_ms", "p99_ms")) + " ms"


def _cpu(side: Sequence[Measurement], part: str) -> str:
    spent = middle_cpu(side, part)
    return "?" if spent is None else f"{spent:,.0f} µs"
