"""Log lines are found by the ids of what they are about, one line a record, and quote no data (NFR-006)."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pydantic
import pytest
import structlog
from sqlalchemy.exc import IntegrityError

from app.config import Settings
from app.core.logging import configure_logging, describe_exception, entity_of_path
from app.database import Database
from app.services.jobs.service import Claim, JobKind
from app.tasks.runner import JobRunner
from app.utils.email_sender import MailUnavailable
from tests.integration.conftest import TO_DELIVERED, new_order, new_return
from tests.integration.jobs_support import add_job

pytestmark = pytest.mark.req("NFR-006.1")

Lines = Callable[[], list[dict[str, Any]]]
CANARY = "Ada Canary"


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Give a function that returns the lines since its last call."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(Settings(_env_file=None, environment="testing", log_format="json"), stream)

    def since() -> list[dict[str, Any]]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        assert "\x1b" not in text
        return [json.loads(line) for line in text.splitlines()]

    yield since
    structlog.reset_defaults()
    root.handlers[:], root.level = before


async def test_a_request_is_found_by_what_it_is_about(api: httpx2.AsyncClient, lines: Lines) -> None:
    order = await new_order(api, *TO_DELIVERED)
    [created, *moved] = [line for line in lines() if line["event"] == "request"]
    # The order did not exist yet when the request came: the answer names it.
    assert (created["status"], created["order_id"]) == (201, order["id"])
    assert {line["order_id"] for line in moved} == {order["id"]}
    requested = await new_return(api, order["id"])
    await api.get(f"/api/v1/returns/{requested['id']}/history")
    assert [(line.get("return_id"), "order_id" in line) for line in lines() if line["event"] == "request"] == [
        (requested["id"], False),
        (requested["id"], False),
    ]
    await api.get("/api/v1/orders")
    [listed] = lines()
    assert not {"order_id", "return_id", "refund_id"} & set(listed)
    assert listed["request_id"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/orders/018F0000-0000-7000-8000-00000000000A", {"order_id": "018f0000-0000-7000-8000-00000000000a"}),
        (
            "/api/v1/refunds/018f0000-0000-7000-8000-00000000000a/x",
            {"refund_id": "018f0000-0000-7000-8000-00000000000a"},
        ),
        ("/api/v1/orders/Ada%0aCanary", {}),
        ("/api/v1/orders/018f0000-0000-7000-8000-00000000000a\nx", {}),
        ("/api/v1/orders/018f0000-0000-7000-8000-00000000000abcd", {}),
        ("/api/v1/orders", {}),
        ("/nowhere", {}),
    ],
)
@pytest.mark.security
def test_only_an_id_is_taken_for_one(path: str, found: dict[str, str]) -> None:
    assert entity_of_path(path) == found


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JobKind.ISSUE_INVOICE, "order_id"),
        (JobKind.NOTIFY_ORDER_SHIPPED, "order_id"),
        (JobKind.NOTIFY_RETURN_APPROVED, "return_id"),
        (JobKind.PROCESS_REFUND, "refund_id"),
        (JobKind.CAPTURE_PAYMENT, "payment_id"),
        (JobKind.NOTIFY_INVOICE, "invoice_id"),
        (JobKind.NOTIFY_JOB_FAILED, "dead_letter_id"),
    ],
)
async def test_a_job_is_found_by_its_id_kind_and_what_it_is_about(
    kind: JobKind, name: str, database: Database, settings: Settings, lines: Lines
) -> None:
    async def failing(_: Claim) -> None:
        structlog.get_logger("handler").info("inside")
        raise MailUnavailable(f"{CANARY}\n\x1b[31m away")

    job_id = await add_job(database, kind, about := uuid4())
    await JobRunner(database, settings, {kind: failing}, owner="here").run(job_id)
    found = lines()
    assert [line["event"] for line in found] == ["inside", "job.postponed"]
    for line in found:
        assert (line["job_id"], line["job_kind"], line[name]) == (str(job_id), kind.value, str(about))
    assert CANARY not in json.dumps(found)
    await JobRunner(database, settings, {}, owner="here").run(uuid4())
    [unclaimed] = lines()
    assert "job_kind" not in unclaimed


class Model(pydantic.BaseModel):
    """Something that refuses text."""

    number: int


def refused() -> Exception:
    """Return what pydantic says of a name where a number should be."""
    try:
        Model.model_validate({"number": CANARY})
    except pydantic.ValidationError as fault:
        return fault
    raise AssertionError


@pytest.mark.req("NFR-004.9")
@pytest.mark.security
@pytest.mark.parametrize(
    "fault",
    [
        ValueError(f"invalid literal for int(): '{CANARY}'"),
        KeyError(CANARY),
        UnicodeEncodeError("ascii", CANARY, 0, 1, CANARY),
        refused(),
        IntegrityError(f"INSERT {CANARY}", {"name": CANARY}, Exception(CANARY)),
        RuntimeError("sent to ada.canary@example.com"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_an_exception_is_logged_without_what_it_quotes(fault: Exception) -> None:
    def fail() -> None:
        raise fault

    wrapper = OSError("disk full")
    with pytest.raises(type(fault)) as caught:
        fail()
    wrapper.__cause__ = caught.value
    told = describe_exception(wrapper)
    assert told["message"] == "disk full"
    assert told["cause"]["type"].endswith(type(fault).__qualname__)
    assert told["cause"]["stack"]
    assert "canary" not in json.dumps(told).lower()
