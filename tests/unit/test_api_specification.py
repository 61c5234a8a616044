"""`API-SPECIFICATION.yml` is what the code says, and what is imported stays light (goals.md, REQ-005)."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.api.http.yaml_text import as_yaml
from app.config import ROOT
from app.main import openapi_document, openapi_yaml

pytestmark = pytest.mark.req("REQ-005")


@pytest.mark.req("DOC.3", "REQ-005.2")
def test_the_file_is_current() -> None:
    written = (ROOT / "API-SPECIFICATION.yml").read_text(encoding="utf-8")
    assert written == openapi_yaml(), "run `articurated openapi > API-SPECIFICATION.yml`"


def test_the_yaml_says_what_the_json_says() -> None:
    assert yaml.safe_load(openapi_yaml()) == json.loads(json.dumps(openapi_document()))


# Clients are generated from these names: a new operation adds a line, and no line ever changes or goes.
OPERATION_IDS = {
    "PATCH /api/v1/orders/{order_id}/state": "orders_change_state",
    "GET /api/v1/orders/{order_id}": "orders_read",
    "PATCH /api/v1/orders/{order_id}": "orders_correct",
    "GET /api/v1/orders/{order_id}/corrections": "orders_list_corrections",
    "POST /api/v1/orders": "orders_create",
    "GET /api/v1/orders": "orders_list",
    "POST /api/v1/orders/{order_id}/cancel": "orders_cancel",
    "GET /api/v1/orders/{order_id}/history": "orders_history",
    "GET /api/v1/orders/{order_id}/transitions": "orders_transitions",
    "GET /api/v1/orders/{order_id}/refunds": "orders_refunds",
    "GET /api/v1/orders/{order_id}/invoice": "orders_invoice",
    "POST /api/v1/returns": "returns_create",
    "GET /api/v1/returns": "returns_list",
    "GET /api/v1/returns/{return_id}": "returns_read",
    "PATCH /api/v1/returns/{return_id}/approve": "returns_approve",
    "PATCH /api/v1/returns/{return_id}/reject": "returns_reject",
    "PATCH /api/v1/returns/{return_id}/state": "returns_change_state",
    "GET /api/v1/returns/{return_id}/history": "returns_history",
    "GET /api/v1/returns/{return_id}/transitions": "returns_transitions",
    "POST /api/v1/returns/{return_id}/attachments": "attachments_add",
    "GET /api/v1/returns/{return_id}/attachments": "attachments_list",
    "POST /api/v1/orders/{order_id}/notes": "notes_add_to_order",
    "GET /api/v1/orders/{order_id}/notes": "notes_list_of_order",
    "POST /api/v1/returns/{return_id}/notes": "notes_add_to_return",
    "GET /api/v1/returns/{return_id}/notes": "notes_list_of_return",
    "GET /api/v1/files/{kind}/{file_id}": "files_fetch",
    "POST /api/v1/payments/webhook": "payments_webhook",
    "GET /api/v1/audit": "audit_search",
    "GET /api/v1/audit/verify": "audit_verify",
    "GET /api/v1/refunds": "refunds_list",
    "GET /api/v1/refunds/{refund_id}": "refunds_read",
    "GET /api/v1/jobs/dead": "jobs_list_dead",
    "POST /api/v1/jobs/dead/{dead_letter_id}/retry": "jobs_retry",
    "POST /api/v1/jobs/dead/{dead_letter_id}/dismiss": "jobs_dismiss",
    "GET /api/v1/cases": "cases_list",
    "GET /api/v1/cases/{case_id}": "cases_read",
    "POST /api/v1/cases/{case_id}/close": "cases_close",
    "GET /api/v1/notifications": "notifications_list",
    "POST /api/v1/notifications/{notification_id}/resend": "notifications_resend",
    "GET /api/v1/stats": "stats_read",
    "GET /api/v1/health": "health_read",
    "GET /api/v1/health/live": "health_live",
    "GET /api/v1/metrics": "metrics_read",
    "GET /api/v1/state-machines": "state_machines_read",
}


def test_the_names_that_clients_are_generated_from_stay_as_they_are() -> None:
    assert {
        f"{method.upper()} {path}": operation["operationId"]
        for path, methods in openapi_document()["paths"].items()
        for method, operation in methods.items()
    } == OPERATION_IDS
    assert len(set(OPERATION_IDS.values())) == len(OPERATION_IDS)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab: -#'\"01/$", max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


# How long documents take to make says nothing about the YAML; on a busy machine it would fail the test.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "on", "1", "x y", "-"]), values, max_size=4))
@example({"a": "first\nsecond\x85third\u2028fourth\u2029"})
def test_any_document_survives_the_way_through_yaml(document: dict[str, Any]) -> None:
    assert yaml.safe_load(as_yaml(document)) == document


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, at the root of the project."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.req("NFR-005.1")
def test_importing_the_api_loads_nothing_that_only_workers_need() -> None:
    documents = ("typst", "weasyprint", "fontTools", "obstore", "jinja2")
    heavy = ("celery", "kombu", "redis", "alembic", "httpx2", "typer", "yaml", *documents)
    done = run(f"import sys, app.main; app.main.app; print(sorted(set({heavy}) & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_a_configuration_that_cannot_be_used_is_one_message() -> None:
    done = run("from app.main import app", ENVIRONMENT="production", DATABASE_URL="mysql://nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("Configuration refused:")
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("import app.main", DATABASE_URL="mysql://nowhere").returncode == 0


def test_the_module_has_no_other_late_attribute() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = __import__("app.main").main.nonsense
