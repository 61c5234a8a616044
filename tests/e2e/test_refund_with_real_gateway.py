"""The refund job against the mock gateway behind a real socket; its own ledger says what was paid."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderCancel, OrderStateUpdate
from app.services.jobs.service import JobKind
from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.http import HttpPaymentGateway
from app.services.payments.webhooks import WebhookVerifier
from app.tasks.runner import Verdict
from tests.conftest import MovableClock
from tests.integration.jobs_support import order_in, refund_of
from tests.integration.money_support import RefundRow, Shop
from tests.unit.gateway_support import SECRET, LiveGateway, Receiver, adapter, live_gateway, wait_for, webhook_receiver

pytestmark = [pytest.mark.e2e, pytest.mark.req("REQ-004"), pytest.mark.req("INT-001")]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def live(tmp_path: Path, receiver: Receiver) -> Iterator[LiveGateway]:
    with live_gateway(tmp_path / "gateway", webhook_url=receiver.url) as live:
        yield live


@pytest.fixture
async def gateway(live: LiveGateway) -> AsyncIterator[HttpPaymentGateway]:
    """A client as patient as a busy machine needs, and whose circuit breaker stays out of the way."""
    async with adapter(live.url, 20.0, breaker=CircuitBreaker(threshold=100)) as gateway:
        yield gateway


@pytest.fixture
async def hasty(live: LiveGateway) -> AsyncIterator[HttpPaymentGateway]:
    """A client that gives up after a second: for the one try that meets a slow answer."""
    async with adapter(live.url, 1.0, breaker=CircuitBreaker(threshold=100)) as gateway:
        yield gateway


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def due(shop: Shop, **fields: Any) -> RefundRow:
    """Return the refund of an order that was marked PAID and cancelled before its money was even collected."""
    order = await shop.ordered(**fields)
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    return await refund_of(shop.database, order["id"])


async def due_in_part(shop: Shop) -> RefundRow:
    """Return a refund of part of what was paid: the gateway could pay it more than once."""
    order = await order_in(shop.orders, shop.admin, OrderStatus.DELIVERED)
    return await refund_of(shop.database, (await shop.returned(Decimal("50.00"), order=order))["order_id"])


async def worked(shop: Shop, gateway: HttpPaymentGateway, refund: RefundRow, tries: int = 3) -> list[Verdict]:
    """Carry out the refund's job until it is done; return how each try ended."""
    verdicts: list[Verdict] = []
    while len(verdicts) < tries and Verdict.SUCCEEDED not in verdicts:
        verdicts.append(await shop.work(refund.id, gateway=gateway))
    return verdicts


async def assert_one_movement(shop: Shop, live: LiveGateway, refund: RefundRow) -> None:
    """Compare our records with the gateway's: taken once, paid back once, the right amount."""
    row = await shop.refund(refund.id)
    assert row.state == "SUCCEEDED"
    entries = [entry for entry in live.ledger()["movements"] if entry["reference"] == str(refund.id)]
    assert [(entry["type"], entry["amount"], entry["refund"]) for entry in entries] == [
        ("refund", str(row.amount), row.gateway_refund_id)
    ]
    assert live.moved(refund.order_id, "capture") == 1
    assert await shop.job_state(refund.id) == "SUCCEEDED"
    assert await shop.follow_ups(refund.id) == [JobKind.ISSUE_CREDIT_NOTE, JobKind.NOTIFY_REFUND_PROCESSED]


@pytest.mark.req("REQ-004.6")
@pytest.mark.parametrize(
    ("mode", "tries"),
    [
        (None, 1),
        ("decline", 2),
        ("error_before", 2),
        ("error_after", 2),
        ("timeout_before", 2),
        ("timeout_after", 2),
        ("reset_after", 2),
        ("unavailable", 2),
        ("duplicate_webhook", 1),
        ("drop_webhook", 1),
    ],
)
async def test_one_movement_of_the_right_amount(
    shop: Shop,
    live: LiveGateway,
    gateway: HttpPaymentGateway,
    hasty: HttpPaymentGateway,
    mode: str | None,
    tries: int,
) -> None:
    refund = await due_in_part(shop)
    is_slow = mode is not None and mode.startswith("timeout")
    if mode is not None:
        live.fault("refund", mode, **({"delay_seconds": 2} if is_slow else {}))
    verdicts = await worked(shop, hasty, refund, tries=1) if is_slow else []
    verdicts += await worked(shop, gateway, refund)
    assert verdicts == [Verdict.POSTPONED] * (tries - 1) + [Verdict.SUCCEEDED]
    await assert_one_movement(shop, live, refund)
    found = await shop.refunds.reconcile(gateway)
    assert (found.differences, found.ours, found.theirs) == ([], 1, 1)


@pytest.mark.parametrize("idempotency", ["2xx_only", "none"])
@pytest.mark.parametrize("mode", ["error_after", "reset_after", "decline"])
async def test_gateways_with_weaker_keys(
    shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway, idempotency: str, mode: str
) -> None:
    live.profile(idempotency=idempotency, lookup=True)
    refund = await due_in_part(shop)
    live.fault("refund", mode)
    assert (await worked(shop, gateway, refund))[-1] is Verdict.SUCCEEDED
    await assert_one_movement(shop, live, refund)


async def test_a_look_up_that_fails_sends_nothing(shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway) -> None:
    refund = await due(shop)
    live.fault("refund", "reset_after")
    assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED
    live.fault("lookup", "error_before", times=2)
    for _ in range(2):
        assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED
        assert (await shop.refund(refund.id)).state == "UNKNOWN"
    assert await shop.work(refund.id, gateway=gateway) is Verdict.SUCCEEDED
    await assert_one_movement(shop, live, refund)


async def test_a_call_that_is_carried_out_after_we_gave_up(
    shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway, hasty: HttpPaymentGateway
) -> None:
    """Declined, tried again, and that second call is slow: it must not be taken for the declined one and paid a third time."""
    refund = await due_in_part(shop)
    live.fault("refund", "decline")
    assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED
    live.fault("refund", "delay", delay_seconds=2.2)
    assert await shop.work(refund.id, gateway=hasty) is Verdict.POSTPONED
    assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).state == "UNKNOWN"
    await asyncio.to_thread(wait_for, lambda: live.moved(refund.id, "refund") == 1)
    assert await shop.work(refund.id, gateway=gateway) is Verdict.SUCCEEDED
    await assert_one_movement(shop, live, refund)


@pytest.mark.req("REQ-004.11")
async def test_a_gateway_that_stays_down_ends_with_a_person(
    shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway
) -> None:
    order = await shop.ordered()
    live.charge(order["id"], f"{order['total_amount']:.2f}", order["currency"], "tok_refund_fails")
    await shop.orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), shop.admin)
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, order["id"])
    verdicts = [await shop.work(refund.id, gateway=gateway, refund_retries=2) for _ in range(3)]
    assert verdicts == [Verdict.POSTPONED, Verdict.POSTPONED, Verdict.DEAD_LETTERED]
    assert ((await shop.refund(refund.id)).state, live.moved(refund.id, "refund")) == ("FAILED", 0)


async def test_what_the_gateway_reports_without_a_request(
    shop: Shop, live: LiveGateway, gateway: HttpPaymentGateway, receiver: Receiver, clock: MovableClock
) -> None:
    """Each event twice, the answer to the refund lost: the webhook settles it, and the job finds it settled."""
    live.fault("refund", "duplicate_webhook")
    live.fault("refund", "reset_after")
    refund = await due(shop)
    assert await shop.work(refund.id, gateway=gateway) is Verdict.POSTPONED

    def told() -> list[Any]:
        return [delivery for delivery in receiver.deliveries if delivery.event["type"] == "refund.succeeded"]

    await asyncio.to_thread(wait_for, lambda: len(told()) == 2)
    verifier = WebhookVerifier(SECRET, timedelta(minutes=5), clock)
    events = [verifier.proven(verifier.claimed(delivery.headers), delivery.body) for delivery in told()]
    outcomes = await asyncio.gather(*(shop.payments.receive_webhook(event) for event in events))
    assert sorted(outcomes) == ["DUPLICATE", "REFUND_SETTLED"]
    assert await shop.work(refund.id, gateway=gateway) is Verdict.SUCCEEDED
    await assert_one_movement(shop, live, refund)
