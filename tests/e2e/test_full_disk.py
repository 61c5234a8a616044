"""A full disk under the whole system: writes get 503, reads go on, no process ends, and all heals by itself."""

from pathlib import Path
from typing import Any

import pytest

from devtools.embedded.run import running_stack
from devtools.embedded.stack import StackOptions
from tests.databases import TestServers
from tests.e2e.conftest import Journey, eventually
from tests.factories import order_payload
from tests.small_disk import small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.req("NFR-003.1"), pytest.mark.xdist_group("stack")]

MEGABYTES = 400


def test_a_full_disk(tmp_path: Path, servers: TestServers) -> None:
    if servers.given:
        pytest.skip("the disk of given servers is not ours to fill")
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        options = StackOptions(disk.folder / "data", port=0, environment={"RATE_LIMIT_PER_MINUTE": "0"})
        with running_stack(options) as running:
            journey = Journey(running)
            order = journey.order()
            journey.move(order, "PAID")
            pids = running.info.pids

            def health() -> Any:
                # 503 when a busy machine does not answer in time.
                key = {"X-API-Key": str(running.info.api_key)}
                return journey.http.get(f"{running.info.api}/api/v1/health", headers=key).json()

            eventually("all is well", lambda: health()["status"] == "ok")
            disk.fill()

            def write_is_refused() -> bool:
                answer = journey.http.post(
                    f"{running.info.api}/api/v1/orders",
                    headers={"X-API-Key": str(running.info.api_key)},
                    json=order_payload(),
                )
                # What fits into a page that is there already is written.
                assert answer.status_code in {201, 503}, answer.text
                if answer.status_code == 503:
                    assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
                    assert answer.headers["retry-after"]
                return answer.status_code == 503

            eventually("a write is refused", write_is_refused)
            for _ in range(50):
                write_is_refused()
                assert journey.call("GET", f"/orders/{order['id']}")["status"] == "PAID"
                assert journey.call("GET", "/orders?limit=1")["data"]
                assert journey.call("GET", "/metrics")
            eventually("health names the disk", lambda: str(disk.folder) in health()["checks"]["disk"].get("hint", ""))
            said = "PostgreSQL's disk is full"
            eventually("and the database", lambda: said in health()["checks"]["database"].get("hint", ""))
            assert running.info.pids == pids
            disk.free()
            eventually("writes go on", lambda: not write_is_refused())
            after = journey.order(customer_email="after-the-full-disk@example.com")
            journey.move(after, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
            eventually("all is well again", lambda: health()["status"] == "ok")
            eventually("the invoice is mailed", lambda: journey.mails("after-the-full-disk@example.com"))
            assert running.info.pids == pids
            assert journey.call("GET", "/audit/verify")["ok"]
            journey.http.close()
