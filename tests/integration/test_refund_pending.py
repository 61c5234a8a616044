"""A refund that the gateway takes its time over: waited for at no cost, and never forgotten when it fails after all."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Row
from structlog.testing import capture_logs

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.jobs.service import JobKind
from app.services.operations.dead_letters import DeadLetterService
from app.services.payments.gateway.port import GatewayRefund
from app.services.payments.refunds import PENDING_LIMIT
from app.tasks.runner import Verdict
from app.utils.exceptions import InvalidStateTransitionError
from tests.conftest import MovableClock
from tests.fakes import CREATED
from tests.integration.jobs_support import execute, job, job_of, rows
from tests.integration.money_support import RefundRow, Shop

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    clock.now = CREATED + timedelta(minutes=1)
    return Shop(settings, database, clock, admin)


async def pending(shop: Shop) -> RefundRow:
    """Return a refund that the gateway has accepted and not decided; its job waits."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["pending"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    return refund


async def buried(shop: Shop) -> RefundRow:
    """Return such a refund whose job has given up."""
    refund = await pending(shop)
    shop.clock.advance(days=PENDING_LIMIT.days)
    assert await shop.work(refund.id, refund_retries=0) is Verdict.DEAD_LETTERED
    return refund


def ended(shop: Shop, *, paid: bool = False) -> GatewayRefund:
    """Let the gateway decide the one refund that it has."""
    [known] = shop.gateway.refunds.values()
    return shop.gateway.decide(known.id, paid=paid)


async def job_row(shop: Shop, refund: RefundRow) -> Row[Any]:
    """Return the one job of a refund."""
    return await job(shop.database, await job_of(shop.database, refund.id, JobKind.PROCESS_REFUND))


async def letters(shop: Shop) -> list[Row[Any]]:
    """Return all dead letters, oldest first."""
    return await rows(shop.database, "SELECT * FROM dead_letters ORDER BY id")


async def pay_after_all(shop: Shop, refund: RefundRow) -> None:
    """Carry the job on until the refund is paid: the first try finds that the last attempt failed."""
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)
    assert set(shop.gateway.keys("refund")) == {f"refund:{refund.id}", f"refund:{refund.id}:2"}


@pytest.mark.req("REQ-004.4")
async def test_waiting_for_the_gateway_costs_no_retry(shop: Shop) -> None:
    refund = await pending(shop)
    before = await shop.refund(refund.id)
    for _ in range(8):
        assert await shop.work(refund.id, refund_retries=0) is Verdict.POSTPONED
        waiting = await job_row(shop, refund)
        assert (waiting.failures, waiting.claims) == (0, 0)
        assert 1700 < waiting.wait <= 1800
    # Nothing happened to it, so nothing is on record.
    after = await shop.refund(refund.id)
    assert (after.state, after.version) == ("PROCESSING", before.version)
    ended(shop, paid=True)
    assert await shop.work(refund.id, refund_retries=0) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


@pytest.mark.req("REQ-004.11")
async def test_a_gateway_that_never_decides_ends_with_a_person(shop: Shop) -> None:
    refund = await pending(shop)
    shop.clock.now = CREATED + PENDING_LIMIT - timedelta(seconds=1)
    assert await shop.work(refund.id, refund_retries=1) is Verdict.POSTPONED
    assert (await job_row(shop, refund)).failures == 0
    shop.clock.advance(seconds=1)
    assert await shop.work(refund.id, refund_retries=1) is Verdict.POSTPONED
    assert await shop.work(refund.id, refund_retries=1) is Verdict.DEAD_LETTERED
    assert (await shop.refund(refund.id)).state == "UNKNOWN"
    assert len(await letters(shop)) == 1


@pytest.mark.req("REQ-004.11")
async def test_what_may_have_been_paid_cannot_be_given_up(shop: Shop) -> None:
    refund = await buried(shop)
    [letter] = await letters(shop)
    service = DeadLetterService(shop.database, shop.clock)
    with pytest.raises(InvalidStateTransitionError) as refusal:
        await service.dismiss(letter.id, shop.admin, "it is pending there")
    assert (refusal.value.current_state, refusal.value.allowed_transitions) == ("UNKNOWN", ["RETRIED"])
    assert [row.resolution for row in await letters(shop)] == [None]
    assert await shop.job_state(refund.id) == "DEAD"
    # Once it is paid there is nothing left to do, and the letter may go.
    assert await shop.tell("refund.succeeded", ended(shop, paid=True)) == "REFUND_SETTLED"
    assert (await service.dismiss(letter.id, shop.admin))["resolution"] == "DISMISSED"
    assert shop.gateway.moved("refund", refund.id) == [refund.amount]


async def test_a_success_is_heard_by_the_job_that_waits(shop: Shop) -> None:
    refund = await pending(shop)
    assert await shop.tell("refund.succeeded", ended(shop, paid=True)) == "REFUND_SETTLED"
    assert (await job_row(shop, refund)).wait <= 0
    calls = list(shop.gateway.calls)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert shop.gateway.calls == calls
    await shop.assert_paid_once(refund.id)


async def test_a_failure_is_heard_by_the_job_that_waits(shop: Shop) -> None:
    refund = await pending(shop)
    failed = ended(shop)
    with capture_logs() as logs:
        assert await shop.tell("refund.failed", failed) == "REFUND_FAILED"
    assert [entry["log_level"] for entry in logs] == ["info"]
    assert (await job_row(shop, refund)).wait <= 0
    await pay_after_all(shop, refund)


async def test_a_failure_does_not_shorten_the_wait_after_a_decline(shop: Shop) -> None:
    """Each attempt that is declined is reported too: the retries would be spent in a second."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    [declined] = shop.gateway.refunds.values()
    assert await shop.tell("refund.failed", declined) == "REFUND_FAILED"
    assert (await job_row(shop, refund)).wait > 60


async def test_a_failure_is_heard_by_the_job_that_runs(shop: Shop) -> None:
    refund = await pending(shop)

    async def fail() -> None:
        assert await shop.tell("refund.failed", ended(shop)) == "REFUND_FAILED"

    shop.gateway.hooks["lookup", "arrived"] = fail
    await pay_after_all(shop, refund)
    assert await letters(shop) == []


@pytest.mark.req("REQ-004.11")
async def test_a_failure_wakes_a_job_that_gave_up(shop: Shop) -> None:
    refund = await buried(shop)
    dead = await job_row(shop, refund)
    failed = ended(shop)
    with capture_logs() as logs:
        assert await shop.tell("refund.failed", failed, "evt_late") == "REFUND_DUE_AGAIN"
    assert [entry["log_level"] for entry in logs] == ["critical"]
    assert await shop.tell("refund.failed", failed, "evt_late") == "DUPLICATE"
    again = await job_row(shop, refund)
    assert (again.id, again.state, again.failures, again.claims) == (dead.id, "PENDING", 0, 0)
    assert (again.fence, again.finished_at) == (dead.fence, None)
    [letter] = await letters(shop)
    assert (letter.resolution, letter.resolved_at, letter.resolved_by) == ("RETRIED", shop.clock.now, None)
    assert "evt_late" in letter.resolution_note
    [event] = await rows(shop.database, "SELECT type, data FROM events WHERE entity_id = :id", id=dead.id)
    assert event.type == "job.retried"
    assert event.data == {
        "dead_letter_id": str(letter.id),
        "actor_id": None,
        "operator": None,
        "note": letter.resolution_note,
    }
    alerts = await rows(shop.database, "SELECT payload FROM jobs WHERE kind = 'notify.gateway_event'")
    assert [row.payload["event_id"] for row in alerts] == ["evt_late"]
    with pytest.raises(InvalidStateTransitionError):
        await DeadLetterService(shop.database, shop.clock).retry(letter.id, shop.admin)
    await pay_after_all(shop, refund)


async def test_a_failure_of_what_was_given_up_changes_nothing(shop: Shop) -> None:
    """A person dismissed it, and has paid another way: it may not be paid again."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    assert await shop.work(refund.id, refund_retries=0) is Verdict.DEAD_LETTERED
    [declined] = shop.gateway.refunds.values()
    assert await shop.tell("refund.failed", declined) == "REFUND_FAILED"
    assert await shop.job_state(refund.id) == "DEAD"
    [letter] = await letters(shop)
    await DeadLetterService(shop.database, shop.clock).dismiss(letter.id, shop.admin, "paid in cash")
    assert await shop.tell("refund.failed", declined) == "REFUND_FAILED"
    assert (await shop.refund(refund.id)).state == "FAILED"
    assert await shop.job_state(refund.id) == "DISMISSED"
    assert await shop.work(refund.id) is Verdict.NOTHING_TO_DO
    assert shop.gateway.moved("refund", refund.id) == []


@pytest.mark.req("REQ-004.10", "REQ-004.11")
@pytest.mark.parametrize("round_number", range(4))
async def test_people_and_reports_at_once_leave_one_job(shop: Shop, round_number: int) -> None:
    """Whoever decides the letter first, it is decided once, nobody waits for ever, and one refund moves."""
    refund = await buried(shop)
    [letter] = await letters(shop)
    failed = ended(shop)
    service = DeadLetterService(shop.database, shop.clock)
    steps = [
        *(shop.tell("refund.failed", failed) for _ in range(3)),
        *(service.retry(letter.id, shop.admin) for _ in range(2)),
        *(service.dismiss(letter.id, shop.admin) for _ in range(2)),
    ]
    if round_number % 2:
        steps.reverse()
    answers = await asyncio.gather(*steps, return_exceptions=True)
    faults = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(fault, InvalidStateTransitionError) for fault in faults), faults
    assert [row.resolution for row in await letters(shop)] == ["RETRIED"]
    assert answers.count("REFUND_DUE_AGAIN") + (4 - len(faults)) == 1
    await pay_after_all(shop, refund)


@pytest.mark.req("REQ-004.10")
@pytest.mark.parametrize("state", ["PENDING", "PUBLISHED", "RUNNING"])
async def test_a_report_takes_no_job_from_its_worker(shop: Shop, state: str) -> None:
    refund = await pending(shop)
    lease = "now() + interval '1 minute'" if state == "RUNNING" else "NULL"
    await execute(
        shop.database,
        f"UPDATE jobs SET state = '{state}', lease_until = {lease}, run_at = now() WHERE entity_id = :id",
        id=refund.id,
    )
    before = await job_row(shop, refund)
    assert await shop.tell("refund.failed", ended(shop)) == "REFUND_FAILED"
    after = await job_row(shop, refund)
    assert (after.state, after.fence, after.lease_until) == (state, before.fence, before.lease_until)
