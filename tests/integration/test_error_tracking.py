"""Faults of ours reach Sentry once, with ids and without anybody's data; refusals never do (NFR-006)."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
import sentry_sdk
from sqlalchemy.exc import IntegrityError, OperationalError

from app.composition import Services
from app.config import ROOT, Settings
from app.core import error_tracking
from app.database import Database
from app.services.jobs.service import Claim, JobKind
from app.services.payments.gateway.port import GatewayRejected, GatewayUnavailable
from app.tasks.runner import JobRunner, Verdict
from app.utils.email_sender import MailUnavailable
from tests.factories import order_payload
from tests.integration.conftest import new_order
from tests.integration.jobs_support import add_job

pytestmark = [pytest.mark.req("NFR-006.4", "NFR-004.9"), pytest.mark.security]

CANARY = "Ada.Canary.4711"
PLAIN = {"_experiments": {"transport_compression_level": 0}}
"""Nothing compressed, so that the bytes can be searched."""


class Sentry:
    """A server that takes what is sent to Sentry; `events` are the parsed events, `raw` every byte of the rest."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.raw = b""
        sentry = self

        class Intake(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sentry.raw += body
                for line in body.split(b"\n"):
                    if line.startswith(b'{"') and b'"exception"' in line:
                        sentry.events.append(json.loads(line))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Intake)
        self.dsn = f"http://public@127.0.0.1:{self.server.server_address[1]}/1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def received(self) -> list[dict[str, Any]]:
        """Wait for what is under way; return all events so far."""
        error_tracking.flush()
        return self.events


@pytest.fixture
def intake() -> Iterator[Sentry]:
    sentry = Sentry()
    yield sentry
    sentry.server.shutdown()
    sentry.thread.join()
    sentry.server.server_close()


@pytest.fixture
def sentry(settings: Settings, intake: Sentry) -> Iterator[Sentry]:
    """Report this process's faults to the server of the test."""
    hook = sys.excepthook
    given = settings.model_copy(update={"sentry_dsn": type(settings.sentry_dsn)(intake.dsn)})
    error_tracking.configure(given, "api", **PLAIN)
    yield intake
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    error_tracking._report = None
    sys.excepthook = hook


async def test_a_fault_of_ours_is_sent_once_with_its_ids_and_nobodys_data(
    sentry: Sentry, services: Services, api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await new_order(api)

    async def broken(*_: Any, **__: Any) -> None:
        password = CANARY  # a local variable
        known: dict[str, str] = {}
        try:
            known[password]
        except KeyError as inner:
            raise IntegrityError(f"INSERT {CANARY}", {"email": CANARY}, psycopg.Error(CANARY)) from inner

    monkeypatch.setattr(services.orders, "get", broken)
    headers = {"X-Request-Id": "request-4711", "X-Secret": CANARY, "Cookie": f"session={CANARY}"}
    answer = await api.get(f"/api/v1/orders/{order['id']}", headers=headers)
    assert answer.status_code == 500
    [event] = sentry.received()
    assert event["tags"] == {
        "request_id": "request-4711",
        "order_id": order["id"],
        "method": "GET",
        "route": "/api/v1/orders/{order_id}",
        "process": "api",
    }
    assert (event["release"], event["environment"]) == ("articurated@0.1.0", "testing")
    assert [each["type"] for each in event["exception"]["values"]] == ["KeyError", "IntegrityError"]
    frames = event["exception"]["values"][1]["stacktrace"]["frames"]
    assert frames[-1]["function"] == "broken"
    assert not {"request", "user", "breadcrumbs", "extra", "modules"} & set(event)
    assert not any("vars" in frame for frame in frames)
    assert CANARY.encode() not in sentry.raw
    assert b"dev-api-key" not in sentry.raw


async def test_refusals_send_nothing(sentry: Sentry, api: httpx2.AsyncClient, anonymous: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    state = f"/api/v1/orders/{order['id']}/state"
    answers = [
        await api.patch(state, json={"new_state": "DELIVERED"}),
        await api.post("/api/v1/orders", json=order_payload(currency="no")),
        await api.get(f"/api/v1/orders/{uuid4()}"),
        await anonymous.get("/api/v1/orders"),
    ]
    assert [answer.status_code for answer in answers] == [409, 422, 404, 401]
    assert sentry.received() == []


async def test_a_database_that_is_away_is_no_fault_of_ours(
    sentry: Sentry, services: Services, api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise OperationalError("SELECT", {}, psycopg.OperationalError("away"))

    monkeypatch.setattr(services.orders, "get", away)
    assert (await api.get(f"/api/v1/orders/{uuid4()}")).status_code == 503
    assert sentry.received() == []


def test_only_listed_fields_of_an_event_are_sent() -> None:
    frame = {"function": "pay", "lineno": 7, "vars": {"card": CANARY}}
    raised = {"type": "KeyError", "module": "builtins", "value": CANARY, "stacktrace": {"frames": [frame]}}
    event: Any = {
        "event_id": "1",
        "level": "error",
        "tags": {"order_id": "2"},
        "exception": {"values": [raised]},
        "request": {"headers": {"X-API-Key": CANARY}, "data": CANARY},
        "user": {"email": CANARY},
        "breadcrumbs": {"values": [{"message": CANARY}]},
        "extra": {"sys.argv": [CANARY]},
        "contexts": {"state": CANARY},
        "logentry": {"message": CANARY},
    }
    sent: Any = error_tracking.scrubbed(event, {})
    assert set(sent) == {"event_id", "level", "tags", "exception"}
    [frame] = sent["exception"]["values"][0]["stacktrace"]["frames"]
    assert frame == {"function": "pay", "lineno": 7}
    assert CANARY not in json.dumps(sent)


def runner_of(database: Database, settings: Settings, fault: Exception, retries: int) -> JobRunner:
    async def failing(_: Claim) -> None:
        raise fault

    changed = settings.model_copy(update={"notification_retries": retries, "notification_retry_base_seconds": 0.001})
    return JobRunner(database, changed, {JobKind.NOTIFY_INVOICE: failing}, owner="here")


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (ValueError(CANARY), 1),
        (KeyError(CANARY), 1),
        (MailUnavailable(CANARY), 0),
        (GatewayUnavailable(CANARY), 0),
        (GatewayRejected("no", CANARY), 0),
        (TimeoutError(), 0),
        (ConnectionResetError(), 0),
    ],
)
async def test_of_a_job_that_fails_the_unexpected_is_sent(
    sentry: Sentry, database: Database, settings: Settings, fault: Exception, sent: int
) -> None:
    job_id = await add_job(database, JobKind.NOTIFY_INVOICE, about := uuid4())
    assert await runner_of(database, settings, fault, 3).run(job_id) is Verdict.POSTPONED
    events = sentry.received()
    assert len(events) == sent
    for event in events:
        tags = {"job_id": str(job_id), "job_kind": "notify.invoice", "process": "api"}
        assert event["tags"] == tags, about
    assert CANARY.encode() not in sentry.raw


async def test_every_dead_letter_is_reported(sentry: Sentry, database: Database, settings: Settings) -> None:
    job_id = await add_job(database, JobKind.NOTIFY_INVOICE, uuid4())
    fault = MailUnavailable(f"no session for {CANARY}@example.com")
    assert await runner_of(database, settings, fault, 0).run(job_id) is Verdict.DEAD_LETTERED
    [event] = sentry.received()
    [raised] = event["exception"]["values"]
    # The message of an error of our own, without the address in it.
    assert (raised["type"], raised["value"]) == ("MailUnavailable", "no session for <address>")
    assert event["tags"]["job_id"] == str(job_id)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_process_that_ends_by_an_error_has_sent_it(intake: Sentry) -> None:
    """The relay, started by its own command, on an error that is no outage."""
    ended = run_python(
        "import sys; sys.argv = ['articurated', 'relay']; from functools import partial;"
        f"from app.core import error_tracking as e; e.configure = partial(e.configure, **{PLAIN});"
        f"from app.tasks import relay; relay.Relay.run = lambda _, email='{CANARY}': int(email);"
        "from app.cli.main import main; main()",
        SENTRY_DSN=intake.dsn,
    )
    assert ended.returncode == 1, ended.stderr
    [event] = intake.events
    assert event["server_name"] == "relay"
    assert [each["type"] for each in event["exception"]["values"]] == ["ValueError"]
    assert event["exception"]["values"][0]["value"] == ""
    assert CANARY.encode() not in intake.raw


def test_without_an_address_nothing_is_even_imported() -> None:
    ended = run_python(
        "import sys, app.main; from app.config import Settings; from app.core import error_tracking;"
        "error_tracking.configure(Settings(_env_file=None), 'api'); error_tracking.report(ValueError());"
        "error_tracking.flush(); sys.exit('sentry_sdk' in sys.modules)",
        SENTRY_DSN="",
    )
    assert ended.returncode == 0, ended.stderr
