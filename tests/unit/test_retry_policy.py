"""Retry policies as a table (REQ-004)."""

import pytest

from app.config import Settings
from app.core.enums import Queue
from app.services.jobs.service import JobKind, RetryPolicy, policy_for, queue_of

pytestmark = pytest.mark.req("REQ-004")


@pytest.mark.req("REQ-004.4")
@pytest.mark.parametrize(
    ("queue", "retries", "waits"),
    [
        (Queue.INVOICES, 3, [30, 60, 120]),
        (Queue.REFUNDS, 5, [120, 240, 480, 960, 1800]),
        (Queue.NOTIFICATIONS, 5, [30, 60, 120, 240, 480]),
    ],
)
def test_defaults_are_those_of_the_contract(queue: Queue, retries: int, waits: list[float]) -> None:
    policy = policy_for(queue, Settings(_env_file=None))
    assert policy.retries == retries
    steady = RetryPolicy(policy.retries, policy.base, policy.cap, jitter=0)
    assert [steady.delay(n).total_seconds() for n in range(1, retries + 1)] == waits


@pytest.mark.req("REQ-004.4")
def test_the_last_invoice_retry_meets_the_five_minutes() -> None:
    policy = policy_for(Queue.INVOICES, Settings(_env_file=None))
    longest = sum(policy.base * 2**n for n in range(policy.retries)) * (1 + policy.jitter)
    tries = (policy.retries + 1) * 12
    assert longest + tries < 300


@pytest.mark.req("REQ-004.4")
def test_refund_retries_end_within_two_hours() -> None:
    policy = policy_for(Queue.REFUNDS, Settings(_env_file=None))
    steady = RetryPolicy(policy.retries, policy.base, policy.cap, jitter=0)
    waits = sum(steady.delay(n).total_seconds() for n in range(1, policy.retries + 1))
    assert waits * (1 + policy.jitter) + (policy.retries + 1) * 25 < 7200


def test_jitter_spreads_within_its_bounds() -> None:
    policy = RetryPolicy(retries=3, base=100, cap=1000)
    waits = {policy.delay(1).total_seconds() for _ in range(500)}
    assert len(waits) > 400
    assert 90 <= min(waits) < 93
    assert 107 < max(waits) <= 110


def test_the_thousandth_failure_waits_no_longer_than_the_cap() -> None:
    assert RetryPolicy(retries=1, base=30, cap=600, jitter=0).delay(10_000).total_seconds() == 600


@pytest.mark.parametrize("kind", JobKind)
def test_every_kind_has_a_queue(kind: JobKind) -> None:
    expected = dict.fromkeys(("invoice", "credit_note"), Queue.INVOICES)
    expected |= dict.fromkeys(("notify", "sms", "chat"), Queue.NOTIFICATIONS)
    assert queue_of(kind) is expected.get(kind.partition(".")[0], Queue.REFUNDS)
