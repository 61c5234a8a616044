"""Processes are killed while many callers share statements: what was answered is stored once, and what is stored is sound."""

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.databases import TestServers
from tests.e2e.conftest import eventually
from tests.e2e.killing import API_KEY, Api, killed_api
from tests.factories import order_payload
from tests.integration.conftest import TO_DELIVERED
from tests.profile import PROFILE

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("ARTICURATED_KILLS") or (6 if PROFILE == "local" else 12))
CALLERS = 16
# A commit of a set takes longer, the more requests are in it.
SLOW_COMMITS = """
CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION slow_commit()
"""
COMMITTING = "EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')"


@pytest.fixture
def api(servers: TestServers, tmp_path: Path) -> Iterator[Api]:
    with killed_api(servers, tmp_path, SLOW_COMMITS) as running:
        yield running


@dataclass
class Caller:
    """Creates orders and takes each to DELIVERED, without an `Idempotency-Key`; notes what was answered."""

    http: httpx2.Client
    stop: threading.Event
    created: list[str] = field(default_factory=list)
    moved: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unanswered: int = 0
    refused: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Go on until it is stopped."""
        while not self.stop.is_set():
            made = self._ask("POST", "/orders", order_payload(customer_email=f"{uuid4()}@example.com"))
            if made is None:
                continue
            order_id = made["id"]
            self.created.append(order_id)
            for state in TO_DELIVERED:
                # Not answered is not undone: the order says whether it moved.
                while self._ask("PATCH", f"/orders/{order_id}/state", {"new_state": state}) is None:
                    shown = eventually("the order", lambda: self._ask("GET", f"/orders/{order_id}"))  # noqa: B023
                    if shown["status"] == state:
                        break
                else:
                    self.moved[order_id].append(state)

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, str] | None:
        try:
            response = self.http.request(method, path, json=body)
        except httpx2.TransportError:
            self.unanswered += 1
            return None
        if response.status_code >= 500:
            self.unanswered += 1
            return None
        if response.status_code >= 400:
            self.refused.append(response.text)
        found: dict[str, str] = response.json()
        return found


def verification(http: httpx2.Client) -> dict[str, Any] | None:
    """Return what a verification of the audit trail found, once it is done."""
    try:
        answer = http.get("/audit/verify")
    except httpx2.TransportError:
        return None
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 else None


@pytest.mark.req("REQ-001", "NFR-003", "REQ-003")
def test_killed_while_requests_share_a_statement_nothing_answered_is_lost(api: Api) -> None:
    stop = threading.Event()
    clients = [
        httpx2.Client(base_url=f"{api.url}/api/v1", headers={"X-API-Key": API_KEY}, timeout=30) for _ in range(CALLERS)
    ]
    callers = [Caller(client, stop) for client in clients]
    with ThreadPoolExecutor(CALLERS) as threads:
        running = [threads.submit(caller.run) for caller in callers]
        try:
            for number in range(KILLS):
                eventually("both processes", lambda: len(api.workers()) == 2)
                api.await_moment(COMMITTING, running)
                api.kill(1 + number % 2)
        finally:
            stop.set()
        for done in running:
            done.result()
    verified = eventually("the verification", lambda: verification(clients[0]))
    for client in clients:
        client.close()
    assert verified["ok"] is True, verified

    history = defaultdict(list)
    for entity, seq, before, after in api.rows(
        "SELECT entity_id::text, seq, previous_state, new_state FROM state_history ORDER BY entity_id, seq"
    ):
        history[entity].append((seq, before, after))
    for steps in history.values():
        assert [seq for seq, _, _ in steps] == list(range(1, len(steps) + 1))
        assert all(after == before for (_, _, after), (_, before, _) in pairwise(steps))
    stored = Counter(entity for (entity,) in api.rows("SELECT id::text FROM orders"))
    for caller in callers:
        # A step that was carried out without an answer is tried again, and refused.
        assert all("INVALID_STATE_TRANSITION" in text for text in caller.refused)
        for order_id in caller.created:
            assert stored[order_id] == 1
        for order_id, states in caller.moved.items():
            arrived = [after for _, _, after in history[order_id]]
            assert set(states) <= set(arrived)
            assert arrived == list(TO_DELIVERED)[: len(arrived)]
    acknowledged = sum(len(caller.created) for caller in callers)
    unanswered = sum(caller.unanswered for caller in callers)
    assert acknowledged <= len(stored) <= acknowledged + unanswered
    whole = (
        "SELECT count(*) FROM orders o WHERE (SELECT count(*) FROM payments p WHERE p.order_id = o.id) <> 1"
        " OR (SELECT count(*) FROM order_search s WHERE s.order_id = o.id AND s.source = 'order') <> 1"
        " OR (SELECT count(*) FROM order_line_items l WHERE l.order_id = o.id) = 0"
        " OR (SELECT array_agg(e.seq ORDER BY e.seq) FROM events e WHERE e.entity_type = 'ORDER' AND e.entity_id = o.id)"
        " <> (SELECT array_agg(n) FROM generate_series(1, o.version) n)"
        " OR (SELECT count(*) FROM state_history h WHERE h.entity_id = o.id) <> o.version - 1"
    )
    assert api.rows(whole) == [(0,)]
    jobs = "SELECT count(*) FROM (SELECT FROM jobs GROUP BY kind, entity_id HAVING count(*) > 1) twice"
    assert api.rows(jobs) == [(0,)]
    print(f"{KILLS} kills, {len(stored)} orders, {sum(map(len, history.values()))} steps, {unanswered} unanswered")  # noqa: T201
    assert unanswered > 0, "no kill hit a request"
