"""What did not happen is not written: the database refuses it to the application's login, and where it can to anyone.

Each forgery is tried as every login. Then its guard alone is taken off, and the same statements pass: nothing else had
refused them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.schemas.return_request import ReturnApprove, ReturnCreate
from app.services.access.keys import KeyService
from app.services.documents.invoices import InvoiceService
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.utils.storage import storage_for
from tests.conftest import MovableClock, new_key
from tests.databases import ROLE, Reset
from tests.integration.conftest import LOGINS, Login
from tests.integration.dead import bury_job
from tests.integration.jobs_support import FakeRenderer, claim_for
from tests.integration.money_support import Shop

pytestmark = [pytest.mark.req("REQ-003"), pytest.mark.req("NFR-004")]

CHAIN = (
    "(SELECT audit_hash FROM orders WHERE id = '{paid}')",
    (
        "'v1', 'ORDER', '{paid}', '2', 'PAID', 'PROCESSING_IN_WAREHOUSE', '', 'SYSTEM', 'CLI', '',"
        " '2026-01-01T00:00:00.000000Z', '{{}}'"
    ),
)
STEP = (
    (
        "INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_type, trigger, created_at,"
        " prev_hash, hash) SELECT 'ORDER', '{{paid}}', 2, 'PAID', 'PROCESSING_IN_WAREHOUSE', 'SYSTEM', 'CLI',"
        " '2026-01-01T00:00:00Z', p.hash, {hash} FROM (SELECT {prev} AS hash) p"
    ),
    (
        "UPDATE orders SET status = 'PROCESSING_IN_WAREHOUSE', version = version + 1, audit_seq = 2,"
        " audit_hash = (SELECT hash FROM state_history WHERE entity_id = '{{paid}}' AND seq = 2) WHERE id = '{{paid}}'"
    ),
)
SOUND_HASH = f"sha256(p.hash || convert_to(concat_ws(E'\\n', {CHAIN[1].replace('{{}}', '{{{{}}}}')}), 'UTF8'))"


def step(prev: str, digest: str) -> list[str]:
    """Return a step of the paid order, with an audit row of these hashes."""
    return [part.format(prev=prev, hash=digest).replace("{{", "{").replace("}}", "}") for part in STEP]


EVENT = (
    "INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)"
    " SELECT '{kind}', '{{{entity}}}', {seq}, '{type}', {data}, {at}"
)
PAID_EVENT = (
    "INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)"
    " SELECT entity_type, entity_id, seq + 1, type, data, created_at FROM events"
    " WHERE entity_id = '{paid}' AND type = 'order.paid'"
)
REFUSAL = (
    "INSERT INTO transition_rejections (entity_type, entity_id, current_state, requested_state, actor_type, trigger)"
    " VALUES ('ORDER', '{paid}', "
)
WEBHOOK = (
    "INSERT INTO gateway_events (id, type, reference, body, outcome, received_at) VALUES ('evt_forged',"
    " 'payment.captured', "
)
RESERVED = "UPDATE payments SET refund_reserved_amount = captured_amount WHERE order_id = '{paid}'"
REFUND = (
    "INSERT INTO refunds (payment_id, order_id, reason, amount, currency, state, gateway_refund_id, succeeded_at)"
    " SELECT id, order_id, 'ORDER_CANCELLED', captured_amount, currency, "
)
NUMBER = "UPDATE invoice_series SET last_number = last_number + 1 WHERE kind = 'INVOICE'"
DOCUMENT = (
    "INSERT INTO invoices (kind, year, number_in_year, number, order_id, issued_on, view, storage_key, state,"
    " drawn_sha256, sha256, size_bytes, issued_at) SELECT s.kind, s.year, s.last_number + {ahead}, 'INV-FORGED',"
    " '{{{order}}}', now()::date, '{{{{}}}}', 'invoices/forged.pdf', {state} FROM invoice_series s WHERE kind = 'INVOICE'"
)
NUMBERED = "'NUMBERED', '{{}}', NULL, NULL, NULL::timestamptz"
ISSUED = "'ISSUED', ARRAY[sha256('x')], sha256('x'), 1, now()"
NEW_ORDER = (
    "INSERT INTO orders (order_number, customer_id, customer_email, subtotal_amount, tax_amount, shipping_amount,"
    " total_amount, payment_method, shipping_address, billing_address)"
    " VALUES ('ORD-FORGED', uuid7(), 'a@b.example', 1, 0, 0, 1, 'card', '{{}}', '{{}}')"
)
CAPTURED = (
    "INSERT INTO payments (order_id, method, amount, currency, state, captured_amount, captured_at)"
    " SELECT id, 'card', 1, 'USD', 'CAPTURED', 1, now() FROM orders WHERE order_number = 'ORD-FORGED'"
)
CORRECTION = (
    "INSERT INTO order_corrections (order_id, version, changes, reason, actor_id, actor_role) SELECT id, version + {ahead},"
    " jsonb_build_object('customer_email', jsonb_build_object('old', 'a@b.example', 'new', {new})), 'x', id, 'admin'"
    " FROM orders WHERE id = '{{paid}}'"
)
CORRECTED = (
    "INSERT INTO events (entity_type, entity_id, seq, type, data) SELECT 'ORDER', order_id, version, 'order.corrected',"
    " jsonb_build_object('correction_id', id) FROM order_corrections WHERE order_id = '{paid}'"
)
NEXT_VERSION = "UPDATE orders SET version = version + 1 WHERE id = '{paid}'"
CASE = (
    "INSERT INTO cases (kind, entity_type, entity_id, order_id, dedupe_key, evidence) SELECT '{kind}', 'ORDER', id, id,"
    " 'forged', '{{{{\"reported_amount\": \"{amount}\"}}}}' FROM orders WHERE id = '{{{order}}}'"
)
CLOSE = (
    "UPDATE cases SET state = 'CLOSED', version = 2, closed_at = now(), close_note = 'x', action = {action}"
    " WHERE dedupe_key = 'forged'"
)
CLOSED = (
    "INSERT INTO events (entity_type, entity_id, seq, type) SELECT 'CASE', id, 2, 'case.closed' FROM cases"
    " WHERE dedupe_key = 'forged'"
)
ACCEPTED = (
    "UPDATE payments SET accepted_amount = 0.01, accepted_case_id = (SELECT id FROM cases WHERE dedupe_key = 'forged')"
    " WHERE order_id = '{unpaid}'"
)
NEXT_RETURN = "UPDATE return_requests SET version = version + 1 WHERE id = '{approved}'"
ATTACHED = (
    "INSERT INTO attachments (return_id, file_name, media_type, size_bytes, sha256, storage_key, uploaded_by,"
    " uploaded_by_role) VALUES ('{approved}', 'a.png', 'image/png', 1, sha256('x'), 'k', '{approved}', 'admin')"
)
ATTACHMENT_EVENT = (
    "INSERT INTO events (entity_type, entity_id, seq, type, data) SELECT 'RETURN', r.id, r.version,"
    " 'return.attachment_added', jsonb_build_object('attachment_id', a.id) FROM return_requests r"
    " JOIN attachments a ON a.return_id = r.id WHERE r.id = '{approved}'"
)
VERIFICATION = "INSERT INTO audit_verifications (id) VALUES (uuid7())"
REVOCATION = "INSERT INTO revoked_tokens (token_id, created_at, expires_at) VALUES ('jti', "
KEY = "INSERT INTO api_keys (name, role, prefix, sha256) VALUES ('mine', 'admin', 'ack_mine', sha256('of my own choosing'))"
JOB = "INSERT INTO jobs (kind, queue, entity_id, dedupe_key{columns}) VALUES ('{kind}', 'invoices', {entity}, {key}{values})"


@dataclass(frozen=True)
class Forgery:
    """A lie in SQL: its statements, the rule that refuses it, the guard that holds the rule, and what guards it too.

    `guard` is `table.trigger`, or a GRANT without which the application may not even try.
    """

    sql: list[str]
    rule: str
    guard: str
    besides: tuple[str, ...] = ()


FORGERIES = {
    "a history row ahead of the head": Forgery(
        step("sha256('x')", "sha256('y')")[:1], "step_taken", "state_history.guard_history_head"
    ),
    "a step that does not continue the chain": Forgery(
        step("sha256('x')", SOUND_HASH), "audited_transition", "orders.guard_state_change"
    ),
    "a step with the hash of other words": Forgery(
        step(CHAIN[0], "sha256('y')"), "audited_transition", "orders.guard_state_change"
    ),
    "a head without a step": Forgery(
        ["UPDATE orders SET audit_seq = audit_seq + 1 WHERE id = '{paid}'"],
        "audited_facts",
        "orders.guard_state_change",
    ),
    "a delivery of today": Forgery(
        ["UPDATE orders SET delivered_at = now() WHERE id = '{delivered}'"],
        "audited_facts",
        "orders.guard_state_change",
    ),
    "more money for a return": Forgery(
        ["UPDATE return_requests SET refund_amount = items_amount WHERE id = '{approved}'"],
        "audited_facts",
        "return_requests.guard_state_change",
    ),
    "a refund that a return did not get": Forgery(
        ["UPDATE return_requests SET refund_transaction_id = 're_forged' WHERE id = '{approved}'"],
        "return_refunded",
        "return_requests.guard_return_refunded",
    ),
    "a version far ahead": Forgery(
        ["UPDATE orders SET version = version + 2 WHERE id = '{paid}'"], "next_version", "orders.guard_state_change"
    ),
    "a refund's version far ahead": Forgery(
        ["UPDATE refunds SET version = version + 2"], "version_grows", "refunds.guard_version_grows"
    ),
    "an event ahead of the version": Forgery(
        [EVENT.format(kind="ORDER", entity="paid", seq=3, type="order.corrected", data="'{{}}'::jsonb", at="now()")],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a step that was taken before": Forgery(
        ["UPDATE orders SET version = version + 1 WHERE id = '{paid}'", PAID_EVENT],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a step that was not taken": Forgery(
        [
            "UPDATE orders SET version = version + 1 WHERE id = '{paid}'",
            EVENT.format(kind="ORDER", entity="paid", seq=3, type="order.shipped", data="'{{}}'::jsonb", at="now()"),
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a refund that was not paid": Forgery(
        [
            "UPDATE refunds SET version = version + 1",
            EVENT.format(
                kind="REFUND", entity="refund", seq=2, type="refund.succeeded", data="'{{}}'::jsonb", at="now()"
            ),
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a decision that no person took": Forgery(
        [EVENT.format(kind="JOB", entity="dead_job", seq=1, type="job.dismissed", data="'{{}}'::jsonb", at="now()")],
        "event_of_change",
        "events.guard_event",
    ),
    "an event ahead of a job's decisions": Forgery(
        [EVENT.format(kind="JOB", entity="dead_job", seq=1, type="job.retried", data="'{{}}'::jsonb", at="now()")],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a decision under a number of its own": Forgery(
        [
            "UPDATE dead_letters SET resolution = 'DISMISSED', resolved_at = now() WHERE job_id = '{dead_job}'",
            (
                "INSERT INTO events (entity_type, entity_id, seq, type, data) SELECT 'JOB', job_id, 2, 'job.dismissed',"
                " jsonb_build_object('dead_letter_id', id) FROM dead_letters WHERE job_id = '{dead_job}'"
            ),
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a message that was not sent again": Forgery(
        [EVENT.format(kind="JOB", entity="dead_job", seq=1, type="job.resent", data="'{{}}'::jsonb", at="now()")],
        "event_of_change",
        "events.guard_event",
    ),
    "an event ahead of a payment's only one": Forgery(
        [
            (
                "INSERT INTO events (entity_type, entity_id, seq, type) SELECT 'PAYMENT', id, 1, 'payment.collected'"
                " FROM payments WHERE order_id = '{unpaid}'"
            )
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "an event of a correction that was not made": Forgery(
        [
            NEXT_VERSION,
            EVENT.format(kind="ORDER", entity="paid", seq=3, type="order.corrected", data="'{{}}'::jsonb", at="now()"),
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "a correction ahead of the version": Forgery(
        [CORRECTION.format(ahead=1, new="'c@d.example'")],
        "correction_made",
        "order_corrections.guard_correction_made",
    ),
    "a correction of the past": Forgery(
        [CORRECTION.format(ahead=0, new="customer_email")],
        "correction_made",
        "order_corrections.guard_correction_made",
    ),
    "a correction to what the order does not say": Forgery(
        [CORRECTION.format(ahead=1, new="'c@d.example'"), NEXT_VERSION, CORRECTED],
        "correction_made",
        "order_corrections.guard_correction_made",
    ),
    "a revocation that ends before its token": Forgery(
        [REVOCATION + "now(), now() + interval '1 s')"], "revocation", "revoked_tokens.guard_revocation"
    ),
    "a revocation of last month": Forgery(
        [REVOCATION + "now() - interval '40 d', now() + interval '60 d')"],
        "revocation",
        "revoked_tokens.guard_revocation",
    ),
    "an event of nothing": Forgery(
        [
            EVENT.format(
                kind="INVOICE", entity="stranger", seq=1, type="invoice.issued", data="'{{}}'::jsonb", at="now()"
            )
        ],
        "event_of_change",
        "events.guard_event",
    ),
    "the refusal of a legal step": Forgery(
        [REFUSAL + "'PAID', 'CANCELLED', 'SYSTEM', 'CLI')"], "refused_step", "transition_rejections.guard_refusal"
    ),
    "a refusal in a state that the order is not in": Forgery(
        [REFUSAL + "'SHIPPED', 'CANCELLED', 'SYSTEM', 'CLI')"], "refused_step", "transition_rejections.guard_refusal"
    ),
    "a webhook that paid": Forgery(
        [WEBHOOK + "'{unpaid}', '{{}}', 'PAID', now())"], "effect_of_webhook", "gateway_events.guard_gateway_event"
    ),
    "a webhook that settled a refund": Forgery(
        [WEBHOOK + "'{refund}', '{{}}', 'REFUND_SETTLED', now())"],
        "effect_of_webhook",
        "gateway_events.guard_gateway_event",
    ),
    "a webhook of last year": Forgery(
        [WEBHOOK + "'{unpaid}', '{{}}', 'IGNORED', now() - interval '1 year')"],
        "effect_of_webhook",
        "gateway_events.guard_gateway_event",
    ),
    "a payment captured": Forgery(
        [
            (
                "UPDATE payments SET state = 'CAPTURED', captured_amount = amount, captured_at = now()"
                " WHERE order_id = '{unpaid}'"
            )
        ],
        "capture_caused",
        "payments.guard_capture_caused",
    ),
    "a payment that begins captured": Forgery([NEW_ORDER, CAPTURED], "initial_state", "payments.guard_payment_begins"),
    "a refund that begins paid": Forgery(
        [RESERVED, REFUND + "'SUCCEEDED', 're_forged', now() FROM payments WHERE order_id = '{paid}'"],
        "initial_state",
        "refunds.guard_beginning",
        ("refunds.guard_refund_caused",),
    ),
    "a refund without a cause": Forgery(
        [RESERVED, REFUND + "'PENDING', NULL, NULL::timestamptz FROM payments WHERE order_id = '{paid}'"],
        "refund_caused",
        "refunds.guard_refund_caused",
    ),
    "an invoice that begins issued": Forgery(
        [NUMBER, DOCUMENT.format(ahead=0, order="shipped", state=ISSUED)], "initial_state", "invoices.guard_beginning"
    ),
    "an invoice of an order that was not shipped": Forgery(
        [NUMBER, DOCUMENT.format(ahead=0, order="paid", state=NUMBERED)],
        "document_caused",
        "invoices.guard_document_caused",
    ),
    "an invoice with a number of its own": Forgery(
        [DOCUMENT.format(ahead=7, order="shipped", state=NUMBERED)],
        "number_of_series",
        "invoices.guard_document_caused",
    ),
    "a series that goes back": Forgery(
        ["UPDATE invoice_series SET last_number = last_number - 1 WHERE kind = 'INVOICE'"],
        "series_grows",
        "invoice_series.guard_series_grows",
    ),
    "a hole in the series": Forgery([NUMBER], "number_taken", "invoice_series.guard_number_taken"),
    "a message that begins sent": Forgery(
        [
            (
                "INSERT INTO notifications (source_key, template, recipient, entity_id, message_id, subject, state, sent_at)"
                " VALUES ('forged', 'order_shipped', 'ada@example.com', uuid7(), 'x', 'x', 'SENT', now())"
            )
        ],
        "initial_state",
        "notifications.guard_beginning",
    ),
    "a job that begins done": Forgery(
        [
            JOB.format(
                columns=", state", kind="notify.invoice", entity="uuid7()", key="'forged'", values=", 'SUCCEEDED'"
            )
        ],
        "initial_state",
        "jobs.guard_job_caused",
    ),
    "a job before its cause": Forgery(
        [JOB.format(columns="", kind="invoice.issue", entity="'{paid}'", key="'forged'", values="")],
        "job_caused",
        "jobs.guard_job_caused",
    ),
    "a fence that goes back": Forgery(
        ["UPDATE jobs SET fence = fence - 1 WHERE id = '{dead_job}'"], "fence_grows", "jobs.guard_fence_grows"
    ),
    "a dead letter of a job that lives": Forgery(
        [
            (
                "INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims)"
                " SELECT id, kind, entity_id, 'x', 1, 1 FROM jobs WHERE state = 'PENDING' LIMIT 1"
            )
        ],
        "letter_caused",
        "dead_letters.guard_letter_caused",
    ),
    "a dead letter that begins decided": Forgery(
        [
            (
                "INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims, resolution, resolved_at)"
                " SELECT id, kind, entity_id, 'x', 1, 1, 'RETRIED', now() FROM jobs WHERE state = 'DEAD'"
            )
        ],
        "initial_state",
        "dead_letters.guard_beginning",
    ),
    "a line more": Forgery(
        [
            (
                "INSERT INTO order_line_items (order_id, position, product_id, product_name, quantity, unit_price, subtotal)"
                " VALUES ('{unpaid}', 9, 'p', 'Gold', 1, 0, 0)"
            )
        ],
        "line_agreed",
        "order_line_items.guard_line_agreed",
    ),
    "another payment for an order": Forgery(
        ["UPDATE orders SET payment_transaction_id = 'pay_forged' WHERE id = '{paid}'"],
        "audited_facts",
        "orders.guard_state_change",
    ),
    "a reason for no cancellation": Forgery(
        ["UPDATE orders SET cancellation_reason = 'x' WHERE id = '{paid}'"],
        "audited_facts",
        "orders.guard_state_change",
    ),
    "other words of the manager": Forgery(
        ["UPDATE return_requests SET manager_notes = 'x', carrier = 'x' WHERE id = '{approved}'"],
        "audited_facts",
        "return_requests.guard_state_change",
    ),
    "an order that begins delivered": Forgery(
        [
            NEW_ORDER.replace("billing_address)", "billing_address, delivered_at)").replace(
                "'{{}}', '{{}}')", "'{{}}', '{{}}', now())"
            )
        ],
        "initial_state",
        "orders.guard_beginning",
    ),
    "a return that begins refunded": Forgery(
        [
            (
                "INSERT INTO return_requests (order_id, customer_id, reason, items, items_amount, refund_amount, currency,"
                " requested_by, return_number, refund_transaction_id) SELECT o.id, customer_id, 'x', jsonb_build_array(jsonb_build_object('line_item_id', l.id, 'quantity', 1)), 1, 1, currency,"
                " customer_id, 'RET-FORGED', 're_forged' FROM orders o JOIN order_line_items l ON l.order_id = o.id WHERE o.id = '{shipped}' LIMIT 1"
            )
        ],
        "initial_state",
        "return_requests.guard_beginning",
    ),
    "an event of a kind of its own": Forgery(
        [
            NEXT_VERSION,
            EVENT.format(kind="ORDER", entity="paid", seq=3, type="order.greeted", data="'{{}}'::jsonb", at="now()"),
        ],
        "known_event",
        "events.guard_known_event",
    ),
    "a second creation": Forgery(
        [
            NEXT_VERSION,
            EVENT.format(kind="ORDER", entity="paid", seq=3, type="order.created", data="'{{}}'::jsonb", at="now()"),
        ],
        "known_event",
        "events.guard_known_event",
    ),
    "the event of an attachment, again": Forgery(
        [ATTACHED, NEXT_RETURN, ATTACHMENT_EVENT, NEXT_RETURN, ATTACHMENT_EVENT],
        "event_of_return",
        "events.guard_return_event",
    ),
    "the event of another refund": Forgery(
        [
            NEXT_RETURN.replace("SET", "SET refund_transaction_id = 're_paid',"),
            EVENT.format(
                kind="RETURN",
                entity="approved",
                seq=3,
                type="return.refunded",
                data='\'{{"refund_transaction_id": "re_forged"}}\'::jsonb',
                at="now()",
            ),
        ],
        "event_of_return",
        "events.guard_return_event",
        ("return_requests.guard_return_refunded",),
    ),
    "an answer forgotten before its time": Forgery(
        [
            (
                "INSERT INTO idempotency_keys (principal_id, key, fingerprint, status, headers, body)"
                " VALUES (uuid7(), 'k', sha256('x'), 200, '{{}}', '')"
            ),
            "DELETE FROM idempotency_keys",
        ],
        "kept_answer",
        "idempotency_keys.guard_kept_answer",
    ),
    "another result of a verification": Forgery(
        [
            VERIFICATION,
            "UPDATE audit_verifications SET state = 'FAILED' WHERE state = 'RUNNING'",
            "UPDATE audit_verifications SET state = 'DONE', result = '{{}}'",
        ],
        "ended_verification",
        "audit_verifications.guard_ended_verification",
    ),
    "an amount that was accepted without a decision": Forgery(
        [CASE.format(kind="AMOUNT_MISMATCH", amount="0.01", order="unpaid"), ACCEPTED],
        "acceptance",
        "payments.guard_acceptance",
    ),
    "an amount that was accepted by another kind of case": Forgery(
        [CASE.format(kind="DISPUTE", amount="0.01", order="unpaid"), ACCEPTED, CLOSE.format(action="'ACCEPT'"), CLOSED],
        "acceptance",
        "payments.guard_acceptance",
    ),
    "another amount than the case is about": Forgery(
        [
            CASE.format(kind="AMOUNT_MISMATCH", amount="0.02", order="unpaid"),
            ACCEPTED,
            CLOSE.format(action="'ACCEPT'"),
            CLOSED,
        ],
        "acceptance",
        "payments.guard_acceptance",
    ),
    "a decision that is in no event": Forgery(
        [CASE.format(kind="DISPUTE", amount="1", order="paid"), CLOSE.format(action="NULL")],
        "decision",
        "cases.guard_decision",
    ),
    "a dead letter decided in no event": Forgery(
        ["UPDATE dead_letters SET resolution = 'DISMISSED', resolved_at = now() WHERE job_id = '{dead_job}'"],
        "decision",
        "dead_letters.guard_decision",
    ),
    "an admin's key": Forgery([KEY], "", f"GRANT INSERT ON api_keys TO {ROLE}"),
    "the end of a key": Forgery(
        ["UPDATE api_keys SET revoked_at = now() WHERE id = '{key}'"], "", f"GRANT UPDATE ON api_keys TO {ROLE}"
    ),
    "another role for a key": Forgery(
        ["UPDATE api_keys SET role = 'admin' WHERE id = '{key}'"], "key_agreed", "api_keys.guard_key_agreed"
    ),
    "a revocation undone": Forgery(
        ["UPDATE api_keys SET revoked_at = NULL WHERE id = '{revoked}'"], "key_ended", "api_keys.guard_key_ended"
    ),
    "a longer life for a key": Forgery(
        ["UPDATE api_keys SET expires_at = expires_at + interval '1 year' WHERE id = '{rotated}'"],
        "key_ended",
        "api_keys.guard_key_ended",
    ),
    "other work for a job": Forgery(
        ["UPDATE jobs SET entity_id = '{paid}' WHERE state = 'PENDING'"], "", f"GRANT UPDATE ON jobs TO {ROLE}"
    ),
}


@pytest.fixture(scope="module")
def kept() -> dict[int, dict[str, Any]]:
    """The scene that is in the database, by `Reset.times`."""
    return {}


@pytest.fixture
async def scene(
    settings: Settings, clock: MovableClock, admin: Actor, reset: Reset, kept: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """One of each that a forgery is about, by the name that its statements use.

    A forgery is rolled back, so the next one finds the same rows.
    """
    if reset.times not in kept:
        reset()
        database, owner_database = Database(settings), Database(settings, pool_size=10, as_owner=True)
        try:
            kept[reset.times] = await _scene(settings, database, owner_database, clock, admin)
        finally:
            await database.close()
            await owner_database.close()
    return kept[reset.times]


@pytest.fixture
async def scene_of_its_own(
    settings: Settings, database: Database, owner_database: Database, clock: MovableClock, admin: Actor
) -> dict[str, Any]:
    """A scene for a test that commits."""
    return await _scene(settings, database, owner_database, clock, admin)


async def _scene(
    settings: Settings, database: Database, owner_database: Database, clock: MovableClock, admin: Actor
) -> dict[str, Any]:
    shop = Shop(settings, database, clock, admin)
    invoices = InvoiceService(database, FakeRenderer(), storage_for(settings), settings, clock)
    keys = KeyService(owner_database)
    found: dict[str, Any] = {"unpaid": (await shop.ordered())["id"], "stranger": uuid4()}
    found["paid"] = (await shop.paid())["id"]
    found["shipped"] = (await shop.paid())["id"]
    for state in (OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED):
        await shop.orders.transition(found["shipped"], OrderStateUpdate(new_state=state), admin)
    for _ in range(2):
        found["delivered"] = (await shop.delivered())["id"]
        await invoices.issue(await claim_for(database, found["delivered"], JobKind.ISSUE_INVOICE))
    request = await shop.returns.create(ReturnCreate(order_id=found["delivered"], reason="Cracked"), admin)
    found["approved"] = request["id"]
    await shop.returns.approve(
        request["id"], ReturnApprove.model_validate({"notes": "Fine", "refund_amount": 1}), admin
    )
    found["refund"] = (await shop.cancelled()).id
    letter = await bury_job(database)
    async with database.autocommit() as connection:
        found["dead_job"] = (
            await connection.exec_driver_sql("SELECT job_id FROM dead_letters WHERE id = %s", (letter,))
        ).scalar_one()
    for name in ("key", "revoked", "rotated"):
        found[name] = (await new_key(settings))["id"]
    await keys.revoke(found["revoked"])
    await keys.rotate(found["rotated"])
    return found


@contextmanager
def undone(connection: psycopg.Connection) -> Iterator[None]:
    """Undo what the block did."""
    with connection.transaction(force_rollback=True):
        yield


def forge(connection: psycopg.Connection, forgery: Forgery, scene: dict[str, Any]) -> None:
    """Carry the statements out, up to what a commit would check; each finds something to write."""
    for statement in forgery.sql:
        assert connection.execute(statement.format(**scene).encode()).rowcount > 0, statement
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


def take_off(connection: psycopg.Connection, guard: str) -> None:
    """Drop a trigger, or grant the right that is missing."""
    if guard.startswith("GRANT"):
        connection.execute(guard.encode())
        return
    table, trigger = guard.split(".")
    connection.execute(sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger), sql.Identifier(table)))


@pytest.mark.parametrize("name", FORGERIES)
async def test_no_login_writes_what_did_not_happen(scene: dict[str, Any], login: Login, name: str) -> None:
    forgery = FORGERIES[name]
    application = login("application")
    with pytest.raises((errors.IntegrityConstraintViolation, errors.InsufficientPrivilege)), undone(application):
        forge(application, forgery, scene)
    if forgery.guard.startswith("GRANT"):
        return
    # Keys the application may not touch at all, and only the owner can take another guard off.
    logins = LOGINS[1:] if forgery.besides or forgery.guard.startswith("api_keys.") else LOGINS
    for other in logins:
        connection = login(other)
        with undone(connection):
            for guard in forgery.besides:
                take_off(connection, guard)
            with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
                forge(connection, forgery, scene)
            assert refusal.value.diag.constraint_name == forgery.rule, other


@pytest.mark.parametrize("name", FORGERIES)
async def test_nothing_but_its_guard_refuses_it(scene: dict[str, Any], login: Login, name: str) -> None:
    forgery = FORGERIES[name]
    superuser = login("superuser")
    with undone(superuser):
        for guard in (forgery.guard, *forgery.besides):
            take_off(superuser, guard)
        if forgery.guard.startswith("api_keys."):
            superuser.execute(f"GRANT UPDATE ON api_keys TO {ROLE}".encode())
        superuser.execute(f"SET LOCAL ROLE {ROLE}".encode())
        forge(superuser, forgery, scene)


async def test_a_conflicting_job_does_not_stop_a_transition(
    scene_of_its_own: dict[str, Any], login: Login, database: Database, admin: Actor, clock: MovableClock
) -> None:
    """The keys of a step's jobs can be foreseen: one that is taken must not hold the order up."""
    key = f"notify.order_shipped:{scene_of_its_own['paid']}:4"
    login("application").execute(
        "INSERT INTO jobs (kind, queue, entity_id, dedupe_key) VALUES ('notify.order_shipped', 'notifications', %s, %s)",
        (scene_of_its_own["paid"], key),
    )
    orders = OrderService(database, clock)
    for state in (OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED):
        order = await orders.transition(scene_of_its_own["paid"], OrderStateUpdate(new_state=state), admin)
    assert order["status"] == "SHIPPED"
