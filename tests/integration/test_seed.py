"""Sample data obeys every rule that real data does."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from app.composition import Ports
from app.config import Settings
from app.core.enums import OrderStatus, ReturnStatus, Role
from app.database import Database, sync_engine
from app.doctor import databases
from app.services.documents.invoices import InvoiceService
from app.services.operations.stats import StatsService
from app.services.payments.reconciliation import PaymentReconciler
from app.services.payments.refunds import RefundService
from app.services.returns.attachments import PARTS
from app.services.workflow.audit import AuditService
from app.tasks.worker_services import WorkerServices
from app.utils.invoice_generator import RenderingError
from app.utils.shop_time import ShopTime
from app.utils.storage import storage_for
from devtools import sample_documents
from devtools.seed import _number_returns, seed
from tests.conftest import actor
from tests.fakes import FakeGateway
from tests.integration.jobs_support import FakeMailSender, FakeRenderer, claim, execute, pdf_of, rows, unpaid_orders


async def test_samples_in_every_state_hold_together(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    done: list[int] = []
    seed(settings, 1500, seed_value=7, on_progress=done.append)
    assert done == [1000, 500]

    def ask(sql: str) -> list[Any]:
        return owner_connection.execute(sql.encode()).fetchall()

    orders: dict[Any, Any] = dict(ask("SELECT status, count(*) FROM orders GROUP BY 1"))
    assert set(orders) == set(OrderStatus)
    assert sum(orders.values()) == 1500
    assert {state for (state,) in ask("SELECT DISTINCT status FROM return_requests")} == set(ReturnStatus)
    assert ask("SELECT DISTINCT state FROM jobs") == [("DISMISSED",)]
    assert ask("SELECT count(*) FROM transition_rejections") == [(0,)]
    assert ask(
        "SELECT count(*) FROM orders o WHERE total_amount <> shipping_amount + (SELECT sum(subtotal + tax_amount)"
        " FROM order_line_items l WHERE l.order_id = o.id)"
    ) == [(0,)]
    assert ask(
        "SELECT count(*) FROM orders o WHERE version <> (SELECT count(*) FROM events e WHERE e.entity_id = o.id)"
    ) == [(0,)]
    assert ask("SELECT DISTINCT state FROM refunds") == [("SUCCEEDED",)]
    report = await AuditService(database).verify()
    assert report["ok"], report
    assert report["rows"] > 3000


@pytest.mark.parametrize(("zone", "year"), [("America/New_York", 2025), ("UTC", 2026)])
def test_returns_are_numbered_in_the_years_of_the_shop(settings: Settings, zone: str, year: int) -> None:
    row = {"created_at": datetime(2026, 1, 1, 2, 0, tzinfo=UTC)}
    engine = sync_engine(settings, "test")
    with engine.begin() as connection:
        _number_returns(connection, [row], ShopTime(ZoneInfo(zone)))
    engine.dispose()
    assert str(row["return_number"]).startswith(f"RET-{year}-")


def test_the_same_seed_gives_the_same_orders(
    settings: Settings, clean_database: None, owner_connection: psycopg.Connection
) -> None:
    query = b"SELECT string_agg(status || total_amount || customer_email, ',' ORDER BY substr(order_number, 10)) FROM orders"
    drawn = []
    for _ in range(2):
        seed(settings, 40, seed_value=3, on_progress=lambda _: None)
        drawn.append(owner_connection.execute(query).fetchone()[0])  # type: ignore[index]
    first, both = drawn[0].split(","), drawn[1].split(",")
    assert both[:40] == first
    assert both[40:] == first


def test_not_in_production_and_not_nothing(settings: Settings) -> None:
    with pytest.raises(ValueError, match="production"):
        seed(settings.model_copy(update={"environment": "production"}), 1, on_progress=lambda _: None)
    with pytest.raises(ValueError, match="at least 1"):
        seed(settings, 0, on_progress=lambda _: None)


async def drawn(settings: Settings, renderer: FakeRenderer | None = None) -> int:
    """Issue the documents of samples with a fake renderer; return how many."""
    return await sample_documents.issue(settings, renderer=renderer or FakeRenderer(), on_progress=lambda *_: None)


@pytest.mark.req("REQ-004")
async def test_samples_have_their_documents_and_no_mail_is_sent(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    seed(settings, 150, seed_value=7, documents=True, on_progress=lambda _: None)
    progress: list[tuple[int, int]] = []
    renderer = FakeRenderer()
    issued = await sample_documents.issue(
        settings, renderer=renderer, on_progress=lambda done, total: progress.append((done, total))
    )
    assert progress[0] == (0, issued)
    assert progress[-1] == (issued, issued)

    def ask(sql: str) -> list[Any]:
        return owner_connection.execute(sql.encode()).fetchall()

    assert ask("SELECT id FROM orders WHERE status IN ('SHIPPED', 'DELIVERED') ORDER BY id") == ask(
        "SELECT order_id FROM invoices WHERE kind = 'INVOICE' AND state = 'ISSUED' ORDER BY 1"
    )
    assert ask("SELECT id FROM refunds ORDER BY id") == ask(
        "SELECT refund_id FROM invoices WHERE kind = 'CREDIT_NOTE' AND state = 'ISSUED' ORDER BY 1"
    )
    assert {kind for (kind,) in ask("SELECT DISTINCT kind FROM jobs WHERE state <> 'DISMISSED'")} == {
        "invoice.issue",
        "credit_note.issue",
    }
    assert ask("SELECT DISTINCT state FROM jobs WHERE kind IN ('invoice.issue', 'credit_note.issue')") == [
        ("SUCCEEDED",)
    ]
    assert ask("SELECT DISTINCT state FROM jobs WHERE kind LIKE 'notify%'") == [("DISMISSED",)]
    assert ask("SELECT count(*) FROM notifications") == [(0,)]
    # Numbered without a gap in each year, by the day of the parcel, and in its order.
    assert ask("SELECT kind, year FROM invoices GROUP BY 1, 2 HAVING max(number_in_year) <> count(*)") == []
    assert ask(
        "SELECT count(*) FROM invoices i JOIN orders o ON o.id = i.order_id WHERE i.kind = 'INVOICE'"
        " AND (i.issued_on <> (i.issued_at AT TIME ZONE 'UTC')::date OR i.issued_at < o.shipped_at"
        " OR i.issued_at > o.shipped_at + interval '1 minute')"
    ) == [(0,)]
    assert ask(
        "SELECT count(*) FROM invoices a JOIN invoices b USING (kind, year)"
        " WHERE a.number_in_year < b.number_in_year AND a.issued_at > b.issued_at"
    ) == [(0,)]
    invoices = InvoiceService(database, renderer, storage_for(settings), settings)
    [(order_id,)] = ask("SELECT id FROM orders WHERE status = 'DELIVERED' LIMIT 1")
    record = await invoices.record(order_id, actor(Role.MANAGER))
    assert len(await pdf_of(invoices, order_id, actor(Role.MANAGER))) == record["size"]


@pytest.mark.req("REQ-004")
@pytest.mark.parametrize("documents", [True, False])
async def test_nothing_is_missing_after_a_seed(
    settings: Settings, database: Database, owner_connection: psycopg.Connection, *, documents: bool
) -> None:
    """Every sweep, both reconciliations, the doctor, the audit and the figures take samples as complete."""
    seed(settings, 150, seed_value=7, documents=documents, on_progress=lambda _: None)
    issued = await drawn(settings)
    assert bool(issued) is documents
    # As if the samples had been added an hour ago.
    owner_connection.execute("UPDATE jobs SET run_at = run_at - interval '1 hour' WHERE state = 'DISMISSED'")
    manager, gateway = actor(Role.MANAGER), FakeGateway()
    unpaid = unpaid_orders(database, gateway=gateway)

    report = await RefundService(database).reconcile(gateway, without_samples=True)
    assert (report.differences, report.ours) == ([], 0)
    assert report.samples > 0
    assert (await PaymentReconciler(database, gateway, unpaid).reconcile(manager)).differences == []
    assert (await AuditService(database).verify())["ok"]
    assert [finding.level for finding in await databases.work(settings)] == ["ok"]
    bench = WorkerServices(settings, database=database, ports=Ports(gateway=gateway, mail_sender=FakeMailSender()))
    found = [
        await bench.unpaid_orders.cancel_overdue(settings.unpaid_order_ttl, 200),
        await bench.returns.expire_unreviewed(timedelta(days=settings.return_expiry_days), 200),
        await bench.sweeps.remind_reviewers(200),
        await bench.sweeps.forget_idempotency_keys(200),
        sum([await bench.attachments.remove_orphans(part) for part in range(PARTS)]),
        await bench.sweeps.reconcile(200),
    ]
    assert found == [0] * len(found)
    figures = await StatsService(database).collect(manager)
    assert {name: figures["service_levels"][name]["missed"] for name in ("invoice", "refund", "pickup")} == {
        "invoice": 0,
        "refund": 0,
        "pickup": 0,
    }
    assert all(count == 0 for count in (figures["service_levels"][n]["overdue_now"] for n in ("invoice", "pickup")))


@pytest.mark.req("REQ-004")
async def test_what_a_stopped_seed_leaves_is_issued_by_a_worker_without_mail(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    seed(settings, 40, seed_value=7, documents=True, on_progress=lambda _: None)
    with pytest.raises(RenderingError):
        await drawn(settings, FakeRenderer(RenderingError("no template")))
    # An hour on, and the lease of the one that failed is over.
    await execute(database, "UPDATE jobs SET run_at = now() WHERE state = 'PENDING'")
    await execute(database, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'RUNNING'")
    left = await rows(database, "SELECT id, kind FROM jobs WHERE state IN ('PENDING', 'RUNNING') ORDER BY kind DESC")
    invoices = InvoiceService(database, FakeRenderer(), storage_for(settings), settings)
    for job in left:
        held = await claim(database, job.id)
        await (invoices.issue(held) if job.kind == "invoice.issue" else invoices.issue_credit_note(held))
    assert await rows(database, "SELECT FROM jobs WHERE state IN ('PENDING', 'RUNNING')") == []
    assert await drawn(settings) == 0


@pytest.mark.req("REQ-006")
async def test_a_refund_that_is_no_sample_is_missed(settings: Settings, database: Database) -> None:
    """Production leaves out nothing, and elsewhere only what carries the mark of a sample."""
    seed(settings, 150, seed_value=7, on_progress=lambda _: None)
    refunds, gateway = RefundService(database), FakeGateway()
    count = (await refunds.reconcile(gateway, without_samples=True)).samples
    assert len((await refunds.reconcile(gateway)).differences) == count
