"""`articurated demo`: a real order and a real return through every part of the running system.

It plays the people, over HTTP and with their own roles: the storefront, the customer, the warehouse, the
manager. What the system does by itself (invoice, refund, mails) it waits for and then looks at. The first
thing that is not as promised ends the demo with exit code 1.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx2
from rich.console import Console
from rich.markup import escape

from app.config import Settings
from app.core.enums import Role
from app.core.security import Principal, issue_token
from app.utils.clock import utc_now, uuid7
from devtools.embedded.stack import StackInfo

T = TypeVar("T")

PATIENCE_SECONDS = 90.0
CUSTOMER_MAILS = {
    "order confirmed": "confirmed",
    "order shipped": "on its way",
    "invoice": "invoice",
    "order delivered": "arrived",
    "return received": "return request",
    "return approved": "approved",
    "refund processed": "refund",
    "credit note": "credit note",
}

ORDER = {
    "customer_name": "Ada Marchand",
    "currency": "EUR",
    "payment_method": "credit_card",
    "payment_token": "tok_visa",
    "shipping_amount": 14.5,
    "shipping_address": {
        "name": "Ada Marchand",
        "street": "4 Quai des Orfèvres",
        "city": "Paris",
        "postal_code": "75001",
        "country": "FR",
    },
    "line_items": [
        {
            "product_id": "cer-cel-032",
            "sku": "CER-CEL-032",
            "product_name": "Celadon vase, hand-thrown, 32 cm",
            "quantity": 1,
            "unit_price": 480,
            "tax_rate": 0.2,
        },
        {
            "product_id": "tex-sil-101",
            "sku": "TEX-SIL-101",
            "product_name": "Silk scarf, natural indigo",
            "quantity": 2,
            "unit_price": 145,
            "tax_rate": 0.2,
        },
    ],
}


class DemoError(Exception):
    """Something was not as promised; the message says what."""


def system_at(api: str, mail: str | None, data_dir: Path, settings: Settings) -> StackInfo:
    """Describe a system that was not started here: in containers, or on servers of its own.

    Args:
        api: address of its API, without the path.
        mail: address of its mailbox page; its mails are not looked at without.
        data_dir: folder that gets the invoice.
        settings: of that system: its gateway, the secret that signs its bearer tokens, and its development key.
    """
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return StackInfo(
        ready=True,
        api=api.rstrip("/"),
        docs=f"{api.rstrip('/')}/docs",
        database_url=settings.database_url,
        owner_database_url=None,
        redis_url=settings.redis_url,
        mail=mail.rstrip("/") if mail else None,
        mail_smtp=None,
        gateway=settings.payment_gateway_url.rstrip("/"),
        api_key=key or None,
        data_dir=str(data_dir),
        pids={},
    )


class Demo:
    """One run of the demo against a system that is up."""

    def __init__(self, info: StackInfo, settings: Settings, console: Console) -> None:
        self._info = info
        self._console = console
        self._settings = settings
        self._customer_id = uuid7(utc_now())
        # An address of this run's own: mails of an earlier run over the same data prove nothing.
        self._email = f"ada.marchand+{self._customer_id.hex[-6:]}@example.com"
        self._http = httpx2.Client(timeout=30)
        self._tokens = {role: self._token(role) for role in Role}
        self._step_started = time.monotonic()

    def _token(self, role: Role) -> str:
        principal = Principal(uuid7(utc_now()), role, self._customer_id if role is Role.CUSTOMER else None)
        return issue_token(self._settings, principal, timedelta(hours=1), utc_now())

    def run(self) -> None:
        """Play the whole story.

        Raises:
            DemoError: a promise was not kept, or a part cannot be reached.
        """
        try:
            with self._http:
                order = self._order()
                pdf = self._invoice(order)
                returned = self._return(order)
                refund = self._refund(returned)
                self._mails(order["order_number"])
                self._audit(order, returned)
        except httpx2.TransportError as fault:
            raise DemoError(f"{fault.request.url} cannot be reached: {fault}") from fault
        self._farewell(order, refund, pdf)

    # --- the story -------------------------------------------------------------------------------------------

    def _order(self) -> dict[str, Any]:
        self._chapter("An order")
        order = self._call(
            "POST",
            "/orders",
            # Prices are the shop's: in production a customer's own request would be refused (ORDERS_PRICED_BY).
            Role.SERVICE,
            json={**ORDER, "customer_id": str(self._customer_id), "customer_email": self._email},
        )
        self._done(
            "the storefront places the customer's order",
            f"{order['order_number']}, {order['total_amount']:.2f} {order['currency']}",
        )
        charge = self._http.post(
            f"{self._info.gateway}/v1/payments",
            headers={
                "Authorization": f"Bearer {self._settings.payment_gateway_api_key.get_secret_value()}",
                "Idempotency-Key": f"storefront:{order['id']}",
            },
            json={
                "reference": order["id"],
                "amount": f"{order['total_amount']:.2f}",
                "currency": order["currency"],
                "payment_token": ORDER["payment_token"],
                "capture": True,
            },
        )
        self._expect(charge.is_success, f"the gateway answered {charge.status_code}: {charge.text}")
        order = self._until("the order to be PAID", lambda: self._state_of(order["id"], "PAID"))
        self._done("the storefront charges the card; the gateway's signed webhook makes it PAID", charge.json()["id"])
        self._move(order, Role.WAREHOUSE, "PROCESSING_IN_WAREHOUSE")
        self._done("the warehouse picks it", "PROCESSING_IN_WAREHOUSE")
        tracking = {"carrier": "La Poste Colissimo", "tracking_number": "6A12345678901"}
        self._move(order, Role.WAREHOUSE, "SHIPPED", **tracking)
        self._done("the warehouse ships it", f"SHIPPED, {tracking['tracking_number']}")
        self._refused(order)
        self._move(order, Role.WAREHOUSE, "DELIVERED")
        self._done("the parcel arrives", "DELIVERED")
        return order

    def _refused(self, order: dict[str, Any]) -> None:
        """Somebody tries to go back: the one thing that must never work."""
        answer = self._send("PATCH", f"/orders/{order['id']}/state", Role.MANAGER, json={"new_state": "PAID"})
        self._expect(answer.status_code == 409, f"an illegal step was answered with {answer.status_code}")
        error = answer.json()["error"]
        self._console.print(
            f"  [yellow]⊘[/] a manager asks for SHIPPED → PAID: [bold]409 {error['code']}[/]"
            f" [dim]allowed from here: {', '.join(error['details']['allowed_transitions'])}; the attempt is on record[/]"
        )

    def _invoice(self, order: dict[str, Any]) -> Path:
        path = f"/orders/{order['id']}/invoice"
        record = self._until("the invoice", lambda: self._get(path, Role.CUSTOMER, accept="application/json"))
        answer = self._send("GET", path, Role.CUSTOMER)
        self._expect(answer.content.startswith(b"%PDF-"), "the invoice is not a PDF")
        folder = Path(self._info.data_dir) / "demo"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pdf = folder / f"{record['number']}.pdf"
        pdf.write_bytes(answer.content)
        self._done(
            "a worker issues the invoice", f"{record['number']}, {len(answer.content) / 1024:.0f} kB, SHA-256 kept"
        )
        return pdf

    def _return(self, order: dict[str, Any]) -> dict[str, Any]:
        self._chapter("A return")
        vase = next(line for line in order["line_items"] if line["sku"] == "CER-CEL-032")
        body = {
            "order_id": order["id"],
            "reason": "The glaze has a hairline crack",
            "items": [{"line_item_id": vase["id"], "quantity": 1}],
        }
        returned = self._call("POST", "/returns", Role.CUSTOMER, json=body)
        self._done(
            "the customer asks to return the vase",
            f"{returned['return_number']}, REQUESTED, worth {returned['items_amount']:.2f}",
        )
        path = f"/returns/{returned['id']}"
        notes = {"notes": "The photographs show the crack", "restocking_fee": 16}
        self._call("PATCH", f"{path}/approve", Role.MANAGER, json=notes)
        self._done("a manager approves it, less a fee of 16.00", "APPROVED")
        self._call("PATCH", f"{path}/state", Role.CUSTOMER, json={"new_state": "IN_TRANSIT", "carrier": "La Poste"})
        self._call("PATCH", f"{path}/state", Role.WAREHOUSE, json={"new_state": "RECEIVED"})
        self._done("it is sent back and received", "IN_TRANSIT, RECEIVED")
        returned = self._call("PATCH", f"{path}/state", Role.MANAGER, json={"new_state": "COMPLETED"})
        self._done("the manager completes it: the refund is due", f"{returned['refund_amount']:.2f}")
        return returned

    def _refund(self, returned: dict[str, Any]) -> dict[str, Any]:
        def settled() -> dict[str, Any] | None:
            page = self._get(f"/refunds?order_id={returned['order_id']}", Role.MANAGER)
            refunds = page["data"] if page else []
            return refunds[0] if refunds and refunds[0]["state"] == "SUCCEEDED" else None

        refund = self._until("the refund", settled)
        ledger = self._http.get(
            f"{self._info.gateway}/v1/refunds",
            params={"reference": refund["id"]},
            headers={"Authorization": f"Bearer {self._settings.payment_gateway_api_key.get_secret_value()}"},
        ).json()
        paid = [entry["amount"] for entry in ledger["data"]]
        wanted = [f"{returned['refund_amount']:.2f}"]
        self._expect(paid == wanted, f"the gateway's ledger says {paid}, not {wanted}")
        self._done("a worker pays it back, once according to the gateway's ledger", refund["gateway_refund_id"])
        return refund

    def _mails(self, order_number: str) -> None:
        self._chapter("Mail")

        def all_there() -> list[str] | None:
            subjects = self._subjects(self._email)
            missing = [
                name for name, word in CUSTOMER_MAILS.items() if not any(word in line.lower() for line in subjects)
            ]
            return None if missing else subjects

        if self._info.mail is None:
            self._console.print("  [dim]sent through your own SMTP server: not looked at[/]")
            return
        subjects = self._until("the customer's mails", all_there)
        for subject in reversed(subjects):
            self._console.print(f"  [green]✓[/] [dim]to the customer:[/] {escape(subject)}")
        told = self._subjects(self._settings.warehouse_email) + self._subjects(self._settings.managers_email)
        inside = [subject for subject in told if order_number in subject]
        self._expect(len(inside) >= 2, "the warehouse and the managers got no mail")
        self._done(f"and {len(inside)} to warehouse and managers", "")

    def _subjects(self, recipient: str) -> list[str]:
        """Ask the mail catcher; Mailpit, which may be used instead, answers at another path."""
        answer = self._http.get(f"{self._info.mail}/api/messages", params={"to": recipient, "limit": 50})
        if answer.is_success and "json" in answer.headers.get("Content-Type", ""):
            return [message["subject"] for message in answer.json()["messages"]]
        search: dict[str, str | int] = {"query": f'to:"{recipient}"', "limit": 50}
        answer = self._http.get(f"{self._info.mail}/api/v1/search", params=search)
        self._expect(answer.is_success, f"the mailbox answered {answer.status_code}")
        return [message["Subject"] for message in answer.json()["messages"]]

    def _audit(self, order: dict[str, Any], returned: dict[str, Any]) -> None:
        self._chapter("The audit trail")
        # As a manager: customers see no hash of a row whose actor is hidden from them.
        history = self._call("GET", f"/orders/{order['id']}/history", Role.MANAGER)["data"]
        for record in history:
            self._console.print(
                f"  [green]✓[/] {record['created_at'][11:23]} {record['previous_state']} → [bold]{record['new_state']}[/]"
                f" [dim]{record['trigger']}, {record['hash'][:12]}…[/]"
            )
        self._expect(len(history) == 4, f"the order has {len(history)} audit rows, not 4")
        rows = self._call("GET", f"/returns/{returned['id']}/history", Role.CUSTOMER)["data"]
        self._expect(len(rows) == 4, f"the return has {len(rows)} audit rows, not 4")
        refused = self._call("GET", f"/audit?rejected=true&entity_id={order['id']}", Role.MANAGER)["data"]
        self._expect(len(refused) == 1, f"{len(refused)} refused attempts are on record, not 1")
        report = self._call("GET", "/audit/verify", Role.MANAGER)
        self._expect(report["ok"], f"the audit trail does not hold: {report['fault']}")
        self._done(
            "every hash and every step holds", f"{report['rows']} rows of {report['entities']} entities, 1 refusal kept"
        )

    def _farewell(self, order: dict[str, Any], refund: dict[str, Any], pdf: Path) -> None:
        self._console.print(
            f"\n[bold green]All of it happened.[/] {order['order_number']} delivered and invoiced;"
            f" {refund['amount']:.2f} {refund['currency']} paid back, once.\n"
        )
        key = f"  with the header X-API-Key: {self._info.api_key}" if self._info.api_key else ""
        lines = {"Invoice": str(pdf), "API": f"{self._info.api}/api/v1/orders{key}", "API docs": self._info.docs}
        lines["Health"] = f"{self._info.api}/api/v1/health"
        if self._info.mail:
            lines["Mailbox"] = self._info.mail
        if self._info.gateway:
            lines["Gateway"] = self._info.gateway
        for name, place in lines.items():
            self._console.print(f"  {name:9} [cyan]{escape(place)}[/]")

    # --- the tools -------------------------------------------------------------------------------------------

    def _send(
        self, method: str, path: str, role: Role, *, json: Any = None, accept: str | None = None
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._tokens[role]}", **({"Accept": accept} if accept else {})}
        return self._http.request(method, f"{self._info.api}/api/v1{path}", headers=headers, json=json)

    def _call(self, method: str, path: str, role: Role, *, json: Any = None) -> dict[str, Any]:
        answer = self._send(method, path, role, json=json)
        self._expect(answer.is_success, f"{method} {path} was answered with {answer.status_code}: {answer.text}")
        result: dict[str, Any] = answer.json()
        return result

    def _get(self, path: str, role: Role, accept: str | None = None) -> dict[str, Any] | None:
        answer = self._send("GET", path, role, accept=accept)
        if answer.status_code == 404:
            return None
        self._expect(answer.is_success, f"GET {path} was answered with {answer.status_code}: {answer.text}")
        result: dict[str, Any] = answer.json()
        return result

    def _move(self, order: dict[str, Any], role: Role, new_state: str, **fields: str) -> None:
        self._call("PATCH", f"/orders/{order['id']}/state", role, json={"new_state": new_state, **fields})

    def _state_of(self, order_id: str, state: str) -> dict[str, Any] | None:
        order = self._get(f"/orders/{UUID(order_id)}", Role.CUSTOMER)
        return order if order and order["status"] == state else None

    def _until(self, what: str, look: Callable[[], T | None]) -> T:
        """Look until there is something to see; ever less often, for a caller may not call as often as it likes."""
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, 0.05
        with self._console.status(f"waiting for {what}"):
            while time.monotonic() < deadline:
                if (seen := look()) is not None:
                    return seen
                time.sleep(pause)
                pause = min(1.3 * pause, 1.0)
        raise DemoError(f"waited {PATIENCE_SECONDS:.0f} s for {what}; see the logs in {self._info.data_dir}/logs")

    def _expect(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise DemoError(otherwise)

    def _chapter(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/]")

    def _done(self, what: str, detail: str) -> None:
        now = time.monotonic()
        took, self._step_started = now - self._step_started, now
        self._console.print(
            f"  [green]✓[/] {escape(what)} [dim]{escape(detail)}  {took * 1000:.0f} ms[/]", soft_wrap=True
        )
