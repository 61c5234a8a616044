"""What the benchmarks make of their figures: options, tables, charts, and the page with the last ones."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from app.core.enums import OrderStatus
from benchmarks import options, report_all
from benchmarks.chart import Bar, Group, describe, draw
from benchmarks.load import Plan, requests_for
from benchmarks.many_users import Kind, Load, kinds_in
from benchmarks.page import published, sections_of, with_section
from benchmarks.report import Report
from benchmarks.samples import Comparison, Measurement
from benchmarks.scripts import script
from benchmarks.works import LISTED_STATUSES, BenchmarkError, Side, Work

FACTS = {
    "taken_at": "2026-12-01T10:00:00+00:00",
    "commit": "abc1234",
    "cores": 2,
    "cpu": "EPYC",
    "system": "Linux",
    "file_system": "ext4",
    "python": "3.11.7",
    "postgresql": "18.6",
    "pgbench": "pgbench 18.6",
    "settings": {"fsync": "on"},
    "durable": True,
}


def _rounds(
    *rates: float, p95: float = 10, api: bool = True, errors: dict[str, int] | None = None
) -> list[Measurement]:
    cpu = {"postgres": 500.0, **({"api": 300.0, "load": 50.0} if api else {})}
    return [
        Measurement(
            operations=100,
            throughput=rate,
            p50_ms=5,
            p95_ms=p95,
            p99_ms=20,
            answered=100,
            errors=errors or {},
            cpu_us=cpu,
            others_cpu=0.01,
        )
        for rate in rates
    ]


def _report(*, old: str | None = "174bec7", errors: dict[str, int] | None = None) -> Report:
    sides = {Side.PGBENCH: _rounds(1000, 2000, 3000, p95=8, api=False)}
    if old:
        sides[Side.OLD] = _rounds(400, 500, 600, p95=40)
    sides[Side.NEW] = _rounds(1000, 1500, 1200, p95=10, errors=errors)
    return Report(
        options=options.parse(["--rounds", "3"]),
        environment=FACTS,
        old=old,
        orders=20_000,
        split=[16, 16],
        comparisons={Work.TRANSITION: Comparison(sides)},
        findings=["`audit verify` holds."],
    )


def _tables(markdown: str) -> list[list[dict[str, str]]]:
    """Return the tables of a text, each row as heading → cell."""
    tables = []
    for block in markdown.split("\n\n"):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines() if line[:1] == "|"]
        if lines:
            tables.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return tables


def test_another_build_is_measured_only_where_one_is_named() -> None:
    assert options.parse([]).against is None
    assert options.parse(["--against", "174bec7"]).against == "174bec7"


def test_the_table_has_every_side_and_the_ratios_to_both_others() -> None:
    [throughput], details = _tables(_report().markdown())
    assert throughput == {
        "work": "order transition",
        "pgbench": "2,000 /s",
        "174bec7": "500 /s",
        "this build": "1,200 /s",
        # The median of 2.5, 3 and 2; not the ratio of the medians, which is 2.4.
        "this build ÷ 174bec7 (rounds)": "**2.50 ×** (2.00 to 3.00)",
        "this build ÷ pgbench (rounds)": "**0.75 ×** (0.40 to 1.00)",
        "p95, this build ÷ 174bec7": "0.25 ×",
        "p95, this build ÷ pgbench": "1.25 ×",
    }
    assert [row["side"] for row in details] == ["pgbench", "174bec7", "this build"]
    assert details[0]["API CPU"] == details[0]["cores used"] == ""
    assert details[2] == {
        "work": "order transition",
        "side": "this build",
        "p50 / p95 / p99": "5.0 / 10.0 / 20.0 ms",
        "PostgreSQL CPU": "500 µs",
        "API CPU": "300 µs",
        "load generator CPU": "50 µs",
        "cores used": "1.02",
    }


def test_without_another_build_the_table_has_pgbench_alone_beside_this_one() -> None:
    [throughput], details = _tables(_report(old=None).markdown())
    assert list(throughput) == [
        "work",
        "pgbench",
        "this build",
        "this build ÷ pgbench (rounds)",
        "p95, this build ÷ pgbench",
    ]
    assert len(details) == 2


def test_an_error_is_shown_with_its_side_and_counted() -> None:
    report = _report(errors={"503 busy": 2})
    assert report.errors() == {"transition: new: 503 busy": 6}
    assert "**6 × transition: new: 503 busy**" in report.markdown()
    assert "900 operations were answered as expected, 6 were not." in report.markdown()


def test_every_round_is_written_beside_the_table_and_the_chart(tmp_path: Path) -> None:
    markdown, data, chart = _report().write(tmp_path)
    assert markdown.read_text(encoding="utf-8") == _report().markdown()
    work = json.loads(data.read_text(encoding="utf-8"))["works"]["transition"]
    assert [each["throughput"] for each in work["old"]] == [400, 500, 600]
    assert work["ratios"] == {
        "pgbench": {"throughput": 0.75, "p95_ms": 1.25},
        "old": {"throughput": 2.5, "p95_ms": 0.25},
    }
    assert chart.read_text(encoding="utf-8") == _report().chart()


GROUPS = [
    Group(
        "transition", [Bar("pgbench", 2000, 1000, 3000), Bar("a<b", 500, 400, 600), Bar("this build", 1200, 1000, 1500)]
    ),
    Group("list", [Bar("pgbench", 20, 10, 30), Bar("this build", 10, 9, 30)]),
]
SVG = "{http://www.w3.org/2000/svg}"


def test_a_bar_is_as_long_as_its_share_of_the_largest_round_of_its_group() -> None:
    drawing = ET.fromstring(draw("Operations per second", GROUPS))  # noqa: S314 - made here
    bars = [rect for rect in drawing.iter(f"{SVG}rect") if rect.get("class") != "page"]
    lengths = [float(bar.get("width", 0)) for bar in bars]
    full = lengths[0] * 3000 / 2000
    assert lengths == pytest.approx([full * share for share in (2 / 3, 1 / 6, 0.4, 2 / 3, 1 / 3)], abs=0.1)
    assert max(float(line.get("x2", 0)) for line in drawing.iter(f"{SVG}line")) < float(drawing.get("width", 0))
    # A build has the same colour in every group.
    assert [bar.get("class") for bar in bars] == ["side0", "side1", "side2", "side0", "side2"]


def test_a_chart_says_in_words_what_it_shows() -> None:
    drawing = ET.fromstring(draw("Operations per second", GROUPS))  # noqa: S314 - made here
    words = describe("Operations per second", GROUPS)
    assert words == (
        "Operations per second. transition: pgbench 2,000, a<b 500, this build 1,200; list: pgbench 20, this build 10."
    )
    assert drawing.findtext(f"{SVG}desc") == words
    assert f"![{_report().description()}](images/x.svg)" in _report().markdown("images/x.svg")


def test_a_chart_has_colours_for_light_and_for_dark() -> None:
    style = ET.fromstring(draw("t", GROUPS)).findtext(f"{SVG}style") or ""  # noqa: S314 - made here
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for part in (".page", "text", ".small", ".range", ".side0", ".side1", ".side2"):
        assert f"{part} {{" in light
        assert f"{part} {{" in dark


def test_all_statuses_are_listed_in_turn_by_every_side() -> None:
    assert set(LISTED_STATUSES) == set(OrderStatus)
    plan = Plan(
        work=Work.LIST,
        ports=[1],
        api_key="k",
        connections=2,
        seconds=1,
        start=0,
        readable=1,
        samples="",
        ready="",
        go="",
    )
    for connection in (0, 1, 7):
        requests = requests_for(plan, connection)
        sent = [requests.next(succeeded=True) for _ in range(12)]
        asked = [request.split(b"status=")[1].split(b"&")[0].decode() for request, _ in sent]
        assert asked[:6] == asked[6:]
        assert set(asked) == set(LISTED_STATUSES)
        assert asked[0] == LISTED_STATUSES[connection % 6]
        assert [wanted.decode() for _, wanted in sent] == [f'"status":"{status}"' for status in asked]
    assert [line.split("'")[1] for line in script(Work.LIST, "").splitlines() if "WHERE status" in line] == [
        *LISTED_STATUSES
    ]


PAGE = """# Performance

<!-- measured: driver -->
old
<!-- end of measured -->

Text.

<!-- measured: audit -->
old, too
<!-- end of measured -->
"""


def test_a_section_is_replaced_and_the_rest_of_the_page_is_kept() -> None:
    made = with_section(PAGE, "driver", "\nnew\\1\n")
    assert made == PAGE.replace("\nold\n", "\n\nnew\\1\n\n")
    assert with_section(made, "driver", "new\\1") == made
    assert sections_of(made) == ["driver", "audit"]


@pytest.mark.parametrize("page", ["# Nothing", PAGE + PAGE], ids=["absent", "twice"])
def test_a_page_without_the_marks_is_left_alone(page: str) -> None:
    with pytest.raises(BenchmarkError, match="driver"):
        with_section(page, "driver", "new")


def test_progress_is_not_published() -> None:
    assert published("round 1\n\nCommit abc: 7\n\n| a |\n|---|\n") == "Commit abc: 7\n\n| a |\n|---|"
    assert published("✗ no server\n") == ""


def test_the_page_has_marks_for_everything_that_is_measured() -> None:
    wanted = [*report_all.COMPARISONS, *report_all.COMMANDS]
    assert sorted(sections_of(report_all.PAGE.read_text(encoding="utf-8"))) == sorted(wanted)


def test_a_command_that_fails_leaves_its_section_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    commands = {"driver": ["benchmarks.driver", "--no-such-option"], "audit": ["benchmarks.audit", "--help"]}
    monkeypatch.setattr(report_all, "COMMANDS", commands)
    assert report_all.main(["--page", str(page), "--sections", "driver", "audit"]) == 1
    assert page.read_text(encoding="utf-8") == PAGE


def _entry(method: str, name: str, times: dict[str, int], failures: int = 0) -> dict[str, object]:
    return {"method": method, "name": name, "response_times": times, "num_failures": failures}


def test_the_figures_of_many_users_are_read_from_locust() -> None:
    said = json.dumps(
        [_entry("POST", "/orders", {"10": 1, "200": 1}, 1), _entry("GET", "/orders", {"9.0": 98, "400": 2})]
    )
    kinds = kinds_in(said.encode())
    assert [(kind.name, kind.requests, kind.failures) for kind in kinds] == [
        ("GET /orders", 100, 0),
        ("POST /orders", 2, 1),
    ]
    assert [kinds[0].percentile(percent) for percent in (50, 95, 98, 99, 100)] == [9, 9, 9, 400, 400]


@pytest.mark.parametrize("said", [b"", b"Traceback", b"[]"])
def test_a_run_of_locust_without_figures_is_no_measurement(said: bytes) -> None:
    with pytest.raises(BenchmarkError, match="Locust"):
        kinds_in(said)


def test_the_table_of_many_users_ends_with_all_requests_together() -> None:
    kinds = [Kind("GET /orders", 0, {10: 95, 1200: 5}), Kind("POST /orders", 2, {30: 20})]
    text = Load(1000, 0.2, 60, kinds).markdown()
    assert text.startswith(
        "1,000 users who think for 0.2 s before each request, for 60 s: 2 requests a second, 2 failures."
    )
    [table] = _tables(text)
    assert [row["request"] for row in table] == ["GET /orders", "POST /orders", "all"]
    assert table[0] == {
        "request": "GET /orders",
        "requests": "100",
        "failures": "0",
        "p50": "10 ms",
        "p95": "10 ms",
        "p99": "1,200 ms",
        "largest": "1,200 ms",
    }
    assert (table[2]["requests"], table[2]["failures"], table[2]["p95"]) == ("120", "2", "30 ms")
