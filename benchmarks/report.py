"""The tables: on the screen, as Markdown with a chart, and as JSON with every round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.chart import Bar, Group, describe, draw
from benchmarks.options import Options
from benchmarks.samples import Comparison, Measurement, middle, middle_cpu
from benchmarks.works import LINES, LISTED_ROWS, Side, Work

LABELS = {
    Work.TRANSITION: "order transition",
    Work.READ: f"get an order with its {LINES} lines",
    Work.CREATE: f"create an order, {LINES} lines",
    Work.LIST: f"list {LISTED_ROWS} orders, each status in turn",
}
TIMES = "\N{MULTIPLICATION SIGN}"
BUSY = 0.05
"""From this share of the machine on, other processes are worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a measurement found.

    Attributes:
        environment: of `benchmarks.environment.describe`.
        old: what the older build is called; None when none was measured.
        orders: in this build's table at the end of the preparations.
        split: connections per API process, the least even round.
        findings: of `benchmarks.checks`.
    """

    options: Options
    environment: Mapping[str, Any]
    old: str | None
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

    def markdown(self, chart: str | None = None) -> str:
        """Return the report as Markdown.

        Args:
            chart: address of the chart, to show it above the table.
        """
        picture = [] if chart is None else ["", f"![{self.description()}]({chart})"]
        tables = [*self._table(), "", *self._details()]
        return "\n".join([*self._conditions(), *picture, "", *tables, "", *self._remarks(), ""])

    def chart(self) -> str:
        """Return the throughput of all sides as an SVG drawing."""
        return draw(f"Operations per second, {self.options.connections} connections", self._groups())

    def description(self) -> str:
        """Return what the chart shows, for people who do not see it."""
        return describe("Operations per second", self._groups())

    def _groups(self) -> list[Group]:
        groups = []
        for work, compared in self.comparisons.items():
            bars = []
            for side, measurements in compared.sides.items():
                rates = [measurement.throughput for measurement in measurements]
                bars.append(Bar(self._name(side), median(rates), min(rates), max(rates)))
            groups.append(Group(LABELS[work], bars))
        return groups

    def _name(self, side: Side) -> str:
        return {Side.PGBENCH: "pgbench", Side.OLD: self.old or "", Side.NEW: "this build"}[side]

    def _conditions(self) -> list[str]:
        facts, options = self.environment, self.options
        settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
        pool = options.pool_size or "the default"
        where = (
            f"This build: commit {facts['commit']}, measured {facts['taken_at']}. {facts['cores']} cores ({facts['cpu']}), {facts['system']},"
            f" {facts['file_system']}, Python {facts['python']}."
        )
        how = (
            f"{self.orders:,} orders in the table, {options.connections} connections, {options.api_processes} processes"
            f" of each API (database pool each: {pool}; connections served: {' + '.join(map(str, self.split)) or 'unknown'}),"
            f" {options.rounds} rounds of {options.seconds:g} s a side, after {options.ramp:g} s run-up each, interleaved,"
            " one warm-up round not counted. Each side has a database of its own with equal orders, on one PostgreSQL server."
            " Server, APIs and load generator share the machine."
        )
        database = f"PostgreSQL {facts['postgresql']} ({settings}); {facts['pgbench']}, `-M prepared`."
        return [where, database, how]

    def _table(self) -> list[str]:
        sides = list(next(iter(self.comparisons.values())).sides)
        others = [side for side in reversed(sides) if side is not Side.NEW]
        ratios = [f"this build ÷ {self._name(side)} (rounds)" for side in others]
        tails = [f"p95, this build ÷ {self._name(side)}" for side in others]
        lines = _heading("work", *map(self._name, sides), *ratios, *tails)
        for work, compared in self.comparisons.items():
            rates = [f"{middle(measurements, 'throughput'):,.0f} /s" for measurements in compared.sides.values()]
            lines.append(
                _row(
                    LABELS[work],
                    *rates,
                    *(_ratio(compared, side) for side in others),
                    *(f"{compared.ratio('p95_ms', side):.2f} {TIMES}" for side in others),
                )
            )
        return lines

    def _details(self) -> list[str]:
        lines = _heading(
            "work", "side", "p50 / p95 / p99", "PostgreSQL CPU", "API CPU", "load generator CPU", "cores used"
        )
        for work, compared in self.comparisons.items():
            for side, measurements in compared.sides.items():
                parts = [_cpu(measurements, part) for part in ("postgres", "api", "load")]
                lines.append(
                    _row(LABELS[work], self._name(side), _latencies(measurements), *parts, _cores(measurements))
                )
        return lines

    def _remarks(self) -> list[str]:
        remarks = [*self.findings]
        measured = [m for compared in self.comparisons.values() for m in compared.measurements()]
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
            "old": self.old,
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
                    "ratios": {
                        str(side): {figure: compared.ratio(figure, side) for figure in ("throughput", "p95_ms")}
                        for side in compared.sides
                        if side is not Side.NEW
                    },
                    **{str(side): [each.as_dict() for each in found] for side, found in compared.sides.items()},
                }
                for work, compared in self.comparisons.items()
            },
        }

    def write(self, folder: Path) -> list[Path]:
        """Write table, rounds and chart; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = self.environment["taken_at"].replace(":", "").replace("+0000", "Z")
        markdown, data, chart = (folder / f"{stem}.{ending}" for ending in ("md", "json", "svg"))
        markdown.write_text(self.markdown(), encoding="utf-8")
        data.write_bytes(orjson.dumps(self.as_dict(), option=orjson.OPT_INDENT_2))
        chart.write_text(self.chart(), encoding="utf-8")
        return [markdown, data, chart]


def _heading(*cells: str) -> list[str]:
    return [_row(*cells), "|---" * len(cells) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(compared: Comparison, to: Side) -> str:
    ratios = compared.ratios("throughput", to)
    return f"**{median(ratios):.2f} {TIMES}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _latencies(side: Sequence[Measurement]) -> str:
    return " / ".join(f"{middle(side, figure):.1f}" for figure in ("p50_ms", "p95_ms", "p99_ms")) + " ms"


def _cpu(side: Sequence[Measurement], part: str) -> str:
    spent = middle_cpu(side, part)
    return "" if spent is None else f"{spent:,.0f} µs"


def _cores(side: Sequence[Measurement]) -> str:
    """Return how many cores a build keeps busy, the load generator's share among them; pgbench's own is not known."""
    if any("api" not in measurement.cpu_us for measurement in side):
        return ""
    return f"{median(each.throughput * sum(each.cpu_us.values()) / 1e6 for each in side):.2f}"
