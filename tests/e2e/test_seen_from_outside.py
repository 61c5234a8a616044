"""Worker, relay and beat show their metrics on a port of their own; Flower shows the queues (NFR-006)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

import httpx2
import psycopg
import pytest
import redis

from app.config import ROOT, Settings
from app.core.enums import WORKER_QUEUES
from app.local.process import choose_port
from app.services.operations.health import ALIVE_PREFIX
from tests.e2e.conftest import Journey, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.req("NFR-006.2"), pytest.mark.xdist_group("seen from outside")]

Start = Callable[..., "subprocess.Popen[bytes]"]
LOGIN = ("night", "watch")
COMMAND = [sys.executable, "-P", "-m", "app"]


@pytest.fixture
def start(settings: Settings, clean_database: None, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a command of the application on this worker's own database."""
    environment = {
        **{name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields},
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "STORAGE_PATH": str(settings.storage_path),
        "BEAT_SCHEDULE_FILE": str(tmp_path / "schedule"),
        "TMPDIR": str(tmp_path),
    }
    with redis.Redis.from_url(settings.redis_url) as client:
        client.flushdb()

    with ExitStack() as stack:

        @contextmanager
        def running(*words: str, **given: str) -> Iterator["subprocess.Popen[bytes]"]:
            with (tmp_path / f"{words[0]}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*COMMAND, *words], env={**environment, **given}, cwd=tmp_path, stdout=log, stderr=log
                )
                try:
                    yield process
                finally:
                    process.send_signal(signal.SIGTERM)
                    process.wait(30)

        yield lambda *words, **given: stack.enter_context(running(*words, **given))


def shown(port: int) -> str | None:
    """Return what a metrics port shows, or None while no process listens."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx2.HTTPError:
        return None


def line_of(port: int, beginning: str) -> float | None:
    found = [line for line in (shown(port) or "").splitlines() if line.startswith(beginning)]
    return float(found[0].rpartition(" ")[2]) if found else None


@pytest.mark.req("NFR-003.2")
def test_every_process_shows_its_metrics_and_that_it_is_alive(
    start: Start, settings: Settings, owner_connection: psycopg.Connection, tmp_path: Path
) -> None:
    ports = {part: choose_port() for part in ("worker", "relay", "beat")}
    worker = ("worker", "--concurrency", "1", "--queues", "notifications")
    for part, words in {"worker": worker, "relay": ("relay",), "beat": ("beat",)}.items():
        start(*words, PROMETHEUS_PORT=str(ports[part]))
    # A mail about an order that does not exist: there is nothing to send, and the job is done.
    owner_connection.execute(
        "INSERT INTO jobs (kind, queue, entity_id, dedupe_key)"
        " VALUES ('notify.order_delivered', 'notifications', gen_random_uuid(), 'seen')"
    )
    done = 'articurated_jobs_total{kind="notify.order_delivered",outcome="succeeded"}'
    assert eventually("the worker's child counts, its parent shows", lambda: line_of(ports["worker"], done)) == 1
    assert line_of(ports["worker"], 'articurated_job_pickup_seconds_count{queue="notifications"}') == 1
    sent = 'articurated_relay_messages_total{queue="notifications",state="PENDING"}'
    assert line_of(ports["relay"], sent) == 1
    assert eventually("beat ticks", lambda: line_of(ports["beat"], "articurated_beat_ticks_total"))
    assert "python_info" not in (shown(ports["relay"]) or "")
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        keys = eventually(
            "three signs of life",
            lambda: [*found] if len(found := [*client.scan_iter(f"{ALIVE_PREFIX}*")]) == 3 else None,
        )
        assert {key.removeprefix(ALIVE_PREFIX).partition(":")[0] for key in keys} == {"worker", "relay", "beat"}
        [node] = [key for key in keys if ":worker:" in key]
        assert client.get(node) == "notifications,sweeps", "the ticks are taken by every worker"
    assert [*tmp_path.glob("articurated-metrics-*")] != []


@pytest.mark.req("DEV")
def test_flower_shows_the_queues_to_those_who_may(start: Start, tmp_path: Path) -> None:
    port = choose_port()
    flower = start("flower", "--port", str(port), FLOWER_BASIC_AUTH=":".join(LOGIN))
    address = f"http://127.0.0.1:{port}"

    def answers() -> httpx2.Response | None:
        assert flower.poll() is None, (tmp_path / "flower.log").read_text()
        try:
            return httpx2.get(f"{address}/broker", auth=LOGIN, timeout=10)
        except httpx2.HTTPError:
            return None

    page = eventually("Flower", answers)
    assert page.status_code == 200
    assert all(f">{queue}<" in page.text.replace(" ", "").replace("\n", "") for queue in WORKER_QUEUES)
    for path in ("/", "/broker", "/workers", "/api/workers"):
        assert httpx2.get(f"{address}{path}").status_code == 401
    assert httpx2.get(f"{address}/broker", auth=("night", "mare")).status_code == 401


@pytest.mark.req("NFR-004")
@pytest.mark.security
@pytest.mark.parametrize(("environment", "login"), [("production", ""), ("development", "nobody"), ("production", ":")])
def test_flower_does_not_start_open_in_production_or_with_half_a_login(
    environment: str, login: str, tmp_path: Path
) -> None:
    given = {
        "ENVIRONMENT": environment,
        "FLOWER_BASIC_AUTH": login,
        # All else is as production wants it.
        "SECRET_KEY": token_hex(24),
        "API_KEY": "",
        "PAYMENT_GATEWAY_URL": "https://gateway.example",
        "PAYMENT_GATEWAY_API_KEY": token_hex(24),
        "PAYMENT_WEBHOOK_SECRET": token_hex(24),
        "SMTP_HOST": "mail.example",
        "SMTP_PORT": "587",
        "SMTP_TLS": "starttls",
        "DATABASE_URL": "postgresql://app:own@127.0.0.1:9/none",
        "REDIS_URL": "redis://127.0.0.1:9/0",
    }
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    ended = subprocess.run(
        [*COMMAND, "flower"],
        env={**kept, "PYTHONPATH": str(ROOT), **given},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "FLOWER_BASIC_AUTH" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.req("INT-001", "INT-004")
@pytest.mark.xdist_group("stack")
def test_the_api_shows_what_all_processes_of_one_machine_count(journey: Journey) -> None:
    order = journey.order()
    journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    refunded = journey.order()
    journey.move(refunded, "PAID")
    journey.call("POST", f"/orders/{refunded['id']}/cancel", json={})
    wanted = {
        'articurated_jobs_total{kind="invoice.issue",outcome="succeeded"}',
        'articurated_jobs_total{kind="refund.process",outcome="succeeded"}',
        'articurated_job_completion_seconds_count{kind="refund.process"}',
        'articurated_gateway_calls_total{operation="refund",outcome="succeeded"}',
        'articurated_gateway_call_duration_seconds_count{operation="refund"}',
        'articurated_notifications_total{channel="email",outcome="sent"}',
        'articurated_storage_operations_total{operation="put",outcome="ok"}',
        'articurated_relay_messages_total{queue="refunds",state="PENDING"}',
        'articurated_transitions_total{entity="ORDER",from_state="PAID",to_state="CANCELLED"}',
        "articurated_gateway_breaker_open",
        "articurated_beat_ticks_total",
        'articurated_sla_overdue{sla="invoice"}',
        "articurated_dead_letters",
    }

    def missing() -> set[str]:
        text = journey.call("GET", "/metrics").decode()
        there = {line.rpartition(" ")[0] for line in text.splitlines()}
        assert order["id"] not in text
        assert "@" not in text
        return wanted - there

    eventually("every count", lambda: not missing() or None)
