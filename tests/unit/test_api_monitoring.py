"""Metrics, in one process and added up over several (NFR-006); addresses that may stand in an audit row."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.config import ROOT, Settings
from app.core import error_tracking, exposition, monitoring
from app.dependencies import client_address
from app.services.payments.gateway import metrics as gateway_metrics
from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.port import (
    GatewayCircuitOpen,
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRejected,
    GatewayUnavailable,
)
from app.utils import observers
from app.utils.storage import StorageError, StorageKeyExists, StorageKeyMissing, storage_for

pytestmark = pytest.mark.req("NFR-006")


@pytest.mark.req("NFR-006.2")
def test_what_is_counted_can_be_read() -> None:
    monitoring.transition_made("SAMPLE", "PAID", "CANCELLED")
    monitoring.transition_refused("SAMPLE", "REQUESTED", "COMPLETED")
    monitoring.job_tried("sample.kind", "succeeded", 0.2)
    monitoring.job_picked_up("sample", 29.9)
    monitoring.job_completed("sample.kind", 299)
    monitoring.gateway_called("sample", "declined", 0.2)
    monitoring.notification_tried("sample", "sent")
    monitoring.storage_used("sample", "ok", 0.2)
    monitoring.relayed("sample", "PUBLISHED", 4)
    monitoring.swept("sample", 5)
    gauges = exposition.job_gauges({("refunds", "RUNNING"): 2}, {"refunds": 1.5}, 3, {"refunds": 6}, {"invoice": 7})
    text = exposition.of_api(gauges).decode()
    for line in (
        'articurated_transitions_total{entity="SAMPLE",from_state="PAID",to_state="CANCELLED"} 1.0',
        'articurated_transition_rejections_total{entity="SAMPLE",from_state="REQUESTED",to_state="COMPLETED"} 1.0',
        'articurated_jobs_total{kind="sample.kind",outcome="succeeded"} 1.0',
        'articurated_job_duration_seconds_bucket{kind="sample.kind",le="0.25"} 1.0',
        'articurated_jobs_waiting{queue="refunds",state="RUNNING"} 2.0',
        'articurated_jobs_oldest_due_seconds{queue="refunds"} 1.5',
        'articurated_job_pickup_seconds_bucket{le="30.0",queue="sample"} 1.0',
        'articurated_job_pickup_seconds_bucket{le="10.0",queue="sample"} 0.0',
        'articurated_job_completion_seconds_bucket{kind="sample.kind",le="300.0"} 1.0',
        'articurated_gateway_calls_total{operation="sample",outcome="declined"} 1.0',
        'articurated_gateway_call_duration_seconds_bucket{le="0.25",operation="sample"} 1.0',
        'articurated_notifications_total{channel="sample",outcome="sent"} 1.0',
        'articurated_storage_operations_total{operation="sample",outcome="ok"} 1.0',
        'articurated_relay_messages_total{queue="sample",state="PUBLISHED"} 4.0',
        'articurated_sweeps_total{sweep="sample"} 5.0',
        'articurated_jobs_retrying{queue="refunds"} 6.0',
        'articurated_sla_overdue{sla="invoice"} 7.0',
        "articurated_dead_letters 3.0",
        "articurated_database_up 1.0",
    ):
        assert line in text.splitlines()
    assert "articurated_database_up 0.0" in exposition.of_api(None).decode()


def test_the_age_of_backups_is_shown_where_there_are_any() -> None:
    lines = exposition.of_api(None, exposition.backup_gauges((7200, 12.5), 21600)).decode().splitlines()
    assert "articurated_backup_age_seconds 7200.0" in lines
    assert "articurated_backup_log_age_seconds 12.5" in lines
    assert "articurated_backup_interval_seconds 21600.0" in lines
    none = exposition.of_api(None, exposition.backup_gauges(None, 21600)).decode().splitlines()
    assert not [line for line in none if line.startswith("articurated_backup_")], "no alert where there are no backups"


def value(name: str) -> float:
    """Return a counter without labels, as it is shown."""
    lines = exposition.of_api(None).decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.mark.req("NFR-006.2")
def test_requests_without_credentials_and_over_the_limit_are_counted_apart() -> None:
    names = ("articurated_unauthenticated_total", "articurated_rate_limited_total", "articurated_faults_total")
    before = [value(name) for name in names]
    for status in (200, 401, 429, 429, 403, 500):
        monitoring.request_answered("GET", "/y", status, 0.01)
    error_tracking.report(RuntimeError())
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [1, 2, 1]


@pytest.mark.req("NFR-006.2", "NFR-003.3")
def test_an_open_circuit_shows() -> None:
    now = 0.0
    breaker = CircuitBreaker(threshold=1, open_seconds=30, clock=lambda: now)
    with pytest.raises(GatewayUnavailable), breaker.guard():
        raise GatewayUnavailable("away")
    assert value("articurated_gateway_breaker_open") == 1
    now = 31.0
    with breaker.guard():
        pass
    assert value("articurated_gateway_breaker_open") == 0


OUTCOME_OF = {
    "declined": GatewayDeclined("no", "No."),
    "rejected": GatewayRejected("no", "No."),
    "unavailable": GatewayUnavailable("away"),
    "circuit_open": GatewayCircuitOpen(30),
    "unknown": GatewayOutcomeUnknown("Perhaps."),
}


@pytest.mark.req("NFR-006.2", "INT-001")
def test_every_way_a_call_to_the_gateway_can_end_has_a_name() -> None:
    def all_of(kind: type[GatewayError]) -> set[type[GatewayError]]:
        return {kind}.union(*(all_of(inner) for inner in kind.__subclasses__()))

    known = {kind for kind in all_of(GatewayError) - {GatewayError} if kind.__module__.startswith("app.")}
    assert known == set(gateway_metrics.OUTCOMES)
    assert {name: gateway_metrics.OUTCOMES[type(fault)] for name, fault in OUTCOME_OF.items()} == {
        name: name for name in OUTCOME_OF
    }


@pytest.mark.req("NFR-006.2", "INT-004")
async def test_the_storage_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert observers.storage_used is monitoring.storage_used
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(observers, "storage_used", lambda operation, outcome, _: heard.append((operation, outcome)))
    storage = storage_for(Settings(_env_file=None, storage_path=tmp_path / "kept"))
    await storage.put_new("a", b"?", "text/plain")
    with pytest.raises(StorageKeyExists):
        await storage.put_new("a", b"?", "text/plain")
    await storage.get("a")
    assert await storage.exists("a")
    await storage.delete("a")
    with pytest.raises(StorageKeyMissing):
        await storage.get("a")
    with pytest.raises(ValueError, match="storage key"):
        await storage.get("../a")
    (tmp_path / "kept").rename(tmp_path / "gone")
    (tmp_path / "kept").write_text("in the way")
    with pytest.raises(StorageError):
        await storage.put_new("b", b"?", "text/plain")
    assert heard == [
        *(("put", "ok"), ("put", "exists"), ("get", "ok"), ("exists", "ok"), ("delete", "ok")),
        *(("get", "missing"), ("put", "failed")),
    ]


@pytest.mark.req("NFR-006.2", "NFR-004")
def test_no_label_can_be_made_up_and_none_names_a_person() -> None:
    """Names of labels are a list; each label is filled from a list of this code's, or a route's template."""
    filled_from_lists = {
        *("method", "route", "status", "entity", "from_state", "to_state", "kind", "queue", "state", "outcome"),
        *("operation", "channel", "sweep"),
    }
    used = {label for metric in vars(monitoring).values() for label in getattr(metric, "_labelnames", ())}
    assert used == filled_from_lists


@pytest.mark.req("NFR-006.2")
def test_gauges_of_processes_that_have_ended_are_forgotten_and_counts_kept(tmp_path: Path) -> None:
    code = (
        "from app.core import exposition, monitoring as m; m.gateway_breaker(is_open={}); m.relayed('x', 'PENDING', 2);"
        "print(exposition.of_api(None).decode())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    texts = [
        subprocess.run(
            [sys.executable, "-c", code.format(is_open)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for is_open in (True, False)
    ]
    assert "articurated_gateway_breaker_open 1.0" in texts[0]
    assert "articurated_gateway_breaker_open 0.0" in texts[1]
    assert 'articurated_relay_messages_total{queue="x",state="PENDING"} 4.0' in texts[1]


def test_processes_add_up(tmp_path: Path) -> None:
    code = (
        "from app.core import exposition, monitoring as m; m.request_answered('GET', '/x', 200, 0.01);"
        "print(exposition.of_api(None).decode())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for _ in range(2)
    ]
    counted = 'articurated_http_requests_total{method="GET",route="/x",status="200"}'
    assert f"{counted} 1.0" in texts[0]
    assert f"{counted} 2.0" in texts[1]


@pytest.mark.req("NFR-006.2")
def test_a_port_that_is_taken_costs_the_metrics_and_not_the_work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as logs:
        port = taken.getsockname()[1]
        exposition.serve(Settings(_env_file=None, prometheus_port=port))
    assert [(entry["event"], entry["port"], entry["log_level"]) for entry in logs] == [
        ("metrics.not_shown", port, "warning")
    ]
    with capture_logs() as logs:
        exposition.serve(Settings(_env_file=None))
    assert logs == []


@pytest.mark.security
@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:DB8::1", 1), "2001:db8::1"),
        (("not an address\n", 1), None),
        (("192.0.2.7, 10.0.0.1", 1), None),
        (("", 0), None),
        (None, None),
    ],
)
def test_only_an_address_is_taken_for_one(client: Any, address: str | None) -> None:
    assert client_address({"type": "http", "client": client}) == address
