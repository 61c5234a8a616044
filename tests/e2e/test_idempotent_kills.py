"""The API is killed around its answer, again and again: one effect a key, and the first answer for all who ask again."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.databases import TestServers
from tests.e2e.conftest import eventually
from tests.e2e.killing import API_KEY, Api, killed_api
from tests.factories import order_payload
from tests.profile import PROFILE

pytestmark = pytest.mark.e2e

# Six try each moment with one and with both processes killed.
ROUNDS = int(os.environ.get("ARTICURATED_KILLS") or (6 if PROFILE == "local" else 12))
CLIENTS = 8
COMMIT_SECONDS = 0.06

# PostgreSQL ends a COMMIT that it was asked for, whether or not the one who asked still lives. Made slow, it is what a
# kill hits most often: the request is carried out, and there was no answer.
SLOW_COMMITS = f"""
CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({COMMIT_SECONDS}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON idempotency_keys DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION slow_commit()
"""
# When to kill: a request has just begun, several are at work, one is being committed.
_LOCKS = (
    "(SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE l.locktype = 'advisory' AND d.datname = current_database())"
)
_COMMIT = (
    "EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active')"
)
MOMENTS = (_COMMIT, f"{_LOCKS} >= 1", f"{_LOCKS} >= {CLIENTS // 2}")


@dataclass
class Wish:
    """A request with its key, until it is answered."""

    method: str
    path: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: str(uuid4()))
    unanswered: int = 0

    def send(self, http: httpx2.Client) -> httpx2.Response:
        """Send it once."""
        return http.request(self.method, self.path, json=self.body, headers={"Idempotency-Key": self.key})

    def insist(self, http: httpx2.Client) -> httpx2.Response:
        """Send it until there is an answer; one that is still at work is asked for again."""

        def answered() -> httpx2.Response | None:
            try:
                response = self.send(http)
            except httpx2.TransportError:
                self.unanswered += 1
                return None
            is_at_work = response.status_code == 409 and "IDEMPOTENCY_KEY_IN_USE" in response.text
            return None if is_at_work or response.status_code >= 500 else response

        return eventually(f"an answer to {self}", answered)


@pytest.fixture
def api(servers: TestServers, tmp_path: Path) -> Iterator[Api]:
    with killed_api(servers, tmp_path, SLOW_COMMITS) as running:
        yield running


@pytest.mark.req("REQ-005", "NFR-003")
def test_killed_before_it_answered_it_answers_the_same(api: Api) -> None:
    fresh: list[str] = []
    done: list[tuple[Wish, httpx2.Response]] = []
    headers = {"X-API-Key": API_KEY}
    with (
        httpx2.Client(base_url=f"{api.url}/api/v1", headers=headers, timeout=30) as http,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        for number in range(ROUNDS):
            wishes = [Wish("PATCH", f"/orders/{order_id}/state", {"new_state": "PAID"}) for order_id in fresh]
            while len(wishes) < CLIENTS:
                key = str(uuid4())
                wishes.append(Wish("POST", "/orders", order_payload(customer_email=f"{key}@example.com"), key))
            asked: list[Future[httpx2.Response]] = [clients.submit(wish.insist, http) for wish in wishes]
            api.await_moment(MOMENTS[number % 3], asked)
            # One of two, and the other one answers at once; both, and everyone waits until one is healed.
            api.kill(1 + number % 2)
            answered = [future.result() for future in asked]
            fresh = [answer.json()["id"] for answer in answered if answer.status_code == 201][: CLIENTS // 2]
            done += zip(wishes, answered, strict=True)
        for wish, first in done:
            assert first.status_code == (201 if wish.method == "POST" else 200), first.text
            again = wish.insist(http)
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["Idempotency-Replayed"] == "true"
    made = [wish.key for wish, _ in done if wish.method == "POST"]
    emails = api.rows("SELECT customer_email, count(*) FROM orders GROUP BY 1")
    assert sorted(emails) == sorted((f"{key}@example.com", 1) for key in made)
    moved = sorted(wish.path.split("/")[2] for wish, _ in done if wish.method == "PATCH")
    history = api.rows("SELECT entity_id::text, count(*) FROM state_history GROUP BY 1 ORDER BY 1")
    assert history == [(order_id, 1) for order_id in moved]
    assert api.rows("SELECT count(*) FROM transition_rejections") == [(0,)]
    lost = sum(wish.unanswered for wish, _ in done)
    late = sum("Idempotency-Replayed" in first.headers for _, first in done)
    print(f"{ROUNDS} kills, {len(done)} keys, {lost} tries without an answer, {late} of them had been carried out")  # noqa: T201
    assert lost > late > 0, "no kill hit a request, or none between its effect and its answer"
