"""Many users at once, each with orders of their own: the mix of requests that section 13's p95 is about (NFR-001).

    .venv/bin/locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless -u 50 -r 10 -t 60s --check-p95

Tokens are signed with the SECRET_KEY of the configuration, which must be that of the system under test. Let it run
with RATE_LIMIT_PER_MINUTE=0, or with so many users that each stays below the limit.
"""

from argparse import Namespace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from app.utils.clock import utc_now, uuid7

READS_MS, WRITES_MS = 200, 500
SETTINGS = Settings()


def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--pause", type=float, default=0.2, help="Seconds that a user thinks before each request.")
    parser.add_argument("--orders", type=int, default=0, help="End after so many orders; 0 when the time is up.")
    parser.add_argument(
        "--check-p95",
        action="store_true",
        help=f"Exit with 1 when the p95 of a read is above {READS_MS} ms or that of a write above {WRITES_MS} ms.",
    )


def _judge(environment: Environment, **_: Any) -> None:
    """Compare each kind of request with its bar; requests that failed make Locust's own exit code 1."""
    if not environment.stats.total.num_requests:
        print("no request was made")
        environment.process_exit_code = 1
    if not cast(Namespace, environment.parsed_options).check_p95:
        return
    for entry in environment.stats.entries.values():
        bar = READS_MS if entry.method == "GET" else WRITES_MS
        if (p95 := entry.get_response_time_percentile(0.95)) > bar:
            print(f"{entry.method} {entry.name}: p95 is {p95} ms, more than {bar} ms")
            environment.process_exit_code = 1


events.init_command_line_parser.add_listener(_arguments)  # type: ignore[no-untyped-call]
events.quitting.add_listener(_judge)  # type: ignore[no-untyped-call]


class Shopper(FastHttpUser):
    """A customer, and the people who handle this customer's orders."""

    orders = 0  # of all users, placed or refused

    def wait_time(self) -> float:
        """Return how long the user thinks, in seconds."""
        return float(cast(Namespace, self.environment.parsed_options).pause)

    def on_start(self) -> None:
        """Take on a customer's identity, and that of the storefront, the warehouse and a manager."""
        self.customer_id = uuid7(utc_now())
        self.tokens = {
            role: self._token(role, self.customer_id if role is Role.CUSTOMER else None)
            for role in (Role.CUSTOMER, Role.SERVICE, Role.WAREHOUSE, Role.MANAGER)
        }

    def _token(self, role: Role, customer_id: UUID | None) -> str:
        return issue_token(SETTINGS, Principal(uuid7(utc_now()), role, customer_id), timedelta(hours=6), utc_now())

    @task
    def life_of_an_order(self) -> None:
        """Place an order and follow it to its end; the last one that was asked for ends the run."""
        order = self._ask(Role.SERVICE, "POST", "", "/orders", json=self._cart())
        if order:
            self._follow(order)
        Shopper.orders += 1
        if Shopper.orders == cast(Namespace, self.environment.parsed_options).orders and self.environment.runner:
            gevent.spawn(self.environment.runner.quit)  # it waits for users, so it must not be one that waits

    def _follow(self, order: dict[str, Any]) -> None:
        """Pay, ship, deliver, with the looks in between: two reads to a write."""
        path = f"/{order['id']}"
        self._ask(Role.CUSTOMER, "GET", path, "/orders/{id}")
        self._ask(Role.CUSTOMER, "GET", "?limit=20", "/orders")
        self._move(path, Role.SERVICE, "PAID")
        self._ask(Role.CUSTOMER, "GET", path, "/orders/{id}")
        self._ask(Role.WAREHOUSE, "GET", "?status=PAID&limit=20", "/orders?status")
        self._move(path, Role.WAREHOUSE, "PROCESSING_IN_WAREHOUSE")
        self._ask(Role.WAREHOUSE, "GET", f"{path}/transitions", "/orders/{id}/transitions")
        self._ask(Role.CUSTOMER, "GET", path, "/orders/{id}")
        self._move(path, Role.WAREHOUSE, "SHIPPED")
        self._ask(Role.CUSTOMER, "GET", path, "/orders/{id}")
        self._ask(Role.CUSTOMER, "GET", f"{path}/history", "/orders/{id}/history")
        self._move(path, Role.MANAGER, "PAID", refused=True)
        self._ask(Role.CUSTOMER, "GET", "?limit=20", "/orders")
        self._move(path, Role.WAREHOUSE, "DELIVERED")
        self._ask(Role.CUSTOMER, "GET", path, "/orders/{id}")
        self._ask(Role.MANAGER, "GET", f"{path}/history", "/orders/{id}/history")

    def _move(self, path: str, role: Role, state: str, *, refused: bool = False) -> None:
        """Ask for a state; with `refused`, for one that the order may not go to: that has to be answered 409."""
        name = "/orders/{id}/state" + (" (refused)" if refused else "")
        self._ask(role, "PATCH", f"{path}/state", name, 409 if refused else None, json={"new_state": state})

    def _ask(
        self, role: Role, method: str, path: str, name: str, expected: int | None = None, *, json: Any = None
    ) -> dict[str, Any] | None:
        """Send one request after a pause; anything but the expected status counts as a failure."""
        self.wait()  # type: ignore[no-untyped-call]
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        url = f"/api/v1/orders{path}"
        with self.client.request(method, url, name=name, headers=headers, json=json, catch_response=True) as answer:
            if answer.status_code != (expected or (201 if method == "POST" else 200)):
                answer.failure(f"{answer.status_code} {(answer.text or '')[:200]}")
                return None
            answer.success()
            body: dict[str, Any] = answer.json()
            return body

    def _cart(self) -> dict[str, Any]:
        line = {"product_id": "cer-cel-032", "product_name": "Celadon vase, 32 cm", "unit_price": 480, "tax_rate": 0.2}
        scarf = {"product_id": "tex-sil-101", "product_name": "Silk scarf, indigo", "unit_price": 145, "tax_rate": 0.2}
        address = {"street": "4 Quai des Orfèvres", "city": "Paris", "postal_code": "75001", "country": "FR"}
        return {
            "customer_id": str(self.customer_id),
            "customer_email": f"load+{self.customer_id.hex[-8:]}@example.com",
            "currency": "EUR",
            "payment_method": "credit_card",
            "payment_token": "tok_visa",
            "shipping_amount": 14.5,
            "shipping_address": address,
            "line_items": [{**line, "quantity": 1}, {**scarf, "quantity": 2}],
        }
