"""What has ended stays as it ended, also for a login that goes past the application.

Each attack is tried as every login: first as the application's role, which may write all of these columns.
"""

from itertools import product
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import RefundState
from app.database import Database
from app.services.documents.invoices import InvoiceService
from app.services.jobs.service import JobKind
from app.services.operations.dead_letters import DeadLetterService
from app.tasks.runner import Verdict
from app.utils.storage import storage_for
from tests.conftest import MovableClock
from tests.integration.conftest import LOGINS, Login
from tests.integration.dead import bury_job
from tests.integration.jobs_support import FakeRenderer, claim_for
from tests.integration.money_support import Shop

pytestmark = pytest.mark.req("REQ-004")

# How the services bring a refund into each state, and the only moves that they make.
REFUND_PATHS = {
    RefundState.PENDING: (),
    RefundState.PROCESSING: (RefundState.PROCESSING,),
    RefundState.UNKNOWN: (RefundState.PROCESSING, RefundState.UNKNOWN),
    RefundState.FAILED: (RefundState.FAILED,),
    RefundState.SUCCEEDED: (RefundState.SUCCEEDED,),
}
REFUND_MOVES = {
    RefundState.PENDING: {RefundState.PROCESSING, RefundState.FAILED, RefundState.SUCCEEDED},
    RefundState.PROCESSING: {RefundState.PENDING, RefundState.UNKNOWN, RefundState.SUCCEEDED},
    RefundState.UNKNOWN: {RefundState.PROCESSING, RefundState.SUCCEEDED},
    RefundState.FAILED: {RefundState.PROCESSING, RefundState.SUCCEEDED},
    RefundState.SUCCEEDED: set(),
}
MESSAGE = (
    "INSERT INTO notifications (source_key, template, recipient, entity_id, message_id, subject)"
    " VALUES (%(state)s, 'order_shipped', 'ada@example.com', uuid7(), 'x', 'x')"
)
DELIVERY = "UPDATE notifications SET state = %(state)s, attempts = 1, sent_at = now() WHERE source_key = %(state)s"

# Constraint → what may not be done. Every statement finds rows that it would change.
ATTACKS = {
    "paid_refund": [
        "UPDATE refunds SET gateway_refund_id = 're_forged' WHERE state = 'SUCCEEDED'",
        "UPDATE refunds SET succeeded_at = succeeded_at - interval '1 year' WHERE state = 'SUCCEEDED'",
        "UPDATE refunds SET version = 1, declines = 0, first_sent_at = NULL WHERE state = 'SUCCEEDED'",
    ],
    "captured_payment": [
        "UPDATE payments SET gateway_payment_id = gateway_payment_id || '_forged'",
        "UPDATE payments SET gateway_payment_id = NULL",
        "UPDATE payments SET captured_at = captured_at - interval '1 year'",
        (
            "UPDATE payments SET state = 'PENDING', captured_amount = 0, captured_at = NULL"
            " WHERE refund_reserved_amount = 0"
        ),
    ],
    "ended_job": [
        "UPDATE jobs SET state = 'PENDING', finished_at = NULL WHERE kind = 'refund.process' AND state = 'SUCCEEDED'",
        "UPDATE jobs SET state = 'RUNNING', lease_until = now() + interval '1 minute' WHERE state = 'SUCCEEDED'",
        "UPDATE jobs SET state = 'DEAD' WHERE state = 'SUCCEEDED'",
        "UPDATE jobs SET state = 'PENDING' WHERE state = 'DISMISSED'",
    ],
    "issued_document": [
        (
            "UPDATE invoices SET sha256 = sha256('forged'), drawn_sha256 = ARRAY[sha256('forged')]"
            " WHERE state = 'ISSUED'"
        ),
        "UPDATE invoices SET size_bytes = size_bytes + 1 WHERE state = 'ISSUED'",
        "UPDATE invoices SET issued_at = now() WHERE state = 'ISSUED'",
        (
            "UPDATE invoices SET state = 'NUMBERED', sha256 = NULL, size_bytes = NULL, issued_at = NULL"
            " WHERE state = 'ISSUED'"
        ),
    ],
    "resolved_dead_letter": [
        "UPDATE dead_letters SET resolution = 'RETRIED' WHERE resolution = 'DISMISSED'",
        "UPDATE dead_letters SET resolution = NULL, resolved_at = NULL WHERE resolution IS NOT NULL",
        "UPDATE dead_letters SET resolved_by = uuid7() WHERE resolution IS NOT NULL",
        "UPDATE dead_letters SET resolution_note = 'never said' WHERE resolution IS NOT NULL",
    ],
    "settled_notification": [
        "UPDATE notifications SET state = 'PENDING' WHERE state = 'SENT'",
        "UPDATE notifications SET state = 'PENDING' WHERE state = 'REJECTED'",
        "UPDATE notifications SET sent_at = NULL, attempts = 0 WHERE state = 'SENT'",
    ],
}
# What is not at its end moves on.
WELCOME = [
    "UPDATE refunds SET state = 'PROCESSING', version = version + 1 WHERE state = 'PENDING'",
    "UPDATE payments SET refund_reserved_amount = captured_amount, gateway_payment_id = gateway_payment_id",
    "UPDATE jobs SET state = 'RUNNING', lease_until = now() + interval '1 minute' WHERE state = 'PENDING'",
    "UPDATE jobs SET state = 'PENDING', finished_at = NULL WHERE state = 'DEAD'",
    (
        "UPDATE invoices SET state = 'ISSUED', drawn_sha256 = ARRAY[sha256('it')], sha256 = sha256('it'),"
        " size_bytes = 2, issued_at = now()"
        " WHERE state = 'NUMBERED'"
    ),
    "UPDATE dead_letters SET resolution = 'RETRIED', resolved_at = now() WHERE resolution IS NULL",
    "UPDATE notifications SET state = 'PENDING' WHERE state = 'FAILED'",
    "UPDATE notifications SET state = 'SENT', sent_at = now() WHERE state = 'PENDING'",
]
# Refused by column alone, so that no foreign key, CHECK or unique constraint has its say before.
AGREED = {
    "payments": ["order_id", "amount", "currency"],
    "refunds": ["payment_id", "order_id", "return_id", "reason", "amount", "currency"],
    "invoices": ["kind", "year", "number_in_year", "number", "order_id", "refund_id"],
}


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.fixture
async def shop_with_ends(shop: Shop, login: Login) -> Shop:
    """A shop with something of each table at its end, and something that is not."""
    refund = await shop.cancelled()
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.cancelled()
    renderer = FakeRenderer()
    invoices = InvoiceService(shop.database, renderer, storage_for(shop.settings), shop.settings, shop.clock)
    await invoices.issue(await claim_for(shop.database, (await shop.delivered())["id"], JobKind.ISSUE_INVOICE))
    renderer.faults = [RuntimeError("out of ink")]
    with pytest.raises(RuntimeError):
        await invoices.issue(await claim_for(shop.database, (await shop.delivered())["id"], JobKind.ISSUE_INVOICE))
    owner = login("owner")
    for state in ("SENT", "REJECTED", "FAILED", "PENDING"):
        owner.execute(MESSAGE, {"state": state})
        owner.execute(DELIVERY, {"state": state})
    await DeadLetterService(shop.database, shop.clock).dismiss(await bury_job(shop.database), shop.admin, "in cash")
    await bury_job(shop.database)
    return shop


def refused_by(connection: psycopg.Connection, sql: str) -> str | None:
    """Return the constraint that refuses a statement."""
    with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
        connection.execute(sql.encode())
    assert refusal.value.diag.message_primary
    return refusal.value.diag.constraint_name


@pytest.mark.parametrize("constraint", ATTACKS)
async def test_no_login_moves_what_has_ended(shop_with_ends: Shop, login: Login, constraint: str) -> None:
    table = ATTACKS[constraint][0].split()[1]
    rows = f"SELECT array_agg(to_jsonb(t) ORDER BY id) FROM {table} t".encode()
    for name in LOGINS:
        connection = login(name)
        before = connection.execute(rows).fetchone()
        for attack in ATTACKS[constraint]:
            assert refused_by(connection, attack) == constraint, (name, attack)
        assert connection.execute(rows).fetchone() == before


async def test_what_has_not_ended_moves_on(shop_with_ends: Shop, login: Login) -> None:
    connection = login("application")
    for sql in WELCOME:
        with connection.transaction(force_rollback=True):
            assert connection.execute(sql.encode()).rowcount > 0, sql


async def test_a_refund_takes_no_other_moves(shop: Shop, login: Login) -> None:
    """Every pair of states: what may have been paid is never said to be due, nor to have failed."""
    connection = login("application")
    refunds: dict[RefundState, UUID] = {}
    for state, path in REFUND_PATHS.items():
        refunds[state] = (await shop.cancelled()).id
        for step in path:
            move_refund(connection, refunds[state], step)
    for name in LOGINS:
        connection = login(name)
        for old, new in product(RefundState, repeat=2):
            with connection.transaction(force_rollback=True):
                if (new is old and old is not RefundState.SUCCEEDED) or new in REFUND_MOVES[old]:
                    move_refund(connection, refunds[old], new)
                    continue
                with pytest.raises(errors.IntegrityConstraintViolation) as refusal:
                    move_refund(connection, refunds[old], new)
            expected = "paid_refund" if new is old else "legal_refund_move"
            assert refusal.value.diag.constraint_name == expected, (name, old, new)
            if new is not old:
                assert f"from {old} to {new}" in str(refusal.value)


def move_refund(connection: psycopg.Connection, refund_id: UUID, to: RefundState) -> None:
    """Bring a refund into a state with all that the state needs, so that the guard alone is left to refuse it."""
    facts = (
        "succeeded_at = now(), gateway_refund_id = id::text" if to is RefundState.SUCCEEDED else "succeeded_at = NULL"
    )
    connection.execute(f"UPDATE refunds SET state = '{to}', {facts} WHERE id = %s".encode(), (refund_id,))


@pytest.mark.parametrize("table", AGREED)
async def test_not_even_the_owner_changes_what_was_agreed(shop_with_ends: Shop, login: Login, table: str) -> None:
    for name in LOGINS[1:]:
        connection = login(name)
        for column in AGREED[table]:
            attack = f"UPDATE {table} SET {column} = {column} WHERE state NOT IN ('SUCCEEDED', 'ISSUED')"
            assert refused_by(connection, attack) == "agreed", (name, attack)
