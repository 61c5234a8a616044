"""monitoring/: what Prometheus collects and warns of, and what Grafana shows, against what the application tells.

There need be neither here. CI starts both in their containers, and plays the cases of monitoring/alerts.test.yml.
"""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from app.config import ROOT
from app.main import openapi_document
from tests import compose_file
from tests.unit import promql_support as promql
from tests.unit.promql_support import NoAnswerError

pytestmark = pytest.mark.req("NFR-006.7")

FOLDER = ROOT / "monitoring"
PASSWORDS = dict.fromkeys(re.findall(r"\$\{(\w+):\?", compose_file.COMPOSE), "secret")
SERVICES = compose_file.services(PASSWORDS, profiles=("monitoring",))
NETWORKS: dict[str, Any] = yaml.safe_load(compose_file.COMPOSE)["networks"]


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


PROMETHEUS = load("prometheus.yml")
SCRAPES = {scrape["job_name"]: scrape for scrape in PROMETHEUS["scrape_configs"]}
RULES = {rule["alert"]: rule for group in load("alerts.yml")["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "articurated.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
EXPRESSIONS = {
    **{name: [rule["expr"]] for name, rule in RULES.items()},
    **{title: [target["expr"] for target in panel["targets"]] for title, panel in PANELS.items()},
}


def headings(page: str) -> set[str]:
    """Return the anchors of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


# --- expressions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_application_exports_the_metrics_that_are_used(name: str) -> None:
    for expression in EXPRESSIONS[name]:
        promql.labels_of(promql.parse(expression))


def test_no_metric_is_left_in_the_dark() -> None:
    asked = {
        series for each in EXPRESSIONS.values() for text in each for series in promql.series_of(promql.parse(text))
    }
    shown = {promql.metric_of(series) for series in asked}
    assert {promql.metric_of(series) for series in promql.application_series()} - shown == set()


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("articurated_orders", "no series articurated_orders"),
        ("articurated_http_requests", "no series articurated_http_requests"),
        ('articurated_dead_letters{queue="refunds"}', "no label queue"),
        ('articurated_sla_overdue{sla="invoices"}', "sla is never invoices"),
        ('articurated_jobs_total{outcome=~"succeeded|dead"}', "outcome is never dead"),
        ('rate(articurated_job_pickup_seconds_bucket{le="30"}[5m])', "le is never 30"),
        ('up{job="workers"}', "job is never workers"),
        ("sum by (queue) (articurated_sla_overdue)", "has ['queue']"),
        ("histogram_quantile(0.9, sum(rate(articurated_job_pickup_seconds_bucket[5m])))", "needs the label le"),
        ("sum(articurated_jobs_retrying) / articurated_jobs_retrying", "never meet"),
        ("articurated_jobs_retrying > on(sla) articurated_sla_overdue", "both sides must have ['sla']"),
    ],
)
def test_what_nothing_answers_is_found(expression: str, complaint: str) -> None:
    with pytest.raises(NoAnswerError, match=re.escape(complaint)):
        promql.labels_of(promql.parse(expression))


def test_what_is_no_promql_is_found() -> None:
    for expression in ("sum(rate(up))", "sum(up", "nosuch(up)"):
        with pytest.raises(ValueError, match=r"expected|unclosed|unknown"):
            promql.parse(expression)


# --- Prometheus ------------------------------------------------------------------------------------------------


def test_every_process_that_shows_metrics_is_collected() -> None:
    static = {
        (job, *target.split(":"))
        for job, scrape in SCRAPES.items()
        for group in scrape.get("static_configs", [])
        for target in group["targets"]
    }
    settled = {
        name: service["environment"]
        for name, service in SERVICES.items()
        if "PROMETHEUS_PORT" in service["environment"]
    }
    wanted = {(name.partition("-")[0], name, of["PROMETHEUS_PORT"]) for name, of in settled.items() if name != "api"}
    assert static == wanted
    assert {of["PROMETHEUS_HOST"] for of in settled.values()} == {"0.0.0.0"}  # noqa: S104 - of a container
    assert set(SCRAPES) == promql.JOBS
    assert SERVICES["prometheus"]["environment"]["METRICS_API_URL"] == "http://api:8000"
    assert SCRAPES["api"]["metrics_path"] in openapi_document()["paths"]


@pytest.mark.parametrize(
    ("address", "collected"),
    [
        ("http://api:8000", "http://api:8000/api/v1/metrics"),
        ("https://shop.example/", "https://shop.example/api/v1/metrics"),
        ("https://shop.example/back/office/", "https://shop.example/back/office/api/v1/metrics"),
    ],
)
def test_the_address_of_the_api_is_taken_apart(address: str, collected: str) -> None:
    """As Prometheus does: a rule whose expression matches the whole address sets a label to what it found."""
    labels = {"__address__": address, "__metrics_path__": SCRAPES["api"]["metrics_path"]}
    for rule in SCRAPES["api"]["relabel_configs"]:
        assert rule["source_labels"] == ["__address__"]
        if found := re.fullmatch(rule["regex"], labels["__address__"]):
            labels[rule["target_label"]] = rule.get("replacement", "$1").replace("$1", found[1])
    assert "{__scheme__}://{__address__}{__metrics_path__}".format(**labels) == collected


def test_the_container_finds_its_files() -> None:
    service = SERVICES["prometheus"]
    assert service["volumes"][0] == "./monitoring:/etc/prometheus:ro"
    [command] = service["command"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in command
    assert [file for file in PROMETHEUS["rule_files"] if not (FOLDER / file).exists()] == []
    for file in (*SCRAPES["api"]["file_sd_configs"][0]["files"], *SCRAPES["api"]["http_headers"]["X-API-Key"]["files"]):
        assert f">{file};" in command, f"nobody writes {file}"


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_they_reach_what_they_read_and_not_the_servers(name: str) -> None:
    mine = set(SERVICES[name].get("networks", ["default"]))
    read = ["prometheus"] if name == "grafana" else [name for name in SERVICES if name in SCRAPES or "worker-" in name]
    for other in read:
        assert mine & set(SERVICES[other].get("networks", ["default"])), f"{name} does not reach {other}"
    assert not mine & {network for network, options in NETWORKS.items() if (options or {}).get("internal")}


# --- alerts ----------------------------------------------------------------------------------------------------


def test_alerts_have_different_names() -> None:
    named = re.findall(r"^ +- alert: (\w+)$", (FOLDER / "alerts.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(RULES)
    groups = [group["name"] for group in load("alerts.yml")["groups"]]
    assert len(set(groups)) == len(groups)


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["description"].endswith((".", ")."))
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert told <= promql.labels_of(promql.parse(rule["expr"]))
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page.startswith("docs/how-to/")
    assert anchor in headings(page), f"{page} has no heading #{anchor}"


def test_each_alert_is_played() -> None:
    cases = load("alerts.test.yml")["tests"]
    firing = {
        name
        for case in cases
        for asked in case["promql_expr_test"]
        for sample in asked["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert firing == set(RULES)
    assert [
        series["series"] for case in cases for series in case["input_series"] if not _is_known(series["series"])
    ] == []


def _is_known(series: str) -> bool:
    name, _, labels = series.partition("{")
    return set(re.findall(r"(\w+)=", labels)) <= promql.SERIES[name]


# --- Grafana ---------------------------------------------------------------------------------------------------


def test_grafana_is_given_the_dashboard_and_where_its_figures_are() -> None:
    [source] = load("grafana/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    used = {json.dumps(panel["datasource"], sort_keys=True) for panel in PANELS.values()}
    assert used == {json.dumps({"type": "prometheus", "uid": source["uid"]}, sort_keys=True)}
    [provider] = load("grafana/dashboards/provider.yml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts == {
        "./monitoring/grafana/datasources": "/etc/grafana/provisioning/datasources",
        "./monitoring/grafana/dashboards": provider["options"]["path"],
    }
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/articurated.json"


def test_nothing_on_the_dashboard_is_there_twice_or_over_another() -> None:
    panels = DASHBOARD["panels"]
    for key in ("id", "title"):
        values = [panel[key] for panel in panels]
        assert len(set(values)) == len(values), key
    places = {
        panel["title"]: {
            (column, line)
            for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        }
        for panel in panels
    }
    assert max(column for cells in places.values() for column, _ in cells) == 23
    assert [pair for pair in combinations(places, 2) if places[pair[0]] & places[pair[1]]] == []


def test_the_rows_are_the_parts_of_the_system() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic and latency", "Orders and returns", "Jobs", "Money", "Messages and documents"]


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(title: str) -> None:
    panel = PANELS[title]
    assert panel["targets"], "it asks for nothing"
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "percentunit", "reqps", "cpm"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        labels = promql.labels_of(promql.parse(target["expr"]))
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert named <= labels
        if panel["type"] == "timeseries":
            assert named == labels, "two lines would have one name"
            assert target["legendFormat"]
