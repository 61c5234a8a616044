"""Killing any process, or emptying Redis, in the middle of work: nothing lost, nothing done twice."""

import os
import signal
from collections.abc import Callable

import psycopg
import pytest
from redis import Redis

from tests.e2e.conftest import Journey, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack")]


def _kill(part: str) -> Callable[[Journey], None]:
    def kill(journey: Journey) -> None:
        for pid in journey.stack.info.pids[part]:
            os.kill(pid, signal.SIGKILL)

    return kill


def _flush(journey: Journey) -> None:
    with Redis.from_url(journey.stack.info.redis_url) as client:
        client.flushdb()


FAULTS: dict[str, Callable[[Journey], None]] = {
    "worker": _kill("worker"),
    "relay": _kill("relay"),
    "gateway": _kill("gateway"),
    "redis": _kill("redis"),
    "postgres": _kill("postgres"),
    "redis emptied": _flush,
}


@pytest.mark.req("NFR-003.4", "REQ-004.10")
@pytest.mark.parametrize("fault", list(FAULTS))
def test_work_survives(journey: Journey, fault: str) -> None:
    if fault in journey.stack.info.pids and not journey.stack.info.pids[fault]:
        pytest.skip(f"{fault} is not ours to kill on given servers")
    orders = [journey.order(customer_email=f"{fault.replace(' ', '-')}{n}@example.com") for n in range(6)]
    for order in orders:
        journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    cancelled = [journey.order() for _ in range(3)]
    for order in cancelled:
        journey.move(order, "PAID")
        journey.call("POST", f"/orders/{order['id']}/cancel", json={})
    FAULTS[fault](journey)
    ids = [order["id"] for order in orders + cancelled]
    paid_back = [order["id"] for order in cancelled]

    def all_done() -> bool:
        try:
            [(open_refunds,)] = journey.rows(
                "SELECT count(*) FROM refunds WHERE order_id = ANY(%s::uuid[]) AND state <> 'SUCCEEDED'", paid_back
            )
            [(open_jobs,)] = journey.rows(
                "SELECT count(*) FROM jobs WHERE state IN ('PENDING', 'PUBLISHED', 'RUNNING')"
            )
        except psycopg.OperationalError:
            return False  # just being healed
        return bool(open_refunds == open_jobs == 0)

    eventually("all work done", all_done)
    [(invoices,)] = journey.rows(
        "SELECT count(*) FROM invoices WHERE kind = 'INVOICE' AND state = 'ISSUED' AND order_id = ANY(%s::uuid[])", ids
    )
    assert invoices == len(orders)
    [(dead,)] = journey.rows("SELECT count(*) FROM jobs WHERE state = 'DEAD'")
    assert dead == 0
    for order_id in paid_back:
        [refund] = journey.call("GET", f"/refunds?order_id={order_id}")["data"]
        [movement] = journey.ledger(f"/v1/refunds?reference={refund['id']}")["data"]
        assert float(movement["amount"]) == refund["amount"]
    assert journey.call("GET", "/audit/verify")["ok"]
