"""A refund job whose worker is killed, freezes or is not alone: the gateway's records must show one movement (REQ-004).

Death is an error that nothing catches, raised at the moment in question; the transaction that is open then rolls back,
as the database does for a connection that is gone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.ledger import refunds as refund_ledger
from app.services.payments import settlement
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.integration.jobs_support import claim_for, rows
from tests.integration.money_support import Shop, die

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


def dying(*_: Any, **__: Any) -> Awaitable[None]:
    """Replace a function by a kill of the process."""
    return die()


def dying_after(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return `function` as it is when the process is killed on its return."""

    async def last(*arguments: Any, **named: Any) -> None:
        await function(*arguments, **named)
        await die()

    return last


async def test_killed_after_the_claim(shop: Shop) -> None:
    refund = await shop.part_refund()
    await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND)
    assert await shop.work(refund.id) is Verdict.NOTHING_TO_DO
    await shop.expire_leases()
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


@pytest.mark.req("REQ-004.10", "REQ-004.6")
@pytest.mark.parametrize("moment", ["arrived", "moved"])
async def test_killed_at_the_gateway(shop: Shop, moment: str) -> None:
    """PROCESSING is committed and the bytes are sent; the money has moved, or not."""
    refund = await shop.part_refund()
    await shop.killed_at("refund", moment, refund.id)
    assert (await shop.refund(refund.id)).state == "PROCESSING"
    assert len(shop.gateway.moved("refund", refund.id)) == (1 if moment == "moved" else 0)
    assert await shop.work(refund.id, owner="heir") is Verdict.SUCCEEDED
    assert set(shop.gateway.keys("refund")) == {f"refund:{refund.id}"}
    assert shop.gateway.keys("lookup").count(str(refund.id)) == 1
    await shop.assert_paid_once(refund.id)


async def test_killed_during_the_look_up(shop: Shop) -> None:
    refund = await shop.part_refund()
    await shop.killed_at("refund", "moved", refund.id)
    await shop.killed_at("lookup", "arrived", refund.id)
    assert await shop.work(refund.id, owner="heir") is Verdict.SUCCEEDED
    assert len(shop.gateway.keys("refund")) == 1
    await shop.assert_paid_once(refund.id)


@pytest.mark.parametrize("when", ["before PROCESSING", "before the answer is recorded", "before the commit"])
async def test_killed_within_a_transaction(shop: Shop, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    refund = await shop.part_refund()
    with monkeypatch.context() as patched:
        if when == "before PROCESSING":
            patched.setattr(refund_ledger, "record_sending", dying_after(refund_ledger.record_sending))
        elif when == "before the answer is recorded":
            patched.setattr(settlement, "settle", dying)
        else:
            patched.setattr(job_service, "finish", dying_after(job_service.finish))
        await shop.killed(lambda: shop.work(refund.id))
    left = await shop.refund(refund.id)
    assert left.state == ("PENDING" if when == "before PROCESSING" else "PROCESSING")
    assert await shop.follow_ups(refund.id) == []
    assert await shop.job_state(refund.id) == "RUNNING"
    assert await shop.work(refund.id, owner="heir") is Verdict.SUCCEEDED
    assert len(shop.gateway.keys("refund")) == 1
    await shop.assert_paid_once(refund.id)


async def test_killed_while_noting_a_decline(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decline is at the gateway and not in our records: the same key brings it back, and a new one pays."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    with monkeypatch.context() as patched:
        patched.setattr(shop.refunds.__class__, "_note", dying)
        await shop.killed(lambda: shop.work(refund.id))
    assert (await shop.refund(refund.id)).declines == 0
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).declines == 1
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert set(shop.gateway.keys("refund")) == {f"refund:{refund.id}", f"refund:{refund.id}:2"}
    await shop.assert_paid_once(refund.id)


async def test_killed_after_the_commit(shop: Shop) -> None:
    """The message was never acknowledged and comes again, to a job that is done."""
    refund = await shop.part_refund()
    held = await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND)
    await shop.refunds.process(held, shop.gateway)
    await shop.expire_leases()
    calls = list(shop.gateway.calls)
    assert await shop.work(refund.id, owner="heir") is Verdict.NOTHING_TO_DO
    assert shop.gateway.calls == calls
    await shop.assert_paid_once(refund.id)


@dataclass
class Freezer:
    """Holds a worker at a moment at the gateway until it is let go."""

    def __post_init__(self) -> None:
        """Make the signals."""
        self.frozen, self.woken = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        """Freeze."""
        self.frozen.set()
        await self.woken.wait()


@pytest.mark.parametrize("moment", ["arrived", "moved"])
@pytest.mark.parametrize("fault", [None, "decline", "timeout_after"])
async def test_a_worker_without_its_lease_records_nothing(shop: Shop, moment: Any, fault: Any) -> None:
    """A worker that froze at the gateway and lost its lease goes on after its successor is done, with any answer."""
    refund = await shop.part_refund()
    freeze = Freezer()
    shop.gateway.hooks["refund", moment] = freeze
    if moment == "moved" and fault is not None:
        shop.gateway.faults["refund"] = [fault]
    zombie = asyncio.create_task(shop.work(refund.id, owner="zombie"))
    await freeze.frozen.wait()
    await shop.expire_leases()
    for _ in range(3):
        if await shop.work(refund.id, owner="heir") is Verdict.SUCCEEDED:
            break
    after = await shop.refund(refund.id)
    jobs = await rows(shop.database, "SELECT id, state, failures, fence FROM jobs ORDER BY id")
    freeze.woken.set()
    assert await zombie in {Verdict.LEASE_LOST, Verdict.NOTHING_TO_DO}
    assert await shop.refund(refund.id) == after
    assert await rows(shop.database, "SELECT id, state, failures, fence FROM jobs ORDER BY id") == jobs
    await shop.assert_paid_once(refund.id)


async def test_who_lost_the_job_sends_nothing(shop: Shop) -> None:
    refund = await shop.part_refund()
    lost = await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND)
    await shop.expire_leases()
    held = await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND)
    with pytest.raises(job_service.LeaseLostError):
        await shop.refunds.process(lost, shop.gateway)
    assert shop.gateway.keys("refund") == []
    assert await shop.refund(refund.id) == refund
    await shop.refunds.process(held, shop.gateway)
    await shop.assert_paid_once(refund.id)


@pytest.mark.parametrize("fault", ["decline", "timeout_after"])
async def test_who_lost_the_job_notes_nothing(shop: Shop, fault: Any) -> None:
    """PENDING, written by an old worker while its successor sends, would mean to the next worker that nothing was sent."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = [fault]

    async def lose() -> None:
        await shop.expire_leases()
        await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND)

    shop.gateway.hooks["refund", "moved"] = lose
    assert await shop.work(refund.id, owner="zombie") is Verdict.LEASE_LOST
    row = await shop.refund(refund.id)
    assert (row.state, row.declines, row.last_error) == ("PROCESSING", 0, None)


@pytest.mark.req("REQ-004.6")
async def test_of_ten_workers_at_once_one_pays(shop: Shop) -> None:
    refund = await shop.part_refund()
    verdicts = await asyncio.gather(*(shop.work(refund.id, owner=f"worker {number}") for number in range(10)))
    assert sorted(verdicts) == [Verdict.NOTHING_TO_DO] * 9 + [Verdict.SUCCEEDED]
    await shop.assert_paid_once(refund.id)


async def test_of_ten_workers_that_claim_one_job_one_pays(shop: Shop) -> None:
    """Leases that run out one after the other, while each worker goes on: the worst that clocks can do."""
    refund = await shop.part_refund()
    claims = []
    for _ in range(10):
        claims.append(await claim_for(shop.database, refund.id, JobKind.PROCESS_REFUND))
        await shop.expire_leases()
    results = await asyncio.gather(
        *(shop.refunds.process(held, shop.gateway) for held in claims), return_exceptions=True
    )
    assert [type(result) for result in results] == [job_service.LeaseLostError] * 9 + [type(None)]
    await shop.assert_paid_once(refund.id)
