"""Schemathesis against the whole document: no server error, nothing undocumented, no wrong data accepted (REQ-005).

All of its checks and phases, on the real API process with an administrator's key, over entities that exist in every
state, with invoices and a link to one of them. The suite runs it with a few examples of each operation; by hand it
takes any number:

    SCHEMATHESIS_EXAMPLES=10000 ./dev test tests/security/test_fuzz.py

`SCHEMATHESIS_SEED` repeats a run, `SCHEMATHESIS_REPORT` names a folder for the tool's own report.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen
from uuid import UUID

import httpx2
import pytest

from app.composition import Services
from app.config import ROOT, Settings
from app.services.documents.links import FileKind, FileLinks
from app.services.jobs.service import JobKind
from tests.integration.conftest import API_KEY, TO_DELIVERED, new_order, new_return
from tests.integration.dead import bury_job, raise_case
from tests.integration.operations import all_operations
from tests.integration.test_api_invoices import issue
from tests.unit.gateway_support import http_answer, scripted_server

pytestmark = [pytest.mark.req("REQ-005", "NFR-004"), pytest.mark.security, pytest.mark.fuzz]

WANTED = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
REPORT = Path(os.environ["SCHEMATHESIS_REPORT"]) if "SCHEMATHESIS_REPORT" in os.environ else None
OF_EACH = 1
"""Random examples of each operation in the short run; the tool's other phases bring about a hundred more each."""
OF_RARE = 20
"""The same, of operations that chance alone hardly ever gets through to."""

RETURN_PATHS: tuple[tuple[str, ...], ...] = (
    (),
    ("approve",),
    ("approve", "IN_TRANSIT"),
    ("approve", "IN_TRANSIT", "RECEIVED"),
    ("approve", "IN_TRANSIT", "RECEIVED", "COMPLETED"),
    ("reject",),
)
Values = dict[str, list[str]]
"""What exists, by the parameter that takes it."""
EVERY = "every operation"
REVIEWS = {"approve": {"notes": "so"}, "reject": {"notes": "so", "rejection_reason": "OTHER"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(settings: Settings, gateway_url: str, log: Path) -> Iterator[str]:
    """Run the API as a process of its own on the test's database, without a rate limit; yield its address."""
    port = free_port()
    environment = {
        **os.environ,
        "ENVIRONMENT": "testing",
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "PAYMENT_GATEWAY_URL": gateway_url,
        "STORAGE_PATH": str(settings.storage_path),
        "API_KEY": API_KEY,
        "SECRET_KEY": settings.secret_key.get_secret_value(),
        "LOG_LEVEL": "ERROR",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    command = [sys.executable, "-m", "app", "api", "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/v1/health/live", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the API ended before it was ready"
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server
                answer.read()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the API did not answer")


async def entities(api: httpx2.AsyncClient, services: Services, of_each: int) -> Values:
    """Make orders and returns in every state, refunds and dead letters; return their ids."""
    orders, returns, dead_letters, cases = [], [], [], []
    for _ in range(of_each):
        orders += [(await new_order(api, *TO_DELIVERED[:n]))["id"] for n in range(len(TO_DELIVERED) + 1)]
        await new_order(api, "PAID", "CANCELLED")
        for path in RETURN_PATHS:
            order = await new_order(api, *TO_DELIVERED)
            returns.append(await brought_back(api, order["id"], path))
        dead_letters.append(str(await bury_job(services.database, JobKind.ISSUE_INVOICE)))
        cases.append(str(await raise_case(services.database)))
    refunds = [refund["id"] for refund in (await api.get("/api/v1/refunds?limit=100")).json()["data"]]
    return {
        "path.order_id": orders,
        "body.order_id": orders,
        "path.return_id": returns,
        "path.refund_id": refunds,
        "path.dead_letter_id": dead_letters,
        "path.case_id": cases,
    }


async def rare_entities(api: httpx2.AsyncClient, services: Services) -> dict[str, Values]:
    """Make what some operations want and chance does not hit: an invoice, a link to it, returns to be reviewed."""
    order = await new_order(api, *TO_DELIVERED[:3])
    await issue(services, order)
    returned = [await brought_back(api, (await new_order(api, *TO_DELIVERED))["id"], ()) for _ in range(OF_RARE)]
    return {
        "GET /api/v1/orders/{order_id}/invoice": {"path.order_id": [order["id"]]},
        "GET /api/v1/files/{kind}/{file_id}": await link_to_invoice(api, services, order["id"]),
        "PATCH /api/v1/returns/{return_id}/approve": {"path.return_id": returned},
    }


async def link_to_invoice(api: httpx2.AsyncClient, services: Services, order_id: str) -> Values:
    """Return the parts of a link to an order's invoice that outlasts the longest run."""
    record = (await api.get(f"/api/v1/orders/{order_id}/invoice", headers={"Accept": "application/json"})).json()
    *_, kind, file_id = urlsplit(record["link"]).path.split("/")
    links = FileLinks([services.settings.secret_key.get_secret_value()], timedelta(days=1))
    query = urlsplit(str(links.to(FileKind(kind), UUID(file_id))["link"])).query
    return {"path.kind": [kind], "path.file_id": [file_id]} | {f"query.{k}": [v] for k, v in parse_qsl(query)}


async def brought_back(api: httpx2.AsyncClient, order_id: str, path: tuple[str, ...]) -> str:
    found = str((await new_return(api, order_id))["id"])
    for step in path:
        action, body = (step, REVIEWS[step]) if step in REVIEWS else ("state", {"new_state": step})
        moved = await api.patch(f"/api/v1/returns/{found}/{action}", json=body)
        assert moved.status_code == 200, moved.text
    return found


def configuration(common: Values, rare: dict[str, Values]) -> str:
    """Return the tool's configuration: most of what is named in paths, queries and bodies exists."""
    each = max(OF_EACH, WANTED // len(all_operations()))
    lines = ['hooks = "tests.security.fuzz_hooks"', "continue-on-failure = true", "request-timeout = 30"]
    for operation, values in {EVERY: common, **rare}.items():
        lines += [f"dictionaries.{named(operation, at)}.values = {json.dumps(ids)}" for at, ids in values.items()]
    lines += ["[generation]", f"max-examples = {each}", 'database = "none"', "no-shrink = true"]
    lines += ["[cache]", "enabled = false"]
    # 412 is the answer to an If-Match that is well-formed and not the current version.
    accepted = ["2xx", "3xx", "401", "403", "404", "409", "412"]
    lines += ["[checks.positive_data_acceptance]", f"expected-statuses = {json.dumps(accepted)}"]
    lines += ["[parameters]", *(f'"{at}" = {{ dictionary = {named(EVERY, at)}, probability = 0.7 }}' for at in common)]
    for operation, values in rare.items():
        lines += ["[[operations]]", f'include-name = "{operation}"', f"generation.max-examples = {max(OF_RARE, each)}"]
        # A link holds when all four parts of it do.
        lines += [f'parameters."{at}" = {{ dictionary = {named(operation, at)}, probability = 0.9 }}' for at in values]
    return "\n".join(lines)


def named(operation: str, parameter: str) -> str:
    """Return the quoted name of a dictionary."""
    return json.dumps(f"{operation} {parameter}")


def run_tool(url: str, configured: str, folder: Path, secret: str) -> tuple[dict[str, Any], str]:
    """Run Schemathesis; return its report, and what it printed."""
    (folder / "schemathesis.toml").write_text(configured, encoding="utf-8")
    report = folder / "report.json"
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color"]
    command += ["--config-file", str(folder / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--header", f"X-API-Key: {API_KEY}", "--seed", SEED]
    command += ["--report", "json", "--report-json-path", str(report), "--warnings", "off"]
    # The tool is not ours to measure. Worse, tracing every thread for greenlets can hang CPython 3.11: its
    # evaluation loop, when traced, spins at a function's start while another thread's end waits to be handled.
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**untraced, "PYTHONPATH": str(ROOT), "FUZZ_WEBHOOK_SECRET": secret.removeprefix("whsec_")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    printed = ran.stdout + ran.stderr
    (folder / "output.txt").write_text(printed, encoding="utf-8")
    assert report.exists(), printed[-5000:]
    return json.loads(report.read_bytes()), printed


async def test_the_document_holds_against_a_fuzzer(
    api: httpx2.AsyncClient, services: Services, settings: Settings, tmp_path: Path
) -> None:
    folder = REPORT or tmp_path
    common = await entities(api, services, of_each=20 if WANTED else 4)
    rare = await rare_entities(api, services)
    secret = settings.payment_webhook_secret.get_secret_value()
    # Before an order is cancelled its payment is looked up: this provider knows of none.
    nothing = http_answer(200, {"data": [], "has_more": False})
    with scripted_server(nothing) as gateway_url, serving(settings, gateway_url, folder / "api.log") as url:
        report, printed = await asyncio.to_thread(run_tool, url, configuration(common, rare), folder, secret)
    findings = printed.partition("= FAILURES =")[2][:20_000]
    assert report["failures"] == [], findings
    assert report["errors"] == [], printed[-5000:]
    assert report["stop_reason"] == "completed"
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}
    assert report["operations"]["tested"] == report["operations"]["total"] == len(all_operations())
    assert report["test_cases"]["generated"] >= WANTED
    for operation in rare:
        assert sum(phase["accepted"] for phase in report["valid_rates"][operation].values()) > 0, operation
    logged = [json.loads(line) for line in (await asyncio.to_thread((folder / "api.log").read_text)).splitlines()]
    # A proven webhook that a person must look at is an alert, and no fault.
    faults = [line for line in logged if line["level"] not in {"info", "warning"} and line["event"] != "gateway event"]
    assert faults == []
    assert (await api.get("/api/v1/audit/verify")).json()["ok"]
