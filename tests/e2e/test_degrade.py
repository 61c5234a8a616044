"""With Redis, mail, storage or the gateway away the API answers, says so, and catches up (NFR-003).

Away means frozen: the part is there, takes connections, and never says a word. That is worse than a part that is dead,
which refuses at once, and no supervisor restarts it during the test.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import Journey, eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.req("NFR-003.1"),
    pytest.mark.xdist_group("stack"),
]

SHIPPED = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
PATIENT_SECONDS = 5.0
"""A call that takes longer hangs."""


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Freeze processes while the context lasts."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def pid_of_mail_catcher(journey: Journey) -> list[int]:
    """Return the process that the supervisor started last as `mail`."""
    log = (Path(journey.stack.info.data_dir) / "logs" / "supervisor.log").read_text()
    return [int(re.findall(r"mail ready .*pid (\d+)", log)[-1])]


@contextmanager
def without_storage(journey: Journey) -> Iterator[None]:
    """Put a file where the storage's folder was."""
    folder = Path(journey.stack.info.data_dir) / "storage"
    folder.mkdir(exist_ok=True)
    folder.rename(folder.with_name("storage.away"))
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        folder.with_name("storage.away").rename(folder)


def is_down(journey: Journey, part: str) -> bool:
    """Return whether health says that a part is down, and the whole no worse than degraded."""
    report = journey.call("GET", "/health")
    check: dict[str, Any] = report["checks"][part]
    assert report["status"] in {"ok", "degraded"}
    assert check["status"] == "ok" or (check["hint"] and report["status"] == "degraded")
    return bool(check["status"] == "down")


def is_well(journey: Journey) -> bool:
    return bool(journey.call("GET", "/health")["status"] == "ok")


@pytest.fixture
def patient(journey: Journey) -> Iterator[Journey]:
    """A journey on a system that is well before and after, on which no call may hang."""
    eventually("all is well", lambda: is_well(journey))
    with httpx2.Client(timeout=PATIENT_SECONDS) as client:
        journey.http.close()
        journey.http = client
        yield journey
        eventually("all is well again", lambda: is_well(journey))
    [(dead,)] = journey.rows("SELECT count(*) FROM jobs WHERE state = 'DEAD'")
    assert dead == 0


def works(journey: Journey, **fields: Any) -> dict[str, Any]:
    """Write and read as people do; return an order that was shipped."""
    order = journey.order(**fields)
    journey.move(order, *SHIPPED)
    assert journey.call("GET", f"/orders/{order['id']}")["status"] == "SHIPPED"
    assert journey.call("GET", f"/orders/{order['id']}/history")["data"]
    assert journey.call("GET", "/orders?limit=1")["data"]
    return order


def invoices_of(journey: Journey, order: dict[str, Any]) -> int:
    [(count,)] = journey.rows(
        "SELECT count(*) FROM invoices WHERE kind = 'INVOICE' AND state = 'ISSUED' AND order_id = %s", order["id"]
    )
    return int(count)


def once(journey: Journey, order: dict[str, Any]) -> None:
    """Wait until the invoice is stored and mailed; it must have been done once."""
    to = order["customer_email"]

    def subjects() -> list[str]:
        return [mail["subject"] for mail in journey.mails(to)]

    eventually("invoice issued", lambda: invoices_of(journey, order) == 1)
    eventually("invoice mailed", lambda: any("nvoice" in subject for subject in subjects()))
    eventually("told of shipping", lambda: any("way" in subject or "shipped" in subject for subject in subjects()))
    assert journey.call("GET", f"/orders/{order['id']}/invoice").startswith(b"%PDF-")
    assert len([subject for subject in subjects() if "nvoice" in subject]) == 1


def test_without_redis(patient: Journey) -> None:
    pids = patient.stack.info.pids["redis"]
    if not pids:
        pytest.skip("redis is not ours to freeze on given servers")
    with frozen(pids):
        order = works(patient, customer_email="without-redis@example.com")
        eventually("health says so", lambda: is_down(patient, "redis"))
        assert invoices_of(patient, order) == 0
    once(patient, order)


def test_without_mail(patient: Journey) -> None:
    with frozen(pid_of_mail_catcher(patient)):
        order = works(patient, customer_email="without-mail@example.com")
        eventually("health says so", lambda: is_down(patient, "smtp"))
        eventually("invoice issued all the same", lambda: invoices_of(patient, order) == 1)
    once(patient, order)


def test_without_storage(patient: Journey) -> None:
    before = works(patient, customer_email="before@example.com")
    eventually("invoice issued", lambda: invoices_of(patient, before) == 1)
    with without_storage(patient):
        order = works(patient, customer_email="without-storage@example.com")
        eventually("health says so", lambda: is_down(patient, "storage"))
        patient.call("GET", f"/orders/{before['id']}/invoice", expect=503)
        assert invoices_of(patient, order) == 0
    once(patient, order)


def test_without_the_gateway(patient: Journey) -> None:
    order = patient.order(customer_email="without-gateway@example.com")
    patient.move(order, "PAID")
    with frozen(patient.stack.info.pids["gateway"]):
        patient.call("POST", f"/orders/{order['id']}/cancel", json={})
        works(patient)
        eventually("health says so", lambda: is_down(patient, "gateway"))
        [refund] = patient.call("GET", f"/refunds?order_id={order['id']}")["data"]
        assert refund["state"] != "SUCCEEDED"

    def paid() -> bool:
        [found] = patient.call("GET", f"/refunds?order_id={order['id']}")["data"]
        return bool(found["state"] == "SUCCEEDED")

    eventually("paid back", paid)
    [movement] = patient.ledger(f"/v1/refunds?reference={refund['id']}")["data"]
    assert float(movement["amount"]) == refund["amount"] == order["total_amount"]
