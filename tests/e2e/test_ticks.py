"""A tick waits behind no job: sweeps go on while a mail server hangs and mails queue up before it (REQ-004)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery

from app.config import ROOT, Settings
from app.core.actor import Actor
from app.core.enums import SWEEPS, OrderStatus, Queue
from app.services.orders.service import OrderService
from app.tasks.celery_app import TASKS
from tests.conftest import MovableClock
from tests.e2e.conftest import eventually
from tests.factories import order_create
from tests.integration.away import hanging, port_of
from tests.integration.jobs_support import order_in
from tests.unit.gateway_support import API_KEY as GATEWAY_KEY
from tests.unit.gateway_support import LiveGateway, live_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.req("REQ-001.5", "REQ-004.8", "NFR-003")]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    """A gateway that answers: it is asked before an unpaid order is cancelled."""
    with live_gateway(tmp_path / "gateway") as live:
        yield live


@pytest.fixture
def mail_worker(settings: Settings, gateway: LiveGateway, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker for mails alone, that sends one at a time, to a server that takes connections and says nothing."""
    silent = hanging()
    environment = {
        **{name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields},
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port_of(silent)),
        "SMTP_TIMEOUT_SECONDS": "2",
        "PAYMENT_GATEWAY_URL": gateway.url,
        "PAYMENT_GATEWAY_API_KEY": GATEWAY_KEY,
        "TMPDIR": str(tmp_path),
    }
    words = ("-P", "-m", "app", "worker", "--concurrency", "1", "--queues", Queue.NOTIFICATIONS)
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    silent.close()


async def test_a_tick_is_carried_out_while_mails_hang(
    orders: OrderService,
    admin: Actor,
    clock: MovableClock,
    owner_connection: psycopg.Connection,
    redis_client: redis.Redis,
    settings: Settings,
    request: pytest.FixtureRequest,
) -> None:
    for _ in range(3):
        await order_in(orders, admin, OrderStatus.PAID)
    clock.now -= timedelta(hours=30)
    unpaid = (await orders.create(order_create(), admin))["id"]
    broker = Celery(broker=settings.redis_url, set_as_current=False)
    mails = owner_connection.execute("SELECT id FROM jobs WHERE queue = 'notifications'").fetchall()
    for (job_id,) in mails:
        broker.send_task(TASKS[Queue.NOTIFICATIONS], args=(str(job_id),), queue=Queue.NOTIFICATIONS.value)
    broker.send_task("app.tasks.scheduled_tasks.cancel_unpaid_orders", queue=SWEEPS)
    request.getfixturevalue("mail_worker")

    def cancelled_at() -> Any:
        moved = "SELECT updated_at FROM orders WHERE id = %s AND status = 'CANCELLED'"
        return owner_connection.execute(moved, (unpaid,)).fetchone()

    [moment] = eventually("the order that nobody paid is cancelled", cancelled_at)
    before = "SELECT count(*) FROM jobs WHERE queue = 'notifications' AND started_at < %s"
    tried = owner_connection.execute(before, (moment,)).fetchone()
    assert tried is not None
    assert tried[0] <= 2 < len(mails), "it waits for those under way, not for those that wait"
