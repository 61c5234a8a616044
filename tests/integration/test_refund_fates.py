"""Random fates of one refund: in every order of faults here and at the gateway, it is paid once (REQ-004)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.config import Settings
from app.core.actor import Actor
from app.database import Database
from app.services.operations.dead_letters import DeadLetterService
from tests.conftest import MovableClock
from tests.integration.jobs_support import rows
from tests.integration.money_support import RefundRow, Shop, die
from tests.profile import examples

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


STEPS = st.lists(
    st.sampled_from(
        [
            "work",
            "work",
            "kill:arrived",
            "kill:moved",
            "late",
            "catch_up",
            "decline",
            "decline",
            "timeout_after",
            "lost",
            "unavailable",
            "pending",
            "decide",
            "bounce",
            "lookup:lost",
            "webhooks",
            "reconcile",
            "retry",
            "last try",
        ]
    ),
    min_size=4,
    max_size=14,
)


@dataclass
class Fate:
    """What a random sequence does to one refund."""

    shop: Shop
    refund: RefundRow

    async def befall(self, step: str) -> None:
        """Let one thing happen, to us or at the gateway."""
        ours: dict[str, Callable[[], Awaitable[Any]]] = {
            "work": self.work,
            "last try": lambda: self.work(refund_retries=0),
            "webhooks": self.tell_all,
            "reconcile": lambda: self.shop.refunds.reconcile(self.shop.gateway, repair=True),
            "retry": self.retry,
        }
        if step in ours:
            await ours[step]()
        else:
            self.order(step)

    def order(self, step: str) -> None:
        """Let something happen at the gateway, now or at the next call."""
        gateway = self.shop.gateway
        match step.split(":"):
            case ["kill", moment]:
                gateway.hooks["refund", moment] = die  # type: ignore[index]
            case ["lookup", mode]:
                gateway.faults["lookup"].append(mode)  # type: ignore[arg-type]
            case ["catch_up"]:
                gateway.catch_up()
            case ["decide"] | ["bounce"]:
                for known in [known for known in gateway.refunds.values() if known.status == "pending"]:
                    gateway.decide(known.id, paid=step == "decide")
            case _:
                gateway.faults["refund"].append(step)  # type: ignore[arg-type]

    async def tell_all(self) -> None:
        """Deliver a webhook about every attempt, as late as gateways do."""
        for known in list(self.shop.gateway.refunds.values()):
            if known.reference == self.refund.id and known.status != "pending":
                await self.shop.tell(f"refund.{known.status}", known)

    async def work(self, **changes: Any) -> None:
        """Let a worker have a go at the job, and survive it or not."""
        work = asyncio.ensure_future(self.shop.work(self.refund.id, **changes))
        await asyncio.wait({work})
        if work.exception() is not None:
            await self.shop.killed(lambda: work)

    async def retry(self) -> None:
        """Let a person retry what is dead."""
        letters = await rows(self.shop.database, "SELECT id FROM dead_letters WHERE resolution IS NULL")
        for letter in letters:
            await DeadLetterService(self.shop.database).retry(UUID(str(letter.id)), self.shop.admin)

    async def check(self) -> None:
        """Money moved at most once, and our records never show more than the gateway's."""
        moved = self.shop.gateway.moved("refund", self.refund.id)
        assert len(moved) <= 1
        row = await self.shop.refund(self.refund.id)
        if row.state == "SUCCEEDED":
            assert moved == [row.amount]
        if row.state in {"PENDING", "FAILED"}:
            assert moved == []
        payment = await self.shop.payment(self.refund.order_id)
        assert row.amount <= payment.refund_reserved_amount <= payment.captured_amount


@pytest.mark.req("REQ-002.7", "REQ-004.6")
@given(steps=STEPS)
@hypothesis_settings(
    max_examples=examples(15),
    deadline=timedelta(seconds=30),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_a_refund_is_always_paid_once(shop: Shop, steps: list[str]) -> None:
    shop.gateway.faults.clear()
    shop.gateway.hooks.clear()
    fate = Fate(shop, await shop.part_refund())
    for step in steps:
        await fate.befall(step)
        await fate.check()
    shop.gateway.faults.clear()
    shop.gateway.hooks.clear()
    shop.gateway.catch_up()
    await fate.befall("decide")
    for _ in range(8):
        await fate.retry()
        await fate.work()
    await shop.assert_paid_once(fate.refund.id)
