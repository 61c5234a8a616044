"""The whole system as real processes, once for all journeys of a test worker."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import httpx2
import psycopg
import pytest
from sqlalchemy import make_url

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from app.utils.clock import utc_now, uuid7
from devtools.embedded.run import RunningStack, running_stack
from devtools.embedded.stack import StackOptions
from tests import databases
from tests.databases import TestServers
from tests.factories import order_payload

T = TypeVar("T")
PATIENCE_SECONDS = 120.0


def eventually(what: str, look: Callable[[], T | None]) -> T:
    """Look until there is something other than None or False; say what was missing otherwise."""
    deadline = monotonic() + PATIENCE_SECONDS
    while monotonic() < deadline:
        if seen := look():
            return seen
        sleep(0.1)
    raise AssertionError(f"not within {PATIENCE_SECONDS:.0f} s: {what}")


class Journey:
    """The API of a running system, its database and its mailbox, as its users meet them."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.http = httpx2.Client(timeout=30)

    def token(self, role: Role) -> str:
        """Return a bearer token of that role; tokens of customers are made for their order."""
        return issue_token(Settings(_env_file=None), Principal(uuid7(utc_now()), role), timedelta(hours=1), utc_now())

    def call(self, method: str, path: str, *, expect: int | None = None, **options: Any) -> Any:
        """Send as admin; return the parsed answer."""
        headers = {"X-API-Key": self.stack.info.api_key, **options.pop("headers", {})}
        answer = self.http.request(method, f"{self.stack.info.api}/api/v1{path}", headers=headers, **options)
        wanted = {expect} if expect else {200, 201}
        assert answer.status_code in wanted, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.content

    def order(self, **fields: Any) -> dict[str, Any]:
        """Place an order."""
        order: dict[str, Any] = self.call("POST", "/orders", json=order_payload(**fields))
        return order

    def move(self, order: dict[str, Any], *states: str) -> None:
        """Bring it through states."""
        for state in states:
            self.call("PATCH", f"/orders/{order['id']}/state", json={"new_state": state})

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Ask the database, as the application's own login."""
        with psycopg.connect(self.stack.info.database_url) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def mails(self, recipient: str) -> list[dict[str, Any]]:
        """Return what the mail catcher has for someone."""
        answer = self.http.get(f"{self.stack.info.mail}/api/messages", params={"to": recipient, "limit": 100})
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages

    def ledger(self, path: str) -> Any:
        """Ask the gateway for its ledger."""
        key = Settings(_env_file=None).payment_gateway_api_key.get_secret_value()
        answer = self.http.get(f"{self.stack.info.gateway}{path}", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, servers: TestServers) -> Iterator[RunningStack]:
    """The system on free ports; on given servers when the suite runs on given ones."""
    # Short leases and waits: what is abandoned or fails is tried again within the patience of a test.
    environment = {"JOB_LEASE_SECONDS": "6", "JOB_REDISPATCH_SECONDS": "6"}
    # Journeys that look again and again call far more often than a caller may.
    environment["RATE_LIMIT_PER_MINUTE"] = "0"
    environment |= {f"{queue}_RETRY_BASE_SECONDS": "1" for queue in ("INVOICE", "REFUND", "NOTIFICATION")}
    # A part that hangs is given up soon.
    environment |= {"SMTP_TIMEOUT_SECONDS": "3", "PAYMENT_GATEWAY_TIMEOUT_SECONDS": "3"}
    name = None
    if servers.given:
        name = f"{servers.template}_e2e_{uuid7(utc_now()).hex[-8:]}"
        databases.create_database(servers, name, None)
        environment["DATABASE_URL"] = databases.url_of(servers.owner_url, name)
        environment["REDIS_URL"] = make_url(servers.redis_url).set(database="15").render_as_string(hide_password=False)
    folder = Path(tmp_path_factory.mktemp("system"))
    with running_stack(StackOptions(folder, port=0, environment=environment)) as running:
        yield running
    if name:
        databases.drop_database(servers, name)


@pytest.fixture
def journey(stack: RunningStack) -> Iterator[Journey]:
    journey = Journey(stack)
    with journey.http:
        yield journey
