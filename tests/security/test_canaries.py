"""Planted names, addresses and secrets, and where they turn up: nowhere but where they belong (NFR-004, NFR-006).

One customer's whole story through the API and a worker's code, with everything going wrong on the way that can: wrong
credentials, hostile bodies, a fault of ours, a mail server and a gateway that quote what they were sent. Then every
log line, metric, refusal, report and table is searched.
"""

import email
import io
import logging
import re
from collections.abc import AsyncIterator, Iterator
from email.policy import default
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pypdf
import pytest
import sentry_sdk
import structlog
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sqlalchemy import make_url

from app.composition import Services
from app.config import Settings
from app.core import error_tracking
from app.core.logging import configure_logging
from app.services.orders.service import OrderService
from app.tasks.runner import Verdict
from app.tasks.worker_services import WorkerServices
from app.utils.card_numbers import holds_card_number
from tests.conftest import MovableClock
from tests.files_support import PDF
from tests.integration.conftest import API_KEY, Connect
from tests.integration.dead import raise_case
from tests.integration.test_api_webhook import captured, signed
from tests.unit.gateway_support import http_answer, scripted_server
from tests.unit.smtp_support import Mailbox
from tests.unit.smtp_support import serving as mail_server

pytestmark = [pytest.mark.req("NFR-004.8", "NFR-004.9"), pytest.mark.security]

PERSONAL = {
    "name": "Canarina-7q1 Vogelfrei",
    "mail": "canary-7q2@vogelfrei.example",
    "street": "7q3 Rue du Canari",
    "phone": "+33 6 99 73 74 75",
    "own phone": "+33 7 99 71 70 79",
    "company": "Canari-7qe Freres",
    "VAT id": "FR7QF030265045",
    "corrected mail": "kanari-7qg@vogelfrei.example",
    "parcel": "7QH-PARCEL-0001",
    "internal note": "7qi calls twice a day",
    "decision": "7qj agreed with her on the phone",
    "note": "7q4 my doorbell is broken",
    "file": "7q5-portrait.pdf",
}
SECRET = {
    "payment token": "tok_canary7q7",
    "gateway key": "sk_live_canary7q8",
    "webhook secret": "whsec_canary-7q9-webhook-secret-of-our-own",
    "signing secret": "canary-7qa-signing-secret-of-at-least-32",
    "mail password": "canary7qb-password",
    "wrong key": "ack_00007qc0_" + "c" * 43,
    "wrong token": "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOiI3cWQifQ.7qdsignature",
}
NEEDLES = {**PERSONAL, **SECRET}
CARD = "4242 4242 4242 4242"

BELONGS = {
    "orders": {"name", "street", "phone", "own phone", "company", "VAT id", "corrected mail"},
    # Old and new values, and the reason.
    "order_corrections": {"mail", "corrected mail", "note"},
    "notes": {"internal note"},
    "cases": {"decision"},
    # What an order is found by.
    "order_search": {"mail", "corrected mail"},
    "order_line_items": set(),
    "payments": {"payment token"},
    "invoices": {"name", "street", "company", "VAT id"},
    "return_requests": {"note"},
    # Reasons and notes of whoever moved something are part of its history.
    "state_history": {"note"},
    "transition_rejections": {"note"},
    "attachments": {"file", "note"},
    "notifications": {"mail", "name", "corrected mail"},
    # The answer to a request with an Idempotency-Key, for as long as it may be asked for again.
    "idempotency_keys": {"name", "mail", "street", "phone", "own phone", "company", "VAT id", "internal note"},
}
"""Tables in which a customer's own data are at home; no secret is at home in any, the gateway's token apart."""


class Reports(Transport):
    """Keeps what would go to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Take a report."""
        self.kept.append(envelope.serialize().decode("utf-8", "replace"))


class Seen:
    """Everything that leaves the system during the story, by where."""

    def __init__(self) -> None:
        self.log = io.StringIO()
        self.reports = Reports()
        self.refusals: list[str] = []
        self.metrics = ""
        self.mails: list[bytes] = []
        self.documents: list[bytes] = []

    def refused(self, response: httpx2.Response, status: int) -> None:
        """Note an answer that must be a refusal."""
        assert response.status_code == status, f"{response.status_code} {response.text}"
        self.refusals.append(response.text + str(response.headers))

    def searched(self) -> dict[str, str]:
        """Return what must hold no needle."""
        return {
            "logs": self.log.getvalue(),
            "refusals": "\n".join(self.refusals),
            "metrics": self.metrics,
            "reports": "\n".join(self.reports.kept),
        }


def found_in(text: str) -> set[str]:
    """Return the names of the needles in a text; JSON may have escaped what is in them."""
    return {
        name for name, needle in NEEDLES.items() if needle in text or needle.encode("unicode_escape").decode() in text
    }


@pytest.fixture
def gateway_url() -> Iterator[str]:
    """A gateway that refuses everything, and quotes what it knows in doing so."""
    words = f"no such token {SECRET['payment token']} of {PERSONAL['mail']} under {SECRET['gateway key']}, {CARD}"
    with scripted_server(http_answer(402, {"error": {"code": "card_declined", "message": words}})) as url:
        yield url


@pytest.fixture
async def mailbox(settings: Settings) -> AsyncIterator[tuple[Mailbox, Settings]]:
    """A mail server that wants a login, and quotes all in refusing the first recipients."""
    box = Mailbox()

    def login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, _data: Any) -> AuthResult:
        return AuthResult(success=True)

    async with mail_server(box, authenticator=login, auth_require_tls=False) as reachable:
        yield box, reachable


@pytest.fixture
def settings(settings: Settings, gateway_url: str) -> Settings:
    return settings.model_copy(
        update={
            "secret_key": SecretStr(SECRET["signing secret"]),
            "payment_webhook_secret": SecretStr(SECRET["webhook secret"]),
            "payment_gateway_api_key": SecretStr(SECRET["gateway key"]),
            "payment_gateway_url": gateway_url,
            "smtp_user": "shop",
            "smtp_password": SecretStr(SECRET["mail password"]),
            "sentry_dsn": SecretStr("https://public@sentry.example/1"),
            "log_format": "json",
            "log_level": "DEBUG",
            **{f"{queue}_retries": 0 for queue in ("invoice", "refund", "notification")},
        }
    )


@pytest.fixture
def seen(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Catch logs and reports; put everything back at the end."""
    seen = Seen()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(error_tracking, "_report", None)
    # The mail server of this test logs what it receives: that is another process's log in life.
    monkeypatch.setattr(logging.getLogger("mail.log"), "disabled", True)
    configure_logging(settings, seen.log)
    error_tracking.configure(settings, "api", transport=seen.reports)
    yield seen
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def order_body(customer_id: UUID) -> dict[str, Any]:
    address = {
        "name": PERSONAL["name"],
        "street": PERSONAL["street"],
        "city": "Lyon",
        "postal_code": "1",
        "country": "FR",
    }
    return {
        "customer_id": str(customer_id),
        "customer_email": PERSONAL["mail"],
        "customer_name": PERSONAL["name"],
        "customer_phone": PERSONAL["own phone"],
        "customer_company": PERSONAL["company"],
        "customer_vat_id": PERSONAL["VAT id"],
        "payment_method": "card",
        "payment_token": SECRET["payment token"],
        "shipping_address": address,
        "metadata": {"phone": PERSONAL["phone"]},
        "line_items": [{"product_id": "vase", "product_name": "Vase", "quantity": 1, "unit_price": 90}],
    }


class Story:
    """What happens, chapter by chapter."""

    def __init__(
        self, seen: Seen, api: httpx2.AsyncClient, connect: Connect, bench: WorkerServices, box: Mailbox
    ) -> None:
        self.seen, self.api, self.connect, self.bench, self.box = seen, api, connect, bench, box

    async def strangers(self) -> None:
        """Wrong keys and tokens, in every place."""
        for headers in (
            {"X-API-Key": SECRET["wrong key"]},
            {"Authorization": f"Bearer {SECRET['wrong token']}"},
            {"X-API-Key": API_KEY, "Authorization": f"Bearer {SECRET['wrong token']}"},
        ):
            self.seen.refused(await self.connect(**headers).get("/api/v1/orders"), 401)

    async def refused_bodies(self, body: dict[str, Any]) -> None:
        """Bodies that are wrong, with all of a customer's data in them."""
        for wrong in (
            {**body, "currency": PERSONAL["name"]},
            {**body, "customer_email": [PERSONAL["mail"]]},
            {**body, "shipping_address": {**body["shipping_address"], "country": PERSONAL["street"]}},
            {**body, "payment_token": {"token": SECRET["payment token"]}},
            {**body, "metadata": [PERSONAL["phone"]]},
            {**body, "customer_phone": PERSONAL["internal note"]},
            {**body, "customer_company": [PERSONAL["company"]]},
            {**body, "customer_vat_id": PERSONAL["name"]},
            {**body, "locale": PERSONAL["VAT id"]},
        ):
            self.seen.refused(await self.api.post("/api/v1/orders", json=wrong), 422)
        broken = f'{{"customer_name": "{PERSONAL["name"]}", "payment_token": "{SECRET["payment token"]}",,'
        headers = {"content-type": "application/json"}
        self.seen.refused(await self.api.post("/api/v1/orders", content=broken, headers=headers), 422)
        self.seen.refused(await self.api.post("/api/v1/orders", content=broken), 415)
        self.seen.refused(
            await self.api.get("/api/v1/orders", params={"q": PERSONAL["mail"], "limit": PERSONAL["name"]}), 422
        )

    async def faults_of_ours(self, order_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Errors that quote the value they met, as Python's own do."""
        for fault in (
            ValueError(f"invalid literal for int() with base 10: '{PERSONAL['phone']}'"),
            KeyError(PERSONAL["name"]),
            UnicodeEncodeError("ascii", PERSONAL["mail"], 0, 1, SECRET["payment token"]),
        ):

            async def broken(*_: Any, fault: Exception = fault, **__: Any) -> None:
                raise fault

            with monkeypatch.context() as patched:
                patched.setattr(OrderService, "get", broken)
                self.seen.refused(await self.api.get(f"/api/v1/orders/{order_id}"), 500)

    async def noted_and_corrected(self, order_id: str, case_id: str) -> None:
        """A note, corrections, and a case that is closed; each refused first, with the data in it."""
        order, case = f"/api/v1/orders/{order_id}", f"/api/v1/cases/{case_id}/close"
        key = {"Idempotency-Key": "canary-story-0002"}
        noted = await self.api.post(f"{order}/notes", json={"text": PERSONAL["internal note"]}, headers=key)
        assert noted.status_code == 201, noted.text
        self.seen.refused(await self.api.post(f"{order}/notes", json={"text": [PERSONAL["internal note"]]}), 422)
        change = {"customer_email": PERSONAL["corrected mail"], "reason": PERSONAL["note"]}
        corrected = await self.api.patch(order, json=change)
        assert corrected.status_code == 200, corrected.text
        self.seen.refused(await self.api.patch(order, json=change), 422)
        parcel = {"tracking_number": PERSONAL["parcel"], "reason": PERSONAL["note"]}
        self.seen.refused(await self.api.patch(order, json=parcel), 409)
        for query in (PERSONAL["company"], PERSONAL["own phone"], PERSONAL["corrected mail"]):
            assert (await self.api.get("/api/v1/orders", params={"q": query})).status_code == 200
        unknown = {"note": PERSONAL["decision"], "action": PERSONAL["decision"]}
        self.seen.refused(await self.api.post(case, json=unknown), 422)
        closed = await self.api.post(case, json={"note": PERSONAL["decision"]})
        assert closed.status_code == 200, closed.text
        self.seen.refused(await self.api.post(case, json={"note": PERSONAL["decision"]}), 409)

    async def work(self, *expected: Verdict) -> None:
        """Do all jobs that there are, each once."""
        runner = self.bench.runner("canary-worker")
        async with self.bench.database.autocommit() as connection:
            due = await connection.exec_driver_sql(
                "SELECT id FROM jobs WHERE state = 'PENDING' ORDER BY created_at, id"
            )
            job_ids = [row.id for row in due]
        verdicts = {await runner.run(job_id) for job_id in job_ids}
        assert verdicts == set(expected), verdicts

    async def moved(self, path: str, *states: str) -> None:
        """Bring an order or a return through states."""
        for state in states:
            response = await self.api.patch(
                f"/api/v1/{path}/state", json={"new_state": state, "reason": PERSONAL["note"]}
            )
            assert response.status_code == 200, response.text

    async def returned(self, order_id: str) -> None:
        """Send it back, with a note and a photo."""
        body = {"order_id": order_id, "reason": "cracked", "customer_notes": PERSONAL["note"]}
        requested = await self.api.post("/api/v1/returns", json=body)
        assert requested.status_code == 201, requested.text
        path = f"returns/{requested.json()['id']}"
        files = {"file": (PERSONAL["file"], PDF, "application/pdf")}
        added = await self.api.post(f"/api/v1/{path}/attachments", files=files, data={"description": PERSONAL["note"]})
        assert added.status_code == 201, added.text
        bad = {"file": (PERSONAL["file"], PERSONAL["note"].encode(), "image/png")}
        self.seen.refused(await self.api.post(f"/api/v1/{path}/attachments", files=bad), 415)
        approved = await self.api.patch(f"/api/v1/{path}/approve", json={"notes": PERSONAL["note"]})
        assert approved.status_code == 200, approved.text
        await self.moved(path, "IN_TRANSIT", "RECEIVED", "COMPLETED")


@pytest.fixture
async def told(
    seen: Seen,
    api: httpx2.AsyncClient,
    connect: Connect,
    services: Services,
    settings: Settings,
    clock: MovableClock,
    customer_id: UUID,
    mailbox: tuple[Mailbox, Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> Seen:
    """Play the whole story once; return what was seen of it."""
    box, reachable = mailbox
    worker = settings.model_copy(update={"smtp_host": reachable.smtp_host, "smtp_port": reachable.smtp_port})
    bench = WorkerServices(worker, database=services.database, clock=clock)
    story = Story(seen, api, connect, bench, box)
    body = order_body(customer_id)
    await story.strangers()
    await story.refused_bodies(body)
    created = await api.post("/api/v1/orders", json=body, headers={"Idempotency-Key": "canary-story-0001"})
    assert created.status_code == 201, created.text
    order = created.json()
    await api.get("/api/v1/orders", params={"q": PERSONAL["mail"]})
    await story.faults_of_ours(order["id"], monkeypatch)

    event = captured(order)
    seen.refused(
        await connect().post(
            "/api/v1/payments/webhook",
            content=event,
            headers={"content-type": "application/json", "webhook-signature": SECRET["wrong token"]},
        ),
        401,
    )
    paid = await connect().post("/api/v1/payments/webhook", content=event, headers=signed(event, settings, clock))
    assert paid.status_code == 200, paid.text
    box.answers["rcpt"] = f"550 no {PERSONAL['mail']} for {SECRET['mail password']}, {CARD}"
    await story.work(Verdict.SUCCEEDED)
    box.answers["rcpt"] = box.answers["rcpt"].replace("550", "451")
    await story.moved(f"orders/{order['id']}", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
    seen.refused(
        await api.patch(f"/api/v1/orders/{order['id']}/state", json={"new_state": "PAID", "reason": PERSONAL["note"]}),
        409,
    )
    await story.work(Verdict.SUCCEEDED, Verdict.DEAD_LETTERED)
    del box.answers["rcpt"]
    await story.work(Verdict.SUCCEEDED)
    seen.documents.append((await api.get(f"/api/v1/orders/{order['id']}/invoice")).content)
    await story.returned(order["id"])
    await story.work(Verdict.SUCCEEDED, Verdict.DEAD_LETTERED)
    await story.work(Verdict.SUCCEEDED)
    await story.noted_and_corrected(order["id"], str(await raise_case(services.database)))
    for path in (
        "orders",
        "returns",
        "refunds",
        "notifications",
        "jobs/dead",
        "cases",
        "audit",
        "audit?rejected=true",
        "stats",
    ):
        assert (await api.get(f"/api/v1/{path}")).status_code == 200, path
    seen.metrics = (await api.get("/api/v1/metrics")).text
    seen.mails = [envelope.content for envelope in box.envelopes if isinstance(envelope.content, bytes)]
    error_tracking.flush()
    await bench.close()
    return seen


def tables(connection: psycopg.Connection) -> dict[str, str]:
    """Return every table as text, digests left out: a few of their digits may pass for anything."""
    names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {
        name: _without_digests(
            "\n".join(row[0] for row in connection.execute(f"SELECT to_jsonb(t)::text FROM {name} t".encode()))
        )
        for (name,) in names
    }


def _without_digests(text: str) -> str:
    return re.sub(r"\\x[0-9a-f]+", "…", text)


def no_card_number_in(told: Seen, connection: psycopg.Connection) -> None:
    """Scan ledger, documents, mails and logs for what only a card's number looks like."""
    for name, text in tables(connection).items():
        assert not holds_card_number(text), name
    for document in told.documents:
        pages = pypdf.PdfReader(io.BytesIO(document)).pages
        assert not holds_card_number("".join(page.extract_text() for page in pages))
    for place in ("logs", "refusals", "reports"):
        assert not holds_card_number(told.searched()[place]), place
    for mail in told.mails:
        for part in email.message_from_bytes(mail, policy=default).walk():
            assert part.get_content_maintype() != "text" or not holds_card_number(part.get_content())


async def test_the_needles_are_found_where_they_belong_and_nowhere_else(
    told: Seen, owner_connection: psycopg.Connection, settings: Settings
) -> None:
    assert len(told.log.getvalue().splitlines()) > 40, "the story was logged"
    assert "request.failed" in told.log.getvalue()
    assert "job.dead_lettered" in told.log.getvalue()
    assert len(told.reports.kept) >= 3, "faults of ours were reported"
    assert len(told.mails) >= 5
    assert {place: found_in(text) for place, text in told.searched().items()} == {key: set() for key in told.searched()}

    held = {name: found_in(text) for name, text in tables(owner_connection).items()}
    for name, needles in held.items():
        assert needles <= BELONGS.get(name, set()), name
    assert held["orders"] == BELONGS["orders"], "the needles can be found"
    assert "dead_letters" in held
    no_card_number_in(told, owner_connection)


async def test_the_text_of_the_settings_holds_no_secret(settings: Settings) -> None:
    password = make_url(settings.database_url).password
    shown = f"{settings!r} {settings} {settings.model_dump()}".replace(repr(settings.database_url), "")
    assert found_in(shown) == set()
    assert password is None or password not in f"{settings!r} {settings}"
