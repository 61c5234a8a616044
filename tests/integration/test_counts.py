"""What a running system counts: jobs picked up and completed, answers replayed (NFR-006)."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest
from prometheus_client import Counter, Histogram

from app.composition import Services
from app.config import Settings
from app.core import monitoring
from app.database import Database
from app.services.jobs import service as job_service
from app.services.jobs.service import Claim, JobKind
from app.tasks.runner import JobRunner, Verdict
from tests.factories import order_payload
from tests.integration.conftest import new_order
from tests.integration.jobs_support import add_job, claim, execute

pytestmark = pytest.mark.req("NFR-006.2")

KIND = JobKind.NOTIFY_GOODS_RECEIVED


def seen(metric: Counter | Histogram, **labels: str) -> tuple[float, float]:
    """Return how often a metric has counted, and the sum of its values."""
    child = metric.labels(**labels) if labels else metric
    samples = {sample.name: sample.value for sample in child._child_samples()}
    return samples.get("_count", samples.get("_total", 0.0)), samples.get("_sum", 0.0)


@pytest.mark.req("REQ-004.9")
async def test_jobs_are_timed_from_when_they_were_due_and_made(
    database: Database, owner_database: Database, settings: Settings
) -> None:
    async def finish(held: Claim) -> None:
        async with database.transaction() as session:
            await job_service.finish(session, held)

    runner = JobRunner(database, settings, {KIND: finish}, owner="here")
    picked_up, completed = (
        seen(monitoring.JOB_PICKUP, queue="notifications"),
        seen(monitoring.JOB_COMPLETION, kind=KIND.value),
    )
    job_id = await add_job(database, KIND, uuid4(), "late")
    await execute(
        owner_database, "UPDATE jobs SET created_at = now() - interval '1 hour', run_at = now() - interval '50 seconds'"
    )
    assert await runner.run(job_id) is Verdict.SUCCEEDED
    count, waited = seen(monitoring.JOB_PICKUP, queue="notifications")
    assert count - picked_up[0] == 1
    assert waited - picked_up[1] == pytest.approx(50, abs=5)
    count, age = seen(monitoring.JOB_COMPLETION, kind=KIND.value)
    assert count - completed[0] == 1
    assert age - completed[1] == pytest.approx(3600, abs=5)


async def test_a_job_that_outlived_its_worker_was_picked_up_once(database: Database, settings: Settings) -> None:
    async def fail(_: Claim) -> None:
        raise TimeoutError

    runner = JobRunner(database, settings, {KIND: fail}, owner="heir")
    job_id = await add_job(database, KIND, uuid4(), "orphan")
    await claim(database, job_id)
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    before = seen(monitoring.JOB_PICKUP, queue="notifications")
    assert await runner.run(job_id) is Verdict.POSTPONED
    assert seen(monitoring.JOB_PICKUP, queue="notifications") == before


@pytest.mark.req("REQ-005")
async def test_an_answer_that_is_replayed_is_counted(api: httpx2.AsyncClient) -> None:
    before, _ = seen(monitoring.REPLAYS)
    headers = {"Idempotency-Key": str(uuid4())}
    body = order_payload()
    answers = [await api.post("/api/v1/orders", json=body, headers=headers) for _ in range(3)]
    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert seen(monitoring.REPLAYS)[0] - before == 2


@pytest.mark.req("REQ-001", "REQ-005")
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["without a key", "with a key"])
async def test_a_transition_is_counted_when_it_is_committed(
    api: httpx2.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    order = await new_order(api)
    here = f"/api/v1/orders/{order['id']}/state"
    paid = {"entity": "ORDER", "from_state": "PENDING_PAYMENT", "to_state": "PAID"}
    again = {"entity": "ORDER", "from_state": "PAID", "to_state": "PAID"}
    move = services.orders.transition

    async def half(*values: Any) -> dict[str, Any]:
        await move(*values)
        raise RuntimeError("died on the way to the answer")

    made, refused = seen(monitoring.TRANSITIONS, **paid)[0], seen(monitoring.REJECTIONS, **again)[0]
    if headers:
        with monkeypatch.context() as patched:
            patched.setattr(services.orders, "transition", half)
            assert (await api.patch(here, json={"new_state": "PAID"}, headers=headers)).status_code == 500
        assert seen(monitoring.TRANSITIONS, **paid)[0] == made, "it was undone"
    assert (await api.patch(here, json={"new_state": "PAID"}, headers=headers)).status_code == 200
    assert seen(monitoring.TRANSITIONS, **paid)[0] == made + 1
    other = {name: f"{key} again" for name, key in headers.items()}
    assert (await api.patch(here, json={"new_state": "PAID"}, headers=other)).status_code == 409
    assert seen(monitoring.REJECTIONS, **again)[0] == refused + 1
